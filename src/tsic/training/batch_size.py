"""The largest batch that fits into memory."""

import gc
import math

import torch

from tsic.config import RunConfig
from tsic.config_file import RUN, with_values
from tsic.data.readers import open_split
from tsic.errors import ConfigError, ShapeError
from tsic.machine import available_mib
from tsic.training.cost import peak_mib
from tsic.training.pace import pace, settled, untrained

_SHARE = 0.9
"""Of the free memory that a batch may take on the CPU, where taking too much is fatal."""


def largest_batch(config: RunConfig) -> int:
    """Find the largest batch whose steps fit into memory: doubled until it breaks, then halved in.

    It is never larger than the training split. On a GPU it breaks when memory runs out. On the
    CPU, where that would end the process, it is foretold from what the batches before took.

    Raises:
        ConfigError: If a single image per device does not fit.
    """
    per_step = config.trainer.devices * config.trainer.accumulate
    # It would compile anew for each size, and a single image has no share without labels.
    aside = {"trainer.compile": False, "data.unlabelled": None}
    config = with_values(RUN, settled(config), aside)
    fits, breaks, least = 0, 0, 1
    peaks: dict[int, float] = {}
    most = max(1, len(open_split(config.data, config.data.train_split)) // per_step)
    while fits < most and (not breaks or breaks - fits > max(1, fits // 8)):
        batch = (fits + breaks) // 2 if breaks else min(most, max(1, 2 * fits))
        try:
            if _fits(config, batch * per_step, peaks, batch):
                fits = batch
            else:
                breaks = batch
        except (ConfigError, ShapeError):
            if batch > 1 or most == 1:
                raise
            fits, least = 1, 2  # some networks cannot normalise a single image
        if breaks == least:
            raise ConfigError(
                f"not even {least} image{'s' * (least > 1)} per device fit into memory: choose a "
                "smaller data.crop or teacher, or set teacher.recompute_encoder: true"
            )
    _forget()
    return fits * per_step


def _forget() -> None:
    """Free the memory of the try before, whose trainer and networks hold each other."""
    gc.collect()
    torch.cuda.empty_cache()


def _fits(config: RunConfig, batch_size: int, peaks: dict[int, float], batch: int) -> bool:
    _forget()
    uses_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    if not uses_gpu and len(peaks) > 1:
        (less, low), (more, high) = sorted(peaks.items())[-2:]
        foretold = high + (batch - more) * (high - low) / (more - less)
        if foretold - high > _SHARE * (available_mib() or math.inf):
            return False
    tried = with_values(RUN, config, {"data.batch_size": batch_size})
    try:
        module = untrained(tried, warmup=0)
        pace(tried, module, steps=1)
    except torch.OutOfMemoryError:
        return False
    peaks[batch] = peak_mib(module.device)
    return True
