"""Frozen matrices held in half precision, in which autocast would multiply them anyway."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from tsic.teacher.foundation import Foundation


class _HeldLinear(nn.Linear):
    @override
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(*_typed(input, self.weight, self.bias))


class _HeldConv2d(nn.Conv2d):
    @override
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(*_typed(input, self.weight, self.bias))


def _typed(
    maps: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Bring all to float32 where autocast brings them to no type."""
    if torch.is_autocast_enabled(maps.device.type):
        return maps, weight, bias
    return maps.float(), weight.float(), None if bias is None else bias.float()


_OURS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _HeldLinear, nn.Conv2d: _HeldConv2d}


def hold_frozen(foundation: Foundation, dtype: torch.dtype) -> None:
    """Round the frozen linear layers and convolutions of a foundation model's encoder, in place.

    Under autocast to ``dtype`` the answer stays the same, bit for bit: autocast rounds such weights
    anew in every step, and keeps its copies until the backward pass. Outside of it they multiply in
    float32.

    Args:
        foundation: Whose encoder; layers with a weight that trains stay as they are.
        dtype: bfloat16 or float16.
    """
    for module in foundation.encoder.modules():
        own = list(module.parameters(recurse=False))
        if type(module) in _OURS and not any(weight.requires_grad for weight in own):
            module.to(dtype)
            module.__class__ = _OURS[type(module)]
    # Weights read from a file are views of it, each of which keeps all of it in memory.
    for tensor in (*foundation.parameters(), *foundation.buffers()):
        tensor.data = tensor.data.clone()
