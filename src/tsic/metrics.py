"""Dataset-level scores computed from one confusion matrix."""

import torch
from torch import Tensor

from tsic.grid import resize, sample_axis


def to_labels(logits: Tensor, size: tuple[int, int], *, band: int = 256) -> Tensor:
    """Resize class scores to an image and take the best class, in bands of rows.

    Resizing all classes of a large image at once is what exhausts memory at validation, so at most
    ``band`` output rows exist in float at any time; the answer is that of the whole resize.

    Args:
        logits: Class scores ``(K, h, w)`` that cover the image.
        size: Height and width ``(H, W)`` of the image.
        band: Output rows computed at a time.

    Returns:
        Class ids, int64 ``(H, W)``, on the device of ``logits``.
    """
    height, width = size
    rows = logits.shape[-2]
    # Bilinear resize is separable: first the columns of all rows, then bands of rows.
    wide = resize(logits[None], (rows, width))[0]
    at = (torch.arange(height, device=logits.device) + 0.5) * rows / height - 0.5
    return torch.cat([sample_axis(wide, 1, part).argmax(0) for part in at.split(band)])


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true class (rows) and predicted class (columns).

    Args:
        predicted: Class ids in ``[0, K)``, int64, any shape.
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


def pixel_accuracy(confusion: Tensor) -> float:
    """Share of labelled pixels whose class is right, in percent."""
    return 100 * (confusion.diagonal().sum() / confusion.sum()).item()
