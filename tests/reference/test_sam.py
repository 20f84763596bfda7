"""Our walk through SAM, SAM 2 and EdgeTAM against transformers' own, and their folders on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from tsic.errors import CheckpointError, ConfigError
from tsic.teacher import Teacher, build_teacher
from tsic.teacher.foundation import Foundation
from tsic.teacher.mapping import LightMapping
from tsic.teacher.sam import EdgeTam, Sam, Sam2, load_foundation, save_foundation


def sam_config(image_size: int) -> transformers.SamConfig:
    return transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(
            hidden_size=32,
            output_channels=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=image_size,
            window_size=3,
            global_attn_indexes=[0, 1, 2, 3] if image_size < 1024 else [3],
            num_pos_feats=16,
        ),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(
            hidden_size=32, image_size=image_size, image_embedding_size=image_size // 16
        ),
        mask_decoder_config=transformers.SamMaskDecoderConfig(
            hidden_size=32, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32
        ),
    )


# Its switch by stability, off in training, is none of ours.
DECODER = {
    "hidden_size": 32,
    "mlp_dim": 64,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 32,
    "dynamic_multimask_via_stability": False,
}


def sam2_parts(image_size: int) -> dict[str, Any]:
    sizes = [[image_size // stride] * 2 for stride in (4, 8, 16)]
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[image_size, image_size],
        blocks_per_stage=[1, 2, 3, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 14, 7],
        global_attention_blocks=[4],
    )
    return {
        "vision_config": transformers.Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=[128, 64, 32, 16],
            backbone_feature_sizes=sizes,
            fpn_hidden_size=32,
        ),
        "prompt_encoder_config": transformers.Sam2PromptEncoderConfig(
            hidden_size=32, image_size=image_size
        ),
        "mask_decoder_config": transformers.Sam2MaskDecoderConfig(**DECODER),
    }


def randomised(model: Any) -> Any:
    """All weights away from zero, one and transformers' 1e-10, position tables included."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    # One table in every published checkpoint; transformers draws two for SAM 2.
    table = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.data.copy_(table)
    return model.eval()


def sam_of(image_size: int) -> Sam:
    return Sam(randomised(transformers.SamModel(sam_config(image_size))))


def sam2_of(image_size: int) -> Sam2:
    config = transformers.Sam2Config(**sam2_parts(image_size))
    return Sam2(randomised(transformers.Sam2Model(config)))


def edgetam_of(image_size: int, norm: str = "groupnorm1") -> EdgeTam:
    parts = sam2_parts(image_size)
    widths = [16, 32, 64, 128]
    backbone = transformers.TimmWrapperConfig(
        architecture="resnet18",
        model_args={
            "features_only": True,
            "out_indices": [1, 2, 3, 4],
            "channels": widths,
            "norm_layer": norm,
        },
    )
    config = transformers.EdgeTamConfig(
        vision_config=transformers.EdgeTamVisionConfig(
            backbone_config=backbone,
            backbone_channel_list=widths[::-1],
            backbone_feature_sizes=parts["vision_config"].backbone_feature_sizes,
            fpn_hidden_size=32,
        ),
        prompt_encoder_config=transformers.EdgeTamPromptEncoderConfig(
            hidden_size=32, image_size=image_size
        ),
        mask_decoder_config=transformers.EdgeTamMaskDecoderConfig(**DECODER),
    )
    return EdgeTam(randomised(transformers.EdgeTamModel(config)))


def mobile_sam_of(_: int) -> Foundation:
    return load_foundation("tiny-mobile-sam")


def embeddings_of(foundation: Foundation, images: Tensor) -> list[Tensor]:
    """Ours, then transformers', finest first."""
    ours = foundation.encode(images, with_levels=False)
    theirs = foundation.model.get_image_embeddings(images)
    expected = theirs if isinstance(theirs, list) else [theirs]
    assert [m.shape for m in (*ours.fine, ours.image)] == [m.shape for m in expected]
    return [torch.cat([m.flatten() for m in maps]) for maps in ((*ours.fine, ours.image), expected)]


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("build", [sam_of, sam2_of, edgetam_of])
@torch.no_grad()
def test_encode_equals_transformers_embeddings(build: Any, size: int) -> None:
    ours, expected = embeddings_of(build(size), torch.randn(2, 3, size, size))
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", [sam_of, sam2_of])
@torch.no_grad()
def test_encode_at_1024x1024_equals_transformers_embeddings(build: Any) -> None:
    ours, expected = embeddings_of(build(1024), torch.randn(1, 3, 1024, 1024))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_encode_keeps_the_outputs_of_transformers_layers() -> None:
    foundation, images = sam_of(64), torch.randn(2, 3, 64, 64)
    encoder = foundation.model.vision_encoder
    states = encoder(images, output_hidden_states=True).hidden_states[1:]
    embedding = foundation.encode(images, with_levels=True)
    for hidden, level, state in zip(embedding.hidden, embedding.levels, states, strict=True):
        torch.testing.assert_close(hidden, state.permute(0, 3, 1, 2))
        torch.testing.assert_close(level, encoder.neck(state))


@torch.no_grad()
def test_encode_interpolates_positions_for_other_sizes() -> None:
    """Equal to transformers' model of that very size, given the table resized by hand."""
    foundation, smaller = sam_of(128), sam_of(64)
    table = foundation.model.vision_encoder.pos_embed
    state = {k: v for k, v in foundation.model.state_dict().items() if "rel_pos" not in k}
    moved = F.interpolate(table.permute(0, 3, 1, 2), (4, 4), mode="bicubic").permute(0, 2, 3, 1)
    state["vision_encoder.pos_embed"] = moved
    smaller.model.load_state_dict(state, strict=False)
    # Relative positions of the global layers are resized by transformers itself.
    for layer, source in zip(
        smaller.model.vision_encoder.layers, foundation.model.vision_encoder.layers, strict=True
    ):
        layer.attn.rel_pos_h, layer.attn.rel_pos_w = source.attn.rel_pos_h, source.attn.rel_pos_w
    images = torch.randn(1, 3, 64, 64)
    ours = foundation.encode(images, with_levels=False).image
    torch.testing.assert_close(ours, smaller.model.get_image_embeddings(images))


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("build", [sam_of, sam2_of, edgetam_of])
@torch.no_grad()
def test_decode_of_a_mask_prompt_equals_transformers_forward(build: Any, multimask: bool) -> None:
    foundation = build(64)
    images, prompts = torch.randn(2, 3, 64, 64), 5 * torch.randn(2, 1, 16, 16)
    embedding = foundation.encode(images, with_levels=False)
    ours, ious = foundation.decode(
        embedding.image,
        foundation.embed_masks(prompts),
        None,
        embedding.fine,
        multimask=multimask,
    )
    expected = foundation.model(
        pixel_values=images, input_masks=prompts, multimask_output=multimask
    )
    assert ours.shape == (2, 3 if multimask else 1, 16, 16)
    assert expected.pred_masks.std() > 0.01
    torch.testing.assert_close(ours, expected.pred_masks[:, 0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ious, expected.iou_scores[:, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", [sam_of, sam2_of, edgetam_of])
@torch.no_grad()
def test_points_and_boxes_are_embedded_as_transformers_does(build: Any) -> None:
    foundation = build(64)
    encoder = foundation.model.prompt_encoder
    # transformers counts from a pixel's centre and appends an empty point.
    points, labels = (
        64 * torch.rand(3, 1, 2, 2) - 0.5,
        torch.tensor([[[1, 0]], [[0, -1]], [[1, 1]]]),
    )
    theirs = encoder._embed_points(points, labels, pad=False)[:, 0]
    ours = foundation.embed_points((points[:, 0] + 0.5) / 64, labels[:, 0])
    torch.testing.assert_close(ours, theirs)
    corners = encoder._embed_boxes(points.flatten(2))[:, 0, :2]
    as_box = torch.tensor([[2, 3]]).expand(3, 2)
    torch.testing.assert_close(foundation.embed_points((points[:, 0] + 0.5) / 64, as_box), corners)


@pytest.mark.parametrize("build", [sam_of, sam2_of, edgetam_of, mobile_sam_of])
@torch.no_grad()
def test_saved_model_is_loaded_again_by_us_and_by_transformers(build: Any, tmp_path: Path) -> None:
    foundation = build(64).eval()
    save_foundation(foundation, tmp_path / "saved")
    loaded = load_foundation(str(tmp_path / "saved")).eval()
    assert type(loaded) is type(foundation)
    images = torch.randn(1, 3, 64, 64)
    before, after = (f.encode(images, with_levels=False).image for f in (foundation, loaded))
    torch.testing.assert_close(after, before, rtol=0.02, atol=0.02)  # written in float16
    if build is mobile_sam_of:
        return  # transformers does not know it
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "saved")
    assert type(theirs) is type(foundation.model)


@pytest.mark.parametrize("build", [sam_of, sam2_of, edgetam_of])
@torch.no_grad()
def test_positions_equal_transformers_on_its_own_grid(build: Any) -> None:
    foundation = build(64)
    expected = foundation.model.get_image_wide_positional_embeddings()
    torch.testing.assert_close(foundation.positions(4, 4), expected)


# --- Folders in the hub's own format ------------------------------------------------------------


def saved(model: Any, folder: Path) -> Any:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return model


def same_weights(model: nn.Module, source: nn.Module) -> None:
    known = dict(source.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, known[name]), name


def video_model() -> Any:
    parts = sam2_parts(64)
    prompt = transformers.Sam2VideoPromptEncoderConfig(hidden_size=32, image_size=64)
    decoder = transformers.Sam2VideoMaskDecoderConfig(
        hidden_size=32, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32
    )
    return transformers.Sam2VideoModel(
        transformers.Sam2VideoConfig(
            vision_config=parts["vision_config"],
            prompt_encoder_config=prompt,
            mask_decoder_config=decoder,
            image_size=64,
            memory_attention_hidden_size=32,
            memory_attention_num_layers=1,
            memory_attention_feed_forward_hidden_size=32,
            memory_attention_rope_feat_sizes=[4, 4],
            memory_encoder_hidden_size=32,
            memory_encoder_output_channels=16,
            mask_downsampler_embed_dim=32,
            memory_fuser_num_layers=1,
            memory_fuser_embed_dim=32,
            memory_fuser_intermediate_dim=32,
        )
    )


@pytest.mark.parametrize("family", ["sam", "sam2", "sam2_video"])
def test_load_foundation_reads_a_saved_folder_offline(family: str, tmp_path: Path) -> None:
    source = {
        "sam": lambda: transformers.SamModel(sam_config(64)),
        "sam2": lambda: transformers.Sam2Model(transformers.Sam2Config(**sam2_parts(64))),
        "sam2_video": video_model,
    }[family]()
    saved(randomised(source), tmp_path)
    foundation = load_foundation(str(tmp_path))
    assert isinstance(foundation, Sam if family == "sam" else Sam2)
    assert {p.dtype for p in foundation.parameters()} == {torch.float32}
    same_weights(foundation.model, source)
    teacher = build_teacher(str(tmp_path), num_classes=3, channels=16)
    out = teacher(torch.rand(1, 3, 40, 56), torch.randn(1, 3, 10, 14))
    assert out.logits.shape == (1, 3, 10, 14)
    assert out.logits.isfinite().all()


def test_load_foundation_reads_an_id_from_the_hub_cache(fetched: Callable[[str], Path]) -> None:
    source = saved(transformers.SamModel(sam_config(64)), fetched("facebook/sam-vit-base"))
    same_weights(load_foundation("facebook/sam-vit-base").model, source)


def test_load_foundation_reads_half_precision_as_float32(tmp_path: Path) -> None:
    source = saved(transformers.SamModel(sam_config(64)).bfloat16(), tmp_path)
    foundation = load_foundation(str(tmp_path))
    assert {p.dtype for p in foundation.parameters()} == {torch.float32}
    same_weights(foundation.model, source.float())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tiny-sm",
            r"'tiny-sm' is neither a file, .*; did you mean 'tiny-sam'\? choices: embedded",
        ),
        (
            "tiny-sam-2",
            r"did you mean 'tiny-sam2?'\? choices: embedded, none, tiny-edgetam, ",
        ),
        *(
            (path, f"'{path}': no such file or folder")
            for path in ("no/such/folder", "/sam", "./sam", "weights/sam.pth")
        ),
    ],
)
def test_load_foundation_names_the_nearest_right_name(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_foundation(name)


def test_load_foundation_refuses_another_family(tmp_path: Path) -> None:
    transformers.SegformerConfig().save_pretrained(tmp_path)
    message = r"teacher.name '.*' is a 'segformer' model; .*choices: edgetam, .*, mobile_sam, sam, "
    with pytest.raises(ConfigError, match=message):
        load_foundation(str(tmp_path))


def empty_folder(folder: Path) -> None:
    pass


def no_weights(folder: Path) -> None:
    sam_config(64).save_pretrained(folder)


def cut_weights(folder: Path) -> None:
    saved(transformers.SamModel(sam_config(64)), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def other_size(folder: Path) -> None:
    saved(transformers.SamModel(sam_config(64)), folder)
    sam_config(128).save_pretrained(folder)


def no_model_type(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def unknown_model_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "sam9"}')


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    "damage",
    [empty_folder, no_weights, cut_weights, other_size, no_model_type, unknown_model_type, no_json],
)
def test_load_foundation_says_that_a_folder_cannot_be_loaded(damage: Any, tmp_path: Path) -> None:
    damage(tmp_path)
    message = r"^teacher.name '.*' could not be loaded \(.+\); give .* of a downloaded checkpoint$"
    with pytest.raises(CheckpointError, match=message):
        load_foundation(str(tmp_path))


def test_load_foundation_offline_says_how_to_get_a_model() -> None:
    name = "facebook/sam-vit-nowhere"
    with pytest.raises(CheckpointError, match=rf"'{name}' could not be loaded \(.+go online once"):
        load_foundation(name)


def test_frozen_batch_norms_of_an_encoder_keep_their_statistics() -> None:
    """EdgeTAM's encoder has them, and one batch of an unlike domain would move them."""
    foundation = edgetam_of(64, norm="batchnorm")
    channels, strides = foundation.hidden_channels, foundation.hidden_strides
    mapping = LightMapping(channels, strides, 3, mask_channels=3, is_per_class=True, channels=16)
    teacher = Teacher(foundation, mapping, 3).train()
    before = {n: b.clone() for n, b in foundation.encoder.named_buffers() if "running" in n}
    assert before
    teacher(torch.rand(2, 3, 64, 64), torch.randn(2, 3, 8, 8))
    for name, buffer in foundation.encoder.named_buffers():
        if name in before:
            assert torch.equal(buffer, before[name]), name
    foundation.encoder.requires_grad_(requires_grad=True)
    teacher.train()
    teacher(torch.rand(2, 3, 64, 64), torch.randn(2, 3, 8, 8))
    for name, buffer in foundation.encoder.named_buffers():
        if name in before:
            assert not torch.equal(buffer, before[name]), name
