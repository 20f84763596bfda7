"""Cross-entropy of every pixel in one pass on a GPU: no score of a pixel is ever in memory."""

from functools import cache

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_SCORES = 2048
"""Scores of a program at a time: sixteen of each thread."""


@triton.jit  # type: ignore[untyped-decorator]
def _compare(
    wide: tl.tensor,
    labels: tl.tensor,
    weights: tl.tensor,
    firsts: tl.tensor,
    shares: tl.tensor,
    losses: tl.tensor,
    to_upper: tl.tensor,
    to_lower: tl.tensor,
    classes: tl.tensor,
    cells: tl.tensor,
    width: tl.tensor,
    height: tl.tensor,
    CLASSES: tl.constexpr,  # noqa: N803 # Triton's constants are written large
    COLUMNS: tl.constexpr,  # noqa: N803
) -> None:
    """Pixels between two rows of cells, in some columns: their loss and gradient for both."""
    image, cell, block = tl.program_id(2), tl.program_id(1), tl.program_id(0)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    kind = tl.arange(0, CLASSES)[:, None]
    is_inside = column < width
    is_score = (kind < classes) & is_inside[None, :]
    place = (image * classes + kind) * cells * width + column[None, :]
    above = place + cell * width
    upper = tl.load(wide + above, is_score, 0.0)
    lower = tl.load(wide + place + tl.minimum(cell + 1, cells - 1) * width, is_score, 0.0)
    loss = tl.zeros([COLUMNS], tl.float32)
    upper_change = tl.zeros([CLASSES, COLUMNS], tl.float32)
    lower_change = tl.zeros([CLASSES, COLUMNS], tl.float32)
    for row in range(tl.load(firsts + cell), tl.load(firsts + cell + 1)):
        share = tl.load(shares + row)
        pixel = (image * height + row) * width + column
        label = tl.load(labels + pixel, is_inside, 0)
        weight = tl.load(weights + pixel, is_inside, 0.0)
        score = tl.where(kind < classes, upper + share * (lower - upper), float("-inf"))
        most = tl.max(score, 0)
        odds = tl.exp(score - most[None, :])
        total = tl.sum(odds, 0)
        is_true = kind == label[None, :]
        loss += weight * (most + tl.log(total) - tl.sum(tl.where(is_true, score, 0.0), 0))
        change = weight[None, :] * (odds / total[None, :] - is_true.to(tl.float32))
        upper_change += (1 - share) * change
        lower_change += share * change
    tl.store(losses + (image * cells + cell) * tl.num_programs(0) + block, tl.sum(loss, 0))
    tl.store(to_upper + above, upper_change, is_score)
    tl.store(to_lower + above, lower_change, is_score)


@torch.library.custom_op("tsic::cross_entropy_of_rows", mutates_args=())
def _of_rows(
    wide: Tensor, labels: Tensor, weights: Tensor, firsts: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of programs, and what the pixels below each row of cells ask of it and of the next."""
    images, classes, cells, width = wide.shape
    rounded = triton.next_power_of_2(classes)
    columns = max(16, _SCORES // rounded)
    grid = triton.cdiv(width, columns), cells, images
    losses = wide.new_empty(images, cells, grid[0])
    to_upper, to_lower = torch.empty_like(wide), torch.empty_like(wide)
    _compare[grid](
        wide,
        labels,
        weights,
        firsts,
        shares,
        losses,
        to_upper,
        to_lower,
        classes,
        cells,
        width,
        labels.shape[1],
        rounded,
        columns,
        num_warps=max(4, rounded * columns // 512),
        enable_fp_fusion=True,
    )
    return losses, to_upper, to_lower


@_of_rows.register_fake
def _(
    wide: Tensor, labels: Tensor, weights: Tensor, firsts: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return wide.new_empty(len(wide)), torch.empty_like(wide), torch.empty_like(wide)


def cross_entropy_of_rows(wide: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over pixels of weight times cross-entropy with rows resized linearly to the labels.

    Args:
        wide: Unnormalised scores, float32 ``(B, K, h, W)``.
        labels: Class ids in ``[0, K)``, int64 ``(B, H, W)``.
        weights: Of each pixel, float32 ``(B, H, W)``.

    Returns:
        The sum ``()``, in nats, and its gradient for ``wide``.
    """
    firsts, shares = _rows(wide.shape[2], labels.shape[1], wide.device)
    laid_out = (one.contiguous() for one in (wide, labels, weights))
    losses, change, lower = _of_rows(*laid_out, firsts, shares)
    change[:, :, 1:].add_(lower[:, :, :-1])
    change[:, :, -1].add_(lower[:, :, -1])
    return losses.sum(), change


@cache
@torch.inference_mode(mode=False)
def _rows(cells: int, height: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first of ``height`` rows below each row of cells, and how near each is to the next one.

    Kept for ever, as is all that CUDA graphs read where it lies.
    """
    places = (torch.arange(height, dtype=torch.float64) + 0.5) * (cells / height) - 0.5
    places = places.clamp(0, cells - 1)
    firsts = torch.searchsorted(places.floor(), torch.arange(cells + 1.0, dtype=torch.float64))
    return firsts.int().to(device), (places - places.floor()).float().to(device)


def require_right(device: torch.device) -> None:
    """Compare a few losses on a device with the plain formula.

    Raises:
        ArithmeticError: If they differ.
    """
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(2, 5, 4, 24, generator=generator)
    weights = torch.rand(2, 13, 24, generator=generator)
    labels = torch.randint(5, (2, 13, 24), generator=generator)
    wide, labels, weights = (one.to(device) for one in (wide, labels, weights))
    with torch.enable_grad():
        asked = wide.clone().requires_grad_()
        resized = F.interpolate(asked, size=(13, 24), mode="bilinear", align_corners=False)
        plain = (F.cross_entropy(resized, labels, reduction="none") * weights).sum()
        (expected,) = torch.autograd.grad(plain, asked)
    loss, change = cross_entropy_of_rows(wide, labels, weights)
    if not (loss.allclose(plain, rtol=1e-4) and change.allclose(expected, atol=1e-4)):
        raise ArithmeticError("losses differ from those of the plain formula")
