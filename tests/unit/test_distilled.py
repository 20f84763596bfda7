"""A student under a published method: who gets a gradient, and who stands still."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tsic.config import OptimConfig
from tsic.cycle import Cycle
from tsic.data.classes import UNLABELLED
from tsic.distilled import Distilled, Offline, Peer
from tsic.errors import ConfigError
from tsic.grid import resize_labels
from tsic.options import RIVALS, Objective
from tsic.rivals import Sizes, rival_class
from tsic.student import Student, build_student
from tsic.teacher import build_teacher
from tsic.training.optim import build_optimizer

K = 3


def student() -> Student:
    """Each kind of block is there; the default repeats the last one."""
    options = {"width": 0.25, "dilations": [1, 2]}
    return build_student("compact", num_classes=K, options=options)


def distilled(method: str, teacher: Offline | Peer, **kwargs: object) -> Distilled:
    torch.manual_seed(1)
    learner = student()
    sizes = Sizes(K, learner.feature_channels[-1], learner.feature_channels[-1])
    rival = rival_class(method)(sizes)
    return Distilled(learner, teacher, rival, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    labels = torch.randint(0, K, (2, 32, 48))
    labels[:, :4] = 255
    return torch.rand(2, 3, 32, 48), labels


def test_an_offline_teacher_stands_still_in_every_way(batch: tuple[Tensor, Tensor]) -> None:
    teacher = Offline(student())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    model = distilled("kd", teacher).train()
    out = model(*batch)
    out.total.backward()
    assert not teacher.training
    assert not model.teacher_learns
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert set(out.losses) == {"student_ce", "kd"}
    assert all(p.grad is not None for p in model.student.parameters())


def test_an_offline_teacher_is_prompted_by_its_own_student(batch: tuple[Tensor, Tensor]) -> None:
    own, prompted = student(), build_teacher("tiny-sam", num_classes=K, channels=16)
    teacher = Offline(own, prompted)
    images, learner = batch[0], torch.randn(2, K, 8, 12)
    expected = prompted(images, own(images).logits)
    assert expected.masks is not None
    torch.testing.assert_close(teacher(images, learner).masks, expected.masks)
    assert not torch.allclose(prompted(images, learner).masks, expected.masks)


class Logits(nn.Module):
    """A network of a user's that gives no features."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.conv(images)
        return logits


def test_networks_without_features_are_taught_by_logits_alone(
    batch: tuple[Tensor, Tensor],
) -> None:
    plain = partial(build_student, f"{__name__}:Logits", num_classes=K)
    refused = f"compares features, and student '{__name__}:Logits' gives none; take one"
    for method in RIVALS:
        kind = rival_class(method)
        for learner, other in ((plain(), student()), (student(), plain())):
            teacher = Peer(other) if kind.teacher == "peer" else Offline(other)
            rival = kind(Sizes(K, 8, 8))
            if kind.reads_features:
                with pytest.raises(ConfigError, match=refused):
                    Distilled(learner, teacher, rival)
            else:
                Distilled(learner, teacher, rival)(*batch).total.backward()
    with pytest.raises(ConfigError, match="gives no features to be taught"):
        Cycle(plain(), build_teacher("tiny-sam", num_classes=K), Objective(feature_weight=1.0))


def test_a_peer_learns_from_labels_and_student(batch: tuple[Tensor, Tensor]) -> None:
    model = distilled("mutual", Peer(student())).train()
    out = model(*batch)
    assert set(out.losses) == {"student_ce", "teacher_ce", "mutual", "mutual_peer"}
    assert model.teacher_learns
    out.losses["student_ce"].backward(retain_graph=True)
    assert model.teacher is not None
    assert all(p.grad is None for p in model.teacher.parameters())
    model.zero_grad()
    (out.losses["teacher_ce"] + out.losses["mutual_peer"]).backward(retain_graph=True)
    assert all(p.grad is None for p in model.student.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.teacher.parameters())


def test_a_peer_s_labels_weigh_as_the_student_s_do(batch: tuple[Tensor, Tensor]) -> None:
    """The weight of a teacher's cross-entropy is none of a peer's."""
    learner, rival = student(), rival_class("mutual")(Sizes(K, 8, 8))
    objective = Objective(teacher_weight=0.25)
    model = Distilled(learner, Peer(copy.deepcopy(learner)), rival, objective=objective)
    found = model.eval()(*batch).losses
    torch.testing.assert_close(found["teacher_ce"], found["student_ce"])


def test_a_peer_learns_as_the_student_does(batch: tuple[Tensor, Tensor]) -> None:
    """Its auxiliary head, too, and at the student's rate, whatever a teacher's is."""
    learner = build_student("deeplabv3", num_classes=K, auxiliary=True)
    twin, rival = Peer(copy.deepcopy(learner)), rival_class("mutual")(Sizes(K, 512, 512))
    model = Distilled(learner, twin, rival).train()
    found = model(*batch).losses
    assert found["teacher_auxiliary_ce"].item() == pytest.approx(
        found["auxiliary_ce"].item(),
        rel=0.05,  # but for dropout
    )
    found["teacher_auxiliary_ce"].backward()
    assert all(p.grad is None for p in learner.parameters())
    assert twin.student.auxiliary_head is not None
    assert all(p.grad is not None for p in twin.student.auxiliary_head.parameters())
    optimizer, _ = build_optimizer(model, OptimConfig(lr=1e-3, teacher_lr=1e-5), max_steps=10)
    assert {group["initial_lr"] for group in optimizer.param_groups} == {1e-3}


def test_weight_scales_the_method_alone(batch: tuple[Tensor, Tensor]) -> None:
    teacher = Offline(student())
    once, thrice = (distilled("kd", teacher, weight=weight).eval() for weight in (1.0, 3.0))
    one, three = once(*batch).losses, thrice(*batch).losses
    torch.testing.assert_close(three["kd"], 3 * one["kd"])
    torch.testing.assert_close(three["student_ce"], one["student_ce"])


@pytest.mark.parametrize("method", RIVALS)
def test_where_no_label_is_the_teachers_answer_counts_as_one(
    batch: tuple[Tensor, Tensor], method: str
) -> None:
    images, labels = batch
    labels[1, 4:] = UNLABELLED
    teacher = Peer(student()) if method == "mutual" else Offline(student())
    teacher.eval()
    said = resize_labels(teacher(images, images).logits.argmax(1), (32, 48))
    answered = torch.where(labels == UNLABELLED, said, labels)
    ignored = torch.where(labels == UNLABELLED, 255, labels)
    bare, filled, apart = (
        _losses(distilled(method, teacher), images, one) for one in (labels, answered, ignored)
    )
    supervised = {"student_ce", "teacher_ce"} & set(bare)
    torch.testing.assert_close(bare, {**filled, **{name: apart[name] for name in supervised}})
    assert all(bare[name] != filled[name] for name in supervised)
    assert any(bare[name] != apart[name] for name in bare)


def _losses(model: Distilled, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)  # CIRKD and Af-DCD draw cells
    found: dict[str, Tensor] = model.eval()(images, labels).losses
    return found
