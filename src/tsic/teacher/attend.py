"""Attention by whichever way is fast where it runs."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Operands: TypeAlias = Callable[..., Sequence[Tensor]]
"""Makes query, key and value of their sources."""

_PAIRS = 2**21  # scores at a time
_FEW = 32  # keys
_softmax_backward = torch.ops.aten._softmax_backward_data


class _Recomputed(torch.autograd.Function):
    """Attention by plain products, which makes operands and weights again in the backward pass.

    Some heads at a time, so that their weights stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, operands: Operands, scale: float, *sources: Tensor) -> Tensor:
        ctx.save_for_backward(*sources)
        ctx.operands, ctx.scale = operands, scale
        made = operands(*sources)
        query, key, value = (x.flatten(0, 1) for x in made)
        answer = query.new_empty(*query.shape[:-1], value.shape[-1])
        for part in _parts(query, key):
            torch.bmm(_weights(query[part] * scale, key[part]), value[part], out=answer[part])
        return answer.unflatten(0, made[0].shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:]
        sources = [
            source.detach().requires_grad_(needs)
            for source, needs in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad():
            operands = [x.flatten(0, 1) for x in ctx.operands(*sources)]
        query, key, value = (x.detach() for x in operands)
        gradient = gradient.flatten(0, 1)
        to_query, to_key, to_value = (torch.empty_like(x) for x in operands)
        for part in _parts(query, key):
            scaled = query[part] * ctx.scale
            weights = _weights(scaled, key[part])
            torch.bmm(weights.mT, gradient[part], out=to_value[part])
            to_scores = _to_scores(gradient[part], value[part], weights)
            torch.bmm(to_scores, key[part], out=to_query[part]).mul_(ctx.scale)
            torch.bmm(to_scores.mT, scaled, out=to_key[part])
        made = [
            (operand, change)
            for operand, change in zip(operands, (to_query, to_key, to_value), strict=True)
            if operand.requires_grad
        ]
        learning = [source for source in sources if source.requires_grad]
        outputs, gradients = zip(*made, strict=True)
        found = iter(torch.autograd.grad(outputs, learning, gradients, allow_unused=True))
        return None, None, *(next(found) if needs else None for needs in needed)


def _parts(query: Tensor, key: Tensor) -> list[slice]:
    heads = max(1, _PAIRS // (query.shape[1] * key.shape[1]))
    return [slice(start, start + heads) for start in range(0, len(query), heads)]


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """Attention weights ``(N, Q, P)``; of few keys, whose rows softmax is slow at, transposed."""
    if key.shape[1] < _FEW:
        return torch.bmm(key, query.mT).softmax(1).mT
    return torch.bmm(query, key.mT).softmax(2)


def _to_scores(gradient: Tensor, value: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the scores, laid out as the weights are."""
    if value.shape[1] < _FEW:
        return _softmax_backward(torch.bmm(value, gradient.mT), weights.mT, 1, weights.dtype).mT
    return _softmax_backward(torch.bmm(gradient, value.mT), weights, 2, weights.dtype)


def plain_attention(operands: Operands, scale: float, *sources: Tensor) -> Tensor:
    """Scaled dot-product attention that keeps nothing but its sources; see ``attend``."""
    return cast(Tensor, _Recomputed.apply(operands, scale, *sources))


def attend(operands: Operands, scale: float, *sources: Tensor) -> Tensor:
    """Scaled dot-product attention, by whichever way is fast where it runs.

    On a CPU in bfloat16 plain products are 1.7 to 10 times as fast as PyTorch's fused kernel and
    its backward pass (``benchmarks/attention.py``), so there they take its place. They keep the
    sources alone.

    Args:
        operands: Makes query ``(B, heads, Q, D)``, key ``(B, heads, P, D)`` and value
            ``(B, heads, P, V)``, ``V`` no larger than ``D``, of the sources.
        scale: Factor on the scores.
        sources: What they are made of; all of one type.

    Returns:
        ``(B, heads, Q, V)``.
    """
    first = sources[0]
    if learns(*sources) and first.device.type == "cpu" and first.dtype == torch.bfloat16:
        return plain_attention(operands, scale, *sources)
    query, key, value = operands(*sources)
    width = value.shape[-1]
    if width < query.shape[-1]:  # kernels want one width for all three
        value = F.pad(value, (0, query.shape[-1] - width))
    return F.scaled_dot_product_attention(query, key, value, scale=scale)[..., :width]


def learns(*sources: Tensor) -> bool:
    """Whether a backward pass will follow."""
    return torch.is_grad_enabled() and any(source.requires_grad for source in sources)
