"""Losses of every pixel, whose resized scores are made and forgotten: in strips, or in a kernel."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from tsic.data.classes import MAX_CLASSES
from tsic.grid import cells_under, resize_axis, size_of
from tsic.streams import tell

_AT_ONCE = {"cpu": 2**20}  # else 2**24
"""Scores of a strip of rows: few enough for a CPU's cache, many enough for a GPU's cores."""

Pixels: TypeAlias = tuple[slice, slice]
"""Some images' rows."""

Compare: TypeAlias = Callable[[Tensor, Pixels], tuple[Tensor, Tensor | None]]
"""Given a strip of scores and where it lies, its loss and, if asked for, the scores' gradient."""

OfImages: TypeAlias = Callable[[Tensor, slice], tuple[Tensor, Tensor | None]]
"""Given some images' scores in all columns, but their own rows, the same of all pixels."""


@torch.no_grad()
def pixel_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every pixel with logits resized bilinearly to the labels, no gradient.

    Args:
        logits: Unnormalised scores ``(B, K, h, w)``, float32 or float64.
        labels: Class ids in ``[0, K)``, int64 ``(B, H, W)``.

    Returns:
        ``(B, H, W)``, in nats.
    """
    losses = logits.new_empty(labels.shape)

    def compare(scores: Tensor, at: Pixels) -> tuple[Tensor, None]:
        losses[at] = F.cross_entropy(scores, labels[at], reduction="none")
        return scores.new_zeros(()), None

    # Autocast would round the scores.
    with torch.autocast(logits.device.type, enabled=False):
        _by_images(logits, labels.shape[-1], _in_strips(labels.shape[-2], compare))
    return losses


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Sum over pixels of weight times cross-entropy with logits resized bilinearly to the labels.

    Equal to ``(weights * F.cross_entropy(F.interpolate(logits, size), labels, reduction="none"))
    .sum()``, and so is the logits' gradient. But rows are resized in strips whose gradient is
    taken at once, so that no score is kept or computed again: memory for two ``(K, h, W)`` of some
    images instead of several ``(B, K, H, W)``, and only ``(B, K, h, w)`` is held for the backward
    pass.

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
        loss: Tensor = _CrossEntropy.apply(logits, labels, weights)
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Compare ``(B, K, h, w)`` scores with labels."""

    @staticmethod
    @override
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        learns = ctx.needs_input_grad[0]

        def compare(scores: Tensor, at: Pixels) -> tuple[Tensor, Tensor | None]:
            shares = scores.log_softmax(1)
            true, weight = labels[at][:, None], weights[at][:, None]
            loss = -(shares.gather(1, true) * weight).sum()
            if not learns:
                return loss, None
            return loss, shares.exp_().mul_(weight).scatter_add_(1, true, -weight)

        size = size_of(labels)
        of_images = _in_strips(size[0], compare)
        if learns and _has_kernel(logits, size):
            of_images = _in_one(labels, weights)
        loss, gradient = _by_images(logits, size[1], of_images)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None


def weighted_kl(
    logits: Tensor, target: Tensor, weights: Tensor, temperature: float = 1.0
) -> Tensor:
    """Sum over pixels of weight times ``KL(target || prediction)``, in strips as above.

    Held for the backward pass are the logits' gradient on their own grid and, if the target learns,
    the target's.

    Args:
        logits: Prediction, unnormalised ``(B, K, h, w)``, resized bilinearly to the target.
        target: Unnormalised scores ``(B, K, H, W)`` of the same type, float32 or float64.
        weights: Of each pixel, of that type, ``(B, H, W)``; they get no gradient.
        temperature: What both scores are divided by.

    Returns:
        ``()``, in nats. Gradient reaches both scores.
    """
    with torch.autocast(logits.device.type, enabled=False):
        loss: Tensor = _Divergence.apply(logits, target, weights, temperature)
    return loss


class _Divergence(torch.autograd.Function):
    """Compare ``(B, K, h, w)`` scores with a target's."""

    @staticmethod
    @override
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, weights: Tensor, temperature: float
    ) -> Tensor:
        learns, teaches, *_ = ctx.needs_input_grad
        to_target = torch.empty_like(target) if teaches else None

        def compare(scores: Tensor, at: Pixels) -> tuple[Tensor, Tensor | None]:
            images, rows = at
            said = (scores / temperature).log_softmax(1)
            meant = (target[images, :, rows] / temperature).log_softmax(1)
            share, weight = meant.exp(), weights[at][:, None]
            apart = meant.sub_(said).mul_(share)
            divergence = apart.sum(1, keepdim=True)
            loss = (divergence * weight).sum()
            weight = weight / temperature
            if to_target is not None:
                to_target[images, :, rows] = apart.sub_(share * divergence).mul_(weight)
            return loss, said.exp_().sub_(share).mul_(weight) if learns else None

        size = size_of(target)
        of_images = _in_strips(size[0], compare)
        if learns and not teaches and _has_kernel(logits, size):
            of_images = _in_one(target, weights, temperature)
        loss, to_logits = _by_images(logits, size[1], of_images)
        ctx.save_for_backward(to_logits, to_target)
        return loss

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if one is None else one * upstream for one in ctx.saved_tensors), None, None


def _by_images(logits: Tensor, width: int, of_images: OfImages) -> tuple[Tensor, Tensor | None]:
    """Loss of scores ``(B, K, h, w)`` resized to ``width`` and beyond, and their gradient."""
    columns = _columns(logits, width)
    loss, gradients = logits.new_zeros(()), []
    for images in _some_images(logits, width):
        wide = logits[images] if columns is None else logits[images] @ columns
        more, to_wide = of_images(wide, images)
        loss += more
        if to_wide is not None:
            gradients.append(to_wide if columns is None else to_wide @ columns.T)
    return loss, torch.cat(gradients) if gradients else None


def _in_strips(height: int, compare: Compare) -> OfImages:
    """Resize to so many rows, a few at a time."""

    def of_images(wide: Tensor, images: slice) -> tuple[Tensor, Tensor | None]:
        loss, to_wide = wide.new_zeros(()), None
        for strip in _strips(wide, height):
            more, change = compare(strip.scores, (images, strip.rows))
            loss += more
            if change is not None:
                to_wide = torch.zeros_like(wide) if to_wide is None else to_wide
                to_wide[:, :, strip.under].add_(strip.back(change))  # += would copy, too
        return loss, to_wide

    return of_images


def _in_one(truth: Tensor, weights: Tensor, temperature: float = 1.0) -> OfImages:
    """Resize and compare all rows in one kernel."""

    def of_images(wide: Tensor, images: slice) -> tuple[Tensor, Tensor]:
        from tsic.pixel_kernel import compare_rows

        return compare_rows(wide, truth[images], weights[images], temperature)

    return of_images


def _has_kernel(logits: Tensor, size: tuple[int, int]) -> bool:
    """Whether there is one for scores of their kind, where they lie: its numbers have 32 bits."""
    classes, cells = logits.shape[1:3]
    is_known = logits.dtype == torch.float32 and logits.device.type in ("cuda", "meta")
    is_small = classes <= MAX_CLASSES and classes * max(cells, size[0]) * size[1] < 2**31
    return is_known and is_small and _kernel_is_right(logits.device)


@cache
@torch.inference_mode(mode=False)
def _kernel_is_right(device: torch.device) -> bool:
    """Try the kernel once; that it fails is told, and losses do without."""
    try:
        from tsic.pixel_kernel import require_right

        if device.type != "meta":
            require_right(device)
    except Exception as error:  # of compilers, drivers, whatever it is
        tell(f"tsic: warning: losses of pixels take longer, their kernel fails here: {error}\n")
        return False
    return True


def _some_images(logits: Tensor, width: int) -> Iterator[slice]:
    """As many images as a strip may have scores, or one."""
    count = max(1, _at_once(logits) // (logits[0, ..., 0].numel() * width))
    return (slice(start, start + count) for start in range(0, len(logits), count))


def _at_once(logits: Tensor) -> int:
    return _AT_ONCE.get(logits.device.type, 2**24)


def _columns(logits: Tensor, width: int) -> Tensor | None:
    """Share of each column of the logits in each of ``width``, ``(w, W)``; ``None`` if as many."""
    cells = logits.shape[-1]
    if cells == width:
        return None
    return _shares(range(width), cells, width, logits.dtype, logits.device).T


# Made once: on a GPU each would be a copy from the CPU, for which both wait. None is ever given up,
# since CUDA graphs read them where they lie; they are small and few.
@cache
@torch.inference_mode(mode=False)
def _shares(part: range, cells: int, side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Share of each cell in a part of an axis resized to ``side``, ``(part, cells)``."""
    under = cells_under(part, cells, side)
    eye = torch.eye(cells, dtype=dtype)[under.start : under.stop]
    return resize_axis(eye, 0, part, cells, side).to(device)


class _Strip(NamedTuple):
    """Some rows of a resize.

    Attributes:
        rows: Which, of the labels.
        under: Rows of the map that decide them.
        resizing: Share of each row under them, ``(rows, under)``; ``None`` if they are the rows.
        scores: Resized ``(B, K, rows, W)``.
    """

    rows: slice
    under: slice
    resizing: Tensor | None
    scores: Tensor

    def back(self, change: Tensor) -> Tensor:
        """Gradient of the rows under the strip, given that of its scores."""
        return change if self.resizing is None else self.resizing.T @ change


def _strips(wide: Tensor, height: int) -> Iterator[_Strip]:
    """Resize ``(B, K, h, W)`` scores to ``height`` rows, a few at a time."""
    cells = wide.shape[2]
    count = max(1, _at_once(wide) // (wide.shape[0] * wide.shape[1] * wide.shape[3]))
    for start in range(0, height, count):
        rows = range(start, min(start + count, height))
        under = cells_under(rows, cells, height)
        scores = wide[:, :, under.start : under.stop]
        resizing: Tensor | None = None
        if cells != height:
            shares = _shares(rows, cells, height, wide.dtype, wide.device)
            resizing = shares[:, under.start : under.stop]
            scores = resizing @ scores
        yield _Strip(slice(rows.start, rows.stop), slice(under.start, under.stop), resizing, scores)
