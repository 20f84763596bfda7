"""What every training shares: whose folder it is, and the Lightning trainer that runs it."""

import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypeVar

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from tsic.config import LoopConfig
from tsic.config_file import Schema, read_config, save_config
from tsic.errors import ConfigError, TsicError
from tsic.files import alone_in
from tsic.training.callbacks import CsvLog, ShowProgress, ValidateLast
from tsic.training.folder import TrainingFolder
from tsic.training.keep import KeepBest, KeepLast, WholeCheckpoints, read_checkpoint
from tsic.training.precision import resolve_precision
from tsic.training.stopping import StopBetweenSteps, heed_late_signal, run_trainer


class _Trained(Protocol):
    @property
    def trainer(self) -> LoopConfig: ...


C = TypeVar("C", bound=_Trained)
Changes: TypeAlias = Callable[[C, C], Sequence[str]]
"""Tells by two configurations of a training, held and asked for, what would be another's."""

_LAST_WORDS_SECONDS = 5
_LOCK_SECONDS = 10  # the workers of a killed process hold its lock a few seconds longer


def is_main() -> bool:
    """Whether this is the process that the user started; Lightning starts the other ranks."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def resolve(schema: Schema[C], config: C, files: TrainingFolder) -> C:
    """Settle what ``auto`` means; other ranks read what the main one settled.

    Raises:
        ConfigError: If values cannot work that no file or command line has brought here.
    """
    if not isinstance(config, schema.kind):
        raise ConfigError(
            f"a training takes a {schema.kind.__name__}, got a {type(config).__name__}; read YAML "
            "with tsic.config_file.load_config, a pretraining's with read_config(PRETRAIN, path)"
        )
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None and (not is_main() or config.trainer.devices > 1):
        # Where it stands Lightning starts no helpers, for whom the first process would wait; to
        # those that it starts it says where that one listens.
        is_one = not is_main() and rank.isdecimal() and int(rank) < config.trainer.devices
        if not (is_one and "MASTER_PORT" in os.environ and files.config.is_file()):
            raise ConfigError(
                f"LOCAL_RANK is '{rank}' in the environment, as in a process of another training; "
                "unset LOCAL_RANK, and start tsic once: it starts a process for each of "
                "trainer.devices"
            )
        return read_config(schema, files.config)
    schema.require_rules(config)
    precision = config.trainer.precision
    if precision == "auto" and files.config.is_file():
        # A second timing could come out otherwise: a resumed run keeps what it began with.
        precision = read_config(schema, files.config).trainer.precision
    precision = resolve_precision(replace(config.trainer, precision=precision))
    changed: Any = replace(config.trainer, precision=precision)
    return replace(config, trainer=changed)  # type: ignore[type-var]


def refuse_other_run(
    schema: Schema[C], config: C, files: TrainingFolder, *, resume: bool, changes: Changes[C]
) -> None:
    """Never write over a training, nor go on with it in another way than it began.

    Args:
        schema: Kind of configuration.
        config: What is asked for.
        files: Where.
        resume: Whether to go on with what is there.
        changes: What of it makes a training another.

    Raises:
        ConfigError: Saying what differs and what to do.
    """
    if not is_main():
        return
    has_results = any(file.is_file() for file in (files.last, files.best, files.evaluation))
    if not files.config.is_file():
        if has_results:
            raise ConfigError(
                f"'{files.path}' holds a training but no config.yaml, which says how it began; put "
                "that file back, or choose another --name"
            )
        return
    if not resume:
        raise ConfigError(
            f"'{files.path}' holds a run already; go on with --resume auto, or choose "
            "another --name"
        )
    changed = has_results and changes(read_config(schema, files.config), config)
    if changed:
        raise ConfigError(
            f"cannot resume '{files.path}' with another configuration ({'; '.join(changed)}); "
            "use its own config.yaml or choose another --name"
        )


@contextmanager
def begun(
    schema: Schema[C], config: C, files: TrainingFolder, *, resume: bool, changes: Changes[C]
) -> Iterator[None]:
    """Write a training's configuration, and keep other processes out of its folder to its end.

    Args:
        schema: As ``refuse_other_run``, which is asked again: another may have begun meanwhile.
        config: Likewise.
        files: Likewise.
        resume: Likewise.
        changes: Likewise.

    Raises:
        ConfigError: If another process trains there, or as ``refuse_other_run``.
    """
    if not is_main():
        yield
        return
    with alone_in(files.path, "trains", _LOCK_SECONDS):
        refuse_other_run(schema, config, files, resume=resume, changes=changes)
        files.samples.mkdir(exist_ok=True)
        save_config(config, files.config)
        yield


def make_trainer(
    options: LoopConfig,
    files: TrainingFolder,
    label: str,
    *,
    max_steps: int,
    monitor: str,
    callbacks: Sequence[Callback] = (),
    leaves_unused: bool = False,
    resumes: bool = False,
) -> Trainer:
    """Make a trainer that logs, validates, and keeps the last and the best checkpoint.

    Args:
        options: Machine, precision, and how often to look.
        files: Where everything goes.
        label: What the progress bar calls the training.
        max_steps: Optimiser steps.
        monitor: Logged score whose highest value makes the best checkpoint.
        callbacks: More of them.
        leaves_unused: Whether some trainable weights have no part in some steps.
        resumes: Whether the training goes on from its last checkpoint.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    step = 0
    if resumes:
        step, _ = read_checkpoint(files.last, "meta", "delete it to start this run again")
    loggers = [TensorBoardLogger(files.path, name="", version="tensorboard")]
    val_every = min(options.val_every, max_steps)
    several = DDPStrategy(find_unused_parameters=leaves_unused)
    stop = StopBetweenSteps()
    return Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        strategy=several if options.devices > 1 else "auto",
        precision=options.precision,
        accumulate_grad_batches=options.accumulate,
        max_steps=max_steps,
        max_epochs=-1,
        # Not SLURM's: in a job of one task it would train on one device of several.
        plugins=[WholeCheckpoints(), LightningEnvironment()],
        val_check_interval=val_every * options.accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=options.log_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=[*loggers, CsvLog(files.metrics, step)] if is_main() else loggers,
        callbacks=[
            stop,
            ShowProgress(max_steps, label, options.log_every),
            ValidateLast(max_steps),
            *callbacks,
            KeepBest(files.best, monitor),
            KeepLast(
                files.last, stop, every=options.save_every, val_every=val_every, max_steps=max_steps
            ),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(
    trainer: Trainer,
    module: LightningModule,
    data: LightningDataModule,
    files: TrainingFolder,
    *,
    resumes: bool,
) -> None:
    """Train to the end; only the main process returns, with the module on its device.

    Raises:
        KeyboardInterrupt: If the training is stopped, with the signal's number.
        TsicError: If another process of the training has ended, too.
    """
    try:
        run_trainer(trainer, module, data, files.last if resumes else None)
    except Exception as error:
        is_talk = isinstance(error, RuntimeError) and not isinstance(error, TsicError)
        has_lost_another = is_talk and _has_lost_another(trainer)
        for other in _others(trainer):
            other.kill()  # it would wait for this one, holding its device
        if not has_lost_another:
            raise
        raise TsicError("another process of this training failed: see its message above") from error
    trainer.save_checkpoint(files.last)
    heed_late_signal(trainer)
    if not trainer.is_global_zero:
        raise SystemExit(0)  # the other ranks, which Lightning started, have done their part
    module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU


def _others(trainer: Trainer) -> Sequence[subprocess.Popen[bytes]]:
    """The processes that Lightning started for the other devices."""
    return getattr(trainer.strategy.launcher, "procs", ())


def _has_lost_another(trainer: Trainer) -> bool:
    """Whether a process that Lightning started failed; what fails here then is talk with it."""
    others = _others(trainer)
    until = time.monotonic() + _LAST_WORDS_SECONDS
    while others and time.monotonic() < until:
        if any(one.poll() for one in others):
            return True
        time.sleep(0.1)
    return False
