"""What a training would cost: a few of its steps on this machine, and nothing written."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tsic.config import RunConfig
from tsic.data.readers import open_split
from tsic.deploy.benchmark.turns import multiply_adds_of
from tsic.markdown import to_markdown
from tsic.teacher import Teacher
from tsic.training.cost import peak_mib
from tsic.training.embed import embed, product_kind, stored_hints
from tsic.training.module import CycleModule
from tsic.training.pace import pace, settled, untrained
from tsic.training.run import training_images

STEPS = 6
"""Steps that are timed, after as many that warm up as a third of them."""


@dataclass(frozen=True)
class Part:
    """One part of the cycle.

    Attributes:
        name: Of the part.
        parameters: All of them.
        trained: Those that train.
        multiply_adds: Of one forward pass of one crop.
    """

    name: str
    parameters: int
    trained: int
    multiply_adds: int


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
            rows.append(
                [
                    part.name,
                    f"{part.parameters:,}",
                    f"{part.trained / max(1, part.parameters):.0%}",
                    f"{part.multiply_adds / 1e9:.2f}",
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
    config = settled(config)
    val_set = open_split(config.data, config.data.val_split)
    full = untrained(config, warmup=0)
    # First: training holds an encoder's weights in another precision, which would look like others.
    embeddings, embedding_seconds = _embedding(config, full)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    is_taught = full.cycle.teaches and config.distill.method == "none"
    step_seconds = pace(config, full, steps)
    memory = peak_mib(full.device)
    alone_seconds = step_seconds
    if is_taught:
        alone_seconds = pace(config, untrained(config, warmup=sys.maxsize), steps)
    full.eval()
    image = val_set.read(0)[0][None].to(full.device).float() / 255
    kind = product_kind(config)
    half = torch.autocast(full.device.type, kind, enabled=kind != torch.float32)

    def score() -> None:  # as validation does
        for rows, columns in full.parts(image):
            full.answer(image[:, :, rows, columns], with_teacher=full.cycle.teacher_learns)

    with torch.inference_mode(), half:
        image_seconds = min(_seconds(score) for _ in range(2))
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
    encoder = module.cycle.encoder
    if encoder is None or config.teacher.hint_cache is None:
        return 0, 0.0
    splits = config.data.train_split, config.data.val_split
    train_set, val_set = (open_split(config.data, split) for split in splits)
    images = training_images(config, train_set, apart_from=(train_set, val_set))
    hints = stored_hints(config, encoder, images)
    assert hints is not None
    missing = len(hints.missing())
    image = images.read_image(0)
    looks = range(2 if missing else 0)
    return missing, min((_seconds(lambda: embed(encoder, image, config)) for _ in looks), default=0)


def _parts(config: RunConfig, module: CycleModule) -> tuple[Part, ...]:
    """Student, and the teacher's encoder and decoders."""
    height, width = config.data.crop
    image = torch.zeros(1, 3, height, width, device=module.device)
    student, teacher = module.cycle.student, module.cycle.teacher
    parts = [_part("student", multiply_adds_of(lambda: student(image)), student)]
    if isinstance(teacher, Teacher):
        encoder = teacher.foundation.encoder
        _, padded = teacher.foundation.place(image)
        logits = student(image).logits
        looked = multiply_adds_of(lambda: teacher.embed(padded))
        whole = multiply_adds_of(lambda: teacher(image, logits))
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
        looked = multiply_adds_of(lambda: looks(image))
        parts.append(_part("teacher's encoder", looked, looks.foundation.encoder))
    elif teacher is not None:
        parts.append(_part("teacher", multiply_adds_of(lambda: teacher(image, None)), teacher))
    return tuple(parts)


def _part(name: str, multiply_adds: int, network: nn.Module) -> Part:
    parameters = list(network.parameters())
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    return Part(name, sum(one.numel() for one in parameters), trained, multiply_adds)


def _seconds(run: Callable[[], Any]) -> float:
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    """Until a GPU has done what it was given; to give it takes no time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _duration(seconds: float) -> str:
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
