"""Where images with regions come from: drawn, unlabelled or labelled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from tsic.data.colours import distort_colours, draw_colours
from tsic.data.dataset import SegmentationDataset
from tsic.data.images import SUFFIXES, image_names, read_image
from tsic.data.scenes import draw_scene
from tsic.data.transforms import seeded
from tsic.errors import ConfigError
from tsic.grid import resize_images
from tsic.pretrain.region_cache import RegionCache
from tsic.pretrain.regions import Regions, regions_of_classes

_FIRST_STREET = 2**62
"""Scenes of the demo and of users have lower seeds (`tsic.data.scenes.scene_seed`)."""


class Source(Protocol):
    """Gives images with regions."""

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> Regions:
        """Give one image of a size; the generator decides which and everything about it."""
        ...


def streets(rng: np.random.Generator, height: int, width: int) -> Regions:
    """Draw one of the demo's street scenes, none of those that it trains or validates on."""
    seed = _FIRST_STREET + int(rng.integers(2**61))
    return regions_of_classes(*draw_scene(seed, height, width, float(rng.uniform(0.2, 1.0))))


class UnlabelledImages:
    """Crops of photographs with proposed regions.

    Args:
        paths: Image files.
        cache: Their regions, proposed beforehand.
        scale: Range of the resize ratio.
    """

    def __init__(
        self, paths: Sequence[Path], cache: RegionCache, scale: tuple[float, float]
    ) -> None:
        self.paths = paths
        self.cache = cache
        self.scale = scale

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> Regions:
        """Crop one of the images, its colours varied."""
        path = self.paths[int(rng.integers(len(self.paths)))]
        image = read_image(path).permute(1, 2, 0).numpy()
        ids = self.cache.regions(path, lambda: image)
        image, cut = random_crop(rng, image, ids, (height, width), self.scale)
        kinds = np.zeros(int(cut.max()) + 1, np.int32)
        return Regions(image, cut.astype(np.int32), kinds)


class LabelledImages:
    """Crops of a labelled dataset; its classes' connected parts are regions.

    Args:
        dataset: What to read.
        indices: Which of its samples.
        scale: Range of the resize ratio.
    """

    def __init__(
        self, dataset: SegmentationDataset, indices: Sequence[int], scale: tuple[float, float]
    ) -> None:
        self.dataset = dataset
        self.indices = indices
        self.scale = scale

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> Regions:
        """Crop one of the images, its colours varied."""
        image, labels = self.dataset.read(self.indices[int(rng.integers(len(self.indices)))])
        pixels = image.permute(1, 2, 0).numpy()
        cut = random_crop(rng, pixels, labels.numpy(), (height, width), self.scale)
        return regions_of_classes(cut[0], cut[1].astype(np.uint8))


def find_images(folder: Path) -> list[Path]:
    """All images below a folder, in order.

    Raises:
        ConfigError: If it does not exist, cannot be listed or holds less than two.
    """
    if not folder.is_dir():
        raise ConfigError(f"source.images '{folder}' is not a folder; give one with images")
    paths = sorted(folder / name for name in image_names(folder, error=ConfigError))
    if len(paths) < 2:
        raise ConfigError(
            f"source.images '{folder}' holds {len(paths)} images; at least 2 are needed, one to "
            f"train on and one held out ({', '.join(sorted(SUFFIXES))})"
        )
    return paths


def random_crop(
    rng: np.random.Generator,
    image: npt.NDArray[np.uint8],
    ids: npt.NDArray[np.integer],
    size: tuple[int, int],
    scale: tuple[float, float],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
    """Cut the same random window out of an image and its map, flip it or not, vary its colours.

    Args:
        rng: Decides everything.
        image: RGB uint8 ``(H, W, 3)``.
        ids: Numbers of pixels ``(H, W)``.
        size: Height and width of the answer.
        scale: Range of the resize ratio; where the image is too small for a window of a ratio,
            the smallest ratio that fits is taken.

    Returns:
        Both, of ``size``; the image sampled with antialiasing, the map by the nearest pixel.
    """
    high, wide = ids.shape
    ratio = max(float(np.exp(rng.uniform(*np.log(scale)))), size[0] / high, size[1] / wide)
    tall, broad = (
        min(max(1, round(side / ratio)), most)
        for side, most in zip(size, (high, wide), strict=True)
    )
    top, left = int(rng.integers(high - tall + 1)), int(rng.integers(wide - broad + 1))
    window = slice(top, top + tall), slice(left, left + broad)
    pixels = torch.from_numpy(np.ascontiguousarray(image[window])).permute(2, 0, 1)[None]
    resized = resize_images(pixels.float() / 255, size)
    with seeded(int(rng.integers(2**62))):
        colours = draw_colours()
    coloured = distort_colours(resized, colours[None])[0]
    rows = (np.arange(size[0]) * 2 + 1) * tall // (2 * size[0])
    columns = (np.arange(size[1]) * 2 + 1) * broad // (2 * size[1])
    cut = ids[window][rows][:, columns]
    answer = (coloured.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    if rng.random() < 0.5:
        answer, cut = answer[:, ::-1], cut[:, ::-1]
    return np.ascontiguousarray(answer), np.ascontiguousarray(cut)
