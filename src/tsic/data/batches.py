"""One sample, and a batch of samples."""

from typing import Literal, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tsic.data.colours import distort_colours, draw_colours
from tsic.data.dataset import SegmentationDataset
from tsic.data.hints import StoredHints
from tsic.data.images import size_mismatch
from tsic.data.sampling import position_seed
from tsic.data.transforms import ReadRows, TrainTransform, seeded
from tsic.data.unlabelled import Joined, TrainImages
from tsic.errors import DataError


class Batch(TypedDict):
    """What the networks are given.

    Args:
        images: RGB float32 ``(B, 3, H, W)`` in ``[0, 1]``.
        labels: int64 ``(B, H, W)``, train ids or 255.
        names: Path of each image relative to its dataset's root.
        hints: What an encoder saw of the images before, ``(B, D, h, w)``; ``None`` if nothing.
    """

    images: Tensor
    labels: Tensor
    names: list[str]
    hints: Tensor | None


class RawBatch(TypedDict):
    """What a loader gives: bytes, less than a fifth of what the networks are given.

    Args:
        images: RGB uint8 ``(B, 3, H, W)``.
        labels: uint8 ``(B, H, W)``, train ids or 255.
        colours: How each image's colours are varied, ``(B, 5)``; ``None`` where they are not.
        names: Path of each image relative to its dataset's root.
        skipped: What was wrong with files that others stand in for.
        hints: As in `Batch`, float16.
    """

    images: Tensor
    labels: Tensor
    colours: Tensor | None
    names: list[str]
    skipped: list[str]
    hints: Tensor | None


class Item(NamedTuple):
    """One sample of a `RawBatch`."""

    image: Tensor
    label: Tensor
    colours: Tensor | None
    name: str
    skipped: tuple[str, ...] = ()
    hint: Tensor | None = None


OnError = Literal["stop", "skip"]
SKIPS = 10
"""How many files in a row may be skipped."""


class TrainDataset(Dataset[Item | DataError]):
    """Augmented samples, addressed by ``(position, index)``.

    Each sample is augmented from a seed of its own, on a copy of torch's CPU generator, so that
    neither the number of workers nor what else draws random numbers changes it. An unreadable
    file is handed on as a value: torch would bury its message under a worker's traceback, and
    `Loader` raises it in the main process instead.

    Args:
        dataset: What to read.
        transform: Random augmentation, fed by torch's global CPU generator.
        seed: The run's seed.
        photometric: Whether colours vary.
        on_error: ``stop`` at an unreadable file, or ``skip`` it: the next readable one in the
            dataset stands in for it, with the same random numbers.
        hints: What an encoder saw of the images before.
    """

    def __init__(
        self,
        dataset: TrainImages,
        transform: TrainTransform,
        seed: int,
        *,
        photometric: bool = True,
        on_error: OnError = "stop",
        hints: StoredHints | None = None,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.photometric = photometric
        self.hints = hints
        self.all = range(len(dataset))
        self.tries = 1 if on_error == "stop" else 1 + SKIPS

    def __getitem__(self, key: tuple[int, int]) -> Item | DataError:
        position, index = key
        errors: list[DataError] = []
        part = self.dataset.part_of(index) if isinstance(self.dataset, Joined) else self.all
        for place in range(min(self.tries, len(part))):
            near = part[(index - part.start + place) % len(part)]
            try:
                item = self._augmented(position, near)
                return item._replace(skipped=tuple(map(str, errors)))
            except DataError as error:
                errors.append(error)
        return errors[0]

    def _augmented(self, position: int, index: int) -> Item:
        whole = self.dataset.read_label(index)
        with seeded(position_seed(self.seed, position)):
            view = self.transform.draw(whole)
        image, label = self.transform.cut(self._reader(index, whole.shape), whole, view)
        hint = None if self.hints is None else self.hints.crop(index, view)
        colours = None
        if self.photometric:
            with seeded(position_seed(self.seed, position, "colours")):
                colours = draw_colours()
        return Item(image, label, colours, self.dataset.samples[index].name, hint=hint)

    def _reader(self, index: int, size: torch.Size) -> ReadRows:
        """Read rows of an image once it is known which are needed."""

        def read(rows: int) -> Tensor:
            image = self.dataset.read_image(index, rows)
            # Where fewer rows are decoded, the image's own height is not known.
            if image.shape[1] not in {rows, size[0]} or image.shape[2] != size[1]:
                name = self.dataset.samples[index].image
                raise DataError(f"{name}: {size_mismatch(image.shape[1:], size)}")
            return image

        return read


class EvalDataset(Dataset[Item | DataError]):
    """Samples as they are, addressed by index; unreadable files as in `TrainDataset`.

    Args:
        dataset: What to read.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item | DataError:
        try:
            image, label = self.dataset.read(index)
        except DataError as error:
            return error
        return Item(image, label, None, self.dataset.samples[index].name)


def collate(items: list[Item | DataError]) -> RawBatch | DataError:
    """Stack samples of one size into a batch.

    Args:
        items: Samples, or what went wrong.

    Returns:
        The batch, or the first error among the items.
    """
    samples = []
    for item in items:
        if isinstance(item, DataError):
            return item
        samples.append(item)
    colours = [item.colours for item in samples if item.colours is not None]
    hints = [item.hint for item in samples if item.hint is not None]
    return {
        "images": torch.stack([item.image for item in samples]),
        "labels": torch.stack([item.label for item in samples]),
        "colours": torch.stack(colours) if colours else None,
        "names": [item.name for item in samples],
        "skipped": [message for item in samples for message in item.skipped],
        "hints": torch.stack(hints) if hints else None,
    }


def to_batch(raw: RawBatch) -> Batch:
    """Turn bytes into what the networks are given, on the device where the bytes lie."""
    images = raw["images"].float() / 255
    if raw["colours"] is not None:
        images = distort_colours(images, raw["colours"])
    hints = None if raw["hints"] is None else raw["hints"].float()
    labels = raw["labels"].long()
    return {"images": images, "labels": labels, "names": raw["names"], "hints": hints}
