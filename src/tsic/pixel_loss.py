"""Cross-entropy on the label grid that never holds all classes' scores on it."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from typing_extensions import override

from tsic.grid import cells_under, resize_axis

_AT_ONCE = {"cpu": 2**20, "cuda": 2**27}
"""Scores of a strip of rows: few enough for a CPU's cache, many enough for a GPU's cores."""


def pixel_cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Cross-entropy of every pixel with logits resized bilinearly to the labels.

    Equal to ``F.cross_entropy(F.interpolate(logits, size), labels, reduction="none")``, and so are
    its gradients. But rows are resized in strips, whose scores are computed again in the backward
    pass instead of being kept: memory for ``(B, K, h, W)`` instead of several ``(B, K, H, W)``.

    Args:
        logits: Unnormalised scores ``(B, K, h, w)``, float32 or float64.
        labels: Class ids, int64 ``(B, H, W)``, each in ``[0, K)`` or ``ignore_index``.
        ignore_index: Label of pixels whose loss is 0.

    Returns:
        ``(B, H, W)``, in nats.
    """
    height, width = labels.shape[1:]
    if logits.shape[-2] == height and logits.shape[-1] == width:
        return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    size = (logits.shape[-2], width)
    wide = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    # Autocast would round the scores.
    with torch.autocast(logits.device.type, enabled=False):
        losses: Tensor = _Strips.apply(wide, labels, ignore_index)
    return losses


class _Strips(torch.autograd.Function):
    """Resize ``(B, K, h, W)`` scores to the labels' rows and compare, strip by strip."""

    @staticmethod
    @override
    def forward(ctx: FunctionCtx, wide: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        ignored = labels == ignore_index
        known = labels.masked_fill(ignored, 0)
        normalisers, losses = [], []
        for rows in _strips(wide, labels):
            scores = _resized(wide, labels.shape[1], rows)[1]
            normaliser = scores.logsumexp(1)
            true = scores.gather(1, known[:, None, rows.start : rows.stop])[:, 0]
            normalisers.append(normaliser)
            losses.append(normaliser - true)
        ctx.save_for_backward(wide, known, ignored, torch.cat(normalisers, 1))
        return torch.cat(losses, 1).masked_fill(ignored, 0)

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        wide, known, ignored, normaliser = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = gradient.masked_fill(ignored, 0)[:, None]
        total = torch.zeros_like(wide)
        for rows in _strips(wide, known):
            part = slice(rows.start, rows.stop)
            weights, scores = _resized(wide, known.shape[1], rows)
            scores.sub_(normaliser[:, None, part]).exp_().mul_(gradient[:, :, part])
            scores.scatter_add_(1, known[:, None, part], -gradient[:, :, part])
            under = cells_under(rows, wide.shape[2], known.shape[1])
            total[:, :, under.start : under.stop] += weights.T @ scores
        return total, None, None


def _strips(wide: Tensor, labels: Tensor) -> list[range]:
    """Cut the labels' rows."""
    height = labels.shape[1]
    at_once = _AT_ONCE.get(wide.device.type, 2**24)
    rows = max(1, at_once // (wide.shape[0] * wide.shape[1] * wide.shape[3]))
    return [range(start, min(start + rows, height)) for start in range(0, height, rows)]


def _resized(wide: Tensor, height: int, rows: range) -> tuple[Tensor, Tensor]:
    """Some rows of a resize: weights ``(rows, cells)`` of the cells under them, and the result."""
    under = cells_under(rows, wide.shape[2], height)
    cells = torch.eye(len(under), dtype=wide.dtype, device=wide.device)
    weights = resize_axis(cells, 0, rows, wide.shape[2], height)
    return weights, weights @ wide[:, :, under.start : under.stop]
