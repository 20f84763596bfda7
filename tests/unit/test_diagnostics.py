"""What validation tells about student, teacher and prompt."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tsic.config import OptimConfig
from tsic.cycle import Cycle
from tsic.data.classes import ClassTable
from tsic.distilled import Distilled, Peer
from tsic.prompt import class_prompts
from tsic.rivals import Sizes, rival_class
from tsic.training.callbacks import tiles
from tsic.training.diagnostics import Contest, PromptProbe, blank_prompt, perfect_prompt
from tsic.training.module import CycleModule
from tsic.training.watch import PATIENCE, Watch, signs


def scores(labels: list[list[int]]) -> Tensor:
    """Scores ``(1, 3, h, w)`` whose best class is that of the labels."""
    return torch.nn.functional.one_hot(torch.tensor(labels), 3).movedim(2, 0)[None].float()


TRUTH = torch.tensor([[[0, 0, 1, 1], [1, 2, 2, 255]]])
STUDENT = scores([[0, 1, 1, 0], [1, 0, 2, 0]])  # right at 0, 2, 4, 6
TEACHER = scores([[0, 0, 1, 1], [0, 0, 1, 2]])  # right at 0, 1, 2, 3


def test_contest_counts_who_is_right_where() -> None:
    contest = Contest(("a", "b", "c"))
    contest.update(STUDENT, TEACHER, TRUTH)
    found = contest.compute()
    assert found["agreement"] == pytest.approx(100 * 3 / 7)  # at 0, 2 and, both wrong, 5
    assert found["only_student_right"] == pytest.approx(100 * 2 / 7)
    assert found["only_teacher_right"] == pytest.approx(100 * 2 / 7)
    assert found["only_teacher_right/a"] == pytest.approx(50)
    assert found["only_student_right/b"] == pytest.approx(100 / 3)
    assert found["only_student_right/c"] == pytest.approx(50)
    # a: 1 of 4 in the union, b: 2 of 4, c: 1 of 2
    assert found["student_miou"] == pytest.approx(100 * (1 / 4 + 2 / 4 + 1 / 2) / 3)


def test_without_a_teacher_only_the_student_is_scored() -> None:
    contest = Contest(("a", "b", "c"))
    contest.update(STUDENT, None, TRUTH)
    assert list(contest.compute()) == ["student_miou"]


def test_probe_compares_three_prompts() -> None:
    probe = PromptProbe(3)
    truth = scores([[0, 0, 1, 1], [1, 2, 2, 0]])
    probe.update(STUDENT, TEACHER, truth, TRUTH)
    found = probe.compute()
    assert found["prompt_sensitivity"] == pytest.approx(100 * 4 / 7)  # at 1, 3, 4, 6
    student = 100 * (1 / 4 + 2 / 4 + 1 / 2) / 3
    assert found["oracle_gap"] == pytest.approx(100 - student)
    assert found["prompt_gain"] == pytest.approx(student - 100 * (2 / 4 + 2 / 4 + 0) / 3)


def test_blank_prompt_tells_no_place_and_the_perfect_one_the_true_one() -> None:
    logits = 3 * torch.randn(1, 9, 2, 4)
    prompts, blank = (
        class_prompts(one, 4, has_gradient=False) for one in (logits, blank_prompt(logits))
    )
    assert blank.class_ids is not None
    assert prompts.class_ids is not None
    assert torch.equal(blank.class_ids, prompts.class_ids), "the same classes are asked for"
    assert torch.equal(blank.masks, blank.masks[..., :1, :1].expand_as(blank.masks))
    share = prompts.masks.sigmoid().mean((2, 3))
    torch.testing.assert_close(blank.masks.sigmoid().mean((2, 3)), share)
    logits = logits[:, :3]
    told = perfect_prompt(logits, TRUTH)
    valid = TRUTH != 255
    assert torch.equal(told.argmax(1)[valid], TRUTH[valid])
    assert told[0, :, 1, 3].unique().numel() == 1, "nothing is known of an ignored pixel"
    assert (told.softmax(1).amax(1)[valid] > 0.999).all(), "as sure as a mask is"


def test_signs_of_a_dead_cycle() -> None:
    alive = {"val/prompt_sensitivity": 3.0, "val/teacher_miou": 50.0, "val/student_miou": 40.0}
    assert not any(signs(alive).values())
    assert list(signs({**alive, "val/prompt_sensitivity": 0.0}).values()) == [True, False]
    assert list(signs({**alive, "val/teacher_miou": 39.0}).values()) == [False, True]
    assert signs({"val/student_miou": 40.0}) == {}


def test_what_is_bad_now_and_then_is_not_warned_of(
    tiny_cycle: Cycle, capsys: pytest.CaptureFixture[str]
) -> None:
    module = CycleModule(
        tiny_cycle,
        OptimConfig(),
        class_names=("a", "b", "c"),
        max_steps=9,
        warmup_steps=0,
        seed=0,
    )
    watch = Watch()
    for teacher in (*[39.0] * (PATIENCE - 1), 41.0, *[39.0] * PATIENCE):
        assert not capsys.readouterr().err
        scores = {"val/teacher_miou": teacher, "val/student_miou": 40.0}
        trainer: Any = SimpleNamespace(callback_metrics=scores, is_global_zero=True, global_step=9)
        watch.on_validation_end(trainer, module)
    assert "worse than its student" in capsys.readouterr().err


@pytest.mark.parametrize("is_prompted", [True, False])
def test_a_second_student_gets_no_advice_and_no_picture_of_prompts(
    tiny_cycle: Cycle, is_prompted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = Sizes(3, tiny_cycle.student.feature_channels[-1], 1)
    mutual = Distilled(tiny_cycle.student, Peer(tiny_cycle.student), rival_class("mutual")(sizes))
    names = ("a", "b", "c")
    module = CycleModule(
        tiny_cycle if is_prompted else mutual,
        OptimConfig(),
        class_names=names,
        max_steps=9,
        warmup_steps=0,
        seed=0,
    ).eval()
    worse = {"val/teacher_miou": 39.0, "val/student_miou": 40.0}
    trainer: Any = SimpleNamespace(callback_metrics=worse, is_global_zero=True, global_step=9)
    watch = Watch()
    for _ in range(PATIENCE):
        watch.on_validation_end(trainer, module)
    assert ("optim.teacher_lr" in capsys.readouterr().err) == is_prompted
    image, labels = torch.zeros(3, 32, 48, dtype=torch.uint8), torch.zeros(32, 48).long()
    shown = tiles(module, image, labels, ClassTable.from_names(names), with_teacher=True)
    masks = ["prompted masks"] if is_prompted else []
    assert list(shown) == ["image", "label", "student", *masks, "teacher"]
