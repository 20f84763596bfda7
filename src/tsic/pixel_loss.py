"""Cross-entropy on the label grid that never holds all classes' scores on it."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from typing_extensions import override

from tsic.grid import cells_under, resize_axis, size_of

_AT_ONCE = {"cpu": 2**20, "cuda": 2**27}
"""Scores of a strip of rows: few enough for a CPU's cache, many enough for a GPU's cores."""


@torch.no_grad()
def pixel_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every pixel with logits resized bilinearly to the labels, no gradient.

    Args:
        logits: Unnormalised scores ``(B, K, h, w)``, float32 or float64.
        labels: Class ids in ``[0, K)``, int64 ``(B, H, W)``.

    Returns:
        ``(B, H, W)``, in nats.
    """
    if size_of(logits) == size_of(labels):
        return F.cross_entropy(logits, labels, reduction="none")
    # Autocast would round the scores.
    with torch.autocast(logits.device.type, enabled=False):
        wide = logits @ _columns(logits, labels)
        strips = [
            -strip.log_shares.gather(1, labels[:, None, strip.rows])[:, 0]
            for strip in _strips(wide, labels.shape[1])
        ]
    return torch.cat(strips, 1)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Sum over pixels of weight times cross-entropy with logits resized bilinearly to the labels.

    Equal to ``(weights * F.cross_entropy(F.interpolate(logits, size), labels, reduction="none"))
    .sum()``, and so is the logits' gradient. But rows are resized in strips whose gradient is
    taken at once, so that no score is kept or computed again: memory for two ``(B, K, h, W)``
    instead of several ``(B, K, H, W)``, and only ``(B, K, h, w)`` is held for the backward pass.

    Args:
        logits: Unnormalised scores ``(B, K, h, w)``, float32 or float64.
        labels: Class ids in ``[0, K)``, int64 ``(B, H, W)``.
        weights: Of each pixel, as precise as the logits, ``(B, H, W)``; they get no gradient.

    Returns:
        ``()``, in nats.
    """
    if size_of(logits) == size_of(labels):
        return (F.cross_entropy(logits, labels, reduction="none") * weights).sum()
    with torch.autocast(logits.device.type, enabled=False):
        loss: Tensor = _Strips.apply(logits, labels, weights)
    return loss


class _Strips(torch.autograd.Function):
    """Compare ``(B, K, h, w)`` scores with the labels, strip by strip."""

    @staticmethod
    @override
    def forward(ctx: FunctionCtx, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        columns = _columns(logits, labels)
        wide = logits @ columns
        loss = wide.new_zeros(())
        learns = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        gradient = torch.zeros_like(wide) if learns else None
        for strip in _strips(wide, labels.shape[1]):
            scores, true = strip.log_shares, labels[:, None, strip.rows]
            weight = weights[:, None, strip.rows]
            loss -= (scores.gather(1, true) * weight).sum()
            if gradient is not None:
                scores = scores.exp_().mul_(weight).scatter_add_(1, true, -weight)
                gradient[:, :, strip.under] += strip.resizing.T @ scores
        if gradient is not None:
            ctx.save_for_backward(gradient @ columns.T)
        return loss

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * upstream, None, None


def _columns(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of each column of the logits in each of the labels', ``(w, W)``."""
    cells, width = logits.shape[-1], labels.shape[-1]
    eye = torch.eye(cells, dtype=logits.dtype, device=logits.device)
    return resize_axis(eye, 1, range(width), cells, width)


class _Strip(NamedTuple):
    """Some rows of a resize.

    Attributes:
        rows: Which, of the labels.
        under: Rows of the map that decide them.
        resizing: Share of each row under them, ``(rows, under)``.
        log_shares: Log-probabilities ``(B, K, rows, W)``, the caller's to change.
    """

    rows: slice
    under: slice
    resizing: Tensor
    log_shares: Tensor


def _strips(wide: Tensor, height: int) -> Iterator[_Strip]:
    """Resize ``(B, K, h, W)`` scores to ``height`` rows, a few at a time."""
    cells = wide.shape[2]
    at_once = _AT_ONCE.get(wide.device.type, 2**24)
    count = max(1, at_once // (wide.shape[0] * wide.shape[1] * wide.shape[3]))
    for start in range(0, height, count):
        rows = range(start, min(start + count, height))
        under = cells_under(rows, cells, height)
        eye = torch.eye(len(under), dtype=wide.dtype, device=wide.device)
        resizing = resize_axis(eye, 0, rows, cells, height)
        part = slice(under.start, under.stop)
        scores = resizing @ wide[:, :, part]
        yield _Strip(slice(rows.start, rows.stop), part, resizing, scores.log_softmax(1))
