"""Attention of the SAM family: no map of all pairs kept, nothing computed of empty windows."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionLayer
from transformers.models.sam2.modeling_sam2 import (
    Sam2MultiScaleAttention,
    Sam2MultiScaleBlock,
)
from typing_extensions import override

from tsic.teacher.attend import Operands, attend, learns
from tsic.teacher.recompute import recomputed
from tsic.teacher.windows import CHANNELS, Windows, attend_within, in_windows, pool, shrunk

_SPARING = ["cpu"]  # where work and memory count for more than launches


class SamAttention(SamVisionAttention):
    """The same answer as transformers' class, by ``attend``.

    SAM adds to each score what the query says of the key's row and of its column. Added as a bias,
    which learns, it forces scores of all pairs into memory, and on a CPU in bfloat16 into slow
    products. Here queries carry these terms as further channels, and keys mark row and column in
    them by ones, so that a plain scaled dot product has them in it:
    ``s [q, q R_h / s, q R_w / s] . [k, 1_row, 1_column]``.

    Source:
        Relative positions: Li et al., arXiv:2112.01526, equation 3.
    """

    @override
    def forward(self, maps: Tensor, window: int) -> Tensor:
        """Attend within all of ``(B, h, w, C)`` maps, or within windows that wide."""
        projected, tables = self.qkv(maps), []
        if self.use_rel_pos:
            sides = (window, window) if window else maps.shape[1:3]
            tables = [
                _steps(table, side).to(projected.dtype) / self.scale
                for side, table in zip(sides, (self.rel_pos_h, self.rel_pos_w), strict=True)
            ]
        return cast(Tensor, self.proj(_within(self, window, projected, *tables)))

    def operands(
        self, window: int, projected: Tensor, blank: Tensor, *tables: Tensor
    ) -> list[Tensor]:
        """Query, key and value of all windows, with the tables of rows and columns in them."""
        query, key, value = (
            x.unflatten(-1, (self.num_attention_heads, -1)).permute(0, 1, 2, 5, 3, 4, 6)
            for x in _cut(projected, blank, window)
        )  # (B, rows, columns, heads, h, w, d)
        parts, places = [query], [key]
        if tables:
            (height, width), (rows, columns) = query.shape[-3:-1], map(_of_pairs, tables)
            parts += [
                torch.einsum("...hwc,hkc->...hwk", query, rows[:height]),
                torch.einsum("...hwc,wkc->...hwk", query, columns[:width]),
            ]
            height, width = key.shape[-3:-1]
            row = torch.eye(height, dtype=key.dtype, device=key.device)[:, None]
            column = torch.eye(width, dtype=key.dtype, device=key.device)[None]
            spare = query.new_zeros(-(query.shape[-1] + height + width) % CHANNELS)
            marks = row, column, spare
            parts.append(spare.expand(*query.shape[:-1], -1))
            places += [mark.expand(*key.shape[:-1], mark.shape[-1]) for mark in marks]
        return [
            x.flatten(0, 2).flatten(2, 3)
            for x in (torch.cat(parts, -1), torch.cat(places, -1), value)
        ]


def _steps(table: Tensor, side: int) -> Tensor:
    """A table of relative positions ``(L, d)`` for a side, of the cell most before it first."""
    return F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T.flip(0)


def _of_pairs(table: Tensor) -> Tensor:
    """Entries ``(2 * side - 1, d)`` for all pairs along a side, square."""
    at = torch.arange(len(table) // 2 + 1, device=table.device)
    return table[at - at[:, None] + len(at) - 1]


class SamLayer(SamVisionLayer):
    """The same answer as transformers' class, whose attention cuts its own windows."""

    @override
    def forward(self, maps: Tensor) -> Tensor:
        """Mix ``(B, h, w, C)`` maps."""
        maps = maps + self.attn(self.layer_norm1(maps), self.window_size)
        return cast(Tensor, maps + self.mlp(self.layer_norm2(maps)))


class HieraAttention(Sam2MultiScaleAttention):
    """The same answer as transformers' class, without scores that nothing looks at."""

    @override
    def forward(self, maps: Tensor, window: int) -> Tensor:
        """Attend within all of ``(B, h, w, C)`` maps, or within windows that wide."""
        return cast(Tensor, self.proj(_within(self, window, self.qkv(maps))))

    def operands(self, window: int, projected: Tensor, blank: Tensor) -> list[Tensor]:
        """Query, key and value of all windows, queries pooled."""
        query, key, value = (x.flatten(0, 2) for x in _cut(projected, blank, window))
        return [
            x.flatten(1, 2).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)
            for x in (pool(query, self.query_stride), key, value)
        ]


class HieraLayer(Sam2MultiScaleBlock):
    """The same answer as transformers' class, whose attention cuts its own windows."""

    @override
    def forward(self, maps: Tensor) -> Tensor:
        """Mix ``(B, h, w, C)`` maps, and pool them where a stage begins."""
        normed = self.layer_norm1(maps)
        if self.dim != self.dim_out:
            maps = pool(self.proj(normed), self.query_stride)
        maps = maps + self.attn(normed, self.window_size)
        return cast(Tensor, maps + self.mlp(self.layer_norm2(maps)))


def attend_sparingly(operands: Operands, scale: float, *sources: Tensor) -> Tensor:
    """``attend`` on a CPU, which keeps the sources alone.

    Windows and SAM's relative positions make operands half as much again. Where plain products do
    not make them again by themselves, the fused kernel answers once more in the backward pass.
    """
    first = sources[0]
    if learns(*sources) and first.dtype != torch.bfloat16:
        return recomputed(partial(attend, operands, scale), *sources)
    return attend(operands, scale, *sources)


def _within(attention: Any, window: int, projected: Tensor, *tables: Tensor) -> Tensor:
    """Attend within windows of projected maps.

    What lies beyond a border is projected zeros, the bias, which the cells of its window see. On a
    CPU it does not ask itself: of windows of 14 around 23x30 cells, 41 % lie there.

    Args:
        attention: Makes ``operands``, with ``qkv`` and a ``scale``; may pool queries.
        window: Side of the windows; 0 for a single one as large as the maps.
        projected: Queries, keys and values ``(B, h, w, 3 * C)``.
        tables: Further sources of the operands: of relative positions.

    Returns:
        ``(B, h / stride, w / stride, C)``.
    """
    stride = getattr(attention, "query_stride", None) or (1, 1)
    bias = attention.qkv.bias
    blank = projected.new_zeros(projected.shape[-1]) if bias is None else bias.to(projected.dtype)
    if projected.device.type not in _SPARING:
        height, width = projected.shape[1:3]
        windows = Windows((height, width), (window or height, window or width))
        heads, scale = attention.num_attention_heads, attention.scale
        return attend_within(windows, heads, scale, projected, blank, *tables, stride=stride)
    operands = partial(attention.operands, window)
    rows = []
    for row in _split(projected, 1, window):
        parts = []
        for part in _split(row, 2, window):
            sides = shrunk(_sides(part, window), stride)
            answer = attend_sparingly(operands, attention.scale, part, blank, *tables)
            parts.append(_join(answer.unflatten(2, sides), *shrunk(part.shape[1:3], stride)))
        rows.append(torch.cat(parts, 2))
    return torch.cat(rows, 1)


def _split(maps: Tensor, dim: int, side: int) -> Sequence[Tensor]:
    """Part ``(B, h, w, D)`` maps in whole windows and what a border leaves of the last."""
    length = maps.shape[dim]
    left = length % side if side else 0
    return maps.split([part for part in (length - left, left) if part], dim)


def _sides(maps: Tensor, side: int) -> list[int]:
    """Height and width of the windows in maps that hold whole ones or less than one."""
    return [min(side or length, length) for length in maps.shape[1:3]]


def _cut(projected: Tensor, blank: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut queries, keys and values ``(B, h, w, 3 * C)`` into windows.

    Returns:
        Each ``(B, rows of windows, windows in a row, height, width, C)``; keys and values of whole
        windows, queries of no cell beyond a border.
    """
    query, *pair = projected.chunk(3, -1)
    key, value = (_fill(*both, side) for both in zip(pair, blank.chunk(3)[1:], strict=True))
    own, full = _sides(query, side), _sides(key, side)
    return in_windows(query, own), in_windows(key, full), in_windows(value, full)


def _fill(maps: Tensor, blank: Tensor, side: int) -> Tensor:
    """Continue ``(B, h, w, D)`` maps by blanks to whole windows."""
    below, right = (-length % side if side else 0 for length in maps.shape[1:3])
    if right:
        maps = torch.cat([maps, blank.expand(*maps.shape[:2], right, -1)], 2)
    if below:
        maps = torch.cat([maps, blank.expand(len(maps), below, maps.shape[2], -1)], 1)
    return maps


def _join(windows: Tensor, height: int, width: int) -> Tensor:
    """Put ``(N, heads, h, w, d)`` windows together to ``(B, height, width, heads * d)``."""
    rows, columns = shrunk((height, width), windows.shape[2:4])
    whole = windows.unflatten(0, (-1, rows, columns)).permute(0, 1, 4, 2, 5, 3, 6)
    return whole.flatten(5).flatten(3, 4).flatten(1, 2)


_OURS = {
    SamVisionAttention: SamAttention,
    SamVisionLayer: SamLayer,
    Sam2MultiScaleAttention: HieraAttention,
    Sam2MultiScaleBlock: HieraLayer,
}


def fuse_attention(model: nn.Module) -> None:
    """Let every layer of a SAM-family encoder be ours; its weights stay where they are."""
    for module in model.modules():
        for theirs, ours in _OURS.items():
            if isinstance(module, theirs):
                module.__class__ = ours
