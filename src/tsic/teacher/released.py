"""Files that the authors of SAM, SAM 2 and MobileSAM publish, as models of transformers."""

import pickle
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2VisionConfig,
    SamConfig,
    SamVisionConfig,
)
from transformers.models.sam.modeling_sam import SamModel
from transformers.models.sam2.modeling_sam2 import Sam2Model

from tsic.errors import CheckpointError, one_line
from tsic.teacher.mobile_sam import MobileSamModel, decoder_config, mobile_sam_config

_MLP = r"(hypernetworks_mlps\.\d|iou_prediction_head|pred_obj_score_head)"
# What the authors' names are called here; a TinyViT's come as timm has them, but for these.
_RENAMED = [
    (r"^sam_(prompt_encoder|mask_decoder)\.", r"\1."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.pos_embed$", "vision_encoder.pos_embed"),
    (r"^image_encoder\.patch_embed\.projection\.", "vision_encoder.patch_embed.projection."),
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
    (r"(\.(?:layers|blocks)\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (rf"{_MLP}\.layers\.0\.", r"\1.proj_in."),
    (rf"{_MLP}\.layers\.1\.", r"\1.layers.0."),
    (rf"{_MLP}\.layers\.2\.", r"\1.proj_out."),
]
# The classifier of the encoder's own pretraining, and what SAM 2 has for videos.
_UNUSED = (
    r"^(image_encoder\.(norm_head|head)|mask_downsample|memory_\w+|obj_ptr(_tpos)?_proj)\."
    r"|^(maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial)$"
)
# Blocks of a Hiera -> heads of the first stage, blocks of global attention, windows of the stages:
# what weights do not tell. SAM 2's tiny, small, base-plus and large, by their configurations.
_HIERA = {
    12: (1, (5, 7, 9), (8, 4, 14, 7)),
    16: (1, (7, 10, 13), (8, 4, 14, 7)),
    24: (2, (12, 16, 20), (8, 4, 14, 7)),
    48: (2, (23, 33, 43), (8, 4, 16, 8)),
}
_UNREADABLE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    pickle.UnpicklingError,
)


def load_released(path: Path, key: str = "teacher.name") -> SamModel | Sam2Model:
    """Read a file that the authors of SAM, SAM 2, SAM 2.1 or MobileSAM publish.

    The size of the first three is read off the weights; what SAM 2 has for videos is left out.

    Raises:
        CheckpointError: If it is another file, or damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("model", state)  # where SAM 2's weights lie
        if not any(str(name).startswith("image_encoder.") for name in state):
            raise ValueError("no weight in it is named image_encoder")
        named = _renamed(state)
        model: SamModel | Sam2Model
        if "image_encoder.trunk.pos_embed" in state:
            model, named = Sam2Model(_sam2_config(state)), _as_sam2(named)
        elif "image_encoder.pos_embed" in state:
            model = SamModel(_sam_config(state))
        else:
            model = MobileSamModel(mobile_sam_config())
        model.load_state_dict(named)
    except _UNREADABLE as error:
        said = one_line(error)[:120].split(". ")[0]
        reason = f"KeyError {said}" if isinstance(error, KeyError) else said
        raise CheckpointError(
            f"{key} '{path}' is no file of SAM, SAM 2 or MobileSAM ({reason}); download it "
            "from its authors again, or give the folder of a model in the hub's format"
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


def _sam2_config(state: Mapping[str, Tensor]) -> Sam2Config:
    trunk = "image_encoder.trunk"
    width = len(state[f"{trunk}.patch_embed.proj.bias"])
    depth = len({name.split(".")[3] for name in state if name.startswith(f"{trunk}.blocks.")})
    if depth not in _HIERA:
        raise ValueError(f"its encoder has {depth} blocks, those of SAM 2 have {list(_HIERA)}")
    heads, attending_to_all, windows = _HIERA[depth]
    widened = [n for n in range(depth) if f"{trunk}.blocks.{n}.proj.weight" in state]
    dims = [width * 2**stage for stage in range(len(widened) + 1)]
    hiera = Sam2HieraDetConfig(
        hidden_size=width,
        blocks_per_stage=[end - start for start, end in pairwise([0, *widened, depth])],
        embed_dim_per_stage=dims,
        num_attention_heads=heads,
        num_attention_heads_per_stage=[heads * 2**stage for stage in range(len(dims))],
        window_size_per_stage=list(windows),
        global_attention_blocks=list(attending_to_all),
        window_positional_embedding_background_size=list(state[f"{trunk}.pos_embed"].shape[-2:]),
    )
    vision = Sam2VisionConfig(backbone_config=hiera, backbone_channel_list=dims[::-1])
    return Sam2Config(vision_config=vision)


def _as_sam2(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """What transformers calls or keeps otherwise in SAM 2 than in SAM."""
    points = [named.pop(f"prompt_encoder.point_embed.{n}.weight") for n in range(4)]
    named["prompt_encoder.point_embed.weight"] = torch.cat(points)
    return {name.replace(".out_proj.", ".o_proj."): tensor for name, tensor in named.items()}


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
