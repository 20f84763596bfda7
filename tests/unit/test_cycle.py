import copy
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsic import losses
from tsic.cycle import Cycle, CycleOutput
from tsic.errors import ConfigError, ShapeError
from tsic.grid import resize, resize_labels
from tsic.options import KlWhere, Objective
from tsic.recipes import objective_of
from tsic.student import StudentOutput, build_student
from tsic.teacher import TeacherOutput, build_hint_encoder, build_teacher

COMMON = {"student_ce", "auxiliary_ce", "teacher_ce", "kl", "feature"}


class Given(nn.Module):
    """Stands for a network and gives a fixed answer."""

    feature_channels = (3, 8)  # of the student
    foundation = SimpleNamespace(dim=6)  # of the teacher

    def __init__(self, answer: StudentOutput | TeacherOutput) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *inputs: Tensor) -> StudentOutput | TeacherOutput:
        return self.answer


class Scene:
    """Answers of both networks as leaves, on grids of their own, and labels with ignored ones."""

    def __init__(self) -> None:
        def leaf(*shape: int) -> Tensor:
            return torch.randn(shape).requires_grad_()

        self.images = torch.rand(2, 3, 16, 24)
        self.labels = torch.randint(0, 4, (2, 16, 24))
        self.labels[:, :5] = 255
        features = leaf(2, 3, 4, 6), leaf(2, 8, 2, 3)  # the coarsest is what is taught
        self.student = StudentOutput(leaf(2, 4, 2, 3), features, leaf(2, 4, 2, 3))
        self.teacher = TeacherOutput(
            leaf(2, 4, 4, 6),
            leaf(2, 5, 2, 3),
            leaf(2, 2, 4, 6),
            torch.tensor([[0, 3], [2, 1]]),
            embedding=leaf(2, 6, 2, 3),
        )

    def run(
        self,
        objective: Objective,
        class_weights: Tensor | None = None,
        *,
        with_teacher: bool = True,
        teaching: float = 1.0,
    ) -> CycleOutput:
        student: Any = Given(self.student)
        teacher: Any = Given(self.teacher)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # hints have the same projection in every run
            cycle = Cycle(student, teacher, objective, class_weights)
        return cycle(self.images, self.labels, with_teacher=with_teacher, teaching=teaching)

    def reached(self, loss: Tensor) -> set[str]:
        """Names of the leaves that a loss sends gradient to."""
        leaves = {
            "student logits": self.student.logits,
            "student features": self.student.features[-1],
            "student auxiliary": self.student.auxiliary,
            "teacher logits": self.teacher.logits,
            "teacher features": self.teacher.features,
            "teacher masks": self.teacher.masks,
            "teacher embedding": self.teacher.embedding,
        }
        tensors = [leaf for leaf in leaves.values() if leaf is not None]
        gradients = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
        return {
            name
            for name, gradient in zip(leaves, gradients, strict=True)
            if gradient is not None and gradient.any()
        }


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("cycle", COMMON | {"mask"}),
        ("paper", COMMON | {"ensemble_kl"}),
        ("release", COMMON | {"ensemble_kl"}),
    ],
)
def test_cycle_losses_have_the_recipes_names_and_their_sum(recipe: str, names: set[str]) -> None:
    out = Scene().run(objective_of(recipe))
    assert set(out.losses) == names
    assert all(loss.shape == () and loss.isfinite() for loss in out.losses.values())
    expected = math.fsum(loss.item() for loss in out.losses.values())
    assert out.total.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weighs_classes", [False, True])
@pytest.mark.parametrize("recipe", ["cycle", "paper", "release"])
def test_cycle_kl_has_the_recipes_reduction(recipe: str, weighs_classes: bool) -> None:
    """By hand in NumPy, on the teacher's grid: labels there are those at the cells' centres.

    In `cycle` a pixel counts as much as the teacher gives the true class more probability, times
    its class's weight; the average is still over all labelled pixels.
    """
    scene = Scene()
    class_weights = torch.arange(1.0, scene.student.logits.shape[1] + 1)
    out = scene.run(objective_of(recipe), class_weights if weighs_classes else None)
    at = 1.0 if recipe == "cycle" else 5.0
    student = F.interpolate(scene.student.logits, (4, 6), mode="bilinear")
    s, t = (one.detach().double().numpy() / at for one in (student, scene.teacher.logits))
    labels = scene.labels[:, 2::4, 2::4].numpy()
    valid = labels != 255

    def log_p(logits: Any) -> Any:
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def kl(target: Any, prediction: Any) -> Any:
        return np.exp(log_p(target)) * (log_p(target) - log_p(prediction))

    if recipe == "cycle":
        index = np.where(valid, labels, 0)[:, None]
        chances = [np.take_along_axis(log_p(one), index, 1)[:, 0] for one in (t, s)]
        weights = np.maximum(np.exp(chances[0]) - np.exp(chances[1]), 0)
        assert 0 < (weights[valid] > 0).mean() < 1
        if weighs_classes:
            weights *= class_weights.numpy()[index[:, 0]]
        expected = {"kl": 2 * (kl(t, s).sum(1) * weights)[valid].mean()}
        assert valid.mean() == 0.75
    else:
        expected = {
            "kl": 5 * 25 * kl(t, s).sum() / (2 * 4 * 4 * 6),
            "ensemble_kl": 25 * kl((s + t) / 2, t).sum() / (2 * 4 * 4 * 6),
        }
    for name, value in expected.items():
        assert out.losses[name].item() == pytest.approx(value, rel=1e-4)


def test_cycle_weighs_each_loss_once() -> None:
    scene = Scene()
    names = {
        "auxiliary_weight": "auxiliary_ce",
        "teacher_weight": "teacher_ce",
        "mask_weight": "mask",
        "kl_weight": "kl",
        "ensemble_weight": "ensemble_kl",
        "feature_weight": "feature",
    }
    ones: dict[str, Any] = dict.fromkeys(names, 1.0)
    once = scene.run(Objective(**ones)).losses
    primes: dict[str, Any] = dict(zip(names, (2.0, 3.0, 5.0, 7.0, 11.0, 13.0), strict=True))
    weighed = scene.run(Objective(**primes)).losses
    for field, name in names.items():
        torch.testing.assert_close(weighed[name], primes[field] * once[name])
    assert torch.equal(weighed["student_ce"], once["student_ce"])


def test_cycle_losses_are_those_of_the_loss_functions() -> None:
    scene = Scene()
    s, t, labels = scene.student, scene.teacher, scene.labels
    assert s.auxiliary is not None
    assert t.masks is not None
    assert t.class_ids is not None
    coarse = resize_labels(labels, (4, 6))
    expected = {
        "student_ce": F.cross_entropy(resize(s.logits, (16, 24)), labels, ignore_index=255),
        "auxiliary_ce": 0.4 * losses.cross_entropy(s.auxiliary, labels),
        "teacher_ce": losses.cross_entropy(t.logits, labels),
        "mask": losses.mask_loss(t.masks, t.class_ids, coarse),
        "kl": 2 * losses.pixel_kl(resize(s.logits, (4, 6)), t.logits, coarse),
        "feature": losses.feature_attention(s.features[-1], t.features),
    }
    out = scene.run(Objective(kl_where="everywhere", feature_loss="attention", feature_weight=1))
    assert out.losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(out.losses[name], value)


@pytest.mark.parametrize("teacher_held", [True, False])
@pytest.mark.parametrize("ensemble_held", [True, False])
def test_cycle_detach_flags_decide_who_learns(teacher_held: bool, ensemble_held: bool) -> None:
    scene = Scene()
    objective = Objective(
        ensemble_weight=1, detach_teacher=teacher_held, detach_ensemble=ensemble_held
    )
    reached = {name: scene.reached(loss) for name, loss in scene.run(objective).losses.items()}
    shared: dict[str, set[str]] = {
        "kl": {"student logits"} | (set() if teacher_held else {"teacher logits"}),
        "ensemble_kl": {"teacher logits"} | (set() if ensemble_held else {"student logits"}),
        "feature": {"student features"} | (set() if teacher_held else {"teacher embedding"}),
    }
    assert reached == shared | {
        "student_ce": {"student logits"},
        "auxiliary_ce": {"student auxiliary"},
        "teacher_ce": {"teacher logits"},
        "mask": {"teacher masks"},
    }


def test_cycle_ohem_counts_only_when_it_is_on() -> None:
    scene = Scene()
    kwargs: dict[str, Any] = {"ohem_threshold": 0.2, "ohem_min_kept": 5, "average": "all"}
    out = scene.run(Objective(ohem=True, **kwargs))
    expected = losses.cross_entropy(scene.student.logits, scene.labels, **kwargs)
    torch.testing.assert_close(out.losses["student_ce"], expected)
    off = scene.run(Objective(ohem=False, **kwargs)).losses["student_ce"]
    torch.testing.assert_close(
        off, losses.cross_entropy(scene.student.logits, scene.labels, average="all")
    )
    assert off > expected


def test_class_weights_count_in_every_cross_entropy() -> None:
    scene = Scene()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = scene.run(Objective(), weights).losses
    s, t = scene.student, scene.teacher
    assert s.auxiliary is not None
    named = {"student_ce": s.logits, "auxiliary_ce": s.auxiliary, "teacher_ce": t.logits}
    for name, logits in named.items():
        expected = losses.cross_entropy(logits, scene.labels, class_weights=weights)
        torch.testing.assert_close(found[name], (0.4 if "aux" in name else 1) * expected)


def test_class_weights_are_of_any_float_type_but_one_per_class() -> None:
    scene = Scene()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected, found = (scene.run(Objective(), one).total for one in (weights, weights.double()))
    torch.testing.assert_close(found, expected)
    with pytest.raises(ShapeError, match=r"one for each of the 4 classes, got \(3,\)"):
        scene.run(Objective(), weights[:3])


def test_student_and_teacher_have_the_same_classes(tiny_cycle: Cycle) -> None:
    student = build_student("compact", num_classes=4, options={"width": 0.25})
    images, labels = torch.rand(2, 3, 32, 48), torch.zeros(2, 32, 48, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"the teacher knows 3 classes, .* are \(2, 4, 8, 12\)"):
        Cycle(student, tiny_cycle.teacher)(images, labels)


def test_class_weights_are_no_part_of_a_checkpoint(tiny_cycle: Cycle) -> None:
    """Whoever loads one for use has no data to count them from."""
    weighed = Cycle(tiny_cycle.student, tiny_cycle.teacher, class_weights=torch.ones(3))
    plain = Cycle(tiny_cycle.student, tiny_cycle.teacher)
    assert weighed.state_dict().keys() == plain.state_dict().keys()


def test_cycle_with_nothing_labelled_has_no_supervision() -> None:
    scene = Scene()
    scene.labels[:] = 255
    out = scene.run(Objective(feature_weight=0))
    assert out.total.item() == 0


def test_teaching_weighs_the_distillation_alone() -> None:
    scene = Scene()
    objective = Objective(ensemble_weight=1.0, feature_loss="attention")
    whole, half = (scene.run(objective, teaching=t).losses for t in (1.0, 0.5))
    for name, loss in whole.items():
        share = 0.5 if name in ("kl", "feature") else 1.0
        torch.testing.assert_close(half[name], share * loss)


@pytest.mark.parametrize("held", [True, False])
def test_hints_teach_the_student_what_the_encoder_sees(tiny_cycle: Cycle, held: bool) -> None:
    objective = Objective(feature_loss="hint", feature_weight=3, detach_teacher=held)
    cycle = Cycle(tiny_cycle.student, tiny_cycle.teacher, objective)
    assert cycle.hint is not None
    assert cycle.teacher is not None
    images, labels = torch.rand(2, 3, 40, 64), torch.randint(0, 3, (2, 40, 64))
    out: CycleOutput = cycle(images, labels, teaching=0.0)
    assert out.teacher is not None
    assert out.teacher.embedding is not None
    assert out.teacher.embedding.shape == (2, cycle.teacher.foundation.dim, 3, 4)
    assert out.losses["kl"] == 0  # a rising weight is not for hints
    hinted = cycle.hint(out.student.features[-1])
    expected = 3 * losses.feature_hint(hinted, out.teacher.embedding)
    torch.testing.assert_close(out.losses["feature"], expected)
    out.losses["feature"].backward()
    learns = {
        name.split(".")[0]
        for name, parameter in cycle.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    assert learns == {"student", "hint"} | (set() if held else {"teacher"})


@pytest.mark.parametrize("changes", [{"feature_weight": 0}, {"feature_loss": "attention"}])
def test_nothing_is_projected_where_no_hints_are_given(
    tiny_cycle: Cycle, changes: dict[str, Any]
) -> None:
    objective = Objective(**{"feature_loss": "hint", **changes})
    assert Cycle(tiny_cycle.student, tiny_cycle.teacher, objective).hint is None
    assert Cycle(tiny_cycle.student, None, Objective(feature_loss="hint")).hint is None


def test_cycle_without_prompt_has_no_mask_loss() -> None:
    scene = Scene()
    scene.teacher = replace(scene.teacher, masks=None, class_ids=None)
    assert set(scene.run(Objective()).losses) == COMMON


def test_cycle_warmup_does_not_run_the_teacher() -> None:
    scene = Scene()
    out = scene.run(Objective(), with_teacher=False)
    assert out.teacher is None
    assert set(out.losses) == {"student_ce", "auxiliary_ce"}


def plain_step(student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """A training loop as anyone would write it."""
    logits = F.interpolate(student(images).logits, labels.shape[-2:], mode="bilinear")
    loss = F.cross_entropy(logits, labels, ignore_index=255)
    loss.backward()
    return loss.detach()


OFF = Objective(teacher_weight=0, mask_weight=0, kl_weight=0, feature_weight=0)


@pytest.mark.parametrize("switch", ["no teacher", "warm-up", "all weights 0"])
def test_cycle_with_its_teacher_off_trains_the_student_as_plain_training_does(
    tiny_cycle: Cycle, switch: str
) -> None:
    images, labels = torch.rand(2, 3, 48, 64), torch.randint(0, 3, (2, 48, 64))
    labels[:, :9] = 255
    plain = copy.deepcopy(tiny_cycle.student)
    teacher = None if switch == "no teacher" else tiny_cycle.teacher
    cycle = Cycle(tiny_cycle.student, teacher, OFF)
    # SGD: AdamW would blow the rounding of a gradient near 0 up to a whole step.
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (plain, cycle.student)]
    for _ in range(3):
        out = cycle(images, labels, with_teacher=switch != "warm-up")
        out.total.backward()
        loss = plain_step(plain, images, labels)
        assert out.total.item() == pytest.approx(loss.item(), rel=1e-6)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(cycle.student.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_cycle_has_the_auxiliary_loss_of_a_student_that_has_the_head(auxiliary: bool) -> None:
    student = build_student("compact", num_classes=3, auxiliary=auxiliary, options={"width": 0.25})
    out = Cycle(student, None)(torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32).long())
    assert ("auxiliary_ce" in out.losses) == auxiliary


def test_hints_alone_are_those_of_a_teacher_whose_encoder_is_as_published() -> None:
    """Only the student and its projection learn, and before the encoder joins only the student."""
    rules = Objective(feature_loss="hint", feature_weight=3.0)
    student = build_student("compact", num_classes=3)
    teacher = build_teacher("tiny-mobile-sam", num_classes=3, lora_rank=0)
    whole = Cycle(student, teacher, rules)
    alone = Cycle(student, None, rules, encoder=build_hint_encoder("tiny-mobile-sam"))
    assert whole.hint is not None
    assert alone.hint is not None
    alone.hint.load_state_dict(whole.hint.state_dict())
    images, labels = torch.rand(2, 3, 72, 88), torch.randint(3, (2, 72, 88))
    out = alone(images, labels)
    assert out.losses.keys() == {"student_ce", "feature"}
    torch.testing.assert_close(out.losses["feature"], whole(images, labels).losses["feature"])
    out.total.backward()
    learning = {name for name, one in alone.named_parameters() if one.grad is not None}
    assert learning == {
        name for name, one in alone.named_parameters() if name.startswith(("student.", "hint."))
    }
    assert alone(images, labels, with_teacher=False).losses.keys() == {"student_ce"}
    assert alone.teaches
    assert not alone.teacher_learns


def test_images_without_labels_are_told_by_the_teacher_alone() -> None:
    """Of two images one has no label: L_kd-p alone averages over its pixels, too."""
    scene = Scene()
    scene.labels[1] = 254
    scene.labels[1, 8:] = 255  # beside the image
    objective = Objective(kl_where="everywhere", kl_weight=1.0, feature_weight=0.0)
    out = scene.run(objective)
    student, teacher = (
        F.log_softmax(resize(logits, (4, 6)), 1)
        for logits in (scene.student.logits, scene.teacher.logits)
    )
    apart = (teacher.exp() * (teacher - student)).sum(1)
    counts = resize_labels(scene.labels, (4, 6)) != 255
    assert counts[1].sum() == 12
    torch.testing.assert_close(out.losses["kl"], apart[counts].mean())
    for name, loss in out.losses.items():
        (taught,) = torch.autograd.grad(
            loss, scene.student.logits, retain_graph=True, allow_unused=True
        )
        reaches = taught is not None and bool(taught[1].any())
        assert reaches == (name == "kl"), name
    (learned,) = torch.autograd.grad(out.losses["teacher_ce"], scene.teacher.logits)
    assert not learned[1].any()


@pytest.mark.parametrize("where", ["everywhere", "better"])
def test_an_ignored_image_is_told_nothing(where: KlWhere) -> None:
    scene = Scene()
    scene.labels[1] = 255
    objective = Objective(kl_where=where, kl_weight=1.0, feature_weight=0.0)
    out = scene.run(objective, torch.ones(4))
    (taught,) = torch.autograd.grad(out.losses["kl"], scene.student.logits)
    assert taught[0].any()
    assert not taught[1].any()


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 16, 24, dtype=torch.uint8), torch.zeros(2, 8, 12, dtype=torch.int64)]
)
def test_labels_that_are_not_the_images_are_refused(wrong: Tensor) -> None:
    scene = Scene()
    scene.labels = wrong
    with pytest.raises(ShapeError, match=r"labels must be int64 \(B, H, W\) of the images"):
        scene.run(Objective())


def test_images_may_be_more_precise_than_the_weights(tiny_cycle: Cycle) -> None:
    images, labels = torch.rand(2, 3, 32, 48), torch.randint(0, 3, (2, 32, 48))
    found, expected = (tiny_cycle(one, labels).total for one in (images.double(), images))
    torch.testing.assert_close(found, expected)


def test_a_misspelt_rule_is_told() -> None:
    with pytest.raises(ConfigError, match=r"kl_where cannot be 'evrywhere'; did you mean 'everyw"):
        Objective(kl_where="evrywhere")  # type: ignore[arg-type]


def test_where_the_teacher_is_better_is_not_known_without_labels() -> None:
    scene = Scene()
    scene.labels[1] = 254
    objective = Objective(kl_where="better", kl_weight=1.0, feature_weight=0.0)
    out = scene.run(objective, torch.ones(4))
    (taught,) = torch.autograd.grad(out.losses["kl"], scene.student.logits)
    assert not taught[1].any()
