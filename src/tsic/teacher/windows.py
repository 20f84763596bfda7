"""Attention within windows where memory traffic is what costs: on a GPU."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHANNELS = 32
"""Fused kernels are up to twice as fast with whole multiples of it."""


@dataclass(frozen=True)
class Windows:
    """How maps lie in windows, which may reach beyond their lower and right border.

    Attributes:
        size: Height and width of the maps.
        sides: Height and width of a window.
    """

    size: tuple[int, int]
    sides: tuple[int, int]

    @property
    def counts(self) -> tuple[int, int]:
        """Rows of windows, and windows in a row."""
        (height, width), (rows, columns) = self.size, self.sides
        return -(-height // rows), -(-width // columns)

    def pooled(self, stride: tuple[int, int]) -> "Windows":
        """The same of maps whose cells were pooled within windows."""
        return Windows(shrunk(self.size, stride), shrunk(self.sides, stride))

    def order(self, windows: Tensor) -> Tensor:
        """``(N, heads, h * w, d)`` of attention as ``(B, rows, columns, h, w, heads, d)``."""
        return windows.transpose(1, 2).unflatten(1, self.sides).unflatten(0, (-1, *self.counts))

    def pairs(self, windows: Tensor, maps: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The same cells in windows ``(B, rows, columns, h, w, ...)`` and maps ``(B, H, W, ...)``.

        Those of whole windows, and of those that a border cuts.
        """
        for vertical, horizontal in product(*map(_spans, self.size, self.sides)):
            (row, height, here), (column, width, there) = vertical, horizontal
            inside = windows[:, row, column, :height, :width]
            yield inside, in_windows(maps[:, here, there], (height, width))

    def beyond(self, windows: Tensor) -> list[Tensor]:
        """The cells of windows that no map has, each once."""
        below, right = (size % side for size, side in zip(self.size, self.sides, strict=True))
        found = [windows[:, -1, :, below:]] if below else []
        if right:
            rows = _spans(self.size[0], self.sides[0])
            found += [windows[:, row, -1, :height, right:] for row, height, _ in rows]
        return found


def _spans(length: int, side: int) -> list[tuple[slice, int, slice]]:
    """Which windows, how much of each, and where: of whole ones and of the one that is cut."""
    whole, rest = divmod(length, side)
    edge = whole * side
    spans = [(slice(0, whole), side, slice(0, edge))] if whole else []
    return [*spans, (slice(whole, whole + 1), rest, slice(edge, length))] if rest else spans


def shrunk(size: Sequence[int], stride: Sequence[int]) -> tuple[int, int]:
    """How many times ``stride`` fits in ``size``: without rest, since a canvas has whole cells."""
    (height, below), (width, right) = map(divmod, size, stride)
    assert not below + right
    return height, width


def in_windows(maps: Tensor, sides: Sequence[int]) -> Tensor:
    """A view of ``(B, H, W, ...)`` as whole windows, ``(B, rows, columns, height, width, ...)``."""
    height, width = sides
    return maps.unflatten(2, (-1, width)).unflatten(1, (-1, height)).transpose(2, 3)


class _Cut(torch.autograd.Function):
    """Makes queries, keys and values of windows in one pass over the maps, and another back."""

    @staticmethod
    def forward(
        ctx: Any, windows: Windows, heads: int, projected: Tensor, blank: Tensor, *tables: Tensor
    ) -> tuple[Tensor, ...]:
        maps = projected.unflatten(-1, (3, heads, -1))
        own = maps.shape[-1]
        wide = own + sum(windows.sides) * bool(tables)
        wide += -wide % CHANNELS if tables else 0
        shape = 3, len(maps), *windows.counts, *windows.sides, heads, wide
        made = projected.new_empty(shape)
        cells = made.movedim(0, 5)[..., :own]
        for inside, part in windows.pairs(cells, maps):
            inside.copy_(part)
        for outside in windows.beyond(cells):
            outside.copy_(blank.unflatten(0, (3, heads, -1)))
        if tables:
            made[..., own:].zero_()
            _mark(made[1][..., own:])
            terms = made[0].flatten(0, -2)[:, :own] @ _stacked(tables).T
            for there, here in _terms(made[0][..., own:], terms.unflatten(0, shape[1:-1])):
                there.copy_(here)
        three = made.flatten(1, 3).flatten(2, 3).transpose(2, 3).unbind()
        learns = any(ctx.needs_input_grad[4:])
        ctx.save_for_backward(*tables, *(three[:1] if learns else []))
        ctx.windows, ctx.own = windows, own
        return three

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        windows, own = ctx.windows, ctx.own
        ordered = [windows.order(gradient) for gradient in gradients]
        changes = [gradient[..., :own] for gradient in ordered]
        needs_blank, *needs_tables = ctx.needs_input_grad[3:]
        saved: tuple[Tensor, ...] = ctx.saved_tensors  # once: a recomputed layer gives them once
        tables = saved[: len(needs_tables)]
        to_tables: Sequence[Tensor | None] = [None] * len(tables)
        if tables:
            table, shape = _stacked(tables), changes[0].shape
            terms = table.new_zeros(*shape[:-1], len(table))
            for there, here in _terms(ordered[0][..., own:], terms):
                here.copy_(there)
            terms = terms.flatten(0, -2)
            changes[0] = torch.addmm(changes[0].reshape(-1, own), terms, table).view(shape)
            if any(needs_tables):
                query = windows.order(saved[-1])[..., :own].reshape(-1, own)
                lengths = [len(one) for one in tables]
                to_tables = (terms.T @ query)[: sum(lengths)].split(lengths)
        batch, heads = changes[0].shape[0], changes[0].shape[-2]
        maps = changes[0].new_empty(batch, *windows.size, 3, heads, own)
        blanks = []
        for part, change in zip(maps.unbind(3), changes, strict=True):
            for inside, here in windows.pairs(change, part):
                here.copy_(inside)
            if needs_blank:
                sums = [one.flatten(0, -3).sum(0) for one in windows.beyond(change)]
                blanks.append(sum(sums, part.new_zeros(heads, own)))
        to_blank = torch.stack(blanks).flatten() if blanks else None
        return None, None, maps.flatten(3), to_blank, *to_tables


def _stacked(tables: Sequence[Tensor]) -> Tensor:
    """Both tables ``(L, d)``, with zeros to a length whose products are aligned in memory."""
    return F.pad(torch.cat(list(tables)), (0, 0, 0, -sum(map(len, tables)) % 8))


def _mark(places: Tensor) -> None:
    """Let keys mark row and column of their cell, ``(B, rows, columns, h, w, heads, >= h + w)``."""
    height, width = places.shape[3:5]
    row, column = (torch.eye(side, device=places.device) for side in (height, width))
    places[..., :height] = row[:, None, None]
    places[..., height : height + width] = column[:, None]


def _terms(channels: Tensor, terms: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Where queries have what they say of each row and column, and where ``terms`` have it.

    Args:
        channels: Of queries, ``(B, rows, columns, h, w, heads, >= h + w)``.
        terms: Products of queries with both tables, ``(B, rows, columns, h, w, heads, >= L)``.
    """
    height, width = channels.shape[3:5]
    both = terms[..., : 2 * (height + width - 1)]
    return [
        (channels[..., :height], _skewed(both[..., : 2 * height - 1], 3)),
        (channels[..., height : height + width], _skewed(both[..., 2 * height - 1 :], 4)),
    ]


def _skewed(terms: Tensor, dim: int) -> Tensor:
    """A view of what each cell along a side says of each: place ``i`` of ``k`` at ``k - i``."""
    side, step = terms.shape[dim], terms.stride(-1)
    strides = list(terms.stride())
    strides[dim] -= step
    start = terms.storage_offset() + (side - 1) * step
    return terms.as_strided((*terms.shape[:-1], side), strides, start)


class _Join(torch.autograd.Function):
    """Puts windows together to maps, in one pass there and one back."""

    @staticmethod
    def forward(ctx: Any, windows: Windows, own: int, answer: Tensor) -> Tensor:
        cells = windows.order(answer)
        ctx.windows, ctx.shape = windows, cells.shape
        maps = answer.new_empty(len(cells), *windows.size, cells.shape[-2], own)
        for inside, part in windows.pairs(cells[..., :own], maps):
            part.copy_(inside)
        return maps.flatten(-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        cells = gradient.new_zeros(ctx.shape)
        maps = gradient.unflatten(-1, (ctx.shape[-2], -1))
        for inside, part in ctx.windows.pairs(cells[..., : maps.shape[-1]], maps):
            inside.copy_(part)
        return None, None, cells.flatten(0, 2).flatten(1, 2).transpose(1, 2)


def attend_within(
    windows: Windows,
    heads: int,
    scale: float,
    projected: Tensor,
    blank: Tensor,
    *tables: Tensor,
    stride: tuple[int, int] = (1, 1),
) -> Tensor:
    """Attend within windows of projected maps; their cells are moved once to them and once back.

    Args:
        windows: Of the maps.
        heads: Of attention.
        scale: Factor on the scores.
        projected: Queries, keys and values ``(B, H, W, 3 * C)``.
        blank: What lies beyond a border, projected: ``(3 * C,)``.
        tables: What is added to the key of a cell so many rows, and columns, before or behind,
            ``(2 * side - 1, C / heads)``, of the cell most before first.
        stride: Rows and columns of queries that are pooled to one.

    Returns:
        ``(B, H / stride, W / stride, C)``.
    """
    query, key, value = _Cut.apply(windows, heads, projected, blank, *tables)
    if stride != (1, 1):
        query = pool(query.transpose(1, 2).flatten(2).unflatten(1, windows.sides), stride)
        query = query.flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2)
    answer = F.scaled_dot_product_attention(query, key, value, scale=scale)
    own = projected.shape[-1] // (3 * heads)
    return cast(Tensor, _Join.apply(windows.pooled(stride), own, answer))


def pool(maps: Tensor, stride: tuple[int, int] | None) -> Tensor:
    """Take the largest of each ``stride`` cells of ``(B, h, w, C)`` maps."""
    if stride is None:
        return maps
    return F.max_pool2d(maps.permute(0, 3, 1, 2), stride).permute(0, 2, 3, 1)
