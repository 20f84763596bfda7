"""How batches are loaded in a training that can begin at any step, on every rank (Lightning)."""

import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from tsic.data.sampling import StepBatches
from tsic.streams import tell


class Loader(DataLoader[Any]):
    """A DataLoader that tells, in the main process, of the errors that a worker hands on.

    Attributes:
        waited: Seconds for which whoever iterates has waited for batches.
    """

    waited = 0.0

    def __iter__(self) -> Any:
        told = set()
        batches = super().__iter__()
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - start
            if batch is None:
                return
            if isinstance(batch, Exception):
                raise batch
            for message in batch.get("skipped", ()):
                if message not in told:
                    told.add(message)
                    tell(f"skipped {message}\n")
            yield batch

    def end_workers(self) -> None:
        """End the reading processes."""
        workers = self._iterator
        if workers is not None and self.num_workers:
            workers._shutdown_workers()  # type: ignore[attr-defined]
            self._iterator = None


class StepData(LightningDataModule):
    """Loaders of a training that counts in steps.

    Without a trainer it acts as one rank at step 0. Under several ranks the trainer must be made
    with ``use_distributed_sampler=False``, since each rank already takes its own part.

    Args:
        batch_size: Images per micro-batch on one device.
        seed: Decides the order.
        workers: Reading processes per loader; 0 reads in the main process.
        accumulate: Micro-batches per optimiser step, needed to find the place after a resume.
    """

    def __init__(self, *, batch_size: int, seed: int, workers: int, accumulate: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.accumulate = accumulate
        self._loaders: list[Loader] = []

    @property
    def place(self) -> tuple[int, int]:
        """Rank and number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def batches(self, images: int, size: int, seed: int) -> StepBatches:
        """Draw this rank's batches of so many images, from the trainer's last step on."""
        rank, world_size = self.place
        start = (self.trainer.global_step if self.trainer else 0) * self.accumulate
        return StepBatches(images, size, seed, rank=rank, world_size=world_size, start=start)

    def loader(self, dataset: Dataset[Any], collate: Callable[..., Any], **options: Any) -> Loader:
        """Make a loader, with what all of them share."""
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        loader = Loader(
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
        self._loaders.append(loader)
        return loader

    @override
    def on_exception(self, exception: BaseException) -> None:
        # After a stop in the middle of a validation Python would wait for its workers for ever.
        for loader in self._loaders:
            loader.end_workers()


def _outlive_a_signal(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach workers as well; a stopping step may need them.

    The second SIGTERM ends a worker: it is how PyTorch ends one that hangs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
