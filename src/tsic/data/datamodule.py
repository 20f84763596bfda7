"""From datasets to batches on every rank, resumable at any step (Lightning)."""

from typing import Any, Protocol, TypedDict

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tsic.data.dataset import SegmentationDataset
from tsic.data.sampling import StepBatches, position_seed
from tsic.data.transforms import EvalTransform
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


class Transform(Protocol):
    """Turns what a dataset reads into what a batch holds."""

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 ``(3, H, W)`` and int64 ``(H, W)`` to float32 in [0, 1] and int64."""


Item = tuple[Tensor, Tensor, str]


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
    """

    def __init__(self, dataset: SegmentationDataset, transform: Transform, seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Item | DataError:
        position, index = key
        try:
            image, label = self.dataset.read(index)
        except DataError as error:
            return error
        with torch.random.fork_rng(devices=[]):
            # Unlike torch.manual_seed this leaves the generators of accelerators alone.
            torch.default_generator.manual_seed(position_seed(self.seed, position))
            image, label = self.transform(image, label)
        return image, label, self.dataset.samples[index].name


class EvalDataset(Dataset[Item | DataError]):
    """Samples as they are, addressed by index; unreadable files as in `TrainDataset`.

    Args:
        dataset: What to read.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset
        self.transform = EvalTransform()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item | DataError:
        try:
            image, label = self.transform(*self.dataset.read(index))
        except DataError as error:
            return error
        return image, label, self.dataset.samples[index].name


def collate(items: list[Item | DataError]) -> Batch | DataError:
    """Stack samples of one size into a batch.

    Args:
        items: Image ``(3, H, W)``, label ``(H, W)`` and name of each sample, or what went wrong.

    Returns:
        The batch, or the first error among the items.
    """
    samples = []
    for item in items:
        if isinstance(item, DataError):
            return item
        samples.append(item)
    images, labels, names = zip(*samples, strict=True)
    return {"images": torch.stack(images), "labels": torch.stack(labels), "names": list(names)}


class Loader(DataLoader[Item | DataError]):
    """A DataLoader that raises, in the main process, the error that a worker hands on."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise batch
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

    def train_dataloader(self) -> Loader:
        """Load endless training batches, from the micro-batch after the trainer's last step.

        Returns:
            A loader without a length; each batch is a `Batch`.
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
        return self._loader(
            TrainDataset(self.train, self.transform, self.seed), batch_sampler=batches
        )

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
