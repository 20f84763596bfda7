"""Attention of the SAM family against transformers' own and the plain formula."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel, Sam2HieraDetConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

from tsic.teacher.attend import plain_attention
from tsic.teacher.attention import attend_sparingly, fuse_attention
from tsic.teacher.sam import load_foundation
from tsic.teacher.small import TINY


@pytest.fixture(params=["fused", "plain", "launched"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the ways that only a CPU in bfloat16 and a GPU take by themselves."""
    if request.param == "plain":
        monkeypatch.setattr("tsic.teacher.attention.attend", plain_attention)
    if request.param == "launched":
        monkeypatch.setattr("tsic.teacher.attention._SPARING", [])


def sam_encoder(width: int, **chosen: bool) -> SamVisionEncoder:
    """Three layers: windows, all of the maps, windows."""
    return SamVisionEncoder(
        SamVisionConfig(
            hidden_size=width,
            mlp_dim=32,
            num_attention_heads=3,
            num_hidden_layers=3,
            window_size=4,
            global_attn_indexes=[1],
            image_size=96,
            attn_implementation="sdpa",
            **chosen,
        )
    )


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("grid", [(5, 7), (8, 4), (4, 9), (3, 2)])
@pytest.mark.parametrize("chosen", [{}, {"use_rel_pos": False}, {"qkv_bias": False}])
def test_sam_layers_answer_as_transformers_do(
    grid: tuple[int, int], chosen: dict[str, bool]
) -> None:
    model = sam_encoder(24, **chosen)
    check_layers(model, model.layers, torch.randn(2, *grid, 24))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_windows_keep_the_type_of_a_gpus_autocast(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsic.teacher.attention._SPARING", [])
    torch.manual_seed(0)
    model = sam_encoder(96).to(device)
    fuse_attention(model)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    asked: list[torch.dtype] = []
    for layer in model.layers:
        layer.attn.proj.register_forward_pre_hook(lambda _, given: asked.append(given[0].dtype))
    inputs = [torch.randn(2, 5, 7, 96, requires_grad=True, device=device)]
    inputs += model.layers.parameters()
    found = []
    for is_mixed in (False, True):
        answer = inputs[0]
        with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
            for layer in model.layers:
                answer = layer(answer)
        found.append((answer, *torch.autograd.grad(answer.float().sin().sum(), inputs)))
    assert asked == [torch.float32] * 3 + [torch.bfloat16] * 3
    for exact, rounded in zip(*found, strict=True):
        slack = 0.05 * exact.abs().max().item()
        torch.testing.assert_close(rounded.float(), exact, atol=slack, rtol=0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("grid", [(24, 40), (32, 16)])
def test_hiera_layers_answer_as_transformers_do(grid: tuple[int, int]) -> None:
    config = Sam2HieraDetConfig(
        hidden_size=8,
        blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        window_size_per_stage=[16, 4, 4, 2],
        global_attention_blocks=[4],
        attn_implementation="sdpa",
    )
    model = Sam2HieraDetModel(config)
    check_layers(model, model.blocks, torch.randn(2, *grid, 8))


def check_layers(model: PreTrainedModel, layers: nn.ModuleList, maps: Tensor) -> None:
    """Compare answers and gradients in float64 before and after the layers are exchanged."""
    model.double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    maps = maps.double().requires_grad_()
    inputs = [maps, *(p for layer in layers for p in layer.parameters())]
    found = []
    for _ in range(2):
        answer = maps
        for layer in layers:
            answer = layer(answer)
        found.append((answer, torch.autograd.grad(answer.sin().sum(), inputs)))
        fuse_attention(model)
    assert type(layers[0]).__module__ == "tsic.teacher.attention"
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("few", [1, 32])
@pytest.mark.parametrize("pairs", [1, 40, 2**20])
def test_recomputed_weights_equal_plain(
    pairs: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsic.teacher.attend._FEW", few)
    monkeypatch.setattr("tsic.teacher.attend._PAIRS", pairs)
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, length, 3, width, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for length, width in ((5, 4), (7, 4), (7, 6))
    ]
    query, key, value = inputs
    answer = plain_attention(lambda *three: three, 0.3, *inputs)
    answers = answer, (0.3 * query @ key.mT).softmax(-1) @ value
    torch.testing.assert_close(*answers)
    torch.testing.assert_close(
        *(torch.autograd.grad(answer.sin().sum(), inputs) for answer in answers)
    )


def test_recomputed_attention_learns_by_what_learns_alone() -> None:
    query, key, value = (torch.randn(1, 2, 3, 4, dtype=torch.float64) for _ in range(3))
    value.requires_grad_()
    answer = plain_attention(lambda *three: three, 0.3, query, key, value)
    answer.sum().backward()
    weights = (0.3 * query @ key.mT).softmax(-1)
    torch.testing.assert_close(value.grad, weights.mT @ torch.ones_like(value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operands_are_made_again_on_a_cpu(dtype: torch.dtype) -> None:
    source = torch.randn(1, 2, 3, 4, dtype=dtype, requires_grad=True)
    made: list[Tensor] = []
    kept = []

    def operands(source: Tensor) -> list[Tensor]:
        made.extend(source * factor for factor in (1, 2, 3))
        return made[-3:]

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend_sparingly(operands, 0.3, source).sum().backward()
    assert len(made) == 6
    assert not {one.data_ptr() for one in made[:3]} & set(kept)


@pytest.mark.parametrize("name", list(TINY))
def test_a_frozen_encoder_keeps_no_scores_on_a_cpu(name: str) -> None:
    class Called(TorchDispatchMode):
        names: ClassVar[set[str]] = set()

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.names.add(func.__name__)
            return func(*args, **(kwargs or {}))

    foundation = load_foundation(name).requires_grad_(False)
    with Called() as called:
        foundation.encode(torch.rand(1, 3, 64, 64), with_levels=False)
    assert not {one for one in called.names if "softmax" in one}


@pytest.mark.parametrize("name", list(TINY))
def test_a_cpu_in_bfloat16_learns_without_the_fused_kernel(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    foundation = load_foundation(name)
    images = torch.rand(1, 3, 64, 64)

    def answer() -> Tensor:
        embedding = foundation.encode(images, with_levels=False)
        return foundation.answer(embedding, torch.zeros(2, 1, 16, 16), None, multimask=False)[0]

    with torch.no_grad():
        fused = answer()
    monkeypatch.setattr(
        "torch.nn.functional.scaled_dot_product_attention",
        lambda *_, **__: pytest.fail("the fused kernel was called"),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = answer()
    assert plain.requires_grad
    torch.testing.assert_close(plain.float(), fused, rtol=0.05, atol=0.05)
