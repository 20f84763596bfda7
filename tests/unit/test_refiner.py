"""Redrawing masks by what lies inside and outside of them."""

from pathlib import Path

import pytest
import torch

from tsic.errors import CheckpointError
from tsic.teacher.refiner import HEADS, SCALES, Refiner, contrast
from tsic.teacher.sam import REFINER, load_foundation, save_foundation


def two_halves() -> tuple[torch.Tensor, torch.Tensor]:
    """An image of two halves in opposite features, and a mask that misses four of its columns."""
    features = torch.ones(1, 2 * HEADS, 16, 32)
    features[..., 16:] = -1
    shares = torch.zeros(1, 1, 16, 32)
    shares[..., :12] = 1
    return features, shares


@pytest.mark.parametrize("scale", SCALES)
def test_contrast_tells_halves_apart_beyond_the_mask(scale: int | None) -> None:
    features, shares = two_halves()
    found = contrast(features, shares, scale)
    assert found.shape == (1, HEADS, 16, 32)
    if scale == 1:  # at the mask's edge it sees only the one half
        return
    assert (found[..., 12:16] > 0).all()
    assert (found[..., 17:20] < 0).all()


def test_contrast_equals_the_discriminant_by_hand() -> None:
    """Two cells: means 3 and 1, halfway 2, so a feature f has (f - 2) * (3 - 1) = 2 and -2."""
    features = torch.tensor([3.0, 1.0]).expand(1, HEADS, 1, 2)
    shares = torch.tensor([1.0, 0.0]).expand(1, 1, 1, 2)
    found = contrast(features, shares, None)
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([2.0, -2.0]), atol=0.15, rtol=0)


def test_contrast_is_nothing_where_there_is_nothing_to_compare() -> None:
    same = torch.ones(1, HEADS, 8, 8)
    halves = torch.zeros(1, 1, 8, 8)
    halves[..., :4] = 1
    for scale in SCALES:
        for features, shares in (
            (same, halves),
            (torch.randn(1, HEADS, 8, 8), torch.zeros_like(halves)),
        ):
            found = contrast(features, shares, scale)
            torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-4, rtol=0)


def test_answers_to_several_prompts_are_those_to_each_alone() -> None:
    torch.manual_seed(0)
    refiner = Refiner(6, 10, 8)
    seen = refiner.look(torch.randn(2, 6, 8, 12), torch.randn(2, 10, 8, 12))
    prompts, answers = torch.randn(2, 1, 8, 12), torch.randn(2, 3, 8, 12)
    with torch.no_grad():
        together = refiner(seen, prompts, answers)
        alone = refiner(seen[1:], prompts[1:], answers[1:, 2:])
    assert together.shape == answers.shape
    torch.testing.assert_close(together[1, 2], alone[0, 0])


def test_inside_a_mask_is_what_prompt_and_answer_say_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[torch.Tensor] = []

    def seen_by(features: torch.Tensor, shares: torch.Tensor, scale: int | None) -> torch.Tensor:
        compared.append(shares)
        return contrast(features, shares, scale)

    monkeypatch.setattr("tsic.teacher.refiner.contrast", seen_by)
    refiner = Refiner(6, 10, 8)
    prompts, answers = torch.randn(2, 1, 8, 12), torch.randn(2, 3, 8, 12)
    refiner(torch.randn(2, 8, 8, 12), prompts, answers)
    expected = (prompts + answers).sigmoid().flatten(0, 1)[:, None]
    assert len(compared) == len(SCALES)
    assert all(torch.equal(shares, expected) for shares in compared)


def test_what_it_keeps_of_the_prompt_is_added_to_every_answer() -> None:
    torch.manual_seed(0)
    refiner = Refiner(6, 10, 8)
    seen = refiner.look(torch.randn(2, 6, 8, 12), torch.randn(2, 10, 8, 12))
    prompts, answers = torch.randn(2, 1, 8, 12), torch.randn(2, 3, 8, 12)
    with torch.no_grad():
        before = refiner(seen, prompts, answers)
        refiner.keep.fill_(0.5)
        torch.testing.assert_close(refiner(seen, prompts, answers), before + 0.5 * prompts)


def test_what_it_keeps_of_the_prompt_passes_its_gradient() -> None:
    torch.manual_seed(0)
    refiner = Refiner(6, 10, 8)
    seen, answers = torch.randn(2, 8, 8, 12), torch.randn(2, 3, 8, 12)
    prompts = torch.randn(2, 1, 8, 12, requires_grad=True)
    gradients: list[torch.Tensor] = []
    for kept in (0.0, 0.5):
        torch.nn.init.constant_(refiner.keep, kept)
        gradients += torch.autograd.grad(refiner(seen, prompts, answers).sum(), prompts)
    expected = torch.full_like(prompts, 3 * 0.5)  # of three answers to each
    torch.testing.assert_close(gradients[1] - gradients[0], expected)


def test_everything_in_it_learns_and_everything_it_sees_matters() -> None:
    torch.manual_seed(0)
    refiner = Refiner(6, 10, 8)
    inputs = [
        torch.randn(size, requires_grad=True)
        for size in ((1, 6, 8, 8), (1, 10, 8, 8), (1, 1, 8, 8), (1, 1, 8, 8))
    ]
    shallow, fine, prompts, answers = inputs
    refiner(refiner.look(shallow, fine), prompts, answers).square().sum().backward()
    for tensor in (*inputs, *refiner.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


def test_a_saved_model_brings_its_refiner_along(tmp_path: Path) -> None:
    foundation = load_foundation("tiny-edgetam")
    assert foundation.refiner is not None
    torch.nn.init.normal_(foundation.refiner.change.weight)
    save_foundation(foundation, tmp_path)
    again = load_foundation(str(tmp_path)).refiner
    assert again is not None
    torch.testing.assert_close(
        again.change.weight, foundation.refiner.change.weight, atol=1e-3, rtol=1e-3
    )
    (tmp_path / REFINER).unlink()
    with pytest.raises(CheckpointError, match=REFINER):
        load_foundation(str(tmp_path))
