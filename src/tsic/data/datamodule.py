"""From datasets to batches on every rank, resumable at any step (Lightning)."""

import sys
from typing import Any, Literal, NamedTuple, Protocol, TypedDict

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from tsic.data.dataset import SegmentationDataset
from tsic.data.images import size_mismatch
from tsic.data.sampling import StepBatches, position_seed
from tsic.data.transforms import ReadRows, distort_colours, draw_colour_changes
from tsic.errors import ConfigError, DataError


class Batch(TypedDict):
    """What the networks are given.

    Args:
        images: RGB float32 ``(B, 3, H, W)`` in ``[0, 1]``.
        labels: int64 ``(B, H, W)``, train ids or 255.
        names: Path of each image relative to its dataset's root.
    """

    images: Tensor
    labels: Tensor
    names: list[str]


class RawBatch(TypedDict):
    """What a loader gives: bytes, an eighth of what the networks are given.

    Args:
        images: RGB uint8 ``(B, 3, H, W)``.
        labels: uint8 ``(B, H, W)``, train ids or 255.
        colours: How each image's colours change, ``(B, 5)``; ``None`` where they do not.
        names: Path of each image relative to its dataset's root.
        skipped: What was wrong with files that others stand in for.
    """

    images: Tensor
    labels: Tensor
    colours: Tensor | None
    names: list[str]
    skipped: list[str]


class Transform(Protocol):
    """Turns what a dataset reads into what a batch holds."""

    def __call__(self, image: ReadRows, label: Tensor) -> tuple[Tensor, Tensor]:
        """Map an image and its uint8 label ``(H, W)`` to both, uint8, of the crop's size."""


class Item(NamedTuple):
    """One sample of a `RawBatch`."""

    image: Tensor
    label: Tensor
    colours: Tensor | None
    name: str
    skipped: tuple[str, ...] = ()


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
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        transform: Transform,
        seed: int,
        *,
        photometric: bool,
        on_error: OnError = "stop",
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.photometric = photometric
        self.tries = 1 if on_error == "stop" else min(1 + SKIPS, len(dataset))

    def __getitem__(self, key: tuple[int, int]) -> Item | DataError:
        position, index = key
        errors: list[DataError] = []
        for near in range(index, index + self.tries):
            try:
                item = self._augmented(position, near % len(self.dataset))
                return item._replace(skipped=tuple(map(str, errors)))
            except DataError as error:
                errors.append(error)
        return errors[0]

    def _augmented(self, position: int, index: int) -> Item:
        whole = self.dataset.read_label(index)
        with torch.random.fork_rng(devices=[]):
            # Unlike torch.manual_seed this leaves the generators of accelerators alone.
            torch.default_generator.manual_seed(position_seed(self.seed, position))
            image, label = self.transform(self._reader(index, whole.shape), whole)
            colours = draw_colour_changes() if self.photometric else None
        return Item(image, label, colours, self.dataset.samples[index].name)

    def _reader(self, index: int, size: torch.Size) -> ReadRows:
        """Read rows of an image once it is known which are needed."""

        def read(rows: int) -> Tensor:
            image = self.dataset.read_image(index, rows)
            if image.shape[1] < rows or image.shape[2] != size[1]:
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
    return {
        "images": torch.stack([item.image for item in samples]),
        "labels": torch.stack([item.label for item in samples]),
        "colours": torch.stack(colours) if colours else None,
        "names": [item.name for item in samples],
        "skipped": [message for item in samples for message in item.skipped],
    }


def to_batch(raw: RawBatch) -> Batch:
    """Turn bytes into what the networks are given, on the device where the bytes lie."""
    images = raw["images"].float() / 255
    if raw["colours"] is not None:
        images = distort_colours(images, raw["colours"])
    return {"images": images, "labels": raw["labels"].long(), "names": raw["names"]}


class Loader(DataLoader[Item | DataError]):
    """A DataLoader that tells, in the main process, of the errors that a worker hands on."""

    def __iter__(self) -> Any:
        told = set()
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise batch
            for message in batch["skipped"]:
                if message not in told:
                    told.add(message)
                    sys.stderr.write(f"skipped {message}\n")
            yield batch


class SegmentationData(LightningDataModule):
    """Training and validation batches.

    Without a trainer it acts as one rank at step 0. Under several ranks the trainer must be made
    with ``use_distributed_sampler=False``, since each rank already takes its own part.

    Args:
        train: Split to train on.
        val: Split to validate on; none leaves validation out.
        transform: Random augmentation of the training samples.
        batch_size: Images per micro-batch on one device.
        seed: Decides the order and the augmentation.
        workers: Reading processes per loader; 0 reads in the main process.
        accumulate: Micro-batches per optimiser step, needed to find the place after a resume.
        photometric: Whether the colours of training images vary.
        on_error: What an unreadable training file does, as in `TrainDataset`.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        train: SegmentationDataset,
        val: SegmentationDataset | None,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        accumulate: int = 1,
        photometric: bool = True,
        on_error: OnError = "stop",
    ) -> None:
        super().__init__()
        for key, number, least in (
            ("batch_size", batch_size, 1),
            ("workers", workers, 0),
            ("accumulate", accumulate, 1),
        ):
            if number < least:
                raise ConfigError(f"{key} must be at least {least}, got {number}")
        self.train = train
        self.val = val
        self.transform = transform
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.accumulate = accumulate
        self.photometric = photometric
        self.on_error = on_error

    def train_dataloader(self) -> Loader:
        """Load endless training batches, from the micro-batch after the trainer's last step.

        Returns:
            A loader without a length; each batch is a `RawBatch`.
        """
        step = self.trainer.global_step if self.trainer else 0
        rank, world_size = self._place()
        batches = StepBatches(
            len(self.train),
            self.batch_size,
            self.seed,
            rank=rank,
            world_size=world_size,
            start=step * self.accumulate,
        )
        dataset = TrainDataset(
            self.train,
            self.transform,
            self.seed,
            photometric=self.photometric,
            on_error=self.on_error,
        )
        return self._loader(dataset, batch_sampler=batches)

    def val_dataloader(self) -> Loader | list[Loader]:
        """Load this rank's share of the validation images, one at a time, at their own size.

        Returns:
            A loader of every ``world_size``-th image; no loader when there is no validation split.
        """
        if self.val is None:
            return []
        rank, world_size = self._place()
        return self._loader(
            EvalDataset(self.val), batch_size=1, sampler=range(rank, len(self.val), world_size)
        )

    @override
    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        return to_batch(batch)

    def _place(self) -> tuple[int, int]:
        """Rank and number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, dataset: Dataset[Item | DataError], **options: Any) -> Loader:
        """Loader with what both kinds share."""
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return Loader(
            dataset,
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=on_cuda,
            persistent_workers=self.workers > 0,
            # Without its own generator a loader draws from the global one, which shifts
            # every later random number of a resumed run.
            generator=torch.Generator().manual_seed(self.seed),
            **options,
        )
