"""Depthwise convolutions as a CPU's autocast meets them."""

import torch
from torch import Tensor, nn
from typing_extensions import override


class _Depthwise(nn.Conv2d):
    """A convolution that a CPU computes in float32 though autocast would round it to bf16.

    oneDNN computes depthwise convolutions of a stride, a dilation or more than 3x3 taps 2 to 13
    times as slowly in bf16 as in float32 (`docs/performance.md`). The answer is rounded as autocast
    would, so what follows stays as it is.
    """

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Convolve each channel of ``(B, C, h, w)`` by itself."""
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(torch.get_autocast_dtype("cpu"))


_OURS: dict[type[nn.Conv2d], type[nn.Conv2d]] = {}
"""By class of convolution, the one that is float32."""


def widen_depthwise(model: nn.Module) -> None:
    """Let a model's depthwise convolutions be float32 on a CPU, where that is faster, in place."""
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or isinstance(module, _Depthwise):
            continue
        is_depthwise = module.groups == module.in_channels > 1
        is_plain = module.kernel_size == (3, 3) and module.stride == module.dilation == (1, 1)
        if is_depthwise and not is_plain:
            kind = type(module)
            if kind not in _OURS:
                _OURS[kind] = type(f"Depthwise{kind.__name__}", (_Depthwise, kind), {})
            module.__class__ = _OURS[kind]
