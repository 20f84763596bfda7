"""One step of the Teacher-Student Interactive Cycle: student, prompt, teacher, named losses."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tsic import losses
from tsic.cutmix import draw_boxes, exchange, exchange_back
from tsic.data.classes import IGNORE, UNLABELLED
from tsic.errors import ConfigError, ShapeError
from tsic.grid import resize, resize_labels, size_of
from tsic.options import Objective
from tsic.student import Student, StudentOutput
from tsic.teacher import AveragedTeacher, HintEncoder, Teacher, TeacherOutput


@dataclass(frozen=True)
class CycleOutput:
    """One step's weighted losses by name, and what both networks said.

    Attributes:
        losses: Scalars whose sum is minimised.
        student: The student's output.
        teacher: The teacher's output; ``None`` while it is off.
    """

    losses: dict[str, Tensor]
    student: StudentOutput
    teacher: TeacherOutput | None

    @property
    def total(self) -> Tensor:
        """Sum of all losses, float32 ``()``."""
        return torch.stack(list(self.losses.values())).sum()


class Cycle(nn.Module):
    """The student prompts the teacher, the teacher teaches the student.

    Gradient of the student's cross-entropy reaches the student only; that of the teacher's terms
    reaches the teacher and, through class prompts with ``gradient: through``, the student; that of
    the distillation terms reaches the student, and the teacher where nothing is detached.

    Args:
        student: Network that ships.
        teacher: Prompted foundation model; ``None`` gives plain training of the student.
        objective: Weights and rules of the losses.
        class_weights: Weight of each class in cross-entropies, float ``(K,)``, which the caller
            derives from ``objective.class_balance`` and its data; by default all alike.
        teacher_ema: Decay of the moving average of the teacher's weights that teaches the student;
            by default the teacher as it stands. Whoever trains calls ``average_teacher`` each step.
        encoder: In the teacher's place, an encoder that gives hints and nothing else.
        cutmix: In training, the probability that two images exchange a box before the student sees
            them. What it says is put back, and whoever teaches sees the images as they are.

    Raises:
        ConfigError: If features count and the student gives none.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        student: Student,
        teacher: Teacher | None,
        objective: Objective | None = None,
        class_weights: Tensor | None = None,
        teacher_ema: float | None = None,
        encoder: HintEncoder | None = None,
        cutmix: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.student = student
        self.teacher = teacher
        self.encoder = encoder
        self.cutmix = cutmix
        self.objective = objective or Objective()
        rules = self.objective
        self.hint: nn.Conv2d | None = None
        looks = encoder or teacher
        if looks is not None and rules.feature_weight and not student.feature_channels:
            raise ConfigError(
                f"student '{student.spec.name}' gives no features to be taught; set "
                "objective.feature_weight: 0, or let it return some"
            )
        if looks is not None and rules.feature_weight and rules.feature_loss == "hint":
            self.hint = nn.Conv2d(student.feature_channels[-1], looks.foundation.dim, 1)
        self.averaged: AveragedTeacher | None = None
        if teacher is not None and teacher_ema is not None:
            self.averaged = AveragedTeacher(teacher, teacher_ema)

    @property
    def teacher_learns(self) -> bool:
        """Whether there is a teacher whose weights change."""
        return self.teacher is not None and any(p.requires_grad for p in self.teacher.parameters())

    @property
    def teaches(self) -> bool:
        """Whether the student is taught by anything but labels."""
        return self.teacher is not None or self.encoder is not None

    @property
    def is_static(self) -> bool:
        """Whether every step launches the same kernels, whatever its data."""
        return not self.objective.ohem

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        with_teacher: bool = True,
        teaching: float | Tensor = 1.0,
        hints: Tensor | None = None,
    ) -> CycleOutput:
        """Run one step.

        Args:
            images: RGB in [0, 1], float ``(B, 3, H, W)``.
            labels: Class ids, int64 ``(B, H, W)``; 255 ignored, 254 unlabelled: there the teacher
                teaches, and no cross-entropy counts.
            with_teacher: False during warm-up: the student trains alone.
            teaching: Factor on the weights of the distillation terms, hints excepted.
            hints: What ``encoder`` saw of the images before, ``(B, D, h, w)``; by default it looks.

        Returns:
            Named losses and both outputs.

        Raises:
            ShapeError: If the images are none, or the labels no class ids of theirs.
        """
        if labels.dtype != torch.int64 or labels.shape != (len(images), *size_of(images)):
            raise ShapeError(
                f"labels must be int64 (B, H, W) of the images {tuple(images.shape)}, got "
                f"{str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}"
            )
        student = self._student(images)
        known = labels.masked_fill(labels == UNLABELLED, IGNORE)
        named = self._student_losses(student, known)
        if self.encoder is not None and with_teacher:
            seen = self.encoder(images) if hints is None else hints
            named["feature"] = self._hint_loss(student, seen)
        if self.teacher is None or not with_teacher:
            return CycleOutput(named, student, None)
        teacher: TeacherOutput = self.teacher(images, student.logits)
        named |= self._teacher_losses(student, teacher, known)
        taught_by = teacher
        if self.averaged is not None and self.training:
            prompt = student.logits.detach()
            taught_by = self.averaged(self.teacher, images, prompt, teacher.seen)
        for name, loss in self._distillation(student, taught_by, labels).items():
            # The encoder knows what it sees before the decoders learn.
            is_hint = name == "feature" and self.hint is not None
            named[name] = loss if is_hint else teaching * loss
        return CycleOutput(named, student, teacher)

    def _student(self, images: Tensor) -> StudentOutput:
        if not (self.training and self.cutmix):
            return self.student(images)
        boxes = draw_boxes(images, self.cutmix)
        return exchange_back(self.student(exchange(images, boxes)), boxes)

    def average_teacher(self) -> None:
        """Take the teacher's weights into their average, if there is one; after each step."""
        if self.averaged is not None and self.teacher is not None:
            self.averaged.update(self.teacher)

    def _student_losses(self, student: StudentOutput, labels: Tensor) -> dict[str, Tensor]:
        named = {"student_ce": self._cross_entropy(student.logits, labels)}
        if student.auxiliary is not None:
            auxiliary = self._cross_entropy(student.auxiliary, labels)
            named["auxiliary_ce"] = self.objective.auxiliary_weight * auxiliary
        return named

    def _teacher_losses(
        self, student: StudentOutput, teacher: TeacherOutput, labels: Tensor
    ) -> dict[str, Tensor]:
        weights = self.objective
        named = {"teacher_ce": weights.teacher_weight * self._cross_entropy(teacher.logits, labels)}
        if weights.mask_weight and teacher.masks is not None and teacher.class_ids is not None:
            grid = resize_labels(labels, size_of(teacher.masks))
            named["mask"] = weights.mask_weight * losses.mask_loss(
                teacher.masks, teacher.class_ids, grid
            )
        if weights.ensemble_weight:
            size = size_of(teacher.logits)
            both = (resize(student.logits, size) + teacher.logits.float()) / 2
            target = _held(both, weights.detach_ensemble)
            loss = self._kl(teacher.logits, target, resize_labels(labels, size))
            named["ensemble_kl"] = weights.ensemble_weight * loss
        return named

    def _distillation(
        self, student: StudentOutput, teacher: TeacherOutput, labels: Tensor
    ) -> dict[str, Tensor]:
        weights = self.objective
        named = {}
        labels = resize_labels(labels, size_of(teacher.logits))
        if weights.kl_weight:
            target = _held(teacher.logits, weights.detach_teacher)
            pixels = self._kl_pixels(target, student.logits, labels)
            named["kl"] = weights.kl_weight * self._kl(student.logits, target, labels, pixels)
        if weights.feature_weight:
            named["feature"] = self._feature_loss(student, teacher)
        return named

    def _feature_loss(self, student: StudentOutput, teacher: TeacherOutput) -> Tensor:
        weights = self.objective
        if weights.feature_loss == "hint":
            assert teacher.embedding is not None
            return self._hint_loss(student, _held(teacher.embedding, weights.detach_teacher))
        compare = {
            "attention": losses.feature_attention,
            "mean_mse": losses.feature_mean_mse,
        }[weights.feature_loss]
        seen = _held(teacher.features, weights.detach_teacher)
        return weights.feature_weight * compare(student.features[-1], seen)

    def _hint_loss(self, student: StudentOutput, embedding: Tensor) -> Tensor:
        assert self.hint is not None
        loss = losses.feature_hint(self.hint(student.features[-1]), embedding)
        return self.objective.feature_weight * loss

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        rules = self.objective
        return losses.cross_entropy(
            logits,
            labels,
            average=rules.average,
            ohem_threshold=rules.ohem_threshold,
            ohem_min_kept=rules.ohem_min_kept if rules.ohem else None,
            class_weights=self.class_weights,
        )

    def _kl_pixels(self, teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor | None:
        """Weight of each pixel in L_kd-p ``(B, h, w)``: its class's, where the teacher speaks."""
        if self.objective.kl_where == "everywhere":
            return None
        weights = losses.lead(teacher, student, labels)
        if self.class_weights is not None:
            has_none = labels >= len(self.class_weights)
            weights = weights * self.class_weights[labels.masked_fill(has_none, 0)]
        return weights

    def _kl(
        self, logits: Tensor, target: Tensor, labels: Tensor, pixels: Tensor | None = None
    ) -> Tensor:
        rules = self.objective
        return losses.pixel_kl(
            logits,
            target,
            labels,
            temperature=rules.temperature,
            average=rules.kl_average,
            pixel_weights=pixels,
        )


def _held(target: Tensor, is_held: bool) -> Tensor:
    return target.detach() if is_held else target
