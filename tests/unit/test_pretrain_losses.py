"""Pretraining's losses against values computed by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from tsic.pretrain.losses import answer_loss, dice, focal, iou_of


def test_focal_equals_its_formula() -> None:
    logits, truth = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    p = 1 / (1 + math.exp(-2.0))
    expected = (0.25 * 0.5**2 * math.log(2) - 0.75 * p**2 * math.log(1 - p)) / 2
    assert focal(logits[None], truth[None]).item() == pytest.approx(expected)


def test_dice_equals_its_formula() -> None:
    logits, truth = torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert dice(logits[None], truth[None]).item() == pytest.approx(1 - (2 * 1.5 + 1) / (2 + 3 + 1))


def test_dice_of_two_empty_masks_is_nothing() -> None:
    assert dice(torch.full((1, 4, 4), -40.0), torch.zeros(1, 4, 4)).item() == pytest.approx(0.0)


def test_iou_counts_pixels_and_calls_two_empty_masks_equal() -> None:
    logits = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    truth = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert iou_of(logits, truth).tolist() == pytest.approx([1 / 3, 1.0])


def test_masks_learn_by_twenty_parts_of_focal_to_one_of_dice() -> None:
    targets = torch.zeros(2, 16, 16, dtype=torch.bool)
    targets[0, :8] = True
    logits = torch.randn(2, 1, 4, 4)
    shown = F.interpolate(logits, scale_factor=2, mode="bilinear")
    truth = F.avg_pool2d(targets[:, None].float(), 2)
    mask, _ = answer_loss(logits, torch.zeros(2, 1), targets)
    torch.testing.assert_close(mask, (20 * focal(shown, truth) + dice(shown, truth)).mean())


def test_only_the_best_of_several_answers_learns() -> None:
    targets = torch.zeros(2, 16, 16, dtype=torch.bool)
    targets[:, :8] = True
    good = torch.full((2, 1, 4, 4), -3.0)
    good[:, :, :2] = 3.0
    logits = torch.cat([-good, good, torch.zeros_like(good)], 1).requires_grad_()
    mask, _ = answer_loss(logits, torch.zeros(2, 3), targets)
    mask.backward()
    assert logits.grad is not None
    assert logits.grad[:, 1].abs().sum() > 0
    assert logits.grad[:, [0, 2]].abs().sum() == 0


def test_expected_iou_learns_the_true_one_and_masks_do_not_learn_from_it() -> None:
    targets = torch.zeros(1, 16, 16, dtype=torch.bool)
    targets[:, :8] = True
    logits = torch.full((1, 1, 4, 4), 5.0, requires_grad=True)  # everything: IoU 1/2
    ious = torch.tensor([[0.9]], requires_grad=True)
    _, error = answer_loss(logits, ious, targets)
    assert error.item() == pytest.approx(0.4**2)
    error.backward()
    assert ious.grad is not None
    assert ious.grad.item() == pytest.approx(0.8)
    assert logits.grad is None


def test_partly_covered_cells_ask_for_a_share() -> None:
    """A target finer than the grid it is compared on pulls a cell to the share that is covered."""
    targets = torch.zeros(1, 16, 16, dtype=torch.bool)
    targets[:, ::2] = True
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    entropy = focal(logits, torch.full_like(logits, 0.5)).sum()
    mask, _ = answer_loss(logits, torch.zeros(1, 1), targets)
    assert entropy.item() == 0.0
    assert mask.item() == pytest.approx(1 - (2 * 0.25 * 64 + 1) / (32 + 32 + 1))
