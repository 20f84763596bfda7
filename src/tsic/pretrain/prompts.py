"""Prompts as a student, a hand or a detector makes them from a true mask, faults and all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tsic.grid import resize
from tsic.pretrain.regions import Regions

POINTS = 2
"""Point tokens per prompt; a box is its two corners."""

NO_POINT, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3
"""What a point means, in SAM's numbering."""

Array = npt.NDArray[Any]

PromptMeans = Literal["mask", "mask and point", "point", "box"]
_MEANS: tuple[tuple[PromptMeans, float], ...] = (
    ("mask", 0.7),
    ("mask and point", 0.1),
    ("point", 0.1),
    ("box", 0.1),
)
_LEAST_PIXELS = 24
_MOST_SHARE = 0.9


@dataclass(frozen=True)
class PromptedSample:
    """One image, the masks that are asked for, and what is said about each.

    Attributes:
        image: RGB uint8 ``(3, H, W)``.
        targets: True masks, bool ``(N, H, W)``.
        masks: Mask prompts, logits float32 ``(N, H/4, W/4)``; 0 where there is none.
        has_mask: Which prompts have a mask, bool ``(N,)``.
        points: Points ``(N, 2, 2)``, x then y, each in [0, 1] of the image.
        point_labels: What each point means, int64 ``(N, 2)``.
    """

    image: Tensor
    targets: Tensor
    masks: Tensor
    has_mask: Tensor
    points: Tensor
    point_labels: Tensor


def prompted_sample(rng: np.random.Generator, regions: Regions, count: int) -> PromptedSample:
    """Choose masks in an image and prompt for each.

    Args:
        rng: Decides everything.
        regions: The image and its regions; sides multiples of 16.
        count: How many masks ``N``; where the image has fewer, some come again with other prompts.

    Returns:
        The sample; its targets are empty where the image has no region of fair size.
    """
    names, shares = zip(*_MEANS, strict=True)
    means = [names[i] for i in rng.choice(len(names), count, p=shares)]
    # A point or a box tells of one thing; only a mask can tell of all things of a kind.
    is_single = [not name.startswith("mask") or rng.random() < 0.5 for name in means]
    targets, others = choose_targets(rng, regions, is_single)
    masks = coarse_masks(rng, targets, others)
    has_mask = torch.tensor([name.startswith("mask") for name in means])
    points = torch.zeros(count, POINTS, 2)
    labels = torch.full((count, POINTS), NO_POINT)
    for i, name in enumerate(means):
        if not targets[i].any():
            continue
        if name == "box":
            points[i] = _box(rng, targets[i])
            labels[i] = torch.tensor([TOP_LEFT, BOTTOM_RIGHT])
        elif name.endswith("point"):
            points[i, 0] = point_in(rng, targets[i])
            labels[i, 0] = POSITIVE
    return PromptedSample(
        torch.from_numpy(regions.image).permute(2, 0, 1),
        targets,
        masks * has_mask[:, None, None],
        has_mask,
        points,
        labels,
    )


def choose_targets(
    rng: np.random.Generator, regions: Regions, is_single: list[bool]
) -> tuple[Tensor, Tensor]:
    """Choose single regions and whole kinds, large ones more often.

    Args:
        rng: Decides which.
        regions: What there is.
        is_single: For each of ``N`` masks, whether it is a region; else it is a kind, where the
            image has one.

    Returns:
        Masks ``(N, H, W)`` and for each a mask of something else in the image that a confused
        student might take in as well, both bool; empty where there is none.
    """
    ids = torch.from_numpy(regions.ids).long()
    kinds = torch.from_numpy(regions.kinds).long()[ids]
    single = _masks_of(ids)
    groups = _masks_of(kinds) or single

    def draw(pool: tuple[Tensor, Array, Array] | None) -> Tensor:
        if pool is None:
            return torch.zeros_like(ids, dtype=torch.bool)
        plane, values, shares = pool
        return plane == int(rng.choice(values, p=shares))

    targets = torch.stack([draw(single if one else groups) for one in is_single])
    others = torch.stack([draw(single if one else groups) for one in is_single])
    return targets, others & ~targets


def _masks_of(plane: Tensor) -> tuple[Tensor, Array, Array] | None:
    """A plane of numbers, those of fair size, and how often each is to be chosen."""
    areas = plane.flatten().bincount().numpy()
    areas[0] = 0
    (values,) = np.nonzero((areas >= _LEAST_PIXELS) & (areas <= _MOST_SHARE * plane.numel()))
    shares = np.sqrt(areas[values])
    return (plane, values, shares / shares.sum()) if len(values) else None


def coarse_masks(rng: np.random.Generator, targets: Tensor, others: Tensor) -> Tensor:
    """Make of true masks what a student might think: logits with one or several faults each.

    Args:
        rng: Decides the faults.
        targets: True masks, bool ``(N, H, W)``.
        others: Something else in each image, bool ``(N, H, W)``.

    Returns:
        Mask logits, float32 ``(N, H/4, W/4)``.
    """
    coarse = []
    for mask, other in zip(targets.float(), others.float(), strict=True):
        for fault, chance in _FAULTS:
            if rng.random() < chance:
                mask = fault(rng, mask, other)
        coarse.append(student_logits(rng, mask, int(rng.choice([4, 8, 16]))))
    return torch.stack(coarse)


def student_logits(rng: np.random.Generator, mask: Tensor, stride: int) -> Tensor:
    """See a mask at a student's stride, with its doubts and its noise.

    Args:
        rng: Decides confidence and noise.
        mask: Share of each pixel that is covered, float ``(H, W)``.
        stride: Pixels per cell of the student's grid.

    Returns:
        Logits ``(H/4, W/4)``, resized bilinearly from the student's grid.
    """
    grid = F.avg_pool2d(mask[None, None], stride, ceil_mode=True)
    sureness = rng.uniform(1.5, 12.0)
    logits = (2 * grid - 1) * sureness + _smooth(rng, grid.shape[-2:], int(rng.integers(1, 5))) * (
        rng.uniform(0.0, 0.5) * sureness
    )
    size = (mask.shape[0] // 4, mask.shape[1] // 4)
    return resize(logits, size)[0, 0]


def swell(rng: np.random.Generator, mask: Tensor, other: Tensor) -> Tensor:
    """Erode or dilate by up to a quarter of the mask's size, a 24th of the image's side at most."""
    most = min(_size(mask) / 4, min(mask.shape) / 24)
    reach = int(rng.integers(1, max(2, round(most) + 1))) * 2 + 1
    sign = 1 if rng.random() < 0.5 else -1
    grown = sign * mask[None]
    for window in ((reach, 1), (1, reach)):  # a square, one side after the other
        padding = (window[0] // 2, window[1] // 2)
        grown = F.max_pool2d(grown, window, stride=1, padding=padding)
    return sign * grown[0]


def shift(rng: np.random.Generator, mask: Tensor, other: Tensor) -> Tensor:
    """Shift and bend by up to a third of the mask's size, a 32nd of the image's side at most."""
    high, wide = mask.shape
    # Places in an image span from -1 to 1.
    most = min(_size(mask) / min(mask.shape) * 2 / 3, 1 / 16)
    whole = torch.from_numpy(rng.uniform(-most, most, (1, 2, 1, 1)).astype(np.float32))
    bend = torch.stack([_smooth(rng, (high, wide), max(high // 8, 1))[0, 0] for _ in range(2)])
    moved = (whole + bend[None] * float(rng.uniform(0, most / 2))).permute(0, 2, 3, 1)
    still = F.affine_grid(torch.eye(2, 3)[None], [1, 1, high, wide], align_corners=False)
    return F.grid_sample(mask[None, None], still + moved, align_corners=False)[0, 0]


def drop(rng: np.random.Generator, mask: Tensor, other: Tensor) -> Tensor:
    """Miss what lies in a disc around one of the mask's pixels."""
    return mask * (1 - _disc(rng, mask))


def merge(rng: np.random.Generator, mask: Tensor, other: Tensor) -> Tensor:
    """Take in something else, or the part of it that lies in a disc."""
    more = other * _disc(rng, other) if rng.random() < 0.7 else other
    return torch.maximum(mask, more)


Fault = Callable[[np.random.Generator, Tensor, Tensor], Tensor]
_FAULTS: tuple[tuple[Fault, float], ...] = ((merge, 0.25), (drop, 0.25), (swell, 0.4), (shift, 0.4))


def _disc(rng: np.random.Generator, mask: Tensor) -> Tensor:
    """A disc ``(H, W)`` around one of the mask's pixels, as large as half of it; 0 without any."""
    if mask.max() <= 0.5:
        return torch.zeros_like(mask)
    x, y = point_in(rng, mask > 0.5).tolist()
    high, wide = mask.shape
    radius = _size(mask) * rng.uniform(0.2, 0.6)
    down = torch.arange(high)[:, None] + 0.5 - y * high
    right = torch.arange(wide) + 0.5 - x * wide
    return (down.square() + right.square() < radius**2).float()


def _size(mask: Tensor) -> float:
    """Side of the square as large as a mask, in pixels."""
    return float(mask.sum()) ** 0.5


def _smooth(rng: np.random.Generator, size: tuple[int, ...], cell: int) -> Tensor:
    """Noise ``(1, 1, H, W)`` of about unit spread that changes over ``cell`` pixels."""
    coarse = [max(2, -(-side // cell)) for side in size]
    noise = torch.from_numpy(rng.standard_normal((1, 1, *coarse), dtype=np.float32))
    return F.interpolate(noise, tuple(size), mode="bilinear", align_corners=False)


def point_in(rng: np.random.Generator, mask: Tensor) -> Tensor:
    """A pixel of a mask that has one, as x and y in [0, 1]: ``(2,)``."""
    pixels = mask.flatten().nonzero()[:, 0]
    pixel = int(pixels[int(rng.integers(len(pixels)))])
    high, wide = mask.shape
    return torch.tensor([(pixel % wide + 0.5) / wide, (pixel // wide + 0.5) / high])


def _box(rng: np.random.Generator, mask: Tensor) -> Tensor:
    """Corners ``(2, 2)`` of the box around a mask, each off by up to a tenth of its sides."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    scale = torch.tensor([mask.shape[1], mask.shape[0]])
    low = torch.stack([columns[0], rows[0]]) / scale
    high = torch.stack([columns[-1] + 1, rows[-1] + 1]) / scale
    off = torch.from_numpy(rng.uniform(-0.1, 0.1, (2, 2)).astype(np.float32))
    return (torch.stack([low, high]) + off * (high - low)).clamp(0, 1)
