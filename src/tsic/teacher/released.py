"""Files that the authors of SAM and MobileSAM publish, as models of transformers."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import SamConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamModel

from tsic.errors import CheckpointError
from tsic.teacher.mobile_sam import MobileSamModel, decoder_config, mobile_sam_config

MOBILE = "mobile_sam.pt"
"""MobileSAM's file."""

# What the authors' names are called here; a TinyViT's come as timm has them, but for these.
_RENAMED = [
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.pos_embed$", "vision_encoder.pos_embed"),
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
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
_UNREADABLE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)


def load_released(path: Path) -> SamModel:
    """Read a file that the authors of SAM or MobileSAM publish.

    The size of a SAM is read off its weights.

    Raises:
        CheckpointError: If it is another file, or damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not any(str(name).startswith("image_encoder.") for name in state):
            raise ValueError("no weight in it is named image_encoder")
        of_sam = "image_encoder.pos_embed" in state
        model = SamModel(_sam_config(state)) if of_sam else MobileSamModel(mobile_sam_config())
        model.load_state_dict(_renamed(state))
    except _UNREADABLE as error:
        reason = " ".join(" ".join(str(error).split())[:120].split(". ")[:1])
        raise CheckpointError(
            f"teacher.name '{path}' is neither MobileSAM's {MOBILE} nor a file of SAM ({reason}); "
            "download it from its authors again, or give the folder of a model in the hub's format"
        ) from error
    return model


def _sam_config(state: Mapping[str, Tensor]) -> SamConfig:
    _, side, _, width = state["image_encoder.pos_embed"].shape
    patch = state["image_encoder.patch_embed.proj.weight"].shape[-1]
    depth = len({name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")})
    tables = [state[f"image_encoder.blocks.{n}.attn.rel_pos_h"] for n in range(depth)]
    windows = [(len(table) + 1) // 2 for table in tables]  # a table is of 2 * side - 1 distances
    vision = SamVisionConfig(
        hidden_size=width,
        mlp_dim=len(state["image_encoder.blocks.0.mlp.lin1.bias"]),
        num_hidden_layers=depth,
        num_attention_heads=width // tables[0].shape[1],
        image_size=side * patch,
        patch_size=patch,
        window_size=min(windows),
        global_attn_indexes=[n for n, window in enumerate(windows) if window > min(windows)],
    )
    return SamConfig(vision_config=vision, mask_decoder_config=decoder_config())


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
