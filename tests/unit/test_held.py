"""Frozen weights in half precision: the same training, in less memory."""

import copy

import pytest
import torch

from tsic.teacher import Teacher, build_teacher, hold_frozen
from tsic.teacher.small import TINY


def built(name: str, lora_rank: int = 4) -> Teacher:
    torch.manual_seed(0)
    teacher = build_teacher(name, num_classes=3, lora_rank=lora_rank, channels=16)
    torch.manual_seed(1)
    for parameter in teacher.parameters():  # adapters and the fusion of masks start at zero
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return teacher


def answer(teacher: Teacher, dtype: torch.dtype | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(2)
    images, scores = torch.rand(1, 3, 64, 64), torch.randn(1, 3, 16, 16)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        logits = teacher(images, scores).logits
    logits.float().square().mean().backward()
    return logits, [p.grad for p in teacher.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", TINY)
def test_answer_and_gradients_under_autocast_stay_the_same_bit_for_bit(name: str) -> None:
    plain = built(name)
    held = copy.deepcopy(plain)
    hold_frozen(held.foundation, torch.bfloat16)
    (wanted, gradients), (found, others) = (
        answer(teacher, torch.bfloat16) for teacher in (plain, held)
    )
    assert torch.equal(found, wanted)
    assert gradients
    for gradient, other in zip(gradients, others, strict=True):
        assert torch.equal(gradient, other)


@pytest.mark.parametrize("name", TINY)
def test_rounded_weights_still_answer_in_float32(name: str) -> None:
    plain = built(name, lora_rank=0)
    held = copy.deepcopy(plain)
    hold_frozen(held.foundation, torch.bfloat16)
    (wanted, _), (found, _) = (answer(teacher, None) for teacher in (plain, held))
    assert found.dtype == torch.float32
    assert not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05)


def test_only_frozen_layers_of_matrices_are_rounded() -> None:
    teacher = built("tiny-sam")
    frozen = [p for p in teacher.foundation.encoder.parameters() if not p.requires_grad]
    before = sum(p.nbytes for p in frozen)
    hold_frozen(teacher.foundation, torch.bfloat16)
    rounded = {p for p in teacher.parameters() if p.dtype == torch.bfloat16}
    assert rounded
    assert not any(p.requires_grad for p in rounded)
    assert sum(p.nbytes for p in frozen) < 0.6 * before
    # Neither read nor kept: files map to memory as a whole.
    assert len({p.untyped_storage().data_ptr() for p in frozen}) == len(frozen)


def test_an_encoder_that_trains_keeps_its_precision() -> None:
    teacher = build_teacher("tiny-sam", num_classes=3, trains_encoder=True, channels=16)
    hold_frozen(teacher.foundation, torch.bfloat16)
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
