"""Augmentation: one random view of an image and, pixel for pixel, of its label."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from tsic.data.classes import IGNORE
from tsic.data.images import PAD_COLOUR

ReadRows = Callable[[int], Tensor]
"""Reads at least so many rows of an image, from the top: uint8 ``(3, rows or more, W)``."""

CROP_ATTEMPTS = 10
"""How often a crop of nearly one class is thrown again, as in mmsegmentation's RandomCrop."""

_COUNTED_SIDE = 128  # class shares are counted on about this many rows and columns


@dataclass(frozen=True)
class View:
    """Where a crop lies.

    Args:
        scaled: Height and width that the whole image is brought to.
        corner: The crop's top left corner in it; negative where the crop is padded.
        crop: Height and width of the crop.
        mirrored: Whether what it shows is then flipped.
    """

    scaled: tuple[int, int]
    corner: tuple[int, int]
    crop: tuple[int, int]
    mirrored: bool

    def spans(self) -> list[tuple[float, float]]:
        """Share of the whole image, mirrored if the crop is, at which the crop starts and stops.

        Returns:
            Of the rows and of the columns; below 0 and above 1 where the crop is padded.
        """
        top, left = self.corner
        if self.mirrored and self.scaled[1] > self.crop[1]:  # padding stays where it was
            left = self.scaled[1] - self.crop[1] - left
        return [
            (start / whole, (start + side) / whole)
            for start, side, whole in zip((top, left), self.crop, self.scaled, strict=True)
        ]


class TrainTransform:
    """Scale, crop and flip at random, the recipe of mmsegmentation's configurations.

    The crop's window is chosen in the scaled image but cut from the source, and only that part is
    read and resized: pixels outside the crop are never touched, which a memory-mapped source
    rewards. It differs from resizing first only in that the window's edges fall on whole source
    pixels, so that the ratio may be off by less than one pixel in a crop; image and label share the
    window and stay registered. All randomness comes from torch's global generator, which the caller
    seeds. Colours vary later, on the device (`distort_colours`).

    Args:
        crop: Height and width of what comes out, in pixels. Where the scaled image is smaller it
            is padded, the label with 255.
        scale: Smallest and largest resize ratio, drawn uniformly.
        max_class_share: A crop in which one class has more than this share of the labelled pixels,
            or all of them, is thrown again, up to 10 times; 1 takes the first crop. Shares are
            counted on a grid of at least 128 rows and columns.
        rare_crop: Probability that the crop is laid around a pixel of a class drawn evenly from
            those in the image, so that small and rare things are seen more often.
        flip: Probability of a horizontal flip.
        resize: Height and width that the whole image is brought to before the random ratio, as in
            validation and use; left out, the image's own size counts.
    """

    def __init__(
        self,
        crop: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        max_class_share: float = 0.75,
        rare_crop: float = 0.0,
        flip: float = 0.5,
        resize: tuple[int, int] | None = None,
    ) -> None:
        self.crop = (crop[0], crop[1])
        self.scale = scale
        self.max_class_share = max_class_share
        self.rare_crop = rare_crop
        self.flip = flip
        self.resize = resize

    def __call__(self, image: Tensor | ReadRows, label: Tensor) -> tuple[Tensor, Tensor]:
        """Augment one pair.

        Args:
            image: RGB uint8 ``(3, H, W)``, or what reads at least so many rows of it.
            label: uint8 ``(H, W)``, train ids or 255.

        Returns:
            Image, uint8 ``(3, *crop)``, and label, uint8 ``(*crop)``.
        """
        return self.cut(image, label, self.draw(label))

    def draw(self, label: Tensor) -> View:
        """Draw a view of an image with this label."""
        low, high = self.scale
        ratio = low + (high - low) * float(torch.rand(()))
        height, width = (max(1, round(side * ratio)) for side in self.resize or label.shape)
        if self.rare_crop and chance(self.rare_crop):
            corner = self._corner_around_any_class(label, (height, width))
        else:
            corner = self._choose_corner(label, (height, width))
        return View((height, width), corner, self.crop, chance(self.flip))

    def cut(self, image: Tensor | ReadRows, label: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Cut a view from an image and its label; see ``__call__``."""
        crop, label = self._cut(image, label, view.scaled, view.corner)
        if view.mirrored:
            crop, label = TF.horizontal_flip(crop), TF.horizontal_flip(label)
        return self._pad(crop, label, view.corner)

    def _choose_corner(self, label: Tensor, scaled: tuple[int, ...]) -> tuple[int, int]:
        """Draw the crop's top left corner in the scaled image; negative where it is padded."""
        for _ in range(CROP_ATTEMPTS):
            top, left = (
                _integer(min(0, side - crop), max(0, side - crop))
                for side, crop in zip(scaled, self.crop, strict=True)
            )
            rows, columns = self._source_box(label.shape, scaled, (top, left))
            if self.max_class_share == 1 or self._is_mixed(label[slice(*rows), slice(*columns)]):
                break
        return top, left

    def _corner_around_any_class(self, label: Tensor, scaled: tuple[int, ...]) -> tuple[int, int]:
        """Draw a class of the image, one of its pixels, and a corner whose crop shows it."""
        classes = torch.bincount(label.flatten(), minlength=IGNORE + 1)[:IGNORE].nonzero()[:, 0]
        if not len(classes):
            return self._choose_corner(label, scaled)
        pixel = _pixel_of(int(classes[_integer(0, len(classes) - 1)]), label)
        top, left = (
            self._start_before(int((at + 0.5) * scaled_side / side), scaled_side, crop)
            for at, scaled_side, side, crop in zip(
                pixel, scaled, label.shape, self.crop, strict=True
            )
        )
        return top, left

    def _start_before(self, at: int, side: int, crop: int) -> int:
        """Draw where a crop of one axis starts, among those that hold the pixel ``at``."""
        low, high = min(0, side - crop), max(0, side - crop)
        first, last = (min(max(start, low), high) for start in (at - crop + 1, at))
        return _integer(first, last)

    def _source_box(
        self, size: torch.Size, scaled: tuple[int, ...], corner: tuple[int, int]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns, (start, stop), of the source image that the crop shows."""
        spans = []
        for side, scaled_side, start, crop in zip(size, scaled, corner, self.crop, strict=True):
            first = round(max(0, start) * side / scaled_side)
            last = round(min(scaled_side, start + crop) * side / scaled_side)
            first = min(first, side - 1)
            spans.append((first, max(last, first + 1)))
        rows, columns = spans
        return rows, columns

    def _is_mixed(self, label: Tensor) -> bool:
        """Whether at least two classes are there and none has more than its share."""
        rows, columns = (max(1, side // _COUNTED_SIDE) for side in label.shape)
        label = label[::rows, ::columns]
        counts = torch.bincount(label.flatten(), minlength=IGNORE + 1)[:IGNORE]
        largest, labelled = int(counts.max()), int(counts.sum())
        return labelled > largest and largest <= self.max_class_share * labelled

    def _cut(
        self,
        image: Tensor | ReadRows,
        label: Tensor,
        scaled: tuple[int, ...],
        corner: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Cut what the crop shows from the source and resize it."""
        rows, columns = self._source_box(label.shape, scaled, corner)
        if not isinstance(image, Tensor):
            image = image(rows[1])
        size = [
            min(side, start + crop) - max(0, start)
            for side, start, crop in zip(scaled, corner, self.crop, strict=True)
        ]
        window = image[:, slice(*rows), slice(*columns)]
        resized: Tensor = TF.resize(window, size, antialias=True)
        # Half a pixel in, as the bilinear image has it. NumPy takes in a tenth of torch's time.
        picked = [
            ((np.arange(side) + 0.5) * (stop - start) / side).astype(np.intp) + start
            for side, (start, stop) in zip(size, (rows, columns), strict=True)
        ]
        return resized, torch.from_numpy(label.numpy().take(picked[0], 0).take(picked[1], 1))

    def _pad(self, image: Tensor, label: Tensor, corner: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Fill up to the crop's size, the image with a plain colour and the label with 255."""
        if label.shape == self.crop:
            return image, label
        top, left = (max(0, -start) for start in corner)
        height, width = label.shape
        padding = [left, top, self.crop[1] - left - width, self.crop[0] - top - height]
        image = TF.pad(image, padding, fill=list(PAD_COLOUR))
        return image, TF.pad(label[None], padding, fill=IGNORE)[0]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator of the CPU for a while; those of accelerators are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def chance(probability: float) -> bool:
    """Say yes with this probability, drawn from torch's global generator."""
    return float(torch.rand(())) < probability


def _pixel_of(chosen: int, label: Tensor) -> tuple[int, int]:
    """Draw a pixel, row and column, of a class that a label ``(H, W)`` holds.

    The places of all of them are not listed: they would take 16 bytes each.
    """
    pixels = label.numpy() == chosen
    up_to = np.cumsum(np.count_nonzero(pixels, axis=1))
    number = _integer(0, int(up_to[-1]) - 1)
    row = int(np.searchsorted(up_to, number, side="right"))
    column = np.flatnonzero(pixels[row])[number - up_to[row]]  # counted from the row's end
    return row, int(column)


def _integer(low: int, high: int) -> int:
    """Draw from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, ()))
