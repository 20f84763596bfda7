import pytest
import torch
from torch import Tensor

from tsic.prompt import LOGIT_RANGE, class_log_odds, class_prompts, index_prompt


def column(*logits: float) -> Tensor:
    """Scores of one pixel, ``(1, K, 1, 1)``."""
    return torch.tensor(logits).view(1, -1, 1, 1)


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_class_log_odds_equals_float64(classes: int) -> None:
    logits = 3 * torch.randn(2, classes, 4, 5)
    p = logits.double().softmax(1)
    expected = (p.log() - torch.log1p(-p)).clamp(-LOGIT_RANGE, LOGIT_RANGE)
    torch.testing.assert_close(class_log_odds(logits).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ((60.0, 0.0), (LOGIT_RANGE, -LOGIT_RANGE)),
        ((25.0, 0.0), (25.0, -25.0)),  # in float32 softmax rounds to exactly 1
        ((20.0, 0.0, -torch.inf), (20.0, -20.0, -LOGIT_RANGE)),
        ((1e4, -1e4, 0.0), (LOGIT_RANGE, -LOGIT_RANGE, -LOGIT_RANGE)),
        ((0.0, 0.0), (0.0, 0.0)),
        ((1.0, 1.0, 1.0), (-0.6931472,) * 3),  # 1/3 against 2/3
    ],
)
def test_class_log_odds_is_exact_at_the_ends_and_at_ties(
    logits: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    log_odds = class_log_odds(column(*logits)).flatten()
    torch.testing.assert_close(log_odds, torch.tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "logits", [(60.0, 0.0), (25.0, 0.0, 0.0), (0.0, 0.0), (1.0, 1.0, 1.0), (1e4, -1e4, 0.0)]
)
def test_class_log_odds_gradient_is_finite(logits: tuple[float, ...]) -> None:
    scores = column(*logits).requires_grad_()
    for log_odds in class_log_odds(scores).flatten():
        (gradient,) = torch.autograd.grad(log_odds, scores, retain_graph=True)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("logits", [(0.3, -1.0, 2.0), (0.0, 0.0), (1.0, 1.0, -1.0)])
def test_class_log_odds_gradient_equals_float64(logits: tuple[float, ...]) -> None:
    weights = torch.arange(1.0, len(logits) + 1).view(1, -1, 1, 1)
    ours, exact = column(*logits).requires_grad_(), column(*logits).double().requires_grad_()
    p = exact.softmax(1)
    (class_log_odds(ours) * weights).sum().backward()
    ((p.log() - torch.log1p(-p)) * weights).sum().backward()
    assert ours.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)


def test_class_log_odds_of_bfloat16_is_float32() -> None:
    logits = torch.randn(1, 3, 2, 2).bfloat16()
    assert torch.equal(class_log_odds(logits), class_log_odds(logits.float()))


def test_class_prompts_takes_the_largest_expected_areas_of_each_image() -> None:
    """Class 3 is nowhere the best but has the second largest expected area of the first image."""
    p = torch.tensor([[0.5, 0.04, 0.06, 0.4], [0.1, 0.2, 0.65, 0.05]])
    logits = p.log()[:, :, None, None].expand(-1, -1, 2, 3)
    prompts = class_prompts(logits, 2, has_gradient=True)
    assert prompts.class_ids is not None
    assert prompts.class_ids.tolist() == [[0, 3], [2, 1]]
    chosen = torch.stack([p[0, [0, 3]], p[1, [2, 1]]]).logit()
    torch.testing.assert_close(prompts.masks, chosen[:, :, None, None].expand(-1, -1, 2, 3))
    torch.testing.assert_close(prompts.log_odds, p.logit()[:, :, None, None].expand(-1, -1, 2, 3))


def test_class_prompts_goes_by_area_however_sure_a_class_is_not_to_be_elsewhere() -> None:
    """Half of the image is all but surely class 0, which is all but surely nowhere else."""
    p = torch.tensor([[0.98, 1e-4], [0.01, 0.3], [0.01, 0.6999]])
    prompts = class_prompts(p.log()[None, :, None], 2, has_gradient=False)
    assert prompts.class_ids is not None
    assert prompts.class_ids.tolist() == [[0, 2]]


@pytest.mark.parametrize(("classes", "expected"), [(3, 3), (8, 8), (19, 8)])
def test_class_prompts_gives_at_most_max_classes_each_once(classes: int, expected: int) -> None:
    prompts = class_prompts(torch.randn(2, classes, 4, 4), 8, has_gradient=False)
    assert prompts.class_ids is not None
    assert prompts.masks.shape == (2, expected, 4, 4)
    assert all(len(set(row)) == expected for row in prompts.class_ids.tolist())


def test_class_prompts_passes_gradient_if_and_only_if_asked() -> None:
    logits = torch.randn(1, 5, 4, 4, requires_grad=True)
    held = class_prompts(logits, 2, has_gradient=False)
    assert not held.masks.requires_grad
    assert held.log_odds is not None
    assert not held.log_odds.requires_grad
    prompts = class_prompts(logits, 2, has_gradient=True)
    assert torch.equal(prompts.masks, held.masks)
    assert prompts.log_odds is not None
    assert prompts.log_odds.requires_grad, "of the classes that have no prompt, too"
    (gradient,) = torch.autograd.grad(prompts.masks.sum(), logits)
    assert (gradient != 0).all()


def test_index_prompt_is_the_best_class_as_a_number_without_gradient() -> None:
    logits = torch.full((1, 9, 1, 3), -1.0)
    for x, best in enumerate((0, 7, 3)):
        logits[0, best, 0, x] = 2.0
    prompts = index_prompt(logits.requires_grad_())
    assert prompts.masks.tolist() == [[[[0.0, 7.0, 3.0]]]]
    assert prompts.masks.dtype == torch.float32
    assert not prompts.masks.requires_grad
    assert prompts.class_ids is None
    assert prompts.log_odds is None
