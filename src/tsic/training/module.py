"""The cycle as a LightningModule: losses to gradients, scores at validation, small checkpoints."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from typing_extensions import override

from tsic.config import OptimConfig
from tsic.cycle import Cycle, CycleOutput
from tsic.data.batches import Batch
from tsic.data.sampling import position_seed, spread
from tsic.deploy.inference import is_large
from tsic.grid import Size, even_parts, resize_images, size_of
from tsic.networks.depthwise import widen_depthwise
from tsic.streams import tell
from tsic.student import Student
from tsic.teacher import Foundation, Teacher, TeacherOutput, hold_frozen
from tsic.training.diagnostics import PROBES, Contest, PromptProbe, blank_prompt, perfect_prompt
from tsic.training.finite import limit_gradients, require_finite, scale_of
from tsic.training.graph import Answer, StepGraph
from tsic.training.optim import build_optimizer, moving_average

_NETWORKS = ("student", "teacher")
"""What is clipped; projections for a loss are not."""

LONGEST = 1024
"""Longest side of the parts into which validation cuts a large image."""

_HELD = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What frozen weights are held in, by precision."""


class CycleModule(LightningModule):
    """Trains a ``Cycle``: student alone for ``warmup_steps``, then with the teacher.

    Args:
        cycle: Student, teacher and losses.
        optim: Optimiser, schedule and moving average.
        class_names: Names of the ``K`` classes.
        max_steps: Optimiser steps of the whole run.
        warmup_steps: Optimiser steps before the teacher joins.
        ramp: Share of the steps after these over which its teaching rises to its weight.
        seed: Seed of whatever is random inside a step (dropout).
        resize: Height and width that whole images are brought to before the networks see them, as
            training images were; ``None`` for their own.
        records: Whether steps are launched as CUDA graphs.
        fuses: Whether torch.compile fuses what it can of a step.
    """

    # The frozen weights are missing from a checkpoint on purpose.
    strict_loading = False

    def __init__(
        self,
        cycle: Cycle,
        optim: OptimConfig,
        *,
        class_names: tuple[str, ...],
        max_steps: int,
        warmup_steps: int,
        ramp: float = 0.0,
        seed: int,
        resize: Size | None = None,
        records: bool = False,
        fuses: bool = False,
    ) -> None:
        super().__init__()
        # Convolutions are faster so: by 10 to 25 % on a CPU.
        self.cycle = cycle.to(memory_format=torch.channels_last)
        widen_depthwise(cycle)
        self.resize = resize
        self.optim = optim
        self.max_steps = max_steps
        self.warmup_steps = warmup_steps
        self.ramp_steps = round(ramp * max(0, max_steps - warmup_steps))
        self.seed = seed
        self.contest = Contest(class_names)
        self.probe = PromptProbe(len(class_names))
        self.records = records
        self.fuses = fuses
        self.fusion: AbstractContextManager[None] = nullcontext()
        self.graph: StepGraph | None = None
        self.loaded_step = 0
        self._gradients: tuple[Tensor | None, ...] = ()
        self._names: list[str] = []
        self._probed: set[int] = set()
        self.averaged: AveragedModel | None = None
        if optim.ema is not None:
            self.averaged = moving_average(cycle.student, optim.ema)

    @property
    def student(self) -> Student:
        """The student that is scored and ships: the moving average if there is one."""
        if self.averaged is None:
            return self.cycle.student
        averaged = self.averaged.module
        assert isinstance(averaged, Student)
        return averaged

    @property
    def teacher_is_on(self) -> bool:
        """Whether the teacher takes part at this step."""
        return self.cycle.teaches and self.global_step >= self.warmup_steps

    @property
    def teaching(self) -> float:
        """Share of their weights that the distillation terms but hints have at this step."""
        joined = self.global_step - self.warmup_steps + 1
        return min(1.0, joined / self.ramp_steps) if self.ramp_steps else 1.0

    @property
    def _scores_teacher(self) -> bool:
        return self.teacher_is_on and self.cycle.teacher_learns

    @override
    def setup(self, stage: str) -> None:
        held = _HELD.get(str(self.trainer.precision))
        if stage == "fit" and held is not None:
            for module in self.cycle.modules():
                if isinstance(module, Foundation):
                    hold_frozen(module, held)
        if stage == "fit" and self.records and self.cycle.is_static:
            self.graph = StepGraph(self.cycle, held)
        if stage == "fit" and self.fuses:
            from tsic.training.fusion import Fusion  # a second, to import the compiler

            if self.trainer.is_global_zero:
                tell("compiling: the student's first step and the teacher's take a minute or two\n")
            self.fusion = Fusion(self.cycle)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # What is random inside a step depends on seed, step and rank alone, so that a resumed run
        # draws what the uninterrupted one would have drawn.
        accumulate = self.trainer.accumulate_grad_batches
        micro_batch = self.global_step * accumulate + batch_idx % accumulate
        place = micro_batch * self.trainer.world_size + self.global_rank
        torch.manual_seed(position_seed(self.seed + 1, place))
        step = self.graph or self.cycle
        seen = {} if batch["hints"] is None else {"hints": batch["hints"]}
        with self.fusion:
            out: CycleOutput | Answer = step(
                batch["images"],
                batch["labels"],
                with_teacher=self.teacher_is_on,
                teaching=self.teaching,
                **seen,
            )
        total = out.total
        require_finite(out.losses, total, self.global_step, batch["names"])
        before = self._names if batch_idx % accumulate else []
        self._names = [*before, *batch["names"]]
        rows = {f"train/{name}": loss.detach() for name, loss in out.losses.items()}
        self.log_dict({**rows, "train/total": total.detach()}, batch_size=len(batch["names"]))
        if isinstance(out, Answer):
            self._gradients = out.gradients
        return total

    @override
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self.graph is None:
            with self.fusion:  # its backward pass is compiled when it is first asked for
                super().backward(loss, *args, **kwargs)
            return
        for parameter, gradient in zip(self.graph.parameters, self._gradients, strict=True):
            parameter.grad = gradient

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Each network by its own norm: a teacher's large gradient must not shrink the student's.
        parts = {
            name: (network.parameters(), self.optim.clip if name in _NETWORKS else None)
            for name, network in self.cycle.named_children()
        }
        scale = scale_of(self.trainer.precision_plugin)
        limit_gradients(parts, self.global_step, self._names, scale=scale)

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update_parameters(self.cycle.student)
        if self.teacher_is_on:
            self.cycle.average_teacher()

    def _forget_graph(self) -> None:
        """Whole images, and what follows the training, need the memory that a graph holds."""
        if self.graph is not None:
            self.graph.forget()
            self._gradients = ()
            for parameter in self.graph.parameters:
                parameter.grad = None

    @override
    def on_fit_end(self) -> None:
        self._forget_graph()

    @override
    def on_validation_epoch_start(self) -> None:
        self._forget_graph()
        self.contest.reset()
        self.probe.reset()
        self._probed = set(spread(int(self.trainer.num_val_batches[0]), PROBES))

    def answer(self, images: Tensor, *, with_teacher: bool) -> tuple[Tensor, TeacherOutput | None]:
        """What student and teacher say about whole images.

        Args:
            images: RGB in [0, 1], float ``(B, 3, H, W)``.
            with_teacher: Whether to ask the teacher, if there is one.

        Returns:
            The student's class scores ``(B, K, h, w)`` and the teacher's output.
        """
        images = resize_images(images, self.resize)
        logits = self.student(images).logits
        teacher = self.cycle.teacher if with_teacher else None
        return logits, None if teacher is None else teacher(images, logits)

    def parts(self, images: Tensor) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of the parts in which whole images are shown: large ones are cut."""
        size = size_of(images)
        is_cut = self.resize is None and is_large(size)
        return even_parts(size, LONGEST if is_cut else max(size))

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        for rows, columns in self.parts(batch["images"]):
            images, labels = batch["images"][:, :, rows, columns], batch["labels"][:, rows, columns]
            logits, teacher = self.answer(images, with_teacher=self._scores_teacher)
            self.contest.update(logits, None if teacher is None else teacher.logits, labels)
            if teacher is not None and batch_idx in self._probed:
                self._probe(images, labels, logits, teacher)

    def _probe(self, images: Tensor, labels: Tensor, logits: Tensor, taught: TeacherOutput) -> None:
        """Ask the teacher again, with a prompt without place and with a perfect one."""
        asked = self.cycle.teacher
        if not isinstance(asked, Teacher) or asked.prompt == "none":
            return
        images = resize_images(images, self.resize)
        blank = asked(images, blank_prompt(logits), taught.seen).logits
        told = asked(images, perfect_prompt(logits, labels), taught.seen).logits
        self.probe.update(taught.logits, blank, told, labels)

    @override
    def on_validation_epoch_end(self) -> None:
        scores = self.contest.compute()
        if self.probe.update_called:
            scores |= self.probe.compute()
        self.log_dict({f"val/{name}": score for name, score in scores.items()})

    @override
    def configure_optimizers(self) -> Any:
        optimizer, schedule = build_optimizer(
            self.cycle,
            self.optim,
            self.max_steps,
            fused=self.trainer.precision != "16-mixed",
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def frozen_names(self) -> set[str]:
        """Names of the weights that are not trained and not written to checkpoints."""
        return {
            name
            for name, parameter in self.named_parameters(remove_duplicate=False)
            if not parameter.requires_grad and not name.startswith("averaged.")
        }

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state, frozen = checkpoint["state_dict"], self.frozen_names()
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k not in frozen}
