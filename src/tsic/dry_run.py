"""What a training would cost: a few of its steps on this machine, and nothing written."""

import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from tsic.build import build_module
from tsic.config import RunConfig
from tsic.config_file import RUN, with_values
from tsic.cost import free_mib, peak_mib
from tsic.data.dataset import SegmentationDataset
from tsic.data.hints import StoredHints, cells_of
from tsic.data.readers import open_dataset
from tsic.data.transforms import View
from tsic.device import resolve_precision
from tsic.embed import embed, stored_hints
from tsic.errors import ConfigError, ShapeError
from tsic.graph import EAGER_STEPS
from tsic.run import segmentation_data
from tsic.scores import to_markdown
from tsic.stopping import StopBetweenSteps, ends_step, run_trainer
from tsic.teacher import HintEncoder, Teacher
from tsic.training import CycleModule

STEPS = 6
"""Steps that are timed, after as many that warm up as a third of them."""
_SHARE = 0.9
"""Of the free memory that a batch may take on the CPU, where taking too much is fatal."""


@dataclass(frozen=True)
class Part:
    """One part of the cycle.

    Attributes:
        name: Of the part.
        parameters: All of them.
        trained: Those that train.
        multiply_adds: Of one forward pass of one crop; ``None`` where they were not counted.
    """

    name: str
    parameters: int
    trained: int
    multiply_adds: int | None


@dataclass(frozen=True)
class Rehearsal:
    """What a few steps cost.

    Attributes:
        config: What was tried, precision and batch settled.
        parts: Student, and if there is one the teacher's parts.
        alone_seconds: Of a step before the teacher joins.
        step_seconds: Of a step with everything.
        image_seconds: Of scoring one validation image.
        val_images: Validation images.
        embeddings: Images that are embedded once, before.
        embedding_seconds: Of embedding one.
        memory_mib: Most memory a step took, or on the CPU the process.
    """

    config: RunConfig
    parts: tuple[Part, ...]
    alone_seconds: float
    step_seconds: float
    image_seconds: float
    val_images: int
    embeddings: int
    embedding_seconds: float
    memory_mib: float

    @property
    def total_seconds(self) -> float:
        """Estimated seconds of the whole run."""
        config = self.config
        has_teacher = len(self.parts) > 1
        alone = min(config.teacher.warmup_steps, config.max_steps) if has_teacher else 0
        looks = math.ceil(config.max_steps / config.trainer.val_every) + 1
        validation = looks * self.image_seconds * self.val_images / config.trainer.devices
        steps = alone * self.alone_seconds + (config.max_steps - alone) * self.step_seconds
        return self.embeddings * self.embedding_seconds + steps + validation

    def to_text(self) -> str:
        """Lay it out."""
        config = self.config
        rows = [["part", "parameters", "trained", "G multiply-adds"]]
        for part in self.parts:
            count = part.multiply_adds
            rows.append(
                [
                    part.name,
                    f"{part.parameters:,}",
                    f"{part.trained / max(1, part.parameters):.0%}",
                    "-" if count is None else f"{count / 1e9:.2f}",
                ]
            )
        height, width = config.data.crop
        batch = config.data.batch_size
        images = f"{batch} image{'s' if batch > 1 else ''} of {height}x{width}"
        return "\n".join(
            [
                to_markdown(rows),
                "",
                f"batch          {images}, {config.trainer.precision}, devices: "
                f"{config.trainer.devices}",
                f"memory         {self.memory_mib:,.0f} MiB at the peak",
                f"step           {self.step_seconds:.3f} s, alone {self.alone_seconds:.3f} s",
                f"validation     {self.image_seconds:.3f} s an image, {self.val_images} images",
                *(
                    [
                        f"embedding      {self.embedding_seconds:.3f} s an image, "
                        f"{self.embeddings} images, once"
                    ]
                    if self.embeddings
                    else []
                ),
                f"{config.max_steps:,} steps".ljust(15)
                + f"about {_duration(self.total_seconds)}, validation included",
            ]
        )


def rehearse(config: RunConfig, *, steps: int = STEPS) -> Rehearsal:
    """Train a few steps, without and with the teacher, on one device.

    Args:
        config: The run.
        steps: How many of each are timed.

    Returns:
        What they cost; no file is written.

    Raises:
        ConfigError: If the configuration cannot work.
        DataError: If the data cannot be opened.
    """
    config = _settled(config)
    val_set = _open(config, config.data.val_split)
    full = _module(config, warmup=0)
    # First: training holds an encoder's weights in another precision, which would look like others.
    embeddings, embedding_seconds = _embedding(config, full)
    is_taught = full.cycle.teaches
    step_seconds = _pace(config, full, steps)
    memory = peak_mib(full.device)
    alone_seconds = step_seconds
    if is_taught:
        alone_seconds = _pace(config, _module(config, warmup=sys.maxsize), steps)
    full.eval()
    image = val_set.read(0)[0][None].to(full.device).float() / 255
    with torch.inference_mode():
        image_seconds = min(
            _seconds(lambda: full.answer(image, with_teacher=full.cycle.teacher_learns))
            for _ in range(2)
        )
    return Rehearsal(
        config,
        _parts(config, full),
        alone_seconds,
        step_seconds,
        image_seconds,
        len(val_set),
        embeddings,
        embedding_seconds,
        memory,
    )


def _embedding(config: RunConfig, module: CycleModule) -> tuple[int, float]:
    """Images that are to be embedded before the first step, and seconds of one."""
    train_set, encoder = _open(config, config.data.train_split), module.cycle.encoder
    hints = stored_hints(config, encoder, train_set)
    if hints is None or encoder is None:
        return 0, 0.0
    missing = len(hints.missing())
    image = train_set.read_image(0)
    looks = range(2 if missing else 0)
    return missing, min((_seconds(lambda: embed(encoder, image, config)) for _ in looks), default=0)


class _BlankHints(StoredHints):
    """Hints of the right shape, for steps before any image is embedded."""

    def __init__(self, encoder: HintEncoder) -> None:
        self.channels = encoder.foundation.dim

    @override
    def crop(self, index: int, view: View) -> Tensor:
        return torch.zeros(self.channels, *cells_of(view), dtype=torch.float16)


def largest_batch(config: RunConfig) -> int:
    """Find the largest batch whose steps fit into memory: doubled until it breaks, then halved in.

    It is never larger than the training split. On a GPU it breaks when memory runs out. On the
    CPU, where that would end the process, it is foretold from what the batches before took.

    Raises:
        ConfigError: If a single image per device does not fit.
    """
    per_step = config.trainer.devices * config.trainer.accumulate
    config = _settled(config)
    fits, breaks, least = 0, 0, 1
    peaks: dict[int, float] = {}
    most = max(1, len(_open(config, config.data.train_split)) // per_step)
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
    return fits * per_step


def _fits(config: RunConfig, batch_size: int, peaks: dict[int, float], batch: int) -> bool:
    uses_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    if not uses_gpu and len(peaks) > 1:
        (less, low), (more, high) = sorted(peaks.items())[-2:]
        foretold = high + (batch - more) * (high - low) / (more - less)
        if foretold - high > _SHARE * free_mib():
            return False
    tried = with_values(RUN, config, {"data.batch_size": batch_size})
    try:
        module = _module(tried, warmup=0)
        _pace(tried, module, steps=1)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    peaks[batch] = peak_mib(module.device)
    return True


def _settled(config: RunConfig) -> RunConfig:
    options = config.trainer
    precision = resolve_precision(options.precision, options.accelerator, graph=options.graph)
    return replace(config, trainer=replace(config.trainer, precision=precision))


def _open(config: RunConfig, split: str) -> SegmentationDataset:
    data = config.data
    return open_dataset(data.name, data.root, split, data.classes)


def _module(config: RunConfig, *, warmup: int) -> CycleModule:
    """The run's networks, the teacher joining after some steps; classes are all weighed alike."""
    classes = _open(config, config.data.train_split).classes
    config = replace(config, teacher=replace(config.teacher, warmup_steps=warmup))
    weights = torch.ones(classes.num_classes) if config.objective.class_balance else None
    return build_module(config, classes, weights)


class _Pace(Callback):
    """When each optimiser step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if ends_step(trainer, args[2]):
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())


def _pace(config: RunConfig, module: CycleModule, steps: int) -> float:
    """Median seconds from one step's end to the next, waiting for data included."""
    pace = _Pace()
    warm = 1 + steps // 3 + (EAGER_STEPS if config.trainer.graph else 0)
    one_device = replace(config.trainer, devices=1)
    share = config.data.batch_size // config.trainer.devices
    mine = replace(config, trainer=one_device, data=replace(config.data, batch_size=share))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = Trainer(
        accelerator=config.trainer.accelerator,
        devices=1,
        precision=config.trainer.precision,
        accumulate_grad_batches=config.trainer.accumulate,
        gradient_clip_val=config.optim.clip,
        max_steps=warm + steps,
        max_epochs=-1,
        limit_val_batches=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StopBetweenSteps(), pace],
    )
    encoder = module.cycle.encoder
    hints = None
    if encoder is not None and config.teacher.hint_cache is not None:
        hints = _BlankHints(encoder)
    train_set = _open(mine, mine.data.train_split)
    run_trainer(trainer, module, segmentation_data(mine, train_set, None, hints))
    module.to(trainer.strategy.root_device)
    gaps = [after - before for before, after in zip(pace.ends, pace.ends[1:], strict=False)]
    return sorted(gaps[warm - 1 :])[steps // 2]


def _parts(config: RunConfig, module: CycleModule) -> tuple[Part, ...]:
    """Student, and the teacher's encoder and decoders."""
    height, width = config.data.crop
    image = torch.zeros(1, 3, height, width, device=module.device)
    student, teacher = module.student, module.cycle.teacher
    parts = [_part("student", _multiply_adds(lambda: student(image)), student)]
    if isinstance(teacher, Teacher):
        encoder = teacher.foundation.encoder
        multiple = teacher.foundation.multiple
        padded = [math.ceil(side / multiple) * multiple for side in (height, width)]
        canvas = torch.zeros(1, 3, *padded, device=module.device)
        logits = student(image).logits
        looked = _multiply_adds(lambda: teacher.embed(canvas))
        whole = _multiply_adds(lambda: teacher(image, logits))
        decoders = _part("teacher's decoders", whole - looked, teacher)
        seen = _part("teacher's encoder", looked, encoder)
        parts += [
            seen,
            replace(
                decoders,
                parameters=decoders.parameters - seen.parameters,
                trained=decoders.trained - seen.trained,
            ),
        ]
    elif (looks := module.cycle.encoder) is not None:
        looked = _multiply_adds(lambda: looks(image))
        parts.append(_part("teacher's encoder", looked, looks.foundation.encoder))
    elif teacher is not None:
        parts.append(_part("teacher", _multiply_adds(lambda: teacher(image, None)), teacher))
    return tuple(parts)


def _part(name: str, multiply_adds: int, network: nn.Module) -> Part:
    parameters = list(network.parameters())
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    return Part(name, sum(one.numel() for one in parameters), trained, multiply_adds)


@torch.no_grad()
def _multiply_adds(run: Callable[[], Any]) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return counter.get_total_flops() // 2


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _duration(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), round(seconds % 3600 / 60)
    return f"{hours} h {minutes} min" if hours else f"{max(1, minutes)} min"
