import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsic.teacher.lora import LoraConv, LoraQkv, attach_lora


@pytest.fixture
def adapted() -> LoraQkv:
    """Rank 2 on 12 inputs and three times 8 outputs, already trained away from zero."""
    lora = LoraQkv(nn.Linear(12, 24).requires_grad_(requires_grad=False), 2)
    nn.init.normal_(lora.up_q)
    nn.init.normal_(lora.up_v)
    return lora


def test_lora_starts_as_the_frozen_projection_bit_for_bit() -> None:
    qkv = nn.Linear(12, 24)
    tokens = torch.randn(2, 3, 5, 12)
    assert torch.equal(LoraQkv(qkv, 4)(tokens), qkv(tokens))


def test_lora_adds_a_low_rank_product_to_queries_and_values_only(adapted: LoraQkv) -> None:
    tokens = torch.randn(5, 12)
    q, k, v = (adapted(tokens) - adapted.qkv(tokens)).chunk(3, dim=-1)
    torch.testing.assert_close(q, tokens @ adapted.down[:2].T @ adapted.up_q.T)
    torch.testing.assert_close(v, tokens @ adapted.down[2:].T @ adapted.up_v.T)
    assert not k.any()


def test_lora_adds_to_the_same_outputs_of_each_head_where_heads_stand_apart() -> None:
    lora = LoraQkv(nn.Linear(12, 24), 2, heads=2)
    nn.init.normal_(lora.up_q)
    nn.init.normal_(lora.up_v)
    tokens = torch.randn(5, 12)
    added = (lora(tokens) - lora.qkv(tokens)).view(5, 2, 3, 4)
    q, k, v = (part.flatten(1) for part in added.unbind(2))
    torch.testing.assert_close(q, tokens @ lora.down[:2].T @ lora.up_q.T)
    torch.testing.assert_close(v, tokens @ lora.down[2:].T @ lora.up_v.T)
    assert not k.any()


def test_lora_starts_with_kaiming_uniform_halves() -> None:
    down = LoraQkv(nn.Linear(64, 96), 32).down
    bound = 1 / math.sqrt(64)  # kaiming_uniform with a = sqrt(5)
    for half in down.chunk(2):
        assert half.abs().max() <= bound
        assert half.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_lora_trains_its_own_weights_only(adapted: LoraQkv) -> None:
    adapted(torch.randn(5, 12)).square().sum().backward()
    touched = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert touched == {"down", "up_q", "up_v"}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.proj = nn.Linear(6, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.relu(self.proj(self.qkv(tokens)[..., :6]))


def test_attach_lora_replaces_every_qkv_and_nothing_else() -> None:
    encoder = nn.Sequential(nn.Linear(6, 6), Attention(), nn.Sequential(Attention()))
    before = {name: p.clone() for name, p in encoder.named_parameters()}
    tokens = torch.randn(3, 6)
    answer = encoder(tokens)
    attach_lora(encoder, 3)
    adapters = [name for name, module in encoder.named_modules() if isinstance(module, LoraQkv)]
    assert adapters == ["1.qkv", "2.0.qkv"]
    assert torch.equal(encoder(tokens), answer)
    after = {
        name.replace(".qkv.qkv.", ".qkv."): p
        for name, p in encoder.named_parameters()
        if not name.endswith(("down", "up_q", "up_v"))
    }
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_attach_lora_heeds_heads_that_stand_apart() -> None:
    apart: Any = Attention()
    apart.heads_of_qkv = 2
    encoder = nn.Sequential(Attention(), apart)
    attach_lora(encoder, 3)
    found = [one.heads for one in encoder.modules() if isinstance(one, LoraQkv)]
    assert found == [1, 2]


def test_lora_of_a_convolution_starts_frozen_and_adds_a_low_rank_one() -> None:
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=2, dilation=2).requires_grad_(requires_grad=False)
    lora, maps = LoraConv(conv, 2), torch.randn(2, 6, 9, 11)
    assert torch.equal(lora(maps), conv(maps))
    nn.init.normal_(lora.up)
    product = torch.einsum("or,rikl->oikl", lora.up[:, :, 0, 0], lora.down)
    weight = conv.weight + product
    expected = F.conv2d(maps, weight, conv.bias, stride=2, padding=2, dilation=2)
    torch.testing.assert_close(lora(maps), expected, rtol=1e-4, atol=1e-5)
    lora(maps).square().sum().backward()
    assert {name for name, p in lora.named_parameters() if p.grad is not None} == {"down", "up"}


def test_attach_lora_adapts_convolutions_where_there_is_no_attention() -> None:
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=4))
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), inner)
    attach_lora(encoder, 2)
    assert isinstance(encoder[0], LoraConv)
    assert [type(m) for m in inner] == [nn.Conv2d, nn.Conv2d]
