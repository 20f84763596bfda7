"""Losses in strips against the plain formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tsic import pixel_loss

on_grids = pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((6, 8), (24, 32)),
        ((5, 7), (18, 27)),
        ((4, 4), (4, 9)),
        ((3, 9), (7, 9)),
        ((4, 9), (4, 9)),
        ((24, 32), (6, 8)),
        ((13, 17), (4, 5)),
    ],
)
in_strips = pytest.mark.parametrize("rows", [1, 5, 1000])


@on_grids
@in_strips
def test_strips_equal_the_plain_formula(
    grid: tuple[int, int], size: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(pixel_loss._AT_ONCE, "cpu", rows * 2 * 3 * size[1])
    logits = (5 * torch.randn(2, 3, *grid, dtype=torch.float64)).requires_grad_()
    labels, weights = torch.randint(3, (2, *size)), torch.rand(2, *size, dtype=torch.float64)
    weights[0, 1:3] = 0
    resized = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    plain = F.cross_entropy(resized, labels, reduction="none")
    torch.testing.assert_close(pixel_loss.pixel_losses(logits, labels), plain.detach())
    total = (plain * weights).sum()
    strips = pixel_loss.weighted_cross_entropy(logits, labels, weights)
    torch.testing.assert_close(strips, total)
    gradients = [torch.autograd.grad(3 * loss, logits) for loss in (strips, total)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_images_are_taken_some_at_a_time(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pixel_loss._AT_ONCE, "cpu", count * 4 * 6 * 8)
    logits = torch.randn(3, 4, 6, 4, dtype=torch.float64, requires_grad=True)
    labels, weights = torch.randint(4, (3, 12, 8)), torch.rand(3, 12, 8, dtype=torch.float64)
    resized = F.interpolate(logits, (12, 8), mode="bilinear", align_corners=False)
    plain = F.cross_entropy(resized, labels, reduction="none")
    torch.testing.assert_close(pixel_loss.pixel_losses(logits, labels), plain.detach())
    both = pixel_loss.weighted_cross_entropy(logits, labels, weights), (plain * weights).sum()
    torch.testing.assert_close(*both)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in both))


@on_grids
@in_strips
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_divergence_in_strips_equals_the_plain_formula(
    grid: tuple[int, int],
    size: tuple[int, int],
    rows: int,
    temperature: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(pixel_loss._AT_ONCE, "cpu", rows * 2 * 3 * size[1])
    logits, target = (
        (5 * torch.randn(2, 3, *side, dtype=torch.float64)).requires_grad_()
        for side in (grid, size)
    )
    weights = torch.rand(2, *size, dtype=torch.float64)
    weights[0, 1:3] = 0
    said, meant = (
        (scores / temperature).log_softmax(1)
        for scores in (F.interpolate(logits, size, mode="bilinear", align_corners=False), target)
    )
    plain = (F.kl_div(said, meant, reduction="none", log_target=True).sum(1) * weights).sum()
    strips = pixel_loss.weighted_kl(logits, target, weights, temperature)
    torch.testing.assert_close(strips, plain)
    found, expected = (torch.autograd.grad(3 * x, (logits, target)) for x in (strips, plain))
    torch.testing.assert_close(found, expected)
    (alone,) = torch.autograd.grad(
        pixel_loss.weighted_kl(logits, target.detach(), weights, temperature), logits
    )
    torch.testing.assert_close(3 * alone, expected[0])


def test_autocast_does_not_round_the_scores() -> None:
    logits, labels = 30 * torch.randn(1, 4, 3, 3), torch.randint(4, (1, 12, 12))
    target, weights = 30 * torch.randn(1, 4, 12, 12), torch.ones(1, 12, 12)

    def each() -> tuple[Tensor, ...]:
        return (
            pixel_loss.pixel_losses(logits, labels),
            pixel_loss.weighted_cross_entropy(logits, labels, weights),
            pixel_loss.weighted_kl(logits, target, weights),
        )

    plain = each()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        strips = each()
    torch.testing.assert_close(strips, plain, rtol=0, atol=0)


def test_nothing_on_the_fine_grid_is_kept_for_the_backward_pass() -> None:
    logits, labels = torch.randn(2, 3, 4, 6, requires_grad=True), torch.randint(3, (2, 16, 24))
    target, weights = torch.randn(2, 3, 16, 24), torch.ones(2, 16, 24)
    for loss, arguments in (
        (pixel_loss.weighted_cross_entropy, (labels, weights)),
        (pixel_loss.weighted_kl, (target, weights)),
    ):
        kept: list[torch.Size] = []

        def keep(tensor: Tensor, kept: list[torch.Size] = kept) -> Tensor:
            kept.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss(logits, *arguments)
        assert kept == [logits.shape]
