"""Attention of the SAM family that keeps no map of all pairs for the backward pass."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PreTrainedModel
from transformers.models.sam.modeling_sam import SamVisionAttention
from typing_extensions import override

_NAME = "tsic"  # in transformers' table of attention functions
_PAIRS = 2**21  # scores at a time
_CHANNELS = 32  # fused kernels are up to twice as fast with whole multiples of it


class _Recomputed(torch.autograd.Function):
    """Attention by plain products, whose weights are computed again in the backward pass.

    Some heads at a time, so that their weights stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        answer = query.new_empty(*query.shape[:-1], value.shape[-1])
        for part in _parts(query, key):
            torch.bmm(_weights(query[part], key[part]), value[part], out=answer[part])
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = ctx.saved_tensors
        to_query, to_key, to_value = (torch.empty_like(x) for x in (query, key, value))
        for part in _parts(query, key):
            weights = _weights(query[part], key[part])
            torch.bmm(weights.mT, gradient[part], out=to_value[part])
            to_weights = torch.bmm(gradient[part], value[part].mT)
            to_scores = torch.ops.aten._softmax_backward_data(
                to_weights, weights, -1, weights.dtype
            )
            torch.bmm(to_scores, key[part], out=to_query[part])
            torch.bmm(to_scores.mT, query[part], out=to_key[part])
        return to_query, to_key, to_value


def _parts(query: Tensor, key: Tensor) -> list[slice]:
    heads = max(1, _PAIRS // (query.shape[1] * key.shape[1]))
    return [slice(start, start + heads) for start in range(0, len(query), heads)]


def _weights(query: Tensor, key: Tensor) -> Tensor:
    return torch.bmm(query, key.mT).softmax(-1)


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Unscaled dot-product attention that keeps nothing but its inputs; shapes as in ``attend``."""
    answer = _Recomputed.apply(*(maps.flatten(0, 1) for maps in (query, key, value)))
    return cast(Tensor, answer).unflatten(0, query.shape[:2])


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Scaled dot-product attention, by whichever way is fast where it runs.

    On a CPU in bfloat16 plain products are 1.7 to 12 times as fast as PyTorch's fused kernel and
    its backward pass (``benchmarks/attention.py``), so there they take its place.

    Args:
        query: ``(B, heads, Q, D)``.
        key: ``(B, heads, P, D)``.
        value: ``(B, heads, P, V)``, no wider than the keys.
        scale: Factor on the scores.

    Returns:
        ``(B, heads, Q, V)``.
    """
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    if learns and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return plain_attention(query * scale, key, value)
    width = value.shape[-1]
    value = F.pad(value, (0, query.shape[-1] - width))  # kernels want one width for all three
    return F.scaled_dot_product_attention(query, key, value, scale=scale)[..., :width]


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """``attend`` as transformers calls it; SAM's layers mask nothing and drop nothing."""
    assert attention_mask is None
    return attend(query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(_NAME, _attend)


class FusedAttention(SamVisionAttention):
    """The same answer as transformers' class, by ``attend``.

    SAM adds to each score what the query says of the key's row and of its column. Added as a bias,
    which learns, it forces scores of all pairs into memory, and on a CPU in bfloat16 into slow
    products. Here queries carry these terms as further channels, and keys mark row and column in
    them by ones, so that a plain scaled dot product has them in it:
    ``[s q, q R_h, q R_w] . [k, 1_row, 1_column]``.

    Source:
        Relative positions: Li et al., arXiv:2112.01526, equation 3.
    """

    @override
    def forward(
        self, hidden_states: Tensor, output_attentions: bool | None = None
    ) -> tuple[Tensor, None]:
        """Attend within ``(B, h, w, C)`` maps or windows; weights are never given."""
        batch, height, width, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_attention_heads, -1))
        query, key, value = qkv.permute(3, 0, 4, 1, 2, 5).unbind(0)  # (B, heads, h, w, d)
        parts, places = [query * self.scale], [key]
        if self.use_rel_pos:
            rows = self.get_rel_pos(height, height, self.rel_pos_h).to(query.dtype)
            columns = self.get_rel_pos(width, width, self.rel_pos_w).to(query.dtype)
            parts += [
                torch.einsum("bnhwc,hkc->bnhwk", query, rows),
                torch.einsum("bnhwc,wkc->bnhwk", query, columns),
            ]
            row = torch.eye(height, dtype=key.dtype, device=key.device)[:, None]
            column = torch.eye(width, dtype=key.dtype, device=key.device)[None]
            spare = query.new_zeros(-(query.shape[-1] + height + width) % _CHANNELS)
            marks = row, column, spare
            parts.append(spare.expand(*query.shape[:-1], -1))
            places += [mark.expand(*key.shape[:-1], mark.shape[-1]) for mark in marks]
        query, key, value = (
            maps.flatten(2, 3) for maps in (torch.cat(parts, -1), torch.cat(places, -1), value)
        )
        answer = attend(query, key, value, scale=1.0)
        answer = answer.transpose(1, 2).reshape(batch, height, width, -1)
        return cast(Tensor, self.proj(answer)), None


def fuse_attention(model: PreTrainedModel) -> None:
    """Let every attention layer of a SAM-family model answer by ``attend``; weights stay theirs."""
    model.config._attn_implementation = _NAME  # the public setter warns of configs without a model
    for module in model.modules():
        if isinstance(module, SamVisionAttention):
            module.__class__ = FusedAttention
