"""Attention of the SAM family against the plain formula."""

import pytest
import torch
from torch import Tensor
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionAttention

from tsic.teacher.attention import FusedAttention, plain_attention
from tsic.teacher.sam import load_foundation
from tsic.teacher.small import TINY


@pytest.mark.parametrize(("grid", "window"), [((5, 7), 0), ((4, 4), 4), ((9, 2), 0)])
@pytest.mark.parametrize("relative", [True, False])
def test_fused_equals_plain(grid: tuple[int, int], window: int, relative: bool) -> None:
    torch.manual_seed(0)
    config = SamVisionConfig(
        hidden_size=24, num_attention_heads=3, image_size=96, patch_size=16, use_rel_pos=relative
    )
    attention = SamVisionAttention(config, window).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    maps = torch.randn(2, *grid, 24, dtype=torch.float64, requires_grad=True)
    inputs = [maps, *attention.parameters()]
    plain = _plain(attention, maps)
    attention.__class__ = FusedAttention
    fused = attention(maps)[0]
    torch.testing.assert_close(fused, plain)
    gradients = [
        torch.autograd.grad((answer * torch.arange(24.0)).sin().sum(), inputs)
        for answer in (fused, plain)
    ]
    torch.testing.assert_close(*gradients)


def _plain(attention: SamVisionAttention, maps: Tensor) -> Tensor:
    """What transformers computes, but for its softmax in float32."""
    batch, height, width, _ = maps.shape
    heads, size = attention.num_attention_heads, (height, width)
    qkv = attention.qkv(maps).reshape(batch, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.flatten(1, 2).unbind(0)
    scores = attention.scale * query @ key.transpose(-2, -1)
    if attention.use_rel_pos:
        tables = attention.rel_pos_h, attention.rel_pos_w
        scores = scores + attention.get_decomposed_rel_pos(query, *tables, size, size).reshape_as(
            scores
        )
    answer = (scores.softmax(-1) @ value).reshape(batch, heads, height, width, -1)
    projected: Tensor = attention.proj(answer.permute(0, 2, 3, 1, 4).flatten(3))
    return projected


@pytest.mark.parametrize("pairs", [1, 40, 2**20])
def test_recomputed_weights_equal_plain(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsic.teacher.attention._PAIRS", pairs)
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, length, 3, width, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for length, width in ((5, 4), (7, 4), (7, 6))
    ]
    query, key, value = inputs
    answers = plain_attention(query, key, value), (query @ key.mT).softmax(-1) @ value
    torch.testing.assert_close(*answers)
    torch.testing.assert_close(
        *(torch.autograd.grad(answer.sin().sum(), inputs) for answer in answers)
    )


@pytest.mark.parametrize("name", TINY)
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
