"""A student taught by a published method instead of the cycle; the recipe around it is the same."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from tsic.cycle import Cycle
from tsic.data.classes import UNLABELLED
from tsic.errors import ConfigError
from tsic.grid import Size, resize, resize_labels, size_of
from tsic.options import Objective
from tsic.rivals import RIVALS, Rival, Signals, rival_class
from tsic.student import Student, StudentOutput
from tsic.teacher import Teacher, TeacherOutput


class Offline(nn.Module):
    """A network that was trained before and stands still.

    Args:
        student: Network that teaches, or that prompts the one that teaches.
        teacher: Prompted foundation model that teaches, if any.
    """

    def __init__(self, student: Student, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.requires_grad_(requires_grad=False)
        self.train(False)

    @override
    def train(self, mode: bool = True) -> "Offline":
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, student_logits: Tensor) -> TeacherOutput:
        """Answer images ``(B, 3, H, W)`` without looking at the student that learns."""
        own: StudentOutput = self.student(images)
        if self.teacher is None:
            return TeacherOutput(own.logits, own.coarsest)
        return self.teacher(images, own.logits)


@dataclass(frozen=True)
class PeerOutput(TeacherOutput):
    """What a peer says about a batch.

    Attributes:
        auxiliary: Its auxiliary head's class scores, if it has one.
    """

    auxiliary: Tensor | None = None


class Peer(nn.Module):
    """A second student that learns beside the first.

    Args:
        student: The network.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor, student_logits: Tensor) -> PeerOutput:
        """Answer images ``(B, 3, H, W)`` without looking at the other student."""
        own: StudentOutput = self.student(images)
        return PeerOutput(own.logits, own.coarsest, auxiliary=own.auxiliary)


class Distilled(Cycle):
    """The student's own losses and those of a published method.

    Args:
        student: Network that ships.
        teacher: Who teaches.
        rival: The method.
        weight: Factor on the method's own weights.
        objective: Rules of the cross-entropies.
        class_weights: Weight of each class in cross-entropies, float ``(K,)``.
        cutmix: See ``Cycle``.

    Raises:
        ConfigError: If the method compares features and a student gives none.
    """

    def __init__(
        self,
        student: Student,
        teacher: Offline | Peer,
        rival: Rival,
        *,
        weight: float = 1.0,
        objective: Objective | None = None,
        class_weights: Tensor | None = None,
        cutmix: float = 0.0,
    ) -> None:
        # A SAM teacher gives features, whatever the student that prompts it does.
        sam = isinstance(teacher, Offline) and teacher.teacher is not None
        for one in [student] if sam else [student, teacher.student]:
            if rival.reads_features and not one.feature_channels:
                others = [name for name in RIVALS if not rival_class(name).reads_features]
                raise ConfigError(
                    f"distill.method: this one compares features, and student '{one.spec.name}' "
                    f"gives none; take one that compares logits: {', '.join(others)}"
                )
        super().__init__(student, None, objective, class_weights, cutmix=cutmix)
        self.teacher = teacher  # type: ignore[assignment] # it answers like one
        self.rival = rival
        self.weight = weight

    @override
    def _teacher_losses(
        self, student: StudentOutput, teacher: TeacherOutput, labels: Tensor
    ) -> dict[str, Tensor]:
        if not isinstance(teacher, PeerOutput):
            return {}
        named = {"teacher_ce": self._cross_entropy(teacher.logits, labels)}
        if teacher.auxiliary is not None:
            auxiliary = self._cross_entropy(teacher.auxiliary, labels)
            named["teacher_auxiliary_ce"] = self.objective.auxiliary_weight * auxiliary
        return named

    @override
    def _distillation(
        self, student: StudentOutput, teacher: TeacherOutput, labels: Tensor
    ) -> dict[str, Tensor]:
        grid, feature_grid = size_of(student.logits), size_of(student.coarsest)
        said = teacher.logits.argmax(1)

        def told(size: Size) -> Tensor:
            """Each cell's label; where there is none, what the teacher says."""
            own = resize_labels(labels, size)
            return torch.where(own == UNLABELLED, resize_labels(said, size), own)

        signals = Signals(
            student.logits.float(),
            resize(teacher.logits, grid),
            told(grid),
            student.coarsest.float(),
            resize(teacher.features, feature_grid),
            told(feature_grid),
        )
        return {name: self.weight * loss for name, loss in self.rival(signals).items()}
