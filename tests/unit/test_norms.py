"""Norms of the teacher, as a GPU's autocast meets them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamLayerNorm

from tsic.teacher import build_teacher
from tsic.teacher.norms import GroupNorm, LayerNorm, fold_norms, keep_types
from tsic.teacher.sam import load_foundation
from tsic.teacher.small import TINY

NORMS: list[tuple[Callable[[], nn.Module], type[nn.Module]]] = [
    (lambda: nn.LayerNorm(12), LayerNorm),
    (lambda: SamLayerNorm(8, data_format="channels_first"), LayerNorm),
    (lambda: nn.LayerNorm(12, elementwise_affine=False), LayerNorm),
    (lambda: nn.GroupNorm(4, 8), GroupNorm),
]


def answers(norm: nn.Module, maps: Tensor) -> list[Tensor]:
    """Its answer and all gradients."""
    maps = maps.clone().requires_grad_()
    answer = norm(maps)
    loss = (answer.double() * torch.arange(answer.numel()).view_as(answer).sin()).sum()
    return [answer, *torch.autograd.grad(loss, [maps, *norm.parameters()])]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsic.teacher.norms._WIDENED", ["cpu"])


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("make", "ours"), NORMS)
def test_maps_keep_their_type_and_the_answer_is_that_in_float64(
    make: Callable[[], nn.Module], ours: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    norm = make()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    maps = (3 + 2 * torch.randn(2, 8, 6, 12)).bfloat16()
    expected = answers(norm.double(), maps.double())
    norm.float()
    keep_types(norm)
    assert type(norm) is ours
    with torch.autocast("cpu", torch.bfloat16):
        found = answers(norm, maps)
    assert [one.dtype for one in found[:2]] == [torch.bfloat16] * 2
    for one, other in zip(found, expected, strict=True):
        slack = 0.02 * other.abs().max().item()
        torch.testing.assert_close(one.double(), other, atol=slack, rtol=0)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_group_norm_keeps_the_layout() -> None:
    norm = GroupNorm(4, 8)
    maps = torch.randn(2, 8, 6, 12).bfloat16()
    last = maps.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(last).is_contiguous(memory_format=torch.channels_last)
        assert norm(maps).is_contiguous()
        assert torch.equal(norm(last), norm(maps))


@pytest.mark.parametrize(("make", "ours"), NORMS)
def test_without_autocast_and_on_a_cpu_they_are_their_own(
    make: Callable[[], nn.Module], ours: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    norm, maps = make(), torch.randn(2, 8, 6, 12)
    with torch.autocast("cpu", torch.bfloat16):
        expected = norm(maps.bfloat16())
    exact = norm(maps)
    keep_types(norm)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(maps.bfloat16()), expected)
    monkeypatch.setattr("tsic.teacher.norms._WIDENED", ["cpu"])
    assert torch.equal(norm(maps), exact)


@pytest.mark.parametrize(
    "name", ["tiny-sam", "tiny-sam2", "tiny-edgetam", "tiny-mobile-sam", "embedded"]
)
def test_every_norm_of_a_teacher_is_ours(name: str) -> None:
    teacher = build_teacher(name, num_classes=3, channels=16)
    norms = [one for one in teacher.modules() if isinstance(one, nn.LayerNorm | nn.GroupNorm)]
    assert len(norms) > 10
    assert {type(one) for one in norms} <= {LayerNorm, GroupNorm}


@pytest.mark.parametrize("name", list(TINY))
def test_positions_do_not_widen_what_an_encoder_sees(name: str) -> None:
    foundation = build_teacher(name, num_classes=3, channels=16).foundation
    with torch.autocast("cpu", torch.bfloat16):
        seen = foundation.see(torch.rand(1, 3, 64, 96))
        embedding = foundation.read(seen, with_levels=False)
    assert {one.dtype for one in (*seen.stages, *seen.neck, embedding.image)} == {torch.bfloat16}


def test_folded_norms_leave_the_answer_as_it_is() -> None:
    torch.manual_seed(0)
    foundation = load_foundation("tiny-mobile-sam").double().eval()
    norms = [one for one in foundation.encoder.modules() if isinstance(one, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            assert tensor is not None
            nn.init.normal_(tensor)
        assert norm.running_var is not None
        nn.init.uniform_(norm.running_var, 0.5, 2)
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = foundation.encode(images, with_levels=False).image
        fold_norms(foundation.encoder)
        found = foundation.encode(images, with_levels=False).image
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # timm folds in float32


@pytest.mark.parametrize("trains_encoder", [False, True])
def test_norms_of_an_encoder_that_stands_still_do_not_run(trains_encoder: bool) -> None:
    teacher = build_teacher("tiny-mobile-sam", num_classes=3, trains_encoder=trains_encoder)
    encoder = teacher.foundation.encoder
    assert any(isinstance(one, nn.BatchNorm2d) for one in encoder.modules()) is trains_encoder
