"""Published files of SAM, SAM 2 and MobileSAM become the same models here, weight by weight."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.models.sam2.modeling_sam2 import Sam2Model

from tsic.errors import CheckpointError, ConfigError
from tsic.required import MOBILE
from tsic.teacher import build_teacher
from tsic.teacher.mobile_sam import MobileSam
from tsic.teacher.sam import Sam, Sam2, load_foundation, save_foundation

WIDTHS, DEPTHS, HEADS, OFFSETS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (49, 49, 196, 49)


def conv_norm(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.c.weight", shape
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.bn.{part}", shape[:1]
    yield f"{name}.bn.num_batches_tracked", ()


def affine(
    name: str, *shape: int, outputs: int | None = None
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", (shape[0] if outputs is None else outputs,)


def tiny_vit() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from conv_norm("patch_embed.seq.0", (32, 3, 3, 3))
    yield from conv_norm("patch_embed.seq.2", (64, 32, 3, 3))
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        for block in (f"layers.{stage}.blocks.{n}" for n in range(depth)):
            if stage == 0:
                yield from conv_norm(f"{block}.conv1", (4 * width, width, 1, 1))
                yield from conv_norm(f"{block}.conv2", (4 * width, 1, 3, 3))
                yield from conv_norm(f"{block}.conv3", (width, 4 * width, 1, 1))
                continue
            yield f"{block}.attn.attention_biases", (HEADS[stage], OFFSETS[stage])
            yield from affine(f"{block}.attn.norm", width)
            yield from affine(f"{block}.attn.qkv", 3 * width, width)
            yield from affine(f"{block}.attn.proj", width, width)
            yield from affine(f"{block}.mlp.norm", width)
            yield from affine(f"{block}.mlp.fc1", 4 * width, width)
            yield from affine(f"{block}.mlp.fc2", width, 4 * width)
            yield from conv_norm(f"{block}.local_conv", (width, 1, 3, 3))
        if stage < 3:
            after = WIDTHS[stage + 1]
            yield from conv_norm(f"layers.{stage}.downsample.conv1", (after, width, 1, 1))
            yield from conv_norm(f"layers.{stage}.downsample.conv2", (after, 1, 3, 3))
            yield from conv_norm(f"layers.{stage}.downsample.conv3", (after, after, 1, 1))
    yield from affine("norm_head", 320)
    yield from affine("head", 1000, 320)
    yield from neck(320)


def vit(width: int, depth: int, side: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Heads 8 wide, windows of 3, every other block attending to all."""
    yield "pos_embed", (1, side, side, width)
    yield from affine("patch_embed.proj", width, 3, 16, 16)
    for n in range(depth):
        seen = side if n % 2 else 3
        yield from affine(f"blocks.{n}.norm1", width)
        yield f"blocks.{n}.attn.rel_pos_h", (2 * seen - 1, 8)
        yield f"blocks.{n}.attn.rel_pos_w", (2 * seen - 1, 8)
        yield from affine(f"blocks.{n}.attn.qkv", 3 * width, width)
        yield from affine(f"blocks.{n}.attn.proj", width, width)
        yield from affine(f"blocks.{n}.norm2", width)
        yield from affine(f"blocks.{n}.mlp.lin1", 4 * width, width)
        yield from affine(f"blocks.{n}.mlp.lin2", width, 4 * width)
    yield from neck(width)


def hiera(width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """SAM 2's tiny encoder in another width."""
    yield "trunk.pos_embed", (1, width, 7, 7)
    yield "trunk.pos_embed_window", (1, width, 8, 8)
    yield from affine("trunk.patch_embed.proj", width, 3, 7, 7)
    for n in range(12):
        block, before = f"trunk.blocks.{n}", width
        if n in (1, 3, 10):
            width *= 2
            yield from affine(f"{block}.proj", width, before)
        yield from affine(f"{block}.norm1", before)
        yield from affine(f"{block}.attn.qkv", 3 * width, before)
        yield from affine(f"{block}.attn.proj", width, width)
        yield from affine(f"{block}.norm2", width)
        yield from affine(f"{block}.mlp.layers.0", 4 * width, width)
        yield from affine(f"{block}.mlp.layers.1", width, 4 * width)
    for level in range(4):
        yield from affine(f"neck.convs.{level}.conv", 256, width // 2**level, 1, 1)


def neck(width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "neck.0.weight", (256, width, 1, 1)
    yield from affine("neck.1", 256)
    yield "neck.2.weight", (256, 256, 3, 3)
    yield from affine("neck.3", 256)


def prompt_encoder() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "pe_layer.positional_encoding_gaussian_matrix", (2, 128)
    for n in range(4):
        yield f"point_embeddings.{n}.weight", (1, 256)
    yield "not_a_point_embed.weight", (1, 256)
    yield "no_mask_embed.weight", (1, 256)
    yield from affine("mask_downscaling.0", 4, 1, 2, 2)
    yield from affine("mask_downscaling.1", 4)
    yield from affine("mask_downscaling.3", 16, 4, 2, 2)
    yield from affine("mask_downscaling.4", 16)
    yield from affine("mask_downscaling.6", 256, 16, 1, 1)


def attention(name: str, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in "qkv":
        yield from affine(f"{name}.{part}_proj", inner, 256)
    yield from affine(f"{name}.out_proj", 256, inner)


def mask_decoder() -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in (f"transformer.layers.{n}" for n in range(2)):
        yield from attention(f"{layer}.self_attn", 256)
        yield from attention(f"{layer}.cross_attn_token_to_image", 128)
        yield from attention(f"{layer}.cross_attn_image_to_token", 128)
        for n in range(1, 5):
            yield from affine(f"{layer}.norm{n}", 256)
        yield from affine(f"{layer}.mlp.lin1", 2048, 256)
        yield from affine(f"{layer}.mlp.lin2", 256, 2048)
    yield from attention("transformer.final_attn_token_to_image", 128)
    yield from affine("transformer.norm_final_attn", 256)
    yield "iou_token.weight", (1, 256)
    yield "mask_tokens.weight", (4, 256)
    yield from affine("output_upscaling.0", 256, 64, 2, 2, outputs=64)
    yield from affine("output_upscaling.1", 64)
    yield from affine("output_upscaling.3", 64, 32, 2, 2, outputs=32)
    heads = {f"output_hypernetworks_mlps.{n}": 32 for n in range(4)} | {"iou_prediction_head": 4}
    for head, outputs in heads.items():
        yield from affine(f"{head}.layers.0", 256, 256)
        yield from affine(f"{head}.layers.1", 256, 256)
        yield from affine(f"{head}.layers.2", outputs, 256)


def weights(encoder: Iterator[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Random weights under the names and in the shapes of the authors' file."""
    torch.manual_seed(0)
    parts = {
        "image_encoder": encoder,
        "prompt_encoder": prompt_encoder(),
        "mask_decoder": mask_decoder(),
    }
    state = {
        f"{part}.{name}": torch.rand(shape)
        for part, names in parts.items()
        for name, shape in names
    }
    return {
        name: tensor.long() if name.endswith("tracked") else tensor
        for name, tensor in state.items()
    }


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    state = weights(tiny_vit())
    assert len(state) == 439
    return state


@pytest.fixture(scope="module")
def folder(published: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published")
    torch.save(published, path / MOBILE)
    return path


PLACES = """
vision_encoder.backbone.patch_embed.conv2.bn.running_var = image_encoder.patch_embed.seq.2.bn
vision_encoder.backbone.stages.1.downsample.conv2.conv.weight = image_encoder.layers.0.downsample
vision_encoder.backbone.stages.2.blocks.5.attn.qkv.weight = image_encoder.layers.2.blocks.5.attn
vision_encoder.neck.layer_norm2.bias = image_encoder.neck.3
prompt_encoder.point_embed.3.weight = prompt_encoder.point_embeddings.3
prompt_encoder.mask_embed.layer_norm2.weight = prompt_encoder.mask_downscaling.4
mask_decoder.transformer.layers.1.layer_norm4.weight = mask_decoder.transformer.layers.1.norm4
mask_decoder.output_hypernetworks_mlps.2.layers.0.bias = mask_decoder.output_hypernetworks_mlps.2
mask_decoder.iou_prediction_head.proj_out.weight = mask_decoder.iou_prediction_head.layers.2
"""


def test_every_weight_finds_its_place(published: dict[str, Tensor], folder: Path) -> None:
    foundation = load_foundation(str(folder / MOBILE))
    assert isinstance(foundation, MobileSam)
    state = foundation.model.state_dict()
    origin = {name: _origin(tensor, published) for name, tensor in state.items()}
    unused = {"norm_head.weight", "norm_head.bias", "head.weight", "head.bias"}
    counters = {name for name in published if name.endswith("num_batches_tracked")}
    assert set(origin.values()) | counters == published.keys() - {
        f"image_encoder.{name}" for name in unused
    }
    for place in PLACES.strip().splitlines():
        ours, theirs = place.split(" = ")
        assert origin[ours].startswith(theirs), place


SAM_PLACES = """
vision_encoder.pos_embed = image_encoder.pos_embed
vision_encoder.patch_embed.projection.bias = image_encoder.patch_embed.proj.bias
vision_encoder.layers.3.layer_norm2.bias = image_encoder.blocks.3.norm2.bias
vision_encoder.layers.1.attn.rel_pos_w = image_encoder.blocks.1.attn.rel_pos_w
vision_encoder.layers.2.mlp.lin1.weight = image_encoder.blocks.2.mlp.lin1.weight
vision_encoder.neck.conv2.weight = image_encoder.neck.2.weight
mask_decoder.transformer.layers.0.layer_norm1.bias = mask_decoder.transformer.layers.0.norm1.bias
"""


def test_sams_own_file_tells_its_size_and_fills_it(tmp_path: Path) -> None:
    state = weights(vit(width=32, depth=4, side=5))
    file = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(state, file)
    foundation = load_foundation(str(file))
    assert isinstance(foundation, Sam)
    vision = foundation.model.config.vision_config
    assert (vision.num_attention_heads, vision.window_size, vision.image_size) == (4, 3, 80)
    assert vision.global_attn_indexes == [1, 3]
    ours = foundation.model.state_dict()
    assert {_origin(tensor, state) for tensor in ours.values()} == state.keys()
    for place in SAM_PLACES.strip().splitlines():
        name, theirs = place.split(" = ")
        assert torch.equal(ours[name], state[theirs]), place
    assert foundation.encode(torch.rand(1, 3, 48, 80), with_levels=False).image.shape[2:] == (3, 5)

    del state["image_encoder.blocks.1.attn.rel_pos_h"]
    torch.save(state, file)
    with pytest.raises(
        CheckpointError, match=r"is no file of SAM.* \(KeyError 'image_encoder.blocks.1.attn"
    ):
        load_foundation(str(file))


SAM2_PLACES = """
no_memory_embedding = no_mem_embed
vision_encoder.backbone.pos_embed_window = image_encoder.trunk.pos_embed_window
vision_encoder.backbone.patch_embed.projection.weight = image_encoder.trunk.patch_embed.proj.weight
vision_encoder.backbone.blocks.10.proj.bias = image_encoder.trunk.blocks.10.proj.bias
vision_encoder.backbone.blocks.3.layer_norm2.bias = image_encoder.trunk.blocks.3.norm2.bias
vision_encoder.backbone.blocks.2.mlp.proj_out.bias = image_encoder.trunk.blocks.2.mlp.layers.1.bias
vision_encoder.neck.convs.3.weight = image_encoder.neck.convs.3.conv.weight
mask_decoder.pred_obj_score_head.proj_out.bias = sam_mask_decoder.pred_obj_score_head.layers.2.bias
mask_decoder.transformer.layers.1.mlp.proj_in.bias = \
sam_mask_decoder.transformer.layers.1.mlp.layers.0.bias
mask_decoder.transformer.layers.0.self_attn.o_proj.bias = \
sam_mask_decoder.transformer.layers.0.self_attn.out_proj.bias
"""


def sam2_weights() -> dict[str, Tensor]:
    """A file of SAM 2.1: names that differ from SAM's, and what only videos need."""
    state = weights(hiera(8))
    parts = r"^(prompt_encoder|mask_decoder)"
    state = {re.sub(parts, r"sam_\1", name): tensor for name, tensor in state.items()}
    state = {
        re.sub(r"(sam_mask.*\.mlp)\.lin([12])", lambda m: f"{m[1]}.layers.{int(m[2]) - 1}", name): t
        for name, t in state.items()
    }
    more = {
        "obj_score_token.weight": (1, 256),
        "conv_s0.weight": (32, 256, 1, 1),
        "conv_s0.bias": (32,),
        "conv_s1.weight": (64, 256, 1, 1),
        "conv_s1.bias": (64,),
        **dict(affine("pred_obj_score_head.layers.0", 256, 256)),
        **dict(affine("pred_obj_score_head.layers.1", 256, 256)),
        **dict(affine("pred_obj_score_head.layers.2", 1, 256)),
    }
    state |= {f"sam_mask_decoder.{name}": torch.rand(shape) for name, shape in more.items()}
    return state | {"no_mem_embed": torch.rand(1, 1, 256)}


def test_sam2s_own_file_tells_its_size_and_fills_it(tmp_path: Path) -> None:
    state = sam2_weights()
    for_videos = {
        name: torch.rand(2)
        for name in (
            "maskmem_tpos_enc",
            "no_mem_pos_enc",
            "no_obj_ptr",
            "no_obj_embed_spatial",
            "memory_attention.layers.0.norm1.weight",
            "memory_encoder.out_proj.bias",
            "mask_downsample.weight",
            "obj_ptr_proj.layers.0.weight",
            "obj_ptr_tpos_proj.weight",
        )
    }
    file = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": state | for_videos}, file)
    foundation = load_foundation(str(file))
    assert isinstance(foundation, Sam2)
    assert foundation.hidden_channels == (8, 16, 32, 64)
    hiera = foundation.model.config.vision_config.backbone_config
    assert hiera.blocks_per_stage == [1, 2, 7, 2]
    assert hiera.num_attention_heads_per_stage == [1, 2, 4, 8]
    ours = foundation.model.state_dict()
    assert set(ours) == set(Sam2Model(foundation.model.config).state_dict())
    for place in SAM2_PLACES.replace("\\\n", "").strip().splitlines():
        name, theirs = place.split(" = ")
        assert torch.equal(ours[name], state[theirs]), place
    points = [state[f"sam_prompt_encoder.point_embeddings.{n}.weight"] for n in range(4)]
    assert torch.equal(ours["prompt_encoder.point_embed.weight"], torch.cat(points))
    assert foundation.encode(torch.rand(1, 3, 64, 96), with_levels=False).image.shape[2:] == (4, 6)

    torch.save({"model": state | {"memory.gate": torch.rand(1)}}, file)
    with pytest.raises(CheckpointError, match=r"is no file of SAM, SAM 2 or MobileSAM \(.*memory"):
        load_foundation(str(file))
    few = {name: tensor for name, tensor in state.items() if ".blocks.11." not in name}
    torch.save({"model": few}, file)
    with pytest.raises(CheckpointError, match=r"\(its encoder has 11 blocks, those of SAM 2 have"):
        load_foundation(str(file))


def _origin(tensor: Tensor, published: dict[str, Tensor]) -> str:
    """Name of the published weight that a tensor equals."""
    return next(
        name
        for name, weight in published.items()
        if weight.shape == tensor.shape and torch.equal(weight, tensor)
    )


def test_norms_of_the_mask_decoder_have_sams_own_epsilon(folder: Path) -> None:
    transformer = load_foundation(str(folder)).model.mask_decoder.transformer
    norms = [module for module in transformer.modules() if isinstance(module, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5}
    assert len(norms) == 9


def test_last_map_keeps_stride_16_on_any_canvas(folder: Path) -> None:
    foundation = load_foundation(str(folder)).eval()
    seen = foundation.see(torch.rand(1, 3, 48, 80))
    assert [stage.shape[1:] for stage in seen.stages] == [
        (12, 20, 64),
        (6, 10, 128),
        (3, 5, 160),
        (3, 5, 320),
    ]
    assert seen.neck[0].shape == (1, 256, 3, 5)


def test_saved_it_is_a_model_in_the_hubs_format(folder: Path, tmp_path: Path) -> None:
    foundation = load_foundation(str(folder))
    save_foundation(foundation, tmp_path)
    again = load_foundation(str(tmp_path))
    assert isinstance(again, MobileSam)
    state = again.model.state_dict()
    for name, tensor in foundation.model.state_dict().items():
        assert torch.equal(
            state[name], tensor.half().float() if tensor.is_floating_point() else tensor
        )


def test_files_of_another_kind_are_refused_in_one_sentence(
    published: dict[str, Tensor], tmp_path: Path
) -> None:
    few = {name: tensor for name, tensor in published.items() if "iou" not in name}
    torch.save(few, tmp_path / "few.pt")
    torch.save({"model": {"image_encoder.trunk.pos_embed": torch.rand(1)}}, tmp_path / "sam2.pt")
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.pt").touch()
    for name in ("few", "sam2", "list", "text", "empty"):
        message = rf"^teacher.name '.*{name}.pt' is no file of SAM, SAM 2 or MobileSAM \([^\n]+\); "
        with pytest.raises(CheckpointError, match=message):
            load_foundation(str(tmp_path / f"{name}.pt"))


def test_upernet_is_refused_before_training() -> None:
    with pytest.raises(
        ConfigError, match=r"^teacher.mapping uper reads .*'tiny-mobile-sam'.* light$"
    ):
        build_teacher("tiny-mobile-sam", num_classes=3, mapping="uper")
