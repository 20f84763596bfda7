"""A few steps of a training on this machine, of which nothing is written."""

import logging
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor
from typing_extensions import override

from tsic.config import RunConfig
from tsic.data.hints import STRIDE, StoredHints
from tsic.data.readers import open_split
from tsic.teacher import HintEncoder
from tsic.training.build import build_module
from tsic.training.graph import EAGER_STEPS
from tsic.training.module import CycleModule
from tsic.training.precision import resolve_precision
from tsic.training.run import segmentation_data, training_images
from tsic.training.stopping import StopBetweenSteps, ends_step, heed_late_signal, run_trainer


def settled(config: RunConfig) -> RunConfig:
    """Settle the precision."""
    precision = resolve_precision(config.trainer)
    return replace(config, trainer=replace(config.trainer, precision=precision))


def untrained(config: RunConfig, *, warmup: int) -> CycleModule:
    """The run's networks, the teacher joining after some steps; classes are all weighed alike."""
    classes = open_split(config.data, config.data.train_split).classes
    config = replace(config, teacher=replace(config.teacher, warmup_steps=warmup))
    weights = torch.ones(classes.num_classes) if config.objective.class_balance else None
    return build_module(config, classes, weights)


class _Ends(Callback):
    """When each optimiser step ended."""

    def __init__(self) -> None:
        self.at: list[float] = []

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if ends_step(trainer, args[2]):
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            self.at.append(time.perf_counter())


def pace(config: RunConfig, module: CycleModule, steps: int) -> float:
    """Median seconds from one step's end to the next, waiting for data included."""
    ends = _Ends()
    warm = 1 + steps // 3 + (EAGER_STEPS if config.trainer.graph else 0)
    one_device = replace(config.trainer, devices=1)
    share = config.data.batch_size // config.trainer.devices
    mine = replace(config, trainer=one_device, data=replace(config.data, batch_size=share))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = Trainer(
        accelerator=config.trainer.accelerator,
        devices=1,
        precision=config.trainer.precision,
        plugins=[LightningEnvironment()],
        accumulate_grad_batches=config.trainer.accumulate,
        max_steps=warm + steps,
        max_epochs=-1,
        limit_val_batches=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StopBetweenSteps(), ends],
    )
    encoder = module.cycle.encoder
    hints = None
    if encoder is not None and config.teacher.hint_cache is not None:
        hints = _BlankHints(encoder, config.teacher.hint_side)
    images = training_images(mine, open_split(mine.data, mine.data.train_split))
    run_trainer(trainer, module, segmentation_data(mine, images, None, hints))
    heed_late_signal(trainer)
    module.to(trainer.strategy.root_device)
    gaps = [after - before for before, after in pairwise(ends.at)]
    return sorted(gaps[warm - 1 :])[steps // 2]


class _BlankHints(StoredHints):
    """Hints of the right shape, for steps before any image is embedded."""

    def __init__(self, encoder: HintEncoder, side: int) -> None:
        cells = -(-side // STRIDE)
        self.blank = torch.zeros(encoder.foundation.dim, cells, cells)

    @override
    def _read(self, index: int, *, mirrored: bool) -> Tensor:
        return self.blank
