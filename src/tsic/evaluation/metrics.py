"""Dataset-level scores computed from one confusion matrix."""

import torch
from torch import Tensor

from tsic.grid import Size, resize_part

BAND_BYTES = 8 * 2**20
"""Bytes of resized class scores that exist at a time: about what a core's cache holds."""


def to_labels(logits: Tensor, size: Size, *, band: int | None = None) -> Tensor:
    """Resize class scores to an image and take the best class, in bands of rows.

    Resizing all classes of a large image at once is what exhausts memory at validation, so at most
    ``band`` output rows exist in float at any time; the answer is that of the whole resize.

    Args:
        logits: Class scores ``(K, h, w)`` that cover the image.
        size: Height and width ``(H, W)`` of the image.
        band: Output rows computed at a time; by default those of `BAND_BYTES`.

    Returns:
        Class ids, int64 ``(H, W)``, on the device of ``logits``.
    """
    height, width = size
    band = band or band_rows(len(logits), width, BAND_BYTES)
    labels = torch.empty(size, dtype=torch.int64, device=logits.device)
    for top in range(0, height, band):
        rows = range(top, min(top + band, height))
        scores = resize_part(logits, size, rows, range(width))
        labels[rows.start : rows.stop] = best_class(scores)
    return labels


def best_class(scores: Tensor) -> Tensor:
    """Class of the largest score, int64 ``(h, w)``, of ``(K, h, w)``."""
    return scores.max(0).indices  # on the CPU several times as fast as argmax


def band_rows(num_classes: int, width: int, limit: int) -> int:
    """Rows of float32 class scores, ``width`` pixels wide, in ``limit`` bytes; at least one."""
    return max(1, limit // (4 * num_classes * width))


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true class (rows) and predicted class (columns).

    Args:
        predicted: Class ids in ``[0, K)``, any integer type, any shape.
        labels: True class ids, any integer type, same shape; values outside ``[0, K)`` are
            left out.
        num_classes: ``K``.

    Returns:
        Pixel counts, int64 ``(K, K)``.
    """
    labels = labels.long()
    counted = (labels >= 0) & (labels < num_classes)
    cells = labels[counted] * num_classes + predicted[counted]
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def class_iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class.

    Args:
        confusion: Pixel counts ``(K, K)``, true classes in rows.

    Returns:
        Float64 ``(K,)`` in [0, 1]; NaN for a class that is neither true nor predicted anywhere.
    """
    confusion = confusion.double()
    hits = confusion.diagonal()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def mean_iou(confusion: Tensor) -> float:
    """Mean of the classes' IoU over the whole dataset, in percent.

    Classes that neither the labels nor the predictions hold are left out; NaN when none is left.

    Args:
        confusion: Pixel counts ``(K, K)``, true classes in rows.
    """
    return 100 * class_iou(confusion).nanmean().item()


def class_accuracy(confusion: Tensor) -> Tensor:
    """Share of each class's pixels that are right.

    Args:
        confusion: Pixel counts ``(K, K)``, true classes in rows.

    Returns:
        Float64 ``(K,)`` in [0, 1]; NaN for a class that is true nowhere.
    """
    confusion = confusion.double()
    return confusion.diagonal() / confusion.sum(1)
