"""The cycle as a LightningModule: losses to gradients, scores at validation, small checkpoints."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import Metric
from typing_extensions import override

from tsic.config import OptimConfig
from tsic.cycle import Cycle, CycleOutput
from tsic.data.batches import Batch
from tsic.data.sampling import position_seed
from tsic.errors import NonFiniteLossError
from tsic.grid import Size, resize_images
from tsic.metrics import confusion_matrix, mean_iou, to_labels
from tsic.optim import build_optimizer
from tsic.student import Student
from tsic.teacher import TeacherOutput


class Confusion(Metric):
    """A confusion matrix that is summed over ranks.

    Args:
        num_classes: Classes ``K``.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    @override
    def update(self, logits: Tensor, labels: Tensor) -> None:
        for one, truth in zip(logits, labels, strict=True):
            predicted = to_labels(one, (truth.shape[-2], truth.shape[-1]))
            self.counts += confusion_matrix(predicted, truth, self.num_classes)

    @override
    def compute(self) -> Tensor:
        return self.counts


class CycleModule(LightningModule):
    """Trains a ``Cycle``: student alone for ``warmup_steps``, then with the teacher.

    Args:
        cycle: Student, teacher and losses.
        optim: Optimiser, schedule and moving average.
        num_classes: Classes ``K``.
        max_steps: Optimiser steps of the whole run.
        warmup_steps: Optimiser steps before the teacher joins.
        seed: Seed of whatever is random inside a step (dropout).
        view: Height and width that whole images are brought to before the networks see them, as
            training images were; ``None`` for their own.
    """

    # The frozen weights are missing from a checkpoint on purpose.
    strict_loading = False

    def __init__(
        self,
        cycle: Cycle,
        optim: OptimConfig,
        *,
        num_classes: int,
        max_steps: int,
        warmup_steps: int,
        seed: int,
        view: Size | None = None,
    ) -> None:
        super().__init__()
        self.cycle = cycle
        self.view = view
        self.optim = optim
        self.max_steps = max_steps
        self.warmup_steps = warmup_steps
        self.seed = seed
        self.student_confusion = Confusion(num_classes)
        self.teacher_confusion = Confusion(num_classes)
        self.averaged: AveragedModel | None = None
        if optim.ema is not None:
            average = get_ema_multi_avg_fn(optim.ema)
            self.averaged = AveragedModel(cycle.student, multi_avg_fn=average, use_buffers=True)
            self.averaged.requires_grad_(requires_grad=False)

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
        return self.cycle.teacher is not None and self.global_step >= self.warmup_steps

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # What is random inside a step depends on seed, step and rank alone, so that a resumed run
        # draws what the uninterrupted one would have drawn.
        accumulate = self.trainer.accumulate_grad_batches
        micro_batch = self.global_step * accumulate + batch_idx % accumulate
        place = micro_batch * self.trainer.world_size + self.global_rank
        torch.manual_seed(position_seed(self.seed + 1, place))
        out: CycleOutput = self.cycle(
            batch["images"], batch["labels"], with_teacher=self.teacher_is_on
        )
        total = out.total
        if not torch.isfinite(total):
            raise self._non_finite(out, batch)
        rows = {f"train/{name}": loss.detach() for name, loss in out.losses.items()}
        self.log_dict({**rows, "train/total": total.detach()}, batch_size=len(batch["names"]))
        return total

    def _non_finite(self, out: CycleOutput, batch: Batch) -> NonFiniteLossError:
        bad = [name for name, loss in out.losses.items() if not torch.isfinite(loss)]
        return NonFiniteLossError(
            f"loss {', '.join(bad) or 'total'} is not finite at step {self.global_step} on images "
            f"{', '.join(batch['names'])}; the weights were not changed by it: look at these "
            "images, lower optim.lr, or set optim.clip or trainer.precision: 32-true, then "
            "--resume auto"
        )

    @override
    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val is None:
            return
        # Each network by its own norm: a teacher's large gradient must not shrink the student's.
        for network in (self.cycle.student, self.cycle.teacher):
            if network is not None:
                clip_grad_norm_(network.parameters(), gradient_clip_val)

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update_parameters(self.cycle.student)

    @override
    def on_validation_epoch_start(self) -> None:
        self.student_confusion.reset()
        self.teacher_confusion.reset()

    def answer(self, images: Tensor, *, with_teacher: bool) -> tuple[Tensor, TeacherOutput | None]:
        """What student and teacher say about whole images.

        Args:
            images: RGB in [0, 1], float ``(B, 3, H, W)``.
            with_teacher: Whether to ask the teacher, if there is one.

        Returns:
            The student's class scores ``(B, K, h, w)`` and the teacher's output.
        """
        images = resize_images(images, self.view)
        logits = self.student(images).logits
        teacher = self.cycle.teacher if with_teacher else None
        return logits, None if teacher is None else teacher(images, logits)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits, teacher = self.answer(batch["images"], with_teacher=self.teacher_is_on)
        self.student_confusion.update(logits, batch["labels"])
        if teacher is not None:
            self.teacher_confusion.update(teacher.logits, batch["labels"])

    @override
    def on_validation_epoch_end(self) -> None:
        scores = {"val/student_miou": mean_iou(self.student_confusion.compute())}
        if self.teacher_is_on:
            scores["val/teacher_miou"] = mean_iou(self.teacher_confusion.compute())
        self.log_dict(scores)

    @override
    def configure_optimizers(self) -> Any:
        optimizer, schedule = build_optimizer(self.cycle, self.optim, self.max_steps)
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
