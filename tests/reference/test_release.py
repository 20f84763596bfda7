"""The `release` recipe against tensors computed by running the authors' public code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from tsic import losses
from tsic.cycle import Cycle
from tsic.networks import IMAGENET_MEAN, IMAGENET_STD
from tsic.recipes import RECIPES, objective_of
from tsic.student import StudentOutput
from tsic.teacher.mapping import UperMapping
from tsic.teacher.sam import Sam
from tsic.teacher.teacher import Teacher

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "reference"

pytestmark = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference tensors (../shared/data/reference) are absent"
)

# Official prefix -> ours; what follows the prefix is the same.
PREFIXES = [
    ("SAM.image_encoder.patch_embed.", "foundation.model.vision_encoder.patch_embed."),
    ("SAM.image_encoder.pos_embed", "foundation.model.vision_encoder.pos_embed"),
    ("SAM.image_encoder.channel_reduction.0.", "foundation.model.vision_encoder.neck.conv1."),
    ("SAM.image_encoder.channel_reduction.1.", "foundation.model.vision_encoder.neck.layer_norm1."),
    ("SAM.image_encoder.channel_reduction.2.", "foundation.model.vision_encoder.neck.conv2."),
    ("SAM.image_encoder.channel_reduction.3.", "foundation.model.vision_encoder.neck.layer_norm2."),
    ("SAM.image_encoder.layers.", "foundation.model.vision_encoder.layers."),
    ("SAM.prompt_encoder.mask_downscaling.0.", "foundation.model.prompt_encoder.mask_embed.conv1."),
    (
        "SAM.prompt_encoder.mask_downscaling.1.",
        "foundation.model.prompt_encoder.mask_embed.layer_norm1.",
    ),
    ("SAM.prompt_encoder.mask_downscaling.3.", "foundation.model.prompt_encoder.mask_embed.conv2."),
    (
        "SAM.prompt_encoder.mask_downscaling.4.",
        "foundation.model.prompt_encoder.mask_embed.layer_norm2.",
    ),
    ("SAM.prompt_encoder.mask_downscaling.6.", "foundation.model.prompt_encoder.mask_embed.conv3."),
    ("SAM.prompt_encoder.no_mask_embed.", "foundation.model.prompt_encoder.no_mask_embed."),
    ("SAM.prompt_encoder.not_a_point_embed.", "foundation.model.prompt_encoder.not_a_point_embed."),
    ("SAM.prompt_encoder.point_embeddings.", "foundation.model.prompt_encoder.point_embed."),
    (
        "SAM.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "foundation.model.shared_image_embedding.positional_embedding",
    ),
    ("SAM.mask_decoder.output_upscaling.0.", "foundation.model.mask_decoder.upscale_conv1."),
    ("SAM.mask_decoder.output_upscaling.1.", "foundation.model.mask_decoder.upscale_layer_norm."),
    ("SAM.mask_decoder.output_upscaling.3.", "foundation.model.mask_decoder.upscale_conv2."),
    ("SAM.mask_decoder.", "foundation.model.mask_decoder."),
    ("decode_head.psp_modules.0.1.", "mapping.pools.1."),
    ("decode_head.psp_modules.1.1.", "mapping.pools.2."),
    ("decode_head.psp_modules.2.1.", "mapping.pools.3."),
    ("decode_head.psp_modules.3.1.", "mapping.pools.6."),
    ("decode_head.bottleneck.", "mapping.pooled."),
    ("decode_head.lateral_convs.", "mapping.lateral."),
    ("decode_head.fpn_convs.", "mapping.smooth."),
    ("decode_head.fpn_bottleneck.", "mapping.fuse."),
    ("decode_head.att_conv.", "mapping.query."),
    ("decode_head.conv_seg.", "mapping.classifier."),
    ("neck.lateral_convs.", "mapping.neck_lateral."),
    ("neck.convs.", "mapping.neck_out."),
]
INNER = [
    (".attn.qkv.qkv.", ".attn.qkv.qkv."),
    (".ln1.", ".layer_norm1."),
    (".ln2.", ".layer_norm2."),
    (".ffn.layers.0.0.", ".mlp.lin1."),
    (".ffn.layers.1.", ".mlp.lin2."),
    (".transformer.norm_final_attn.", ".transformer.layer_norm_final_attn."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".norm3.", ".layer_norm3."),
    (".norm4.", ".layer_norm4."),
]


def ours(name: str) -> str | None:
    """Our name of an official tensor; None for the student's."""
    for prefix, replacement in PREFIXES:
        if name.startswith(prefix):
            name = replacement + name.removeprefix(prefix)
            break
    else:
        return None
    if name.startswith("foundation.model.mask_decoder"):
        for index, layer in ((0, "proj_in"), (2, "proj_out")):
            name = (
                name.replace(f".layers.{index}.", f".{layer}.")
                if "transformer" not in name
                else name
            )
        if "transformer" not in name:
            name = name.replace(".layers.1.", ".layers.0.")
    for inner, replacement in INNER:
        name = name.replace(inner, replacement)
    if name.startswith("mapping.") and not name.startswith(("mapping.neck", "mapping.classifier")):
        name = name.replace(".conv.", ".0.").replace(".bn.", ".1.")
    return name.replace(".conv.", ".") if name.startswith("mapping.neck") else name


def translate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state of an official state: names changed, the two halves of LoRA joined."""
    state = {}
    for name, tensor in tensors.items():
        if ".linear_" in name:
            continue
        own = ours(name)
        if own is not None:
            state[own] = tensor
    for layer in range(12):
        lora = f"SAM.image_encoder.layers.{layer}.attn.qkv.linear_"
        if f"{lora}a_q.weight" not in tensors:
            continue
        place = f"foundation.model.vision_encoder.layers.{layer}.attn.qkv."
        state[place + "down"] = torch.cat(
            [tensors[f"{lora}a_q.weight"], tensors[f"{lora}a_v.weight"]]
        )
        state[place + "up_q"] = tensors[f"{lora}b_q.weight"]
        state[place + "up_v"] = tensors[f"{lora}b_v.weight"]
    return state


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(REFERENCE / "release_tiny.safetensors")


@pytest.fixture
def teacher(tensors: dict[str, Tensor]) -> Teacher:
    config = transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(
            hidden_size=48,
            output_channels=32,
            num_hidden_layers=12,
            num_attention_heads=3,
            image_size=64,
            window_size=3,
            mlp_ratio=2.0,
            num_pos_feats=16,
        ),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(hidden_size=32, image_size=64),
        mask_decoder_config=transformers.SamMaskDecoderConfig(
            hidden_size=32,
            mlp_dim=64,
            iou_head_hidden_dim=32,
            layer_norm_eps=1e-5,  # torch's default, as in Meta's and the authors' code
        ),
    )
    foundation = Sam(transformers.SamModel(config))
    mapping = UperMapping(
        32, (16,) * 4, 5, neck_channels=48, channels=32, attention="released", dropout=0.0
    )
    recipe = RECIPES["release"]["teacher"]
    teacher = Teacher(
        foundation,
        mapping,
        5,
        prompt=recipe["prompt"],
        mask_stride=recipe["mask_stride"],
        lora_rank=recipe["lora_rank"],
    )
    missing, unexpected = teacher.load_state_dict(
        translate(part(tensors, "weights.")), strict=False
    )
    assert unexpected == []
    # One table under two names in transformers; the iou tokens are all named.
    assert [name for name in missing if "prompt_encoder.shared_embedding" not in name] == []
    return teacher


class GivenStudent(nn.Module):
    """Answers with the reference's logits and features."""

    feature_channels = (1,)

    def __init__(self, tensors: dict[str, Tensor], mode: str) -> None:
        super().__init__()
        self.answer = StudentOutput(
            tensors[f"{mode}.student_logits"],
            tuple(tensors[f"{mode}.student_feats.{stage}"] for stage in range(4)),
            tensors[f"{mode}.student_aux_logits"] if mode == "train" else None,
        )

    def forward(self, images: Tensor) -> StudentOutput:
        return self.answer


def images_of(tensors: dict[str, Tensor]) -> Tensor:
    """The reference's inputs, which are normalised, as RGB in [0, 1]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return tensors["inputs"] * std + mean


def close(actual: Tensor, expected: Tensor) -> None:
    """Agreement to 1e-4 of the tensor's own size."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * scale + 1e-9)


def catch(module: nn.Module, name: str, into: dict[str, Any]) -> None:
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        into[name] = output

    module.register_forward_hook(hook)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_release_intermediates(
    tensors: dict[str, Tensor], teacher: Teacher, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher.train(mode == "train")
    seen: dict[str, Any] = {}
    catch(teacher.foundation.model.prompt_encoder.mask_embed, "dense", seen)
    assert isinstance(teacher.mapping, UperMapping)
    for level, conv in enumerate(teacher.mapping.neck_out):
        catch(conv, f"neck.{level}", seen)
    embedding = teacher.embed(tensors["inputs"])
    decode = teacher.foundation.decode

    def decode_seen(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        seen["masks"] = decode(*args, **kwargs)
        return decode(*args, **kwargs)

    monkeypatch.setattr(teacher.foundation, "decode", decode_seen)
    out = teacher(images_of(tensors), tensors[f"{mode}.student_logits"])
    for level in range(4):
        close(embedding.levels[level], tensors[f"{mode}.sam_feats.{level}"])
        close(seen[f"neck.{level}"], tensors[f"{mode}.neck_out.{level}"])
    close(seen["dense"], tensors[f"{mode}.prompt_encoder.dense"])
    close(seen["masks"][0], tensors[f"{mode}.mask_decoder.low_res_masks"])
    close(seen["masks"][1], tensors[f"{mode}.mask_decoder.iou"])
    close(out.logits, tensors[f"{mode}.teacher_logits"])


def test_release_losses_gradients_and_step(tensors: dict[str, Tensor], teacher: Teacher) -> None:
    expected = json.loads((REFERENCE / "release_tiny.json").read_text())["losses"]
    given: Any = GivenStudent(tensors, "train")
    cycle = Cycle(given, teacher, objective_of("release"))
    out = cycle(images_of(tensors), tensors["labels"][:, 0])
    names = {
        "student_ce": "prompt_decode.loss_ce",
        "auxiliary_ce": "prompt_aux.loss_ce",
        "teacher_ce": "SAM_decode.loss_ce",
        "kl": "TS-KL_loss",
        "ensemble_kl": "eTS-KL_loss",
        "feature": "TS-MSE_loss",
    }
    assert set(out.losses) == set(names)
    for name, official in names.items():
        # The KL of near-equal distributions is a small difference of large terms: 1e-6 of float32.
        assert out.losses[name].item() == pytest.approx(expected[official], rel=1e-4, abs=1e-6), (
            name
        )

    out.total.backward()
    gradients = translate(part(tensors, "grads."))
    parameters = dict(teacher.named_parameters())
    compared = 0
    for name, gradient in gradients.items():
        actual = parameters[name].grad
        if "output_hypernetworks_mlps.0" in name:  # draws a mask that nobody asks for
            assert actual is None
            assert not gradient.any()
            continue
        assert actual is not None, name
        close(actual, gradient)
        compared += 1
    assert compared > 150
    # Where the public code has no gradient at all, we have none or zero.
    for name, parameter in parameters.items():
        if name not in gradients and parameter.grad is not None:
            assert not parameter.grad.any(), name


def test_release_prompt_has_no_effect(tensors: dict[str, Tensor], teacher: Teacher) -> None:
    teacher.eval()
    images, logits = images_of(tensors), tensors["eval.student_logits"]
    assert torch.equal(
        teacher(images, logits).logits, teacher(images, torch.randn_like(logits) * 9).logits
    )


@pytest.mark.parametrize("case", ["active", "minkept_binds", "thresh_none"])
def test_ohem_agrees_with_the_public_code(case: str) -> None:
    tensors = load_file(REFERENCE / "release_ohem.safetensors")
    facts = json.loads((REFERENCE / "release_ohem.json").read_text())
    loss = losses.cross_entropy(
        tensors[f"{case}.logits"],
        tensors[f"{case}.labels"][:, 0],
        average="all",
        ohem_threshold=facts[f"{case}.thresh"],
        ohem_min_kept=int(facts[f"{case}.min_kept"]),
    )
    assert loss.item() == pytest.approx(facts[f"{case}.loss"], rel=1e-4)
