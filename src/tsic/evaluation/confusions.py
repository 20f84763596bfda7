"""Pixel counts of every image of a split, kept so that a score's uncertainty can be estimated."""

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tsic.errors import CheckpointError
from tsic.files import replacing

Counts = npt.NDArray[np.int64]


class Confusions:
    """Confusion matrices of ``N`` images as the cells that are not zero.

    Args:
        num_classes: Classes ``K``.
        rows: Image, true class, predicted class and pixels of each cell, int64 ``(M, 4)``.
        images: ``N``.
    """

    def __init__(self, num_classes: int, rows: Counts | None = None, images: int = 0) -> None:
        self.num_classes = num_classes
        self.images = images
        self._rows = np.empty((0, 4), np.int64) if rows is None else rows
        self._new: list[Counts] = []

    def add(self, confusion: Tensor) -> None:
        """Append the confusion matrix ``(K, K)`` of the next image."""
        cells = confusion.nonzero()
        pixels = confusion[cells[:, 0], cells[:, 1]]
        image = torch.full_like(pixels, self.images)
        self._new.append(torch.stack([image, cells[:, 0], cells[:, 1], pixels], 1).cpu().numpy())
        self.images += 1

    @property
    def rows(self) -> Counts:
        """All cells ``(M, 4)``."""
        if self._new:
            self._rows = np.concatenate([self._rows, *self._new])
            self._new = []
        return self._rows

    @property
    def labels(self) -> Counts:
        """Labelled pixels of each class in each image ``(N, K)``."""
        image, truth, _, pixels = self.rows.T
        count = self.images * self.num_classes
        summed = np.bincount(image * self.num_classes + truth, pixels, minlength=count)
        return summed.reshape(self.images, self.num_classes).astype(np.int64)

    def miou(self, times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Mean IoU in percent, each image counted as often as ``times`` ``(R, N)`` says: ``(R,)``.

        Classes that are neither true nor predicted in these images do not count.
        """
        image, truth, predicted, pixels = self.rows.T
        count = self.num_classes
        hits, true, said = (
            times
            @ np.bincount(
                image * count + one, pixels * counts, minlength=self.images * count
            ).reshape(self.images, count)
            for one, counts in ((truth, truth == predicted), (truth, 1), (predicted, 1))
        )
        union = true + said - hits
        return 100 * (hits / np.maximum(union, 1)).sum(1) / (union > 0).sum(1)

    def save(self, path: Path) -> None:
        """Write a compressed NumPy archive."""
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(
                file, rows=self.rows.astype(np.int32), classes=self.num_classes, images=self.images
            )

    @classmethod
    def load(cls, path: Path) -> "Confusions":
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: If the file is missing or damaged.
        """
        try:
            with path.open("rb") as file, np.load(file) as held:
                rows = held["rows"].astype(np.int64)
                return cls(int(held["classes"]), rows, int(held["images"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            raise CheckpointError(f"'{path}' is missing or damaged ({error})") from error
