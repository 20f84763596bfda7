"""Images without labels, which a teacher can teach on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from tsic.data.check import on_threads
from tsic.data.classes import UNLABELLED, ClassTable
from tsic.data.dataset import Sample, SegmentationDataset, Store, Values
from tsic.data.images import Verified, image_names, read_size
from tsic.data.packed import PackedStore
from tsic.data.sampling import StepBatches
from tsic.errors import DataError
from tsic.progress import OnProgress


class _NoMasks(Store):
    """Image files of which no pixel has a label."""

    holds_train_ids = True

    @override
    def mask(self, sample: Sample) -> Values:
        return np.full(read_size(sample.image), UNLABELLED, np.uint8)


def unlabelled_names(folder: Path) -> list[str]:
    """Paths in a folder of all images below it, in order.

    Raises:
        DataError: If the folder does not exist, cannot be listed or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"data.unlabelled: '{folder}' is no folder; give one with images")
    names = sorted(image_names(folder))
    if not names:
        raise DataError(f"data.unlabelled: '{folder}' holds no image; give one with images")
    return names


def open_unlabelled(folder: Path, classes: ClassTable) -> SegmentationDataset:
    """Open all images below a folder, in the order of their names.

    Args:
        folder: Where they are.
        classes: Classes of the labelled images beside which they are trained on.

    Returns:
        A dataset whose labels are 254 everywhere.

    Raises:
        DataError: As `unlabelled_names`.
    """
    names = unlabelled_names(folder)
    samples = tuple(Sample(folder / name, folder / name, name) for name in names)
    return SegmentationDataset("unlabelled", folder, "", classes, samples, store=_NoMasks())


def without_copies(
    dataset: SegmentationDataset,
    *labelled: SegmentationDataset,
    on_progress: OnProgress | None = None,
) -> SegmentationDataset:
    """Leave images out that have labels elsewhere: to train on those of a validation would flatter.

    Args:
        dataset: The images.
        labelled: Where they may lie, too. A scaled copy is not recognised, nor one in another
            format unless all its pixels are equal and a dataset is packed.
        on_progress: Called with (images done, images in all).

    Returns:
        The others.

    Raises:
        DataError: If an image cannot be decoded, one is a mask, or none is left.
    """
    masks = {sample.mask.resolve() for one in labelled for sample in one.samples}
    for sample in dataset.samples:
        if sample.image.resolve() in masks:
            raise DataError(
                f"data.unlabelled: '{dataset.root}' holds masks, first {sample.name}; name a "
                "folder of images alone"
            )
    # A pack tells its images by other bytes than a file does.
    of_pixels = any(isinstance(one.store, PackedStore) for one in labelled)
    known = {digest for one in labelled for digest in _digests(one, None, of_pixels=of_pixels)}
    digests = _digests(dataset, on_progress, of_pixels=of_pixels)
    kept = [
        sample
        for sample, digest in zip(dataset.samples, digests, strict=True)
        if digest not in known
    ]
    if not kept:
        raise DataError(f"data.unlabelled: every image of '{dataset.root}' is one with a label")
    return replace(dataset, samples=tuple(kept))


def _digests(
    dataset: SegmentationDataset, on_progress: OnProgress | None, *, of_pixels: bool
) -> list[bytes]:
    """What tells the images of a dataset from others; of all their pixels, or as a file does."""

    def look(index: int) -> bytes:
        if not of_pixels:
            return dataset.verify(index).digest
        pixels = dataset.read_image(index)
        return blake2b(pixels.numpy().tobytes(), key=str(tuple(pixels.shape)).encode()).digest()

    return list(on_threads(look, range(len(dataset)), on_progress))


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

    def part_of(self, index: int) -> range:
        """Indices of the part that a sample belongs to."""
        first = len(self.parts[0])
        return range(first) if index < first else range(first, len(self))

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
