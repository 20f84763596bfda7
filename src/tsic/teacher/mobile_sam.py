"""MobileSAM: SAM's prompts and decoder over a TinyViT, which transformers does not know."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from timm.models.tiny_vit import Attention, TinyVit
from torch import Tensor, nn
from transformers import AutoConfig, SamConfig, SamMaskDecoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamModel, SamVisionNeck
from typing_extensions import override

from tsic.errors import CheckpointError
from tsic.teacher.foundation import Embedding, Foundation, Seen

RELEASED = "mobile_sam.pt"
"""The file that the authors publish."""

# What the authors' names are called here; a TinyViT's come as timm has them, but for these.
_RENAMED = [
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.patch_embed\.seq\.0\.", "vision_encoder.backbone.patch_embed.conv1."),
    (r"^image_encoder\.patch_embed\.seq\.2\.", "vision_encoder.backbone.patch_embed.conv2."),
    (r"^image_encoder\.layers\.", "vision_encoder.backbone.stages."),
    (r"^(vision_encoder\..*)\.c\.", r"\1.conv."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "positions"),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"(\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"(hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
]
# The classifier of the encoder's own pretraining.
_UNUSED = r"^image_encoder\.(norm_head|head)\."


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
    decoder = SamMaskDecoderConfig(layer_norm_eps=1e-5)  # transformers' 1e-6 is not SAM's own
    return MobileSamConfig(vision_config=vision, mask_decoder_config=decoder)


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
                module.heads_of_qkv = module.num_heads  # what LoRA asks
        self.neck = SamVisionNeck(config)


class MobileSamModel(SamModel):
    """SAM with a TinyViT for an encoder; loads and saves in the hub's format."""

    config_class = MobileSamConfig

    def __init__(self, config: MobileSamConfig) -> None:
        super().__init__(config)
        self.vision_encoder = _Encoder(config.vision_config)


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


def load_released(path: Path) -> MobileSamModel:
    """Read the file that the authors publish.

    Raises:
        CheckpointError: If it is another file, or damaged.
    """
    model = MobileSamModel(mobile_sam_config())
    try:
        model.load_state_dict(_renamed(torch.load(path, map_location="cpu", weights_only=True)))
    except (OSError, RuntimeError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        reason = " ".join(" ".join(str(error).split())[:120].split(". ")[:1])
        raise CheckpointError(
            f"teacher.name '{path}' is not MobileSAM's file ({reason}); download {RELEASED} from "
            "its authors again, or give the folder of a model in the hub's format"
        ) from error
    return model


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' weights under the names that they have here."""
    named = {}
    for name, tensor in state.items():
        if not re.search(_UNUSED, name):
            for pattern, ours in _RENAMED:
                name = re.sub(pattern, ours, name)
            named[_downsample_moved(name)] = tensor
    positions = named.pop("positions")
    for place in ("shared_image_embedding", "prompt_encoder.shared_embedding"):
        named[f"{place}.positional_embedding"] = positions
    return named


def _downsample_moved(name: str) -> str:
    """A stage's downsampling, which timm has at the start of the next."""
    found = re.fullmatch(r"(vision_encoder\.backbone\.stages\.)(\d)(\.downsample\..*)", name)
    return f"{found[1]}{int(found[2]) + 1}{found[3]}" if found else name
