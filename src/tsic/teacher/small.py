"""Small models of the SAM family, made here and not fetched."""

from collections.abc import Callable
from typing import Any, TypeAlias

import transformers
from transformers.models.edgetam.modeling_edgetam import EdgeTamModel
from transformers.models.sam.modeling_sam import SamModel
from transformers.models.sam2.modeling_sam2 import Sam2Model

from tsic.options import TINY_MODELS
from tsic.teacher.mobile_sam import MobileSamModel, mobile_sam_config

Model: TypeAlias = Any
"""A transformers model of the SAM family; the library has no types to tell."""

# transformers 5.17 asks the hub for EdgeTAM's defaults, only to print how a configuration differs.
for _config in (transformers.EdgeTamConfig, transformers.EdgeTamVisionConfig):
    _config.has_no_defaults_at_init = True


def _tiny_sam() -> SamModel:
    """A 1.4 M parameter SAM: an eight-layer ViT of 96 channels."""
    vision = transformers.SamVisionConfig(
        hidden_size=96,
        output_channels=64,
        num_hidden_layers=8,
        num_attention_heads=4,
        image_size=256,
        window_size=7,
        global_attn_indexes=[1, 3, 5, 7],
        num_pos_feats=32,
        initializer_range=0.02,  # transformers' 1e-10 is meant for weights that get loaded
    )
    prompt = transformers.SamPromptEncoderConfig(hidden_size=64, image_size=256)
    decoder = transformers.SamMaskDecoderConfig(
        hidden_size=64, mlp_dim=256, num_attention_heads=4, iou_head_hidden_dim=64
    )
    return SamModel(
        transformers.SamConfig(
            vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
        )
    )


def _tiny_sam2() -> Sam2Model:
    """A 1.9 M parameter SAM 2: a four-stage hierarchical encoder of 32 to 256 channels."""
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=32,
        blocks_per_stage=[1, 2, 4, 1],
        embed_dim_per_stage=[32, 64, 128, 256],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 14, 7],
        global_attention_blocks=[4, 6],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[256, 128, 64, 32], fpn_hidden_size=64
    )
    prompt = transformers.Sam2PromptEncoderConfig(hidden_size=64)
    decoder = transformers.Sam2MaskDecoderConfig(
        hidden_size=64, mlp_dim=256, num_attention_heads=4, iou_head_hidden_dim=64
    )
    return Sam2Model(
        transformers.Sam2Config(
            vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
        )
    )


def _tiny_edgetam() -> EdgeTamModel:
    """A 4.1 M parameter EdgeTAM with a narrow ResNet-18 and a refiner: the embedded model's.

    Group norm keeps an image's answer independent of its batch and of the statistics of what was
    trained on; the neck is top-down at all levels, so that the fine maps know what they lie in.
    """
    widths = [32, 64, 160, 256]
    backbone = transformers.TimmWrapperConfig(
        architecture="resnet18",
        model_args={
            "in_chans": 3,
            "features_only": True,
            "out_indices": [1, 2, 3, 4],
            "channels": widths,
            "norm_layer": "groupnorm",
        },
    )
    vision = transformers.EdgeTamVisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        fpn_hidden_size=128,
        fpn_top_down_levels=[0, 1, 2, 3],
    )
    prompt = transformers.EdgeTamPromptEncoderConfig(hidden_size=128)
    decoder = transformers.EdgeTamMaskDecoderConfig(
        hidden_size=128, mlp_dim=512, iou_head_hidden_dim=128
    )
    return EdgeTamModel(
        transformers.EdgeTamConfig(
            vision_config=vision,
            prompt_encoder_config=prompt,
            mask_decoder_config=decoder,
            refiner_width=16,
        )
    )


def _tiny_mobile_sam() -> MobileSamModel:
    """A 0.6 M parameter MobileSAM: a six-block TinyViT of at most 96 channels."""
    config = mobile_sam_config(
        embed_dims=[32, 48, 64, 96], depths=[1, 1, 3, 1], num_heads=[1, 2, 2, 3]
    )
    config.vision_config.update({"output_channels": 64, "num_pos_feats": 32})
    config.prompt_encoder_config.update({"hidden_size": 64})
    config.mask_decoder_config.update(
        {"hidden_size": 64, "mlp_dim": 256, "num_attention_heads": 4, "iou_head_hidden_dim": 64}
    )
    return MobileSamModel(config)


def prepare(model: Model) -> Model:
    """Draw the decoding side's weights again, as wide as training from scratch needs them.

    transformers' small initialisation suits weights that get loaded; from scratch it leaves masks
    that no prompt can move. It also draws two tables of positions, which are one in checkpoints.
    """
    table = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.data.copy_(table)
    for part in (model.prompt_encoder.mask_embed, model.mask_decoder):
        for module in part.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return model


TINY: dict[str, Callable[[], Model]] = dict(
    zip(TINY_MODELS, (_tiny_sam, _tiny_sam2, _tiny_edgetam, _tiny_mobile_sam), strict=True)
)
