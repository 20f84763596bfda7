"""Images without labels, which a teacher can teach on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from tsic.data.check import on_threads
from tsic.data.classes import IGNORE, ClassTable
from tsic.data.dataset import Problem, Sample, SegmentationDataset, Store, Values
from tsic.data.images import Verified, image_names, read_size
from tsic.data.sampling import StepBatches
from tsic.errors import DataError
from tsic.machine import usable_cores


class _NoMasks(Store):
    """Image files of which every pixel is ignored."""

    holds_train_ids = True

    @override
    def mask(self, sample: Sample) -> Values:
        return np.full(read_size(sample.image), IGNORE, np.uint8)


def unlabelled_names(folder: Path) -> list[str]:
    """Paths in a folder of all images below it, in order.

    Raises:
        DataError: If the folder does not exist, cannot be listed or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"data.unlabelled: '{folder}' is no folder; give one with images")
    names = sorted(image_names(folder))
    if not names:
        raise DataError(f"data.unlabelled: '{folder}' holds no image")
    return names


def open_unlabelled(folder: Path, classes: ClassTable) -> SegmentationDataset:
    """Open all images below a folder, in the order of their names.

    Args:
        folder: Where they are.
        classes: Classes of the labelled images beside which they are trained on.

    Returns:
        A dataset whose labels are 255 everywhere.

    Raises:
        DataError: As `unlabelled_names`.
    """
    names = unlabelled_names(folder)
    samples = tuple(Sample(folder / name, folder / name, name) for name in names)
    return SegmentationDataset("unlabelled", folder, "", classes, samples, store=_NoMasks())


def without_copies(
    dataset: SegmentationDataset, *labelled: SegmentationDataset
) -> SegmentationDataset:
    """Leave images out that have labels elsewhere: to train on those of a validation would flatter.

    Args:
        dataset: The images.
        labelled: Where they may lie, too. A copy in another format, or scaled, is not recognised.

    Returns:
        The others; ``unpaired`` lists what was left out.

    Raises:
        DataError: If an image cannot be decoded, or none is left.
    """
    known = {digest for one in labelled for digest in _digests(one)}
    samples = list(zip(dataset.samples, _digests(dataset), strict=True))
    kept = tuple(sample for sample, digest in samples if digest not in known)
    if not kept:
        raise DataError(f"data.unlabelled: every image of '{dataset.root}' is one with a label")
    copies = tuple(
        Problem("duplicate image", sample.image, "has a label in another folder")
        for sample, digest in samples
        if digest in known
    )
    return replace(dataset, samples=kept, unpaired=copies)


def _digests(dataset: SegmentationDataset) -> list[bytes]:
    return [
        image.digest
        for image in on_threads(dataset.verify, range(len(dataset)), usable_cores(), None)
    ]


class Joined:
    """Two datasets that are read as one, the second's samples after the first's.

    Args:
        first: The labelled images.
        second: Those without labels.
    """

    def __init__(self, first: SegmentationDataset, second: SegmentationDataset) -> None:
        self.parts = (first, second)
        self.samples: Sequence[Sample] = (*first.samples, *second.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def verify(self, index: int) -> Verified:
        """Decode an image, as `SegmentationDataset` does."""
        part, index = self._at(index)
        return part.verify(index)

    def read_image(self, index: int, rows: int | None = None) -> Tensor:
        """Read an image, as `SegmentationDataset` does."""
        part, index = self._at(index)
        return part.read_image(index, rows)

    def read_label(self, index: int) -> Tensor:
        """Read a label, as `SegmentationDataset` does."""
        part, index = self._at(index)
        return part.read_label(index)

    def _at(self, index: int) -> tuple[SegmentationDataset, int]:
        first, second = self.parts
        return (first, index) if index < len(first) else (second, index - len(first))


TrainImages: TypeAlias = SegmentationDataset | Joined
"""What is trained on."""


class JoinedBatches(Sampler[list[tuple[int, int]]]):
    """Endless batches of `Joined`: so many images of the first part, then so many of the second.

    Args:
        first: Batches of the first part.
        second: Of the second, whose positions count down from -1, so that no two images of a run
            are augmented alike.
    """

    def __init__(self, first: StepBatches, second: StepBatches) -> None:
        self.first = first
        self.second = second

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for labelled, unlabelled in zip(self.first, self.second, strict=True):
            moved = [(-1 - position, self.first.n + index) for position, index in unlabelled]
            yield labelled + moved
