"""The checkpoints that a training keeps: where it goes on, and its best."""

import glob
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from typing_extensions import override

from tsic.errors import CheckpointError
from tsic.files import replacing
from tsic.streams import tell
from tsic.training.stopping import StopBetweenSteps


def read_checkpoint(
    path: Path, map_location: str | torch.device, way_out: str
) -> tuple[int, dict[str, Tensor]]:
    """Read a checkpoint of a training.

    Args:
        path: The file.
        map_location: Where its tensors go, as for ``torch.load``.
        way_out: What a user does who has a damaged one.

    Returns:
        The optimiser step at which it was written, and the weights.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        held = torch.load(path, map_location=map_location, weights_only=False)
        return int(held["global_step"]), held["state_dict"]
    except (
        *(OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError),
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}); {way_out}") from error


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside the one before, which it replaces once it is on the disk.

    Lightning writes to the system's temporary folder; where that is another disk, it then copies
    over the one before, and a full disk or a loss of power leaves neither.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
            left.unlink(missing_ok=True)  # by a process that was killed: one alone trains here
        held = io.BytesIO()  # torch.save would hide why a write failed
        torch.save(checkpoint, held)
        with replacing(path) as part, part.open("wb") as stream:
            stream.write(held.getbuffer())
            stream.flush()
            os.fsync(stream.fileno())


class KeepBest(ModelCheckpoint):
    """Keep the checkpoint of the highest score, also where a training goes on in another place.

    Args:
        path: The file.
        monitor: Logged score.
    """

    def __init__(self, path: Path, monitor: str) -> None:
        super().__init__(
            path.parent, path.stem, monitor=monitor, mode="max", enable_version_counter=False
        )

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning forgets the best score if the folder has moved.
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        moved = {
            key: here(state_dict[key])
            for key in ("best_model_path", "kth_best_model_path", "last_model_path")
        }
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        if best and not any(Path(path).is_file() for path in best):
            best = {}  # else no later one that scores less would be kept
            if rank_zero_only.rank == 0:
                tell(
                    f"tsic: warning: '{moved['best_model_path']}', which held the best weights, is "
                    "gone: the best step from here on counts, or the last if none is left; put the "
                    "file back to compare with it\n"
                )
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath}
        )


class KeepLast(Checkpoint):
    """Write where a training goes on.

    A step that is validated is written after that: a run that goes on does not validate it again,
    so the checkpoint has to know the best score. Stands behind ``KeepBest`` for that reason. A run
    that is told to stop writes the step it stops after.

    Args:
        path: The file.
        stop: Knows where it stops.
        every: Optimiser steps between two writes.
        val_every: Optimiser steps between validations.
        max_steps: Optimiser steps of the run; the last is validated, too.
    """

    def __init__(
        self, path: Path, stop: StopBetweenSteps, *, every: int, val_every: int, max_steps: int
    ) -> None:
        self.path = path
        self.stop = stop
        self.every = every
        self.val_every = val_every
        self.max_steps = max_steps
        self._written = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._written = trainer.global_step

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step % self.val_every and step != self.max_steps:
            self._write(trainer, self.every)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, self.every)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self.stop.is_between_steps:
            self._write(trainer, 1)

    def _write(self, trainer: Trainer, every: int) -> None:
        step = trainer.global_step
        if step % every == 0 and step != self._written:
            self._written = step
            trainer.save_checkpoint(self.path)
