import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tsic import losses
from tsic.errors import ShapeError
from tsic.grid import resize

Array = npt.NDArray[Any]
IDS = torch.tensor([[2, 0], [1, 2]])


def scene(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Two logits ``(2, 3, 4, 6)`` with gradient and labels with a third ignored."""
    labels = torch.randint(0, 3, (2, 4, 6))
    labels[torch.rand(2, 4, 6) < 0.3] = 255
    logits = (2 * torch.randn(2, 2, 3, 4, 6)).to(dtype)
    return logits[0].requires_grad_(), logits[1].requires_grad_(), labels


def log_softmax(logits: Array) -> Array:
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def truth_of(labels: Array, log_p: Array) -> Array:
    """Minus the log-probability of the labelled class, ``(B, H, W)``; 0 where ignored."""
    out = np.zeros(labels.shape)
    for b, y, x in np.argwhere(labels != 255):
        out[b, y, x] = -log_p[b, labels[b, y, x], y, x]
    return out


# Each loss of a scene, in tsic and once more in float64 torch: value and gradients must agree.
def ce_again(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    rows = a.log_softmax(1).permute(0, 2, 3, 1)[labels != 255]
    return -rows.gather(1, labels[labels != 255][:, None]).mean()


def kl_again(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    p, q = (b / 2).softmax(1), (a / 2).softmax(1)
    return 4 * (p * (p.log() - q.log())).sum(1)[labels != 255].mean()


def kl_elements_again(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    p, q = (b / 2).softmax(1), (a / 2).softmax(1)
    return 4 * (p * (p.log() - q.log())).mean()


def mask_again(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    total, dice, seen = a.new_zeros(()), a.new_zeros(()), 0
    for image in range(2):
        valid = labels[image] != 255
        for n in range(2):
            p = a[image, n][valid].sigmoid()
            t = (labels[image][valid] == IDS[image, n]).to(p.dtype)
            total = total - (t * p.log() + (1 - t) * (1 - p).log()).sum()
            dice = dice + 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            seen += len(p)
    return total / seen + dice / 4


def mean_mse_again(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    return (a.mean(1) - b.mean(1)).pow(2).mean()


def attention_again(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    p, q = a.pow(2).sum(1).flatten(1), b.pow(2).sum(1).flatten(1)
    p, q = p / p.norm(dim=1, keepdim=True), q / q.norm(dim=1, keepdim=True)
    return (p - q).pow(2).sum() / 2


def hint_again(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    even = [(b[:, c] - b[:, c].mean()) / b[:, c].std(correction=0) for c in range(b.shape[1])]
    return (a - torch.stack(even, 1)).pow(2).mean()


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "cross_entropy": (lambda a, b, y: losses.cross_entropy(a, y), ce_again),
    "pixel_kl": (lambda a, b, y: losses.pixel_kl(a, b, y, temperature=2), kl_again),
    "pixel_kl_elements": (
        lambda a, b, y: losses.pixel_kl(a, b, y, temperature=2, average="elements"),
        kl_elements_again,
    ),
    "mask_loss": (lambda a, b, y: losses.mask_loss(a[:, :2], IDS, y), mask_again),
    "feature_mean_mse": (lambda a, b, y: losses.feature_mean_mse(a, b), mean_mse_again),
    "feature_attention": (lambda a, b, y: losses.feature_attention(a, b), attention_again),
    "feature_hint": (lambda a, b, y: losses.feature_hint(a, b), hint_again),
}
cases = pytest.mark.parametrize(("loss", "again"), list(LOSSES.values()), ids=list(LOSSES))


@cases
def test_loss_and_gradients_equal_a_float64_reimplementation(loss: Loss, again: Loss) -> None:
    a, b, labels = scene()
    a64, b64 = (one.detach().double().requires_grad_() for one in (a, b))
    value, expected = loss(a, b, labels), again(a64, b64, labels)
    assert value.dtype == torch.float32
    assert value.shape == ()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    ours = torch.autograd.grad(value, (a, b), allow_unused=True)
    theirs = torch.autograd.grad(expected, (a64, b64), allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-7)


@cases
def test_loss_of_bfloat16_is_the_float32_loss_of_the_rounded_input(loss: Loss, again: Loss) -> None:
    a, b, labels = scene(torch.bfloat16)
    value = loss(a, b, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(a.float(), b.float(), labels), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(value, a)
    assert gradient.dtype == torch.bfloat16
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["cross_entropy", "pixel_kl", "mask_loss"])
def test_loss_does_not_look_at_ignored_pixels(name: str) -> None:
    a, b, labels = scene()
    ignored = (labels == 255)[:, None]
    other_a, other_b = (one.detach().masked_fill(ignored, 7.0) for one in (a, b))
    value = LOSSES[name][0](a, b, labels)
    torch.testing.assert_close(LOSSES[name][0](other_a, other_b, labels), value)
    (gradient,) = torch.autograd.grad(value, a)
    assert not gradient.masked_select(ignored).any()
    assert gradient.masked_select(~ignored).any()


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("cross_entropy", {}),
        ("cross_entropy", {"average": "all"}),
        ("cross_entropy", {"ohem_threshold": 0.7, "ohem_min_kept": 3}),
        ("cross_entropy", {"ohem_threshold": None, "ohem_min_kept": 3}),
        ("pixel_kl", {}),
        ("mask_loss", {}),
    ],
)
def test_loss_is_exactly_zero_when_nothing_is_labelled(name: str, kwargs: dict[str, Any]) -> None:
    a, b, labels = scene()
    labels = torch.full_like(labels, 255)
    given = {"cross_entropy": (a,), "pixel_kl": (a, b), "mask_loss": (a[:, :2], IDS)}[name]
    value = getattr(losses, name)(*given, labels, **kwargs)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, a)
    assert torch.equal(gradient, torch.zeros_like(a))


@pytest.mark.parametrize("average", ["valid", "all"])
def test_cross_entropy_divides_by_labelled_or_by_all_pixels(
    average: Literal["valid", "all"],
) -> None:
    a, _, labels = scene()
    truth = truth_of(labels.numpy(), log_softmax(a.detach().double().numpy()))
    divisor = (labels != 255).sum().item() if average == "valid" else labels.numel()
    value = losses.cross_entropy(a, labels, average=average).item()
    assert value == pytest.approx(truth.sum() / divisor, rel=1e-5)


def test_cross_entropy_resizes_logits_to_the_labels() -> None:
    a, _, _ = scene()
    labels = torch.randint(0, 3, (2, 9, 13))
    expected = F.cross_entropy(F.interpolate(a, (9, 13), mode="bilinear"), labels)
    torch.testing.assert_close(losses.cross_entropy(a, labels), expected)


# Probabilities of the true class 0 of six pixels; the last is ignored.
PROBABILITY = [0.1, 0.95, 0.65, 0.8, 0.75, 0.01]


def ohem(threshold: float | None, min_kept: int, average: Literal["valid", "all"]) -> float:
    p = torch.tensor(PROBABILITY)
    logits = torch.stack([p.logit(), torch.zeros(6)]).view(1, 2, 2, 3)
    labels = torch.tensor([[[0, 0, 0], [0, 0, 255]]])
    return losses.cross_entropy(
        logits, labels, average=average, ohem_threshold=threshold, ohem_min_kept=min_kept
    ).item()


@pytest.mark.parametrize(
    ("threshold", "min_kept", "kept"),
    [
        (0.7, 0, [0.1, 0.65]),  # below the threshold
        (0.7, 1, [0.1, 0.65]),  # the threshold is above the second smallest
        (0.7, 3, [0.1, 0.65, 0.75]),  # strictly below the value at index 3
        (0.7, 100, [0.1, 0.65, 0.75, 0.8]),  # fewer valid than asked: strictly below the largest
        (0.99, 100, [0.1, 0.95, 0.65, 0.8, 0.75]),
        (None, 2, [0.1, 0.65]),  # the largest losses
        (None, 100, [0.1, 0.95, 0.65, 0.8, 0.75]),
    ],
)
def test_cross_entropy_ohem_keeps_the_hard_pixels(
    threshold: float | None, min_kept: int, kept: list[float]
) -> None:
    expected = sum(-math.log(p) for p in kept)
    assert ohem(threshold, min_kept, "all") == pytest.approx(expected / 6, rel=1e-5)
    assert ohem(threshold, min_kept, "valid") == pytest.approx(expected / len(kept), rel=1e-5)


def test_cross_entropy_ohem_counts_min_kept_per_image() -> None:
    """Two images at 3 pixels each: the 6 hardest of the batch, wherever they are."""
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.7, 0.8, 0.9, 0.95]])
    logits = torch.stack([p.logit(), torch.zeros(2, 5)], dim=1)[:, :, None]
    labels = torch.zeros(2, 1, 5, dtype=torch.int64)
    value = losses.cross_entropy(logits, labels, ohem_min_kept=3).item()
    expected = -np.log([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).mean()
    assert value == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_ohem_choice_carries_no_gradient() -> None:
    p = torch.tensor(PROBABILITY)
    logits = torch.stack([p.logit(), torch.zeros(6)]).view(1, 2, 1, 6).requires_grad_()
    labels = torch.zeros(1, 1, 6, dtype=torch.int64)
    value = losses.cross_entropy(logits, labels, ohem_threshold=0.7, ohem_min_kept=0)
    (gradient,) = torch.autograd.grad(value, logits)
    kept = p < 0.7
    expected = torch.where(kept, (p - 1) / kept.sum(), 0)
    torch.testing.assert_close(gradient[0, 0, 0], expected)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
@pytest.mark.parametrize("average", ["pixels", "elements"])
def test_pixel_kl_equals_numpy(temperature: float, average: Literal["pixels", "elements"]) -> None:
    a, b, labels = scene()
    log_q, log_p = (log_softmax(one.detach().double().numpy() / temperature) for one in (a, b))
    divergence = np.exp(log_p) * (log_p - log_q)
    expected = {
        "pixels": divergence.sum(1)[labels.numpy() != 255].mean(),
        "elements": divergence.sum() / (2 * 3 * 4 * 6),
    }
    value = losses.pixel_kl(a, b, labels, temperature=temperature, average=average).item()
    assert value == pytest.approx(temperature**2 * expected[average], rel=1e-4)


def test_pixel_kl_of_saturated_logits_is_finite() -> None:
    logits = torch.tensor([0.0, 300.0]).view(1, 2, 1, 1).requires_grad_()
    target = -logits.detach().requires_grad_()
    value = losses.pixel_kl(logits, target, torch.zeros(1, 1, 1, dtype=torch.int64))
    assert value.item() == pytest.approx(300)
    for gradient in torch.autograd.grad(value, (logits, target)):
        assert gradient.isfinite().all()


def test_mask_loss_equals_a_value_by_hand() -> None:
    """Two pixels, the class at the first, and an ignored one; probabilities 3/4 and 1/2."""
    logits = torch.tensor([math.log(3), 0.0, 9.0]).view(1, 1, 1, 3)
    labels = torch.tensor([[[4, 0, 255]]])
    value = losses.mask_loss(logits, torch.tensor([[4]]), labels).item()
    bce = -(math.log(0.75) + math.log(0.5)) / 2
    dice = 1 - (2 * 0.75 + 1) / (0.75 + 0.5 + 1 + 1)
    assert value == pytest.approx(bce + dice, rel=1e-6)


def test_mask_loss_of_perfect_masks_is_zero_absent_classes_included() -> None:
    labels = torch.tensor([[[0, 0, 1, 255]]])
    truth = torch.stack([labels[0] == 0, labels[0] == 2]).float()[None]
    value = losses.mask_loss(200 * truth - 100, torch.tensor([[0, 2]]), labels)
    assert value.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"average": "all"}, {"ohem_min_kept": 2}, {"ohem_min_kept": 4, "ohem_threshold": 0.3}],
)
def test_an_image_without_labels_changes_no_loss(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 3, 4), torch.randint(0, 3, (2, 3, 4))
    labels[0, 0], labels[1] = 255, 255
    both = losses.cross_entropy(logits, labels, **options)
    torch.testing.assert_close(both, losses.cross_entropy(logits[:1], labels[:1], **options))
    ids = torch.tensor([[0, 2], [1, 2]])
    both = losses.mask_loss(logits[:, :2], ids, labels)
    torch.testing.assert_close(both, losses.mask_loss(logits[:1, :2], ids[:1], labels[:1]))


def test_feature_mean_mse_compares_on_the_grid_of_the_first() -> None:
    features, target = torch.randn(2, 3, 4, 6), torch.randn(2, 5, 8, 12)
    smaller = F.avg_pool2d(target, 2).numpy()  # bilinear halving averages pairs of cells
    expected = ((features.numpy().mean(1) - smaller.mean(1)) ** 2).mean()
    assert losses.feature_mean_mse(features, target).item() == pytest.approx(expected, rel=1e-4)


def test_feature_attention_equals_a_value_by_hand() -> None:
    """Maps (9 + 16, 0) and (4, 3): unit vectors (1, 0) and (4/5, 3/5)."""
    features = torch.tensor([[[3.0, 0.0]], [[4.0, 0.0]]])[None]
    target = torch.tensor([[[2.0, 3**0.5]]])[None]
    value = losses.feature_attention(features, target).item()
    assert value == pytest.approx(0.2**2 + 0.6**2, rel=1e-5)


def test_feature_attention_ignores_scale_and_resizes_the_map() -> None:
    features, target = torch.randn(2, 3, 4, 6), torch.randn(2, 5, 8, 12)
    value = losses.feature_attention(features, target)
    torch.testing.assert_close(losses.feature_attention(100 * features, target / 100), value)
    at_once = resize(target.square().sum(1, keepdim=True), (4, 6)).sqrt()
    torch.testing.assert_close(losses.feature_attention(features, at_once), value)


def test_feature_attention_of_an_empty_map_is_finite() -> None:
    features = torch.zeros(1, 3, 2, 2, requires_grad=True)
    value = losses.feature_attention(features, torch.randn(1, 3, 2, 2))
    (gradient,) = torch.autograd.grad(value, features)
    assert value.item() == pytest.approx(1)
    assert gradient.isfinite().all()


def test_feature_hint_counts_all_channels_alike_and_resizes_the_target() -> None:
    target = torch.tensor([[[1.0, 1.0, 3.0, 3.0]], [[500.0, 500.0, 400.0, 400.0]]])[None]
    ones = torch.tensor([[[-1.0, 1.0]], [[1.0, -1.0]]])[None]
    for features, expected in ((ones, 0.0), (torch.zeros_like(ones), 1.0), (-ones, 4.0)):
        assert losses.feature_hint(features, target).item() == pytest.approx(expected, abs=1e-5)
    flat = losses.feature_hint(ones, 1e-3 * target).item()
    assert flat == pytest.approx(0, abs=1e-5), "however little they vary"
    still = torch.full((1, 2, 1, 4), 7.0)
    assert losses.feature_hint(ones, still).item() == pytest.approx(1)


def test_feature_attention_keeps_no_copy_of_the_features() -> None:
    features = torch.randn(2, 8, 4, 6, dtype=torch.bfloat16, requires_grad=True)
    kept: list[torch.Tensor] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        losses.feature_attention(features, torch.randn(2, 3, 4, 6))
    large = [x for x in kept if x.shape == features.shape]
    assert large
    assert all(x.data_ptr() == features.data_ptr() for x in large)


LOGITS, LABELS = torch.zeros(2, 3, 4, 6), torch.zeros(2, 4, 6, dtype=torch.int64)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(LOGITS, LABELS[:1]), (LOGITS, LABELS[:, None]), (LOGITS[0], LABELS)],
)
def test_cross_entropy_refuses_wrong_shapes(logits: Tensor, labels: Tensor) -> None:
    message = r"logits must be \(B, K, h, w\) and labels \(B, H, W\) of one batch, got \("
    with pytest.raises(ShapeError, match=message):
        losses.cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("target", "labels", "temperature", "error", "message"),
    [
        (LOGITS[:, :2], LABELS, 1, ShapeError, r"classes, got \(2, 3, 4, 6\) and \(2, 2, 4, 6\)"),
        (LOGITS, LABELS[:1], 1, ShapeError, r"of one batch, got \(2, 3, 4, 6\) and \(1, 4, 6\)"),
        (LOGITS, LABELS[:, :2], 1, ShapeError, r"target's grid \(4, 6\), got \(2, 6\); use resize"),
        (LOGITS, LABELS, 0, ValueError, "temperature must be > 0, got 0"),
    ],
)
def test_pixel_kl_refuses_wrong_arguments(
    target: Tensor, labels: Tensor, temperature: float, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        losses.pixel_kl(LOGITS, target, labels, temperature=temperature)


def test_cross_entropy_weighs_classes_by_hand() -> None:
    """Weights multiply each pixel's loss, and `valid` divides by the weights that counted."""
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]).T.reshape(1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, 255]]])
    weights = torch.tensor([1.0, 3.0])
    first, second = math.log(1 + math.e), math.log(1 + math.e**2)
    loss = losses.cross_entropy(logits, labels, class_weights=weights)
    assert loss.item() == pytest.approx((1 * first + 3 * second) / (1 + 3), rel=1e-6)
    every = losses.cross_entropy(logits, labels, class_weights=weights, average="all")
    assert every.item() == pytest.approx((1 * first + 3 * second) / 3, rel=1e-6)


@pytest.mark.parametrize(("exponent", "expected"), [(0.0, [1, 1, 1]), (1.0, [5 / 9, 5, 1])])
def test_balanced_class_weights_has_mean_one_over_pixels(
    exponent: float, expected: list[float]
) -> None:
    weights = losses.balanced_class_weights(torch.tensor([90, 10, 0]), exponent)
    assert weights.tolist() == pytest.approx(expected, rel=1e-6)
    assert (0.9 * weights[0] + 0.1 * weights[1]).item() == pytest.approx(1.0)


def test_lead_is_what_the_teacher_gives_the_true_class_beyond_the_student() -> None:
    teacher = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]).T.reshape(1, 2, 1, 3)
    student = torch.zeros(1, 2, 1, 3)
    labels = torch.tensor([[[0, 0, 255]]])
    expected = [1 / (1 + math.exp(-2)) - 0.5, 0, 0]
    assert losses.lead(teacher, student, labels).flatten().tolist() == pytest.approx(expected)
    assert not losses.lead(student, student, labels).any()
