"""MobileSAM: SAM's prompts and decoder over a TinyViT, which transformers does not know."""

from typing import Any, cast

import torch
from timm.models.tiny_vit import Attention, TinyVit
from torch import Tensor, nn
from transformers import AutoConfig, SamConfig, SamMaskDecoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamModel, SamVisionNeck
from typing_extensions import override

from tsic.teacher.foundation import Embedding, Foundation, Seen


class MobileSamConfig(SamConfig):
    """SAM's; ``vision_config.tiny_vit`` holds what timm's ``TinyVit`` is built with."""

    model_type = "mobile_sam"


AutoConfig.register(MobileSamConfig.model_type, MobileSamConfig)


def mobile_sam_config(**tiny_vit: Any) -> MobileSamConfig:
    """Describe MobileSAM, by default as it was released.

    Args:
        tiny_vit: What differs in its encoder.
    """
    encoder = {
        "embed_dims": [64, 128, 160, 320],
        "depths": [2, 2, 6, 2],
        "num_heads": [2, 4, 5, 10],
        "window_sizes": [7, 7, 14, 7],
        **tiny_vit,
    }
    vision = SamVisionConfig(
        hidden_size=encoder["embed_dims"][-1], num_hidden_layers=0, tiny_vit=encoder
    )
    return MobileSamConfig(vision_config=vision, mask_decoder_config=decoder_config())


def decoder_config() -> SamMaskDecoderConfig:
    """Describe SAM's mask decoder with SAM's own epsilon, which transformers has at 1e-6."""
    return SamMaskDecoderConfig(layer_norm_eps=1e-5)


class _Attention(Attention):
    """timm's; on a CPU by plain products where the fused kernel is slow or has none to offer.

    In half precision they take a fifth less for the whole encoder; biases that learn the kernel
    does not take.
    """

    @override
    def forward(self, x: Tensor) -> Tensor:
        is_plain = torch.is_autocast_enabled("cpu") or self.attention_biases.requires_grad
        self.fused_attn = not (x.device.type == "cpu" and is_plain)
        return cast(Tensor, super().forward(x))

    @override
    def get_attention_biases(self, device: torch.device) -> Tensor:
        """Biases ``(1, heads, N, N)``: of three dimensions no fused kernel of a CPU takes them."""
        return super().get_attention_biases(device)[None]


class _Encoder(nn.Module):
    """TinyViT whose last stage keeps stride 16, and SAM's neck."""

    def __init__(self, config: SamVisionConfig) -> None:
        super().__init__()
        options = config.tiny_vit
        self.backbone = TinyVit(num_classes=0, drop_path_rate=0.0, **options)
        self.backbone.head = nn.Identity()
        self.backbone.stages[-1].downsample.conv2.conv.stride = (1, 1)
        for module in self.backbone.modules():
            if isinstance(module, Attention):
                module.__class__ = _Attention
                module.heads_of_qkv = module.num_heads  # what LoRA asks
        self.neck = SamVisionNeck(config)


class MobileSamModel(SamModel):
    """SAM with a TinyViT for an encoder; loads and saves in the hub's format."""

    config_class = MobileSamConfig

    def __init__(self, config: MobileSamConfig) -> None:
        super().__init__(config)
        self.vision_encoder = _Encoder(config.vision_config)

    @override
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Attention):
            module.init_non_persistent_buffers()  # no file has them


class MobileSam(Foundation):
    """MobileSAM (Zhang et al., arXiv:2306.14289): a TinyViT that learned to see as SAM's ViT-H.

    Maps at strides 4, 8, 16 and 16. Windows are attended to with offsets of their own, so that any
    canvas of whole stride-16 cells will do.
    """

    has_levels = False  # its neck fits the last map alone

    def __init__(self, model: MobileSamModel) -> None:
        super().__init__(model)
        self.multiple = 16
        self.dim = model.config.vision_config.output_channels
        self.hidden_channels = tuple(model.config.vision_config.tiny_vit["embed_dims"])
        self.hidden_strides = (4, 8, 16, 16)

    @override
    def see(self, images: Tensor) -> Seen:
        encoder = self.model.vision_encoder
        with self.encoder_gradient():
            maps = encoder.backbone.patch_embed(images)
            kept = []
            for stage in encoder.backbone.stages:
                maps = self._run(stage, maps)
                kept.append(maps.permute(0, 2, 3, 1))
            return Seen(tuple(kept), (encoder.neck(kept[-1]),))

    @override
    def read(self, seen: Seen, *, with_levels: bool) -> Embedding:
        (image,) = seen.neck
        return Embedding(image, tuple(state.permute(0, 3, 1, 2) for state in seen.stages), ())
