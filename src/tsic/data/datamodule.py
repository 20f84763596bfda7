"""From datasets to batches on every rank, resumable at any step (Lightning)."""

from typing_extensions import override

from tsic.data.batches import Batch, EvalDataset, RawBatch, TrainDataset, collate, to_batch
from tsic.data.dataset import SegmentationDataset
from tsic.data.loader import Loader, StepData
from tsic.data.sampling import StepBatches
from tsic.data.unlabelled import Joined, JoinedBatches


class SegmentationData(StepData):
    """Training and validation batches.

    Args:
        train: What to train on, and how it is augmented; its seed decides the order, too.
        val: Split to validate on; none leaves validation out.
        batch_size: Images per micro-batch on one device.
        workers: Reading processes per loader; 0 reads in the main process.
        accumulate: Micro-batches per optimiser step, needed to find the place after a resume.
        unlabelled: How many images of a micro-batch come from the second part of `Joined`.
    """

    def __init__(
        self,
        train: TrainDataset,
        val: SegmentationDataset | None,
        *,
        batch_size: int,
        workers: int = 0,
        accumulate: int = 1,
        unlabelled: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, seed=train.seed, workers=workers, accumulate=accumulate
        )
        self.train = train
        self.val = val
        self.unlabelled = unlabelled

    def train_dataloader(self) -> Loader:
        """Load endless training batches, from the micro-batch after the trainer's last step.

        Returns:
            A loader without a length; each batch is a `RawBatch`.
        """
        batches: StepBatches | JoinedBatches
        images = self.train.dataset
        if isinstance(images, Joined):
            labelled, unlabelled = map(len, images.parts)
            batches = JoinedBatches(
                self.batches(labelled, self.batch_size - self.unlabelled, self.seed),
                self.batches(unlabelled, self.unlabelled, -1 - self.seed),  # an order of its own
            )
        else:
            batches = self.batches(len(images), self.batch_size, self.seed)
        return self.loader(self.train, collate, batch_sampler=batches)

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
