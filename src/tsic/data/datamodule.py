"""From datasets to batches on every rank, resumable at any step (Lightning)."""

from typing_extensions import override

from tsic.data.batches import (
    Batch,
    EvalDataset,
    OnError,
    RawBatch,
    TrainDataset,
    Transform,
    collate,
    to_batch,
)
from tsic.data.dataset import SegmentationDataset
from tsic.data.hints import StoredHints
from tsic.data.loader import Loader, StepData
from tsic.data.sampling import StepBatches
from tsic.data.unlabelled import Joined, JoinedBatches, TrainImages


class SegmentationData(StepData):
    """Training and validation batches.

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
        super().__init__(batch_size=batch_size, seed=seed, workers=workers, accumulate=accumulate)
        self.train = train
        self.val = val
        self.transform = transform
        self.photometric = photometric
        self.on_error = on_error
        self.hints = hints
        self.unlabelled = unlabelled

    def train_dataloader(self) -> Loader:
        """Load endless training batches, from the micro-batch after the trainer's last step.

        Returns:
            A loader without a length; each batch is a `RawBatch`.
        """
        batches: StepBatches | JoinedBatches
        if isinstance(self.train, Joined):
            labelled, unlabelled = map(len, self.train.parts)
            batches = JoinedBatches(
                self.batches(labelled, self.batch_size - self.unlabelled, self.seed),
                self.batches(unlabelled, self.unlabelled, -1 - self.seed),  # an order of its own
            )
        else:
            batches = self.batches(len(self.train), self.batch_size, self.seed)
        dataset = TrainDataset(
            self.train,
            self.transform,
            self.seed,
            photometric=self.photometric,
            on_error=self.on_error,
            hints=self.hints,
        )
        return self.loader(dataset, collate, batch_sampler=batches)

    def val_dataloader(self) -> Loader | list[Loader]:
        """Load this rank's share of the validation images, one at a time, at their own size.

        Returns:
            A loader of every ``world_size``-th image; no loader when there is no validation split.
        """
        if self.val is None:
            return []
        rank, world_size = self.place
        own = range(rank, len(self.val), world_size)
        return self.loader(EvalDataset(self.val), collate, batch_size=1, sampler=own)

    @override
    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        return to_batch(batch)
