"""The average of a teacher's weights, which teaches in its place."""

import copy

import pytest
import torch
from torch import nn

from tsic.cycle import Cycle
from tsic.options import Objective
from tsic.student import build_student
from tsic.teacher import AveragedTeacher, Teacher, build_teacher
from tsic.teacher.average import decay_at


@pytest.fixture
def teacher(tiny_cycle: Cycle) -> Teacher:
    assert tiny_cycle.teacher is not None
    return tiny_cycle.teacher


def _shaken(teacher: Teacher) -> Teacher:
    shaken = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in shaken.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return shaken


def test_average_answers_as_a_teacher_with_the_mean_of_weights(teacher: Teacher) -> None:
    torch.manual_seed(0)
    images, logits = torch.rand(2, 3, 48, 64), torch.randn(2, 3, 12, 16)
    average = AveragedTeacher(teacher, decay=0.5)
    later = _shaken(teacher)
    average.update(later)  # the first decay is 2 / 11
    expected = copy.deepcopy(teacher).eval()
    with torch.no_grad():
        pairs = zip(expected.parameters(), later.parameters(), strict=True)
        for mine, new in pairs:
            mine.lerp_(new, 9 / 11)
        wanted = expected(images, logits)
    modes: list[bool] = []
    teacher.train().register_forward_pre_hook(lambda *_: modes.append(teacher.training))
    answer = average(teacher, images, logits)
    assert modes == [False], "it draws no dropout and counts nothing"
    torch.testing.assert_close(answer.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    assert teacher.training
    assert not answer.logits.requires_grad


def test_decay_grows_to_what_was_asked() -> None:
    assert [decay_at(steps, 0.5) for steps in (1, 7, 8, 1000)] == [2 / 11, 8 / 17, 0.5, 0.5]


def test_statistics_of_norms_are_averaged_and_counts_taken_over(teacher: Teacher) -> None:
    norm = nn.BatchNorm2d(16)
    teacher.mapping.classifier.insert(0, norm)  # type: ignore[attr-defined]
    average = AveragedTeacher(teacher, 0.9)
    assert norm.running_mean is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean += 11.0
    norm.num_batches_tracked += 3
    average.update(teacher)  # the first decay is 2 / 11
    held = average.get_buffer("mapping/classifier/0/running_mean")
    torch.testing.assert_close(held, torch.full((16,), 9.0))
    assert average.get_buffer("mapping/classifier/0/num_batches_tracked") == 3


@pytest.mark.parametrize(("rank", "looks"), [(0, 1), (4, 2)])
@pytest.mark.parametrize("name", ["tiny-sam", "tiny-sam2"])
def test_a_frozen_encoder_looks_once(name: str, rank: int, looks: int) -> None:
    torch.manual_seed(0)
    student = build_student("compact", num_classes=3)
    teacher = build_teacher(name, num_classes=3, lora_rank=rank, channels=16)
    cycle = Cycle(student, teacher, Objective(kl_where="everywhere"), teacher_ema=0.5).train()
    images, labels = torch.rand(2, 3, 48, 64), torch.randint(0, 3, (2, 48, 64))
    looked: list[nn.Module] = []
    first = teacher.foundation.encoder.get_submodule(
        "patch_embed.projection" if name == "tiny-sam" else "backbone.patch_embed.projection"
    )
    first.register_forward_hook(lambda *_: looked.append(first))
    losses = cycle(images, labels).losses
    assert len(looked) == looks
    assert cycle.averaged is not None
    logits = cycle.student.eval()(images).logits.detach()
    seen = teacher(images, logits).seen
    teacher.train()
    with torch.no_grad():
        for weights in cycle.averaged.buffers():
            if weights.is_floating_point():
                weights.mul_(1.1)
    again, anew = (cycle.averaged(teacher, images, logits, given) for given in (seen, None))
    torch.testing.assert_close(again.logits, anew.logits)
    assert losses["kl"] > 0


def test_only_what_trains_is_held_twice(teacher: Teacher) -> None:
    held = {name.replace("/", ".") for name, _ in AveragedTeacher(teacher, 0.9).named_buffers()}
    trained = {name for name, p in teacher.named_parameters() if p.requires_grad}
    frozen = {name for name, p in teacher.named_parameters() if not p.requires_grad}
    assert trained <= held
    assert frozen
    assert not frozen & held


def test_student_learns_from_the_average_and_the_teacher_from_labels(tiny_cycle: Cycle) -> None:
    torch.manual_seed(0)
    assert tiny_cycle.teacher is not None
    teacher = tiny_cycle.teacher
    images, labels = torch.rand(2, 3, 48, 64), torch.randint(0, 3, (2, 48, 64))
    objective = Objective(kl_where="everywhere", mask_weight=0, feature_weight=0)
    cycle = Cycle(tiny_cycle.student, teacher, objective, teacher_ema=0.5).train()
    assert cycle.averaged is not None
    before = cycle(images, labels).losses
    with torch.no_grad():
        cycle.averaged.get_buffer("mapping/classifier/1/bias")[0] += 5
    after = cycle(images, labels).losses
    assert after["kl"].item() != pytest.approx(before["kl"].item(), rel=1e-3)
    gradients = torch.autograd.grad(
        after["kl"], [p for p in teacher.parameters() if p.requires_grad], allow_unused=True
    )
    assert all(gradient is None for gradient in gradients)


def test_average_follows_the_training(tiny_cycle: Cycle) -> None:
    assert tiny_cycle.teacher is not None
    cycle = Cycle(tiny_cycle.student, tiny_cycle.teacher, teacher_ema=0.9)
    assert cycle.averaged is not None
    bias = tiny_cycle.teacher.get_parameter("mapping.classifier.1.bias")
    with torch.no_grad():
        bias.add_(11.0)
    cycle.average_teacher()
    moved = cycle.averaged.get_buffer("mapping/classifier/1/bias")
    torch.testing.assert_close(moved, bias - 2.0)  # decay 2 / 11 of 11
