"""From datasets to batches on every rank, resumable at any step (Lightning)."""

import signal
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset
from typing_extensions import override

from tsic.data.batches import (
    Batch,
    EvalDataset,
    Item,
    Loader,
    OnError,
    RawBatch,
    TrainDataset,
    Transform,
    collate,
    to_batch,
)
from tsic.data.dataset import SegmentationDataset
from tsic.data.hints import StoredHints
from tsic.data.sampling import StepBatches
from tsic.data.unlabelled import Joined, JoinedBatches, TrainImages
from tsic.errors import ConfigError, DataError


class SegmentationData(LightningDataModule):
    """Training and validation batches.

    Without a trainer it acts as one rank at step 0. Under several ranks the trainer must be made
    with ``use_distributed_sampler=False``, since each rank already takes its own part.

    Args:
        train: What to train on.
        val: Split to validate on; none leaves validation out.
        transform: Random augmentation of the training samples.
        batch_size: Images per micro-batch on one device.
        seed: Decides the order and the augmentation.
        workers: Reading processes per loader; 0 reads in the main process.
        accumulate: Micro-batches per optimiser step, needed to find the place after a resume.
        photometric: Whether the colours of training images vary.
        on_error: What an unreadable training file does, as in `TrainDataset`.
        hints: What an encoder saw of the training images before.
        unlabelled: How many images of a micro-batch come from the second part of `Joined`.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        train: TrainImages,
        val: SegmentationDataset | None,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        accumulate: int = 1,
        photometric: bool = True,
        on_error: OnError = "stop",
        hints: StoredHints | None = None,
        unlabelled: int = 0,
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
        self.hints = hints
        self.unlabelled = unlabelled

    def train_dataloader(self) -> Loader:
        """Load endless training batches, from the micro-batch after the trainer's last step.

        Returns:
            A loader without a length; each batch is a `RawBatch`.
        """
        step = self.trainer.global_step if self.trainer else 0
        rank, world_size = self._place()

        def batches_of(images: int, size: int, seed: int = self.seed) -> StepBatches:
            return StepBatches(
                images,
                size,
                seed,
                rank=rank,
                world_size=world_size,
                start=step * self.accumulate,
            )

        batches: StepBatches | JoinedBatches
        if isinstance(self.train, Joined):
            labelled, unlabelled = map(len, self.train.parts)
            batches = JoinedBatches(
                batches_of(labelled, self.batch_size - self.unlabelled),
                batches_of(unlabelled, self.unlabelled, -1 - self.seed),  # in an order of its own
            )
        else:
            batches = batches_of(len(self.train), self.batch_size)
        dataset = TrainDataset(
            self.train,
            self.transform,
            self.seed,
            photometric=self.photometric,
            on_error=self.on_error,
            hints=self.hints,
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
            worker_init_fn=_outlive_a_signal,
            pin_memory=on_cuda,
            persistent_workers=self.workers > 0,
            # Without its own generator a loader draws from the global one, which shifts
            # every later random number of a resumed run.
            generator=torch.Generator().manual_seed(self.seed),
            **options,
        )


def _outlive_a_signal(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach workers as well; a stopping step may need them.

    The second SIGTERM ends a worker: it is how PyTorch ends one that hangs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
