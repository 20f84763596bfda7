"""Scores at the borders of things: boundary IoU, and the band around labels' borders.

A pixel lies near a border where the square window around it holds more than one class. One pair of
smallest and largest values over that window tells this for all classes at once.
"""

import math

import torch
from torch import Tensor

from tsic.data.classes import IGNORE

DILATION_RATIO = 0.02
"""Width of the band of boundary IoU, as a share of the image's diagonal."""


def boundary_width(height: int, width: int) -> int:
    """Pixels of the band of boundary IoU in an image, at least 1.

    Example:
        >>> boundary_width(1024, 2048)
        46
    """
    return max(1, round(DILATION_RATIO * math.hypot(height, width)))


def near_border(labels: Tensor, distance: int, *, edge_counts: bool) -> Tensor:
    """Find the pixels from which another class is not far.

    Args:
        labels: Class ids, uint8 ``(H, W)``; ignored pixels are one more class.
        distance: How far, in pixels, counted along rows, columns and diagonals alike.
        edge_counts: Whether the outside of the image is another class, too.

    Returns:
        Bool ``(H, W)``. Of the pixels of one class these are the ones that ``distance`` erosions
        by a 3x3 square take away.
    """
    low, high = ~labels, labels  # the smallest value is the complement of the largest complement
    for dim in (0, 1):
        low, high = _largest_within(low, distance, dim), _largest_within(high, distance, dim)
    near = ~low != high
    if edge_counts:
        near[:distance] = near[-distance:] = True
        near[:, :distance] = near[:, -distance:] = True
    return near


def boundary_counts(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count, for each class, pixels in both boundaries and in either one.

    The boundary of a class in a map is what of the class lies within `boundary_width` of another
    class, of an ignored pixel or of the image's edge. Ignored pixels are taken out of the
    prediction before its boundaries are found, so that a perfect prediction has the labels'.

    Args:
        predicted: Class ids in ``[0, K)``, uint8 ``(H, W)``.
        labels: True class ids, uint8 ``(H, W)``, 255 for ignored pixels.
        num_classes: ``K``.

    Returns:
        Pixel counts, int64 ``(2, K)``: intersections and unions. Summed over a dataset, their
        ratio is each class's boundary IoU.

    Source:
        Boundary IoU: Cheng et al., CVPR 2021, arXiv:2103.16562.
    """
    distance = boundary_width(*labels.shape)
    predicted = torch.where(labels == IGNORE, labels, predicted)
    true_near = near_border(labels, distance, edge_counts=True)
    predicted_near = near_border(predicted, distance, edge_counts=True)
    both = true_near & predicted_near & (predicted == labels)
    true, guessed, common = (
        torch.bincount(ids.long(), minlength=IGNORE + 1)[:num_classes]
        for ids in (labels[true_near], predicted[predicted_near], labels[both])
    )
    return torch.stack([common, true + guessed - common])


def trimap_labels(labels: Tensor, distance: int) -> Tensor:
    """Keep the labels near borders alone.

    Args:
        labels: True class ids, uint8 ``(H, W)``, 255 for ignored pixels.
        distance: Half the band's width in pixels: how far from another class, or from an ignored
            pixel, a pixel may be. The image's edge is no border.

    Returns:
        Labels, uint8 ``(H, W)``, 255 outside the band.

    Source:
        Kohli et al., IJCV 82, 2009; with ignored pixels as borders: DeepLab, arXiv:1606.00915.
    """
    near = near_border(labels, distance, edge_counts=False)
    return labels.masked_fill(~near, IGNORE)


def _largest_within(values: Tensor, distance: int, dim: int) -> Tensor:
    """Largest value among those at most ``distance`` away along one axis, uint8 ``(H, W)``."""
    shape = list(values.shape)
    shape[dim] = distance
    edge = values.new_zeros(shape)
    largest = torch.cat([edge, values, edge], dim)
    reach = 1  # values that each place has seen; doubled until the window is full
    while reach < 2 * distance + 1:
        step = min(reach, 2 * distance + 1 - reach)
        count = largest.shape[dim] - step
        largest = torch.maximum(largest.narrow(dim, 0, count), largest.narrow(dim, step, count))
        reach += step
    return largest
