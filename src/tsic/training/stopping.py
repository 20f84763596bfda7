"""Ending a training before its last step."""

import os
import signal
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2


class StopBetweenSteps(Callback):
    """Let Ctrl-C and SIGTERM stop a training between two steps, or between two validated batches.

    An interrupt inside the backward pass would stay in PyTorch's engine with all that the pass has
    saved, and the process could crash when it exits. After the first signal Ctrl-C stops at once.
    Several processes are stopped by Lightning, which has to end them together.

    Attributes:
        asked: The signal that came.
        is_between_steps: Whether the training has stopped where it can go on.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.is_between_steps = False
        self._before: dict[signal.Signals, Any] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 or threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's background job
                self._before[number] = signal.signal(number, self._ask)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.asked is not None and (batch_idx == 0 or ends_step(trainer, batch_idx - 1)):
            self.is_between_steps = True
            # Lightning has counted this batch, which is not trained on.
            progress = trainer.fit_loop.epoch_loop.batch_progress
            for count in (progress.current, progress.total):
                count.ready -= 1
            self.raise_if_asked()

    @override
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        self.raise_if_asked()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or signal.Signals(number)
        if signal.SIGINT not in self._before:
            return
        # SIGTERM goes on waiting: `tsic compare` sends it to runs that had the same Ctrl-C.
        signal.signal(signal.SIGINT, self._before.pop(signal.SIGINT))
        # Not ``sys.stderr``, which cannot be written to while it is being written to.
        with suppress(OSError):  # a pipe's reader may have had the same Ctrl-C
            os.write(_STDERR, b"\ntsic: stopping after this step; Ctrl-C stops at once\n")

    def raise_if_asked(self) -> None:
        """Raise KeyboardInterrupt with the signal's number if one came."""
        if self.asked is not None:
            raise KeyboardInterrupt(self.asked)

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the optimiser takes its step after this batch."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def run_trainer(
    trainer: Trainer,
    module: LightningModule,
    data: LightningDataModule,
    checkpoint: Path | None = None,
) -> None:
    """Train, without Lightning's warnings and with a stop told as such.

    Args:
        trainer: With ``StopBetweenSteps`` among its callbacks.
        module: What to train.
        data: On what.
        checkpoint: Where to go on.

    Raises:
        KeyboardInterrupt: If the training is stopped before its end, with the signal's number.
    """
    handler = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=False)
        except SystemExit as stop:  # Lightning's answer to both signals, with no telling exit code
            if isinstance(stop, SIGTERMException):
                raise KeyboardInterrupt(signal.SIGTERM) from stop
            if isinstance(stop.__context__, KeyboardInterrupt):
                signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
                raise stop.__context__ from None
            raise


def heed_late_signal(trainer: Trainer) -> None:
    """Raise KeyboardInterrupt if a signal came in the last step, after which no other asks."""
    for callback in trainer.callbacks:
        if isinstance(callback, StopBetweenSteps):
            callback.raise_if_asked()
