"""Pairs of images and masks of one split, whatever files they lie in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tsic.data.classes import IGNORE, MAX_CLASSES, MAX_FILE_VALUE, ClassTable, Colour
from tsic.data.images import (
    BAND_PIXELS,
    Verified,
    read_image,
    read_mask,
    size_mismatch,
    verify_image,
)
from tsic.data.surprises import Surprise, SurpriseKind, image_surprises
from tsic.errors import DataError, EmptySplitError

_UNKNOWN = MAX_CLASSES  # train id of what the class table does not know: no class has it

Values = npt.NDArray[Any]
"""What a mask holds: ids ``(H, W)`` or RGB colours ``(H, W, 3)``."""

ProblemKind = (
    SurpriseKind
    | Literal[
        "missing mask",
        "missing image",
        "duplicate",
        "unreadable",
        "size mismatch",
        "unknown id",
        "mask palette",
        "unlabelled",
        "one class",
        "duplicate image",
        "absent class",
        "split left out",
    ]
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset.

    Args:
        kind: What sort of problem.
        file: The file that has it.
        detail: What exactly, without the file's name.
    """

    kind: ProblemKind
    file: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.file}: {self.detail}"


@dataclass(frozen=True)
class Sample:
    """One image with its mask.

    Args:
        image: Image file.
        mask: Mask file, or the file that holds the annotation of many images.
        name: The image's path relative to the dataset's root, for messages.
    """

    image: Path
    mask: Path
    name: str


class Store:
    """How the samples of a dataset are read; this one reads image files and mask files.

    A reader whose masks lie in other files overrides what differs. A store is sent to worker
    processes, so it holds no open file.
    """

    holds_train_ids = False
    """Whether masks hold train ids (uint8), so that nothing is left to look up."""

    def image(self, sample: Sample, rows: int | None = None) -> Tensor:
        """Read the image: RGB uint8 ``(3, H, W)``, upright, at least so many rows of it."""
        return read_image(sample.image, rows)

    def verify(self, sample: Sample) -> Verified:
        """Decode the image as cheaply as finds a damaged file."""
        return verify_image(sample.image)

    def surprises(self, sample: Sample) -> Iterable[Surprise]:
        """Tell what reading the image changes."""
        return image_surprises(sample.image)

    def mask(self, sample: Sample) -> Values:
        """Read the mask as the class table knows it: ids ``(H, W)``, or colours ``(H, W, 3)``."""
        return read_mask(sample.mask)

    def palette(self, sample: Sample) -> dict[int, Colour]:
        """Tell the colours of a mask's ids, where they might mean other classes than the ids."""
        return {}


@dataclass(frozen=True, eq=False)
class SegmentationDataset:
    """Pairs of images and masks of one split, read on demand.

    Args:
        name: Name of the reader, as in `READERS`.
        root: The dataset's folder.
        split: Name of the split.
        classes: Class table; its map is applied to every mask.
        samples: Complete pairs, in a fixed order.
        unpaired: Files left out because their partner is missing; the check reports them.
        store: How samples are read.
        files: Files that hold the samples, where those have none of their own.

    Raises:
        EmptySplitError: If there is no pair at all.
    """

    name: str
    root: Path
    split: str
    classes: ClassTable
    samples: tuple[Sample, ...]
    unpaired: tuple[Problem, ...] = ()
    store: Store = field(default_factory=Store)
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.samples:
            alone = ""
            if self.unpaired:
                alone = f"; {len(self.unpaired)} files stand alone, first {self.unpaired[0]}"
            raise EmptySplitError(
                f"{self.root}: split '{self.split}' has no image with a mask{alone}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Read one image and its label.

        Args:
            index: Position in ``samples``.

        Returns:
            Image, RGB uint8 ``(3, H, W)``, upright, and label, uint8 ``(H, W)``, train ids with
            255 for ignored pixels.

        Raises:
            DataError: If a file cannot be decoded, the two differ in size, or the mask holds ids
                outside the class table; the message names the file.
        """
        label = self.read_label(index)
        image = self.read_image(index)
        if image.shape[1:] != label.shape:
            raise DataError(
                f"{self.samples[index].image}: {size_mismatch(image.shape[1:], label.shape)}"
            )
        return image, label

    def read_image(self, index: int, rows: int | None = None) -> Tensor:
        """Read one image, or at least its first rows.

        Args:
            index: Position in ``samples``.
            rows: How many rows are needed; all when left out.

        Returns:
            RGB uint8 ``(3, H, W)``, upright.

        Raises:
            DataError: If the file cannot be decoded.
        """
        return self.store.image(self.samples[index], rows)

    def verify(self, index: int) -> Verified:
        """Decode one image as cheaply as finds a damaged file.

        Raises:
            DataError: If the file cannot be decoded.
        """
        return self.store.verify(self.samples[index])

    def read_label(self, index: int) -> Tensor:
        """Read the label of one image.

        Args:
            index: Position in ``samples``.

        Returns:
            uint8 ``(H, W)``, train ids with 255 for ignored pixels.

        Raises:
            DataError: If the file cannot be decoded, or holds ids outside the class table.
        """
        sample = self.samples[index]
        values = self.store.mask(sample)
        if self.store.holds_train_ids:
            return torch.from_numpy(values)
        labels = self._train_ids(values)
        if (labels == _UNKNOWN).any():
            raise DataError(f"{sample.mask}: {self.unknown_values(values)}")
        return torch.from_numpy(labels)

    def count_pixels(self, index: int) -> Tensor:
        """Count the pixels of each class in one mask, without reading its image.

        Args:
            index: Position in ``samples``.

        Returns:
            int64 ``(K,)``.

        Raises:
            DataError: If the mask cannot be read.
        """
        return self.count_values(self.store.mask(self.samples[index]))

    def count_values(self, values: Values) -> Tensor:
        """Count the pixels of each class ``(K,)`` in what a mask holds."""
        train_ids = self._train_ids(values)
        # NumPy's own would copy the ids to 8 bytes each.
        counts = torch.bincount(torch.from_numpy(train_ids).flatten(), minlength=IGNORE + 1)
        return counts[: self.classes.num_classes]

    def unknown_values(self, values: Values) -> str:
        """Describe the ids or colours of a mask that the class table does not know.

        Args:
            values: What the mask holds.

        Returns:
            One line with each value and its pixel count; empty when all are known.
        """
        are_colours = values.ndim == 3
        unknown = values[self._train_ids(values) == _UNKNOWN]
        if not unknown.size:
            return ""
        found, counts = np.unique(unknown, axis=0, return_counts=True)
        names = [str(tuple(map(int, one))) if are_colours else str(one) for one in found[:10]]
        listed = [f"{name} ({n} px)" for name, n in zip(names, counts, strict=False)]
        if len(found) > 10:
            listed.append(f"{len(found) - 10} more")
        kind = "colours" if are_colours else "ids"
        way_out = "add them to classes or to ignore"
        if are_colours and (found == found[:, :1]).all():
            ids = self._by_id[found[:, 0]]
            if (ids != _UNKNOWN).all():
                way_out = "they are class ids in three equal channels: save the masks with one"
        return f"{kind} not in the class table: {', '.join(listed)}; {way_out}"

    def contradiction(self, values: Values, palette: Mapping[int, Colour]) -> str:
        """Describe an id of a mask whose colour is listed as that of another class.

        Args:
            values: What the mask holds.
            palette: Colours of its ids.

        Returns:
            One line; empty where colours and ids agree, or too few colours are listed to say.
        """
        listed = self.classes.colour_map
        used = np.unique(values).tolist() if palette else []
        shown = {value: listed[palette[value]] for value in used if palette.get(value) in listed}
        wrong = [value for value, class_id in shown.items() if class_id != self._by_id[value]]
        # One of several may have its colour by chance; all of them, or none of two, do not.
        if not wrong or (len(shown) < len(used) and len(wrong) < max(2, len(shown))):
            return ""
        names = {IGNORE: "ignored", **dict(enumerate(self.classes.names))}
        read = names.get(int(self._by_id[wrong[0]]), "nothing")
        return (
            f"palette index {wrong[0]} means {read}, but has the colour of "
            f"{names[shown[wrong[0]]]}; save the mask as RGB, or class ids as its indices, or "
            "correct the colours of the class table"
        )

    def _train_ids(self, values: Values) -> npt.NDArray[np.uint8]:
        """Train id of each pixel ``(H, W)``, `_UNKNOWN` where the table has none."""
        if self.store.holds_train_ids:
            return values
        train_ids = np.empty(values.shape[:2], np.uint8)
        rows = max(1, BAND_PIXELS // max(1, values.shape[1]))
        for top in range(0, len(values), rows):  # an index takes 8 bytes a pixel
            band = values[top : top + rows]
            if values.ndim == 2:
                train_ids[top : top + rows] = np.take(self._by_id, band)
            else:
                red, green, blue = np.moveaxis(band.astype(np.int32), -1, 0)
                colours = red << 16 | green << 8 | blue
                train_ids[top : top + rows] = np.take(self._by_colour, colours)
        return train_ids

    @cached_property
    def _by_id(self) -> npt.NDArray[np.uint8]:
        """Train id of each id that a file can hold."""
        lookup = np.full(MAX_FILE_VALUE + 1, _UNKNOWN, np.uint8)
        for value, train_id in self.classes.label_map.items():
            lookup[value] = train_id
        return lookup

    @cached_property
    def _by_colour(self) -> npt.NDArray[np.uint8]:
        """Train id of each colour, packed into 24 bits."""
        lookup = np.full(1 << 24, _UNKNOWN, np.uint8)
        for (red, green, blue), train_id in self.classes.colour_map.items():
            lookup[red << 16 | green << 8 | blue] = train_id
        return lookup
