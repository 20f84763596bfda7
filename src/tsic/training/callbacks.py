"""What a run shows while it trains: progress, a CSV of every logged number, panels of pictures."""

import csv
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from typing_extensions import override

from tsic.data.classes import ClassTable
from tsic.data.dataset import SegmentationDataset
from tsic.data.sampling import spread
from tsic.evaluation.metrics import to_labels
from tsic.files import replacing
from tsic.grid import size_of
from tsic.pictures import Pixels, colour_labels, colour_masks, panel, save_png, to_pixels
from tsic.streams import tell
from tsic.training.module import CycleModule
from tsic.training.stopping import ends_step


class CsvLog(Logger):
    """Every logged number as one row ``step,name,value`` of a file that survives interruptions.

    Args:
        path: File to append to.
        step: Rows of later steps are dropped: a resumed run writes them again.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        super().__init__()
        self.path = path
        kept = [row for row in read_metrics(path) if row[0] <= step] if path.is_file() else []
        with replacing(path) as part, part.open("w", newline="") as file:
            csv.writer(file).writerows([("step", "name", "value"), *kept])

    @property
    @override
    def name(self) -> str:
        return "csv"

    @property
    @override
    def version(self) -> str:
        return ""

    @override
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        # Lightning numbers a step from 0 while it runs; the file counts finished steps.
        rows = [((step or 0) + 1, key, value) for key, value in metrics.items() if key != "epoch"]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(rows)

    @override
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` holds them."""


def read_metrics(path: Path) -> list[tuple[int, str, float]]:
    """Read the rows of a ``CsvLog``; lines cut short or damaged by a crash are left out."""
    rows = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                step, name, value = next(csv.reader([line]))
                rows.append((int(step), name, float(value)))
            except ValueError:
                continue  # the names of the columns, too
    return rows


class ShowProgress(Callback):
    """A bar with losses, scores and time left on a terminal; a line now and then elsewhere.

    Args:
        max_steps: Optimiser steps of the run.
        label: What is being trained, before the bar.
        every: Steps between lines when the output is no terminal.
    """

    def __init__(self, max_steps: int, label: str, every: int) -> None:
        self.max_steps = max_steps
        self.label = label
        self.every = every
        self.console = Console(file=sys.stderr)
        self.bar: Progress | None = None
        self.first_step = 0
        self.start = 0.0
        self.scores = ""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start, self.first_step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}", markup=False),  # a name may hold brackets
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[losses]} {task.fields[scores]}"),
                console=self.console,
            )
            self.bar.add_task(self.label, total=self.max_steps, losses="", scores="")
            self.bar.start()

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        shown = step % self.every == 0 or step == self.max_steps
        if self.bar is not None:
            task = self.bar.tasks[0].id
            self.bar.update(task, completed=step, scores=self.scores)
            if shown:
                self.bar.update(task, losses=_losses(trainer))
        elif shown and trainer.is_global_zero and ends_step(trainer, args[2]):
            pace = (time.monotonic() - self.start) / max(1, step - self.first_step)
            left = pace * (self.max_steps - step)
            tell(
                f"{self.label} {step}/{self.max_steps} {_losses(trainer)} {self.scores}"
                f"{pace:.2f} s/step, {left / 60:.1f} min left\n"
            )

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        scores = {
            key.removeprefix("val/").replace("_miou", " mIoU").replace("_", " "): float(value)
            for key, value in trainer.callback_metrics.items()
            if key.startswith("val/") and key.endswith("iou")
        }
        told = ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
        self.scores = f"(val {told}) "

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()


class ValidateLast(Callback):
    """Score the last weights like the others: Lightning validates before it stops early.

    Args:
        max_steps: Optimiser steps of the run.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self.max_steps:
            trainer.should_stop = True


def _losses(trainer: Trainer) -> str:
    values = {
        key.removeprefix("train/"): float(value)
        for key, value in trainer.callback_metrics.items()
        if key.startswith("train/")
    }
    return " ".join(f"{name} {value:.3f}" for name, value in values.items())


class Panels(Callback):
    """After each validation, a panel of the first images: what both networks see.

    Args:
        folder: Where ``step_N.png`` goes.
        dataset: Validation images.
        count: Images in a panel; 0 for none.
    """

    def __init__(self, folder: Path, dataset: SegmentationDataset, count: int) -> None:
        self.folder = folder
        self.dataset = dataset
        self.indices = spread(len(dataset), count)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, CycleModule)
        if not trainer.is_global_zero or not self.indices:
            return
        is_on = pl_module.teacher_is_on
        rows = [
            tiles(pl_module, *self.dataset.read(index), self.dataset.classes, with_teacher=is_on)
            for index in self.indices
        ]
        pictures = [[*row.values()] for row in rows]
        picture = panel(pictures, [*rows[0]], legend=self.dataset.classes)
        save_png(picture, self.folder / f"step_{trainer.global_step:06d}.png")


@torch.inference_mode()
def tiles(
    module: CycleModule,
    image: Tensor,
    labels: Tensor,
    classes: ClassTable,
    *,
    with_teacher: bool,
) -> dict[str, Pixels]:
    """Image, label, student and, with a teacher, its prompted masks, if any, and its answer.

    Of an image that is too large to be shown as a whole, a part in its middle.

    Args:
        module: What is being or was trained.
        image: RGB uint8 ``(3, H, W)``.
        labels: Class ids ``(H, W)``.
        classes: Names and colours.
        with_teacher: Whether to ask the teacher, if there is one.

    Returns:
        Pictures by title.
    """
    middle = [side // 2 for side in size_of(image)]
    rows, columns = next(
        part
        for part in module.parts(image)
        if all(one.start <= at < one.stop for one, at in zip(part, middle, strict=True))
    )
    image, labels = image[:, rows, columns], labels[rows, columns]
    size = size_of(labels)
    images = image[None].to(module.device).float() / 255
    logits, answer = module.answer(images, with_teacher=with_teacher)
    shown = {
        "image": to_pixels(image),
        "label": colour_labels(labels, classes),
        "student": colour_labels(to_labels(logits[0], size).cpu(), classes),
    }
    if answer is None:
        return shown
    if answer.masks is not None:
        ids = answer.class_ids[0] if answer.class_ids is not None else [0] * answer.masks.shape[1]
        masks = colour_masks(answer.masks[0].cpu(), ids, classes, size, image)
        shown["prompted masks"] = masks
    shown["teacher"] = colour_labels(to_labels(answer.logits[0], size).cpu(), classes)
    return shown
