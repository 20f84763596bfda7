"""Regions of unlabelled photographs, found without classes and without a network.

Three over-segmentations that err in different ways (Felzenszwalb on RGB, Felzenszwalb on CIELAB,
SLIC) are merged along their region adjacency graphs to a few levels of detail. A region counts as
stable if two of them arrive at it independently.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.color import rgb2lab
from skimage.graph import RAG, merge_hierarchical
from skimage.measure import label, regionprops
from skimage.segmentation import felzenszwalb, slic

Pixels = npt.NDArray[np.uint8]
Regions = npt.NDArray[np.uint16]
Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

PROPOSALS_VERSION = 1
"""Part of every name in a cache; to be raised whenever `propose_regions` finds other regions."""

LONG_SIDE = 384
"""Pixels of the longer side of the copy that is segmented."""

MERGE_COSTS = (0.18, 0.36, 0.6, 0.96)
"""Levels of detail: regions are merged while that costs less, in `_merge_cost` per root pixel."""

BORDER_WIDTH = 3
"""Pixels over which the colour changes where two things meet in a photograph."""

MIN_IOU = 0.55
"""How well a region of one segmentation must be matched by a region of another."""

MIN_AREA = 0.0015
"""Smallest region, as a share of the image."""

MIN_PIXELS = 40
"""Smallest region, in pixels of the copy."""

MAX_AREA = 0.7
"""Largest region, as a share of the image; more is background to whatever is in front of it."""

MIN_FREE = 0.8
"""Share of a region that more stable regions must leave for it to be kept."""

MIN_CONTRAST = 8
"""Smallest range of values that is stretched to full contrast; below it all is noise."""


def propose_regions(image: Pixels) -> Regions:
    """Find regions of a photograph that look like things or surfaces.

    Args:
        image: RGB ``(H, W, 3)``.

    Returns:
        ``(H, W)``: 0 where there is no stable region, 1 to n in connected regions, largest first.
    """
    height, width = image.shape[:2]
    pixels = _full_contrast(_shrink(image))
    lab = rgb2lab(pixels)
    segmentations = [
        _Segmentation(method, _large_regions(level))
        for method, superpixels in enumerate(_over_segmentations(pixels, lab))
        for level in _merged(superpixels, lab)
    ]
    regions = _most_stable_first(segmentations, _stability(segmentations))
    rows = np.arange(height) * regions.shape[0] // height
    columns = np.arange(width) * regions.shape[1] // width
    return _by_area(regions[rows[:, None], columns])


def _shrink(image: Pixels) -> Pixels:
    """A copy whose longer side is at most `LONG_SIDE`."""
    height, width = image.shape[:2]
    scale = LONG_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _full_contrast(image: Pixels) -> Floats:
    """Stretch all channels alike until nearly all values fill ``[0, 1]``."""
    low, high = np.percentile(image, (1, 99))
    stretched = (image.astype(np.float32) - low) / max(high - low, MIN_CONTRAST)
    return np.clip(stretched, 0, 1).astype(np.float32)


def _over_segmentations(pixels: Floats, lab: Floats) -> list[Labels]:
    """Superpixels by three methods, each ``(h, w)`` from 0."""
    share = pixels[..., 0].size / LONG_SIDE**2
    return [
        felzenszwalb(pixels, scale=100, sigma=0.8, min_size=max(10, round(60 * share))),
        felzenszwalb(lab / 100, scale=30, sigma=0.6, min_size=max(10, round(40 * share))),
        slic(pixels, n_segments=max(100, round(600 * share)), compactness=10, start_label=0),
    ]


def _merged(superpixels: Labels, lab: Floats) -> list[Labels]:
    """Merge adjacent superpixels of like colour to each level of `MERGE_COSTS`."""
    rag = _adjacency(superpixels, lab)
    return [
        merge_hierarchical(
            superpixels,
            rag,
            thresh=cost * math.sqrt(superpixels.size),
            rag_copy=False,  # each level goes on where the one before it stopped
            in_place_merge=True,
            merge_func=_merge_nodes,
            weight_func=_merged_edge,
        )
        for cost in MERGE_COSTS
    ]


def _adjacency(superpixels: Labels, lab: Floats) -> RAG:
    """Region adjacency graph with area and mean colour, border length and contrast.

    `skimage.graph.rag_mean_color` would call Python for every pixel.
    """
    areas = np.bincount(superpixels.ravel())
    sums = [np.bincount(superpixels.ravel(), lab[..., axis].ravel()) for axis in range(3)]
    means = np.stack(sums, axis=1) / np.maximum(areas, 1)[:, None]
    rag = RAG()
    for node, (area, mean) in enumerate(zip(areas.tolist(), means.tolist(), strict=True)):
        rag.add_node(node, labels=[node], area=area, mean=mean)
    for first, second, length, contrast in _borders(superpixels, lab):
        weight = _merge_cost(rag.nodes[first], rag.nodes[second], contrast / length)
        rag.add_edge(first, second, weight=weight, length=length, contrast=contrast)
    return rag


def _borders(superpixels: Labels, lab: Floats) -> Iterator[tuple[int, int, int, float]]:
    """Each pair of neighbours: their border's length, and the sum of the contrasts across it."""
    steps: list[Any] = [(np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])]
    pairs = np.concatenate([[superpixels[a].ravel(), superpixels[b].ravel()] for a, b in steps], 1)
    colours = [np.linalg.norm(lab[a] - lab[b], axis=-1).ravel() for a, b in steps]
    at_border = pairs[0] != pairs[1]
    count = superpixels.max() + 1
    codes = pairs.min(axis=0)[at_border] * count + pairs.max(axis=0)[at_border]
    codes, positions, lengths = np.unique(codes, return_inverse=True, return_counts=True)
    contrasts = np.bincount(positions, np.concatenate(colours)[at_border], minlength=len(codes))
    firsts, seconds = np.divmod(codes, count)
    return zip(firsts.tolist(), seconds.tolist(), lengths.tolist(), contrasts.tolist(), strict=True)


def _merge_cost(one: dict[str, Any], other: dict[str, Any], contrast: float) -> float:
    """By how much a merge makes the squared error of the mean colours grow, its square root.

    Colours differ by no more than is seen across the border, so that a surface on which the light
    fades stays whole.

    Source:
        J. H. Ward, "Hierarchical grouping to optimize an objective function", 1963.
    """
    difference = min(math.dist(one["mean"], other["mean"]), BORDER_WIDTH * contrast)
    return difference * math.sqrt(one["area"] * other["area"] / (one["area"] + other["area"]))


def _merge_nodes(rag: RAG, dropped: int, kept: int) -> None:
    """Give one node the area and the mean colour of both."""
    one, other = rag.nodes[dropped], rag.nodes[kept]
    area = one["area"] + other["area"]
    pairs = zip(one["mean"], other["mean"], strict=True)
    other["mean"] = [(one["area"] * a + other["area"] * b) / area for a, b in pairs]
    other["area"] = area


def _merged_edge(rag: RAG, dropped: int, kept: int, neighbour: int) -> dict[str, float]:
    """The edge from a merged node to a neighbour of either."""
    both = (rag.get_edge_data(neighbour, node) for node in (dropped, kept))
    edges = [edge for edge in both if edge is not None]
    length = sum(edge["length"] for edge in edges)
    contrast = sum(edge["contrast"] for edge in edges)
    weight = _merge_cost(rag.nodes[kept], rag.nodes[neighbour], contrast / length)
    return {"weight": weight, "length": length, "contrast": contrast}


class _Segmentation(NamedTuple):
    """Regions from 1 to n by one method, ``(h, w)``; 0 where they are too small or too large."""

    method: int
    labels: Labels


def _large_regions(level: Labels) -> Labels:
    """Number the connected regions that are neither too small nor too large, from 1."""
    return _renumbered(label(level, background=-1, connectivity=1), MAX_AREA * level.size)


def _renumbered(labels: Labels, max_pixels: float = math.inf) -> Labels:
    """Number from 1, in the order that they have, the regions whose size will do."""
    areas = np.bincount(labels.ravel())
    min_pixels = max(MIN_PIXELS, MIN_AREA * labels.size)
    will_do = (areas >= min_pixels) & (areas <= max_pixels)
    will_do[0] = False
    return np.where(will_do, will_do.cumsum(), 0)[labels]


def _stability(segmentations: Sequence[_Segmentation]) -> list[npt.NDArray[np.float64]]:
    """Best IoU that each region has with one of another method; per segmentation ``(n + 1,)``."""
    best = [np.zeros(one.labels.max() + 1) for one in segmentations]
    for i, j in combinations(range(len(segmentations)), 2):
        if segmentations[i].method != segmentations[j].method:
            iou = _iou(segmentations[i].labels, segmentations[j].labels)
            np.maximum(best[i], iou.max(axis=1), out=best[i])
            np.maximum(best[j], iou.max(axis=0), out=best[j])
    return best


def _iou(first: Labels, second: Labels) -> npt.NDArray[np.float64]:
    """IoU of each pair of regions, ``(n + 1, m + 1)``; 0 for what is no region."""
    shape = first.max() + 1, second.max() + 1
    pairs = np.ravel_multi_index((first.ravel(), second.ravel()), shape)
    both = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    either = both.sum(axis=1, keepdims=True) + both.sum(axis=0, keepdims=True) - both
    iou = both / np.maximum(either, 1)
    iou[0], iou[:, 0] = 0, 0
    return iou


def _most_stable_first(
    segmentations: Sequence[_Segmentation], stability: Sequence[npt.NDArray[np.float64]]
) -> Labels:
    """Lay the stable regions of all segmentations side by side, numbered from 1."""
    candidates = [
        (stable[region.label], region.area, index, region)
        for index, (one, stable) in enumerate(zip(segmentations, stability, strict=True))
        for region in regionprops(one.labels)
        if stable[region.label] >= MIN_IOU
    ]
    candidates.sort(key=lambda one: (-one[0], -one[1], one[2]))
    placed = np.zeros_like(segmentations[0].labels)
    for number, (_, area, _, region) in enumerate(candidates, start=1):
        free = region.image & (placed[region.slice] == 0)
        if free.sum() >= MIN_FREE * area:
            placed[region.slice][free] = number
    return _renumbered(label(placed, background=0, connectivity=1))


def _by_area(regions: Labels) -> Regions:
    """Number the regions again, largest first."""
    areas = np.bincount(regions.ravel())[1:]
    numbers = np.zeros(len(areas) + 1, np.uint16)
    numbers[1 + np.argsort(-areas, kind="stable")] = np.arange(1, len(areas) + 1)
    return numbers[regions]
