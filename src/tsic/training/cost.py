"""What a training costs: seconds of its steps and the most memory it took."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from tsic.data.loader import Loader
from tsic.machine import peak_resident_mib
from tsic.streams import tell

_NOTABLE = 0.15
_NOTABLE_SECONDS = 30.0


class Cost(Callback):
    """Seconds of training steps, waiting for data included, validation left out; over resumes.

    Attributes:
        seconds: Of all parts of the run.
        waiting_seconds: Those in which the step waited for data.
        embedding_seconds: Beside them, those in which an encoder looked at whole images before.
        memory_mib: Most memory of any part: allocated on a GPU, else resident in this process.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waiting_seconds = 0.0
        self.embedding_seconds = 0.0
        self.memory_mib = 0.0
        self._since: float | None = None
        self._waited_before = 0.0
        self._device = torch.device("cpu")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._device = pl_module.device
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._since = time.monotonic()
        # The first batch is fetched before.
        self._waited_before = getattr(trainer.train_dataloader, "waited", 0.0)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        loader = trainer.train_dataloader
        if isinstance(loader, Loader):
            self.waiting_seconds += loader.waited - self._waited_before
            self._waited_before = loader.waited

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(goes_on=False)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        # Not at the end of validation: pictures and checkpoints follow it.
        if self._since is None:
            self._since = time.monotonic()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(goes_on=False)
        share = self.waiting_seconds / max(self.seconds, 1e-9)
        if share > _NOTABLE and self.waiting_seconds > _NOTABLE_SECONDS and trainer.is_global_zero:
            tell(
                f"tsic: warning: {share:.0%} of the training's time went into waiting for images; "
                "raise data.workers, or pack the data (tsic data pack)\n"
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        self._note(goes_on=self._since is not None)
        return {
            "seconds": self.seconds,
            "waiting_seconds": self.waiting_seconds,
            "embedding_seconds": self.embedding_seconds,
            "memory_mib": self.memory_mib,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.memory_mib = state_dict["seconds"], state_dict["memory_mib"]
        self.waiting_seconds = state_dict.get("waiting_seconds", 0.0)
        self.embedding_seconds += state_dict.get("embedding_seconds", 0.0)

    def _note(self, *, goes_on: bool) -> None:
        now = time.monotonic()
        if self._since is not None:
            self.seconds += now - self._since
        self._since = now if goes_on else None
        self.memory_mib = max(self.memory_mib, peak_mib(self._device))


def peak_mib(device: torch.device) -> float:
    """Most memory so far: allocated on a GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_resident_mib() or 0.0
