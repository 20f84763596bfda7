"""SAM's attention by a fused kernel against transformers' plain formula."""

import pytest
import torch
from torch import Tensor
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionAttention

from tsic.teacher.attention import FusedAttention, fuse_attention


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
    fuse_attention(attention)
    assert isinstance(attention, FusedAttention)
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
