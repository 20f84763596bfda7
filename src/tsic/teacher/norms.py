"""Norms of teachers: those that keep types and layouts on a GPU, and those that need not run."""

import timm
import torch
import torch.nn.functional as F
from timm.models.tiny_vit import ConvNorm
from torch import Tensor, nn
from transformers.models.edgetam.modeling_edgetam import EdgeTamLayerNorm
from transformers.models.sam.modeling_sam import SamLayerNorm
from transformers.models.sam2.modeling_sam2 import Sam2LayerNorm
from typing_extensions import override

_WIDENED = ["cuda"]  # where autocast takes norms in float32


def _is_widened(maps: Tensor) -> bool:
    """Whether autocast would bring maps to float32, and what follows back again."""
    device = maps.device.type
    return device in _WIDENED and torch.is_autocast_enabled(device)


def _like(weight: Tensor | None, maps: Tensor) -> Tensor | None:
    return None if weight is None else weight.to(maps.dtype)


class LayerNorm(nn.LayerNorm):
    """PyTorch's and transformers', without float32 copies of the maps that come and go.

    Mean and spread are taken in float32 in any case.
    """

    data_format = "channels_last"  # transformers' classes set it

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Bring the channels of each cell to mean 0 and spread 1."""
        if self.data_format == "channels_first":
            return self._normed(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self._normed(input)

    def _normed(self, maps: Tensor) -> Tensor:
        if not _is_widened(maps):
            return super().forward(maps)
        with torch.autocast(maps.device.type, enabled=False):
            weight, bias = _like(self.weight, maps), _like(self.bias, maps)
            return F.layer_norm(maps, self.normalized_shape, weight, bias, self.eps)


class GroupNorm(nn.GroupNorm):
    """PyTorch's, likewise; on a GPU that one also leaves its answer channels first.

    What follows would bring each map back, every time it reads it. Sums are taken in float32, mean
    and spread kept in the maps' type.
    """

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Bring groups of channels of ``(B, C, h, w)`` maps to mean 0 and spread 1."""
        if not _is_widened(input):
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = _like(self.weight, input), _like(self.bias, input)
            answer = F.group_norm(input, self.num_groups, weight, bias, self.eps)
        if input.is_contiguous(memory_format=torch.channels_last):
            answer = answer.contiguous(memory_format=torch.channels_last)
        return answer


_OURS: dict[type[nn.Module], type[nn.Module]] = {
    **dict.fromkeys((nn.LayerNorm, SamLayerNorm, Sam2LayerNorm, EdgeTamLayerNorm), LayerNorm),
    **dict.fromkeys((nn.GroupNorm, timm.layers.GroupNorm), GroupNorm),
}


def keep_types(model: nn.Module) -> None:
    """Let every such norm of a model be ours; its weights stay where they are."""
    for module in model.modules():
        module.__class__ = _OURS.get(type(module), type(module))


def fold_norms(encoder: nn.Module) -> None:
    """Let convolutions of a TinyViT, which stand still, do what the batch norms behind them do."""
    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ConvNorm):
                setattr(module, name, child.fuse().to(child.conv.weight))
