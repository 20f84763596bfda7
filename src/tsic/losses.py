"""The cycle's losses as pure functions of tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tsic.data.classes import IGNORE
from tsic.errors import ShapeError
from tsic.grid import resize, size_of
from tsic.options import Average, KlAverage
from tsic.pixel_loss import pixel_losses, weighted_cross_entropy, weighted_kl


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    average: Average = "valid",
    ohem_threshold: float | None = None,
    ohem_min_kept: int | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Per-pixel cross-entropy on the label grid, over all or only over the hard pixels.

    Logits are resized bilinearly to the labels. With ``ohem_min_kept``, hard are the pixels whose
    true class has a probability below ``max(ohem_threshold, p_n)``, where ``p_n`` is the value at
    0-based index ``n = min(ohem_min_kept * B, valid - 1)`` of the ascending probabilities; without
    a threshold, the ``ohem_min_kept * B`` pixels of largest loss. The choice carries no gradient.
    ``B`` counts the images of which any pixel is labelled: those without change nothing.

    Args:
        logits: Unnormalised scores ``(B, K, h, w)`` that cover the labelled image.
        labels: Class ids, int64 ``(B, H, W)``, each in ``[0, K)`` or 255, left out.
        average: Divide by the pixels that count (``valid``; with OHEM the kept) or by every
            pixel of these images, ignored and dropped ones included (``all``, the public code).
        ohem_threshold: Probability above which a pixel is easy.
        ohem_min_kept: Pixels per image kept in any case; ``None`` switches OHEM off.
        class_weights: Weight of each class's pixels, float ``(K,)``; ``valid`` then divides by the
            weights of the pixels that count.

    Returns:
        Loss in nats, float32 ``()``; exactly 0 when no pixel is labelled.

    Raises:
        ShapeError: If batch sizes differ, ``labels`` is not ``(B, H, W)``, or ``class_weights`` is
            not ``(K,)``.

    Source:
        OHEM: Shrivastava et al., arXiv:1604.03540; the pixel rule and the ``all`` average are those
        of the authors' public code (mmsegmentation's sampler), restated in ``docs/paper.md``.
    """
    _check_labels(logits, labels)
    if class_weights is not None and class_weights.shape != logits.shape[1:2]:
        raise ShapeError(
            f"class weights must be one for each of the {logits.shape[1]} classes, got "
            f"{tuple(class_weights.shape)}"
        )
    logits = logits.float()
    counted = labels != IGNORE
    told = _are_told(counted).sum()
    labels = labels.masked_fill(~counted, 0)
    if ohem_min_kept is not None:
        by_pixel = pixel_losses(logits, labels)
        counted = _hard_pixels(by_pixel, counted, ohem_threshold, ohem_min_kept * int(told))
    weights = counted.float()
    if class_weights is not None:
        weights = weights * class_weights.float()[labels]
    every = told.clamp(min=1) * labels[0].numel()
    divisor = every if average == "all" else weights.sum().clamp(min=1e-12)
    return weighted_cross_entropy(logits, labels, weights) / divisor


def _are_told(counted: Tensor) -> Tensor:
    """Which images have a pixel that counts ``(B, H, W)``, bool ``(B,)``."""
    return counted.flatten(1).any(1)


def balanced_class_weights(pixels: Tensor, exponent: float) -> Tensor:
    """Weigh rare classes up: proportional to ``frequency ** -exponent``.

    Args:
        pixels: Labelled pixels of each class in the training split, int64 ``(K,)``.
        exponent: 0 weighs all alike, 1 gives every class the same total weight.

    Returns:
        Float32 ``(K,)`` with mean 1 over the labelled pixels; classes without pixels get 1.

    Example:
        >>> import torch
        >>> balanced_class_weights(torch.tensor([90, 10, 0]), 0.5)
        tensor([0.8333, 2.5000, 1.0000])
    """
    share = pixels.double() / pixels.sum().clamp(min=1)
    occurs = share > 0
    weights = torch.where(occurs, share.clamp(min=1e-12) ** -exponent, 1.0)
    mean = (weights * share).sum()
    return torch.where(occurs, weights / mean, 1.0).float()


def _hard_pixels(pixel_loss: Tensor, valid: Tensor, threshold: float | None, count: int) -> Tensor:
    """Choose the pixels that OHEM keeps; all arguments and the answer are ``(B, H, W)``."""
    kept = torch.zeros_like(valid)
    losses = pixel_loss[valid]
    if losses.numel() == 0:
        return kept
    if threshold is None:
        chosen = torch.zeros_like(losses, dtype=torch.bool)
        chosen[losses.topk(min(count, losses.numel())).indices] = True
    else:
        probability = torch.exp(-losses)
        nth = probability.kthvalue(min(count, losses.numel() - 1) + 1).values
        chosen = probability < nth.clamp(min=threshold)
    kept[valid] = chosen
    return kept


def pixel_kl(
    logits: Tensor,
    target_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    average: KlAverage = "pixels",
    pixel_weights: Tensor | None = None,
) -> Tensor:
    """Pull one class distribution towards another at every pixel: ``KL(target || prediction)``.

    Scaled by ``temperature**2`` so that the gradient keeps its size as the temperature changes.
    Gradient reaches both arguments: the caller detaches what should stand still.

    Args:
        logits: Prediction, unnormalised ``(B, K, h, w)``, resized bilinearly to the target.
        target_logits: Target, unnormalised ``(B, K, H, W)``.
        labels: Class ids, int64 ``(B, H, W)`` on its grid; 255 is left out, no other value asked.
        temperature: Softening divisor, > 0.
        average: ``pixels`` sums over classes and averages over labelled pixels; ``elements``
            averages over batch, classes and all pixels, ignored ones too (the public code; it is
            ``K`` times smaller).
        pixel_weights: Weight of each pixel, float ``(B, H, W)``; the average is still over as many
            pixels.

    Returns:
        Loss in nats, float32 ``()``; exactly 0 when ``pixels`` finds no labelled pixel.

    Raises:
        ShapeError: If shapes differ.
        ValueError: If ``temperature`` is not positive.

    Source:
        Hinton et al., arXiv:1503.02531, section 2.

    Example:
        >>> import torch
        >>> student = torch.tensor([0.0, 0.0]).view(1, 2, 1, 1)
        >>> teacher = torch.tensor([0.0, 100.0]).view(1, 2, 1, 1)
        >>> pixel_kl(student, teacher, torch.zeros(1, 1, 1, dtype=torch.int64))  # ln 2
        tensor(0.6931)
    """
    if logits.shape[:2] != target_logits.shape[:2]:
        raise ShapeError(
            f"both logits must have one batch and the same classes, got {tuple(logits.shape)} and "
            f"{tuple(target_logits.shape)}"
        )
    _check_labels(logits, labels)
    if labels.shape[-2:] != target_logits.shape[-2:]:
        raise ShapeError(
            f"labels must lie on the target's grid {tuple(target_logits.shape[-2:])}, got "
            f"{tuple(labels.shape[-2:])}; use resize_labels"
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    weights = torch.ones_like(labels, dtype=torch.float32)
    if pixel_weights is not None:
        weights = pixel_weights.float()
    divisor: Tensor | int = target_logits.numel()
    if average == "pixels":
        valid = labels != IGNORE
        weights, divisor = weights * valid, valid.sum().clamp(min=1)
    total = weighted_kl(logits.float(), target_logits.float(), weights, temperature)
    return total / divisor * temperature**2


def lead(teacher_logits: Tensor, student_logits: Tensor, labels: Tensor) -> Tensor:
    """Tell how much more probability the teacher gives the true class than the student does.

    Args:
        teacher_logits: Unnormalised ``(B, K, h, w)``, resized bilinearly to the labels.
        student_logits: Likewise, on a grid of its own.
        labels: Class ids, int64 ``(B, H, W)``; values outside ``[0, K)`` are ignored pixels.

    Returns:
        Float32 ``(B, H, W)`` in ``[0, 1]``, without gradient; 0 where the student gives more and at
        ignored pixels.
    """
    valid = (labels >= 0) & (labels < teacher_logits.shape[1])
    labels = labels.masked_fill(~valid, 0)
    teacher, student = (
        torch.exp(-pixel_losses(logits.float(), labels))
        for logits in (teacher_logits, student_logits)
    )
    return (teacher - student).clamp(min=0) * valid


def mask_loss(mask_logits: Tensor, class_ids: Tensor, labels: Tensor) -> Tensor:
    """Teach each prompted mask to cover its class: binary cross-entropy plus Dice.

    Args:
        mask_logits: Decoded masks, unnormalised ``(B, N, h, w)``.
        class_ids: Class of each mask, int64 ``(B, N)``.
        labels: Class ids, int64 ``(B, h, w)`` on the same grid.

    Returns:
        Mean over the masks of images with a labelled pixel, float32 ``()``; 0 without such a pixel.

    Source:
        SAM trains its masks with focal and Dice terms (Kirillov et al., arXiv:2304.02643,
        appendix A); plain binary cross-entropy stands for the focal term because the prompts
        already find the object.
    """
    counted = labels != IGNORE
    valid, told = counted[:, None].float(), _are_told(counted).float()
    truth = (labels[:, None] == class_ids[:, :, None, None]).float()  # 0 where nothing is known
    mask_logits = mask_logits.float()
    bce = F.binary_cross_entropy_with_logits(mask_logits, truth, reduction="none") * valid
    per_pixel = bce.sum() / (valid.sum() * mask_logits.shape[1]).clamp(min=1)
    probability = mask_logits.sigmoid() * valid
    overlap = 2 * (probability * truth).sum((2, 3)) + 1
    dice = 1 - overlap / (probability.sum((2, 3)) + truth.sum((2, 3)) + 1)
    return per_pixel + (dice.mean(1) * told).sum() / told.sum().clamp(min=1)


def feature_mean_mse(features: Tensor, target: Tensor) -> Tensor:
    """Squared difference of the channel means of two feature maps, as in the public code.

    Args:
        features: ``(B, C, h, w)``; its grid is the one compared on.
        target: ``(B, D, h', w')``, resized to that grid.

    Returns:
        Mean over batch and pixels, float32 ``()``. Gradient reaches both arguments.
    """
    target = resize(target, size_of(features))
    return F.mse_loss(features.float().mean(1), target.mean(1))


def feature_attention(features: Tensor, target: Tensor) -> Tensor:
    """Distance between two maps of where the networks look, whatever their channels and scale.

    Each map is the sum of squared channels, brought to unit length over the image's pixels.

    Args:
        features: ``(B, C, h, w)``; its grid is the one compared on.
        target: ``(B, D, h', w')``; its map is resized to that grid.

    Returns:
        Mean over images of the squared distance of unit vectors, in ``[0, 2]``, float32 ``()``.
        Gradient reaches both arguments.

    Source:
        Attention transfer, Zagoruyko and Komodakis, arXiv:1612.03928, equation 2 with p = 2.
    """
    # Norms: squares would keep a copy in float32 for the backward pass.
    here, there = (
        torch.linalg.vector_norm(maps, dim=1, keepdim=True, dtype=torch.float32).square()
        for maps in (features, target)
    )
    there = resize(there, size_of(features))
    here, there = F.normalize(here.flatten(1)), F.normalize(there.flatten(1))
    return (here - there).square().sum(1).mean()


def feature_hint(features: Tensor, target: Tensor) -> Tensor:
    """Squared difference of two feature maps, the target's channels brought to mean 0 and spread 1.

    So all channels count alike, and a loss of 1 is that of features which tell nothing. Mean and
    spread are those of the batch; ignored pixels count, which have something to see as well.

    Args:
        features: Projected to the target's channels, ``(B, D, h, w)``; its grid is compared on.
        target: ``(B, D, h', w')``, resized to that grid.

    Returns:
        Mean over batch, channels and cells, float32 ``()``. Gradient reaches both arguments.

    Source:
        Hints: FitNets, Romero et al., arXiv:1412.6550, equation 3. Evening out what is compared:
        Wei et al., arXiv:2205.14141, who do so within each cell.
    """
    target = resize(target, size_of(features))
    spread, mean = torch.std_mean(target, (0, 2, 3), correction=0, keepdim=True)
    return F.mse_loss(features.float(), (target - mean) / spread.clamp(min=1e-6))


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 4 or labels.ndim != 3 or logits.shape[0] != labels.shape[0]:
        raise ShapeError(
            f"logits must be (B, K, h, w) and labels (B, H, W) of one batch, got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
