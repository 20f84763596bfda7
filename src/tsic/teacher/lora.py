"""Low-rank adapters on the queries and values of a fused attention projection."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoraQkv(nn.Module):
    """A frozen ``qkv`` projection whose queries and values get a trainable low-rank addition.

    ``q += B_q A_q x`` and ``v += B_v A_v x``, without scaling; ``B`` starts at zero, so that the
    adapted model starts as the frozen one. One adapter over the fused matrix, as peft would
    attach it, could not leave the keys alone.

    Args:
        qkv: Fused projection to adapt, outputs ordered query, key, value.
        rank: Rank of both additions, >= 1.

    Source:
        Hu et al., arXiv:2106.09685; rank, place and initialisation as in the public code.
    """

    def __init__(self, qkv: nn.Linear, rank: int) -> None:
        super().__init__()
        self.qkv = qkv
        size = qkv.out_features // 3
        # q and v share one product with x: rows of `down` are A_q above A_v.
        self.down = nn.Parameter(torch.empty(2 * rank, qkv.in_features))
        self.up_q = nn.Parameter(torch.zeros(size, rank))
        self.up_v = nn.Parameter(torch.zeros(size, rank))
        for half in self.down.data.chunk(2):
            nn.init.kaiming_uniform_(half, a=math.sqrt(5))

    def forward(self, tokens: Tensor) -> Tensor:
        """Project ``(..., C)`` tokens to ``(..., 3 * size)`` queries, keys and values."""
        low_q, low_v = F.linear(tokens, self.down).chunk(2, dim=-1)
        added_q, added_v = F.linear(low_q, self.up_q), F.linear(low_v, self.up_v)
        added = torch.cat([added_q, torch.zeros_like(added_q), added_v], dim=-1)
        return self.qkv(tokens) + added


def attach_lora(encoder: nn.Module, rank: int) -> None:
    """Replace every fused ``qkv`` projection below ``encoder`` by an adapted one, in place."""
    for module in list(encoder.modules()):
        qkv = getattr(module, "qkv", None)
        if isinstance(qkv, nn.Linear):
            module.qkv = LoraQkv(qkv, rank)
