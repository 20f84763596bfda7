"""Asking a promptable model: corrections, and refinement of masks on images of any size."""

import pytest
import torch

from tsic.pretrain.promptable import Promptable, PromptBatch, corrected
from tsic.pretrain.prompts import NEGATIVE, NO_POINT, POSITIVE
from tsic.prompt import LOGIT_RANGE
from tsic.teacher.foundation import Embedding
from tsic.teacher.sam import load_foundation


def prompts_for(count: int) -> PromptBatch:
    return PromptBatch(
        torch.zeros(count, dtype=torch.int64),
        torch.zeros(count, 1, 8, 8),
        torch.zeros(count, dtype=torch.bool),
        torch.zeros(count, 2, 2),
        torch.full((count, 2), NO_POINT),
    )


def test_correction_points_at_what_is_wrong_and_says_how() -> None:
    count = 200
    targets = torch.zeros(count, 32, 32, dtype=torch.bool)
    targets[:, :16] = True
    answers = torch.full((count, 8, 8), -5.0)
    answers[:100, :2] = 5.0  # the first hundred miss rows 8 to 16, the others everything ...
    answers[100:, 6:] = 5.0  # ... and take in rows 24 to 32
    again = corrected(prompts_for(count), answers, targets, torch.Generator().manual_seed(0))
    assert again.has_mask.all()
    assert torch.equal(again.masks[:, 0], answers)
    told = again.point_labels[:, 0] != NO_POINT
    assert 60 < told.sum() < 140  # half of them
    assert (again.point_labels[:, 1] == NO_POINT).all()
    rows = (again.points[:, 0, 1] * 32).long()
    columns = (again.points[:, 0, 0] * 32).long()
    shown = torch.nn.functional.interpolate(answers[:, None], (32, 32), mode="bilinear")[:, 0] > 0
    for i in told.nonzero()[:, 0].tolist():
        assert shown[i, rows[i], columns[i]] != targets[i, rows[i], columns[i]]
        expected = POSITIVE if targets[i, rows[i], columns[i]] else NEGATIVE
        assert again.point_labels[i, 0] == expected
    assert (again.point_labels[:100, 0] != NEGATIVE).all()
    assert (again.point_labels[100:, 0] == NEGATIVE).any()
    assert len(set(columns[told].tolist())) > 10


def test_a_perfect_answer_gets_no_point() -> None:
    targets = torch.ones(20, 32, 32, dtype=torch.bool)
    again = corrected(
        prompts_for(20), torch.full((20, 8, 8), 5.0), targets, torch.Generator().manual_seed(0)
    )
    assert (again.point_labels == NO_POINT).all()


def test_corrections_carry_no_gradient() -> None:
    answers = torch.randn(3, 8, 8, requires_grad=True)
    targets = torch.rand(3, 32, 32) > 0.5
    again = corrected(prompts_for(3), answers, targets, torch.Generator())
    assert not again.masks.requires_grad


@pytest.mark.parametrize("name", ["tiny-sam", "tiny-sam2", "tiny-edgetam", "tiny-mobile-sam"])
def test_refine_covers_images_of_any_size_and_looks_at_both(name: str) -> None:
    torch.manual_seed(0)
    model = Promptable(load_foundation(name)).eval()
    images, masks = torch.rand(2, 3, 50, 70), 5 * torch.randn(2, 3, 7, 9)
    with torch.no_grad():
        answers = model.refine(images, masks)
        again = model.refine(images, masks, rounds=2)
        assert answers.shape == (2, 3, 13, 18)
        assert not torch.allclose(again, answers)
        assert not torch.allclose(model.refine(images, -masks), answers)
        assert not torch.allclose(model.refine(1 - images, masks), answers)
        alone = model.refine(images[1:], masks[1:, 2:])
    torch.testing.assert_close(alone[0, 0], answers[1, 2], rtol=1e-4, atol=1e-5)


def test_prompts_of_a_refinement_are_nothing_beside_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """50x70 of a canvas of 64x96, in prompts on a grid of 4 px."""
    asked: list[torch.Tensor] = []
    model = Promptable(load_foundation("tiny-sam2")).eval()
    answer = model.answer

    def seen(embedding: Embedding, prompts: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(prompts.masks)
        return answer(embedding, prompts)

    monkeypatch.setattr(model, "answer", seen)
    with torch.no_grad():
        model.refine(torch.rand(1, 3, 50, 70), torch.full((1, 1, 7, 9), 100.0))
    (masks,) = asked
    beside = torch.ones_like(masks, dtype=torch.bool)
    beside[..., :12, :17] = False  # cells whose centres lie in the image
    assert (masks[~beside] == LOGIT_RANGE).all()
    assert (masks[beside] == -LOGIT_RANGE).all()
    assert beside.any()


def test_each_prompt_belongs_to_its_owner() -> None:
    torch.manual_seed(0)
    model = Promptable(load_foundation("tiny-sam2")).eval()
    images = torch.rand(2, 3, 32, 32)
    prompts = prompts_for(3)[torch.tensor([0, 0, 0])]
    prompts = PromptBatch(torch.tensor([1, 0, 1]), *list(vars(prompts).values())[1:])
    with torch.no_grad():
        answers, ious = model.answer(model.embed(images), prompts)
        several, their_ious = model.answer(model.embed(images), prompts, multimask=True)
    assert answers.shape == (3, 1, 8, 8)
    assert ious.shape == (3, 1)
    assert several.shape == (3, 3, 8, 8)
    assert their_ious.shape == (3, 3)
    torch.testing.assert_close(answers[0], answers[2])
    assert not torch.allclose(answers[0], answers[1])
