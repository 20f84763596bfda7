"""CutMix: pairs of images exchange a box before the student sees them."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tsic.grid import size_of
from tsic.student import StudentOutput

CELL = 16
"""Boxes begin and end at multiples of so many pixels, which most students' features have."""
AREA = (0.25, 0.5)
"""Share of an image that a box covers."""
ASPECT = 2.0
"""A box, against its image, is at most so many times as high as wide, or the reverse."""


def draw_boxes(images: Tensor, share: float) -> Tensor:
    """Draw what images exchange, the first with the last, the second with the last but one.

    Args:
        images: ``(B, 3, H, W)``; of an odd number the middle one has no partner and stays whole.
        share: Probability that a pair exchanges anything.

    Returns:
        Where each image shows its partner, bool ``(B, 1, H, W)``, drawn on the images' device.

    Source:
        Yun et al., arXiv:1905.04899; boxes of this size for segmentation: French et al.,
        arXiv:1906.01916.
    """
    pairs = len(images) // 2
    chance, area, aspect, top, left = torch.rand(5, pairs, 1, device=images.device)
    area = AREA[0] + (AREA[1] - AREA[0]) * area
    aspect = ASPECT ** (2 * aspect - 1)
    height, width = size_of(images)
    rows = _run(height, (area * aspect).sqrt(), top)
    columns = _run(width, (area / aspect).sqrt(), left)
    boxes = rows[:, None, :, None] & columns[:, None, None, :] & (chance < share)[..., None, None]
    alone = boxes.new_zeros(len(images) % 2, *boxes.shape[1:])
    return torch.cat([boxes, alone, boxes.flip(0)])


def _run(length: int, share: Tensor, place: Tensor) -> Tensor:
    """Which pixels of a side a box of that share of it covers, bool ``(pairs, length)``."""
    cells = -(-length // CELL)
    count = (share * cells).round().clamp(1, cells)
    first = (place * (cells - count + 1)).floor()
    cell = torch.arange(length, device=share.device) // CELL
    return (cell >= first) & (cell < first + count)


def exchange(maps: Tensor, boxes: Tensor) -> Tensor:
    """Exchange boxes of ``(B, C, h, w)`` maps that cover the images; a second time undoes it."""
    if size_of(maps) != size_of(boxes):
        boxes = F.interpolate(boxes.float(), size_of(maps), mode="nearest-exact") > 0
    return torch.where(boxes, maps.flip(0), maps)


def exchange_back(said: StudentOutput, boxes: Tensor) -> StudentOutput:
    """What a student says about images that exchanged boxes, put back where it belongs."""
    return replace(
        said,
        logits=exchange(said.logits, boxes),
        features=tuple(exchange(maps, boxes) for maps in said.features),
        auxiliary=None if said.auxiliary is None else exchange(said.auxiliary, boxes),
    )
