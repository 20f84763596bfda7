"""Low-rank adapters on the queries and values of attention, or on convolutions."""

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
        heads: In how many parts the outputs are so ordered: one, or each head's by themselves.

    Source:
        Hu et al., arXiv:2106.09685; rank, place and initialisation as in the public code.
    """

    def __init__(self, qkv: nn.Linear, rank: int, heads: int = 1) -> None:
        super().__init__()
        self.qkv = qkv
        self.heads = heads
        size = qkv.out_features // 3
        # q and v share one product with x: rows of `down` are A_q above A_v.
        self.down = nn.Parameter(torch.empty(2 * rank, qkv.in_features))
        self.up_q = nn.Parameter(torch.zeros(size, rank))
        self.up_v = nn.Parameter(torch.zeros(size, rank))
        for half in self.down.data.chunk(2):
            nn.init.kaiming_uniform_(half, a=math.sqrt(5))

    @property
    def bias(self) -> Tensor | None:
        """What zeros are projected to."""
        return self.qkv.bias

    def forward(self, tokens: Tensor) -> Tensor:
        """Project ``(..., C)`` tokens to ``(..., 3 * size)`` queries, keys and values."""
        size, rank = self.up_q.shape
        up_q, up_v = F.pad(self.up_q, (0, rank)), F.pad(self.up_v, (rank, 0))
        parts = [up_q, up_q.new_zeros(size, 2 * rank), up_v]
        up = torch.cat([part.unflatten(0, (self.heads, -1)) for part in parts], 1).flatten(0, 1)
        cells = tokens.flatten(0, -2)
        low, frozen = F.linear(cells, self.down), self.qkv(cells)
        # In place: a sum of its own would first copy what it adds to.
        answer: Tensor = frozen.addmm_(low, up.T.to(low.dtype))
        return answer.unflatten(0, tokens.shape[:-1])


class LoraConv(nn.Module):
    """A frozen convolution that gets a trainable low-rank addition, ``y += B (A * x)``.

    ``A`` is a convolution of the same window to ``rank`` channels, ``B`` mixes them to all outputs
    and starts at zero, so that the adapted model starts as the frozen one.

    Args:
        conv: Ungrouped convolution to adapt.
        rank: Rank of the addition, >= 1.

    Source:
        LoRA (Hu et al., arXiv:2106.09685) applied to convolutions the way peft does it.
    """

    def __init__(self, conv: nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.conv = conv
        self.down = nn.Parameter(torch.empty(rank, *conv.weight.shape[1:]))
        self.up = nn.Parameter(torch.zeros(conv.out_channels, rank, 1, 1))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)``."""
        conv = self.conv
        low = F.conv2d(maps, self.down, None, conv.stride, conv.padding, conv.dilation)
        return conv(maps) + F.conv2d(low, self.up)


def attach_lora(encoder: nn.Module, rank: int) -> None:
    """Adapt an encoder in place.

    Every fused ``qkv`` projection is replaced by an adapted one; in an encoder without any, every
    ungrouped convolution of more than one pixel is.

    Args:
        encoder: Frozen image encoder; an attention whose heads have their outputs of ``qkv`` by
            themselves tells their number as ``heads_of_qkv``.
        rank: Rank of the adapters, >= 1.
    """
    fused = [
        module
        for module in encoder.modules()
        if isinstance(getattr(module, "qkv", None), nn.Linear)
    ]
    for module in fused:
        heads = getattr(module, "heads_of_qkv", 1)
        module.qkv = LoraQkv(module.qkv, rank, heads)  # type: ignore[arg-type]
    if fused:
        return
    for module in list(encoder.modules()):
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv2d) and conv.groups == 1 and max(conv.kernel_size) > 1:
                setattr(module, name, LoraConv(conv, rank))
