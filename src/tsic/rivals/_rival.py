"""What every method sees, and what it gives."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from tsic.losses import pixel_kl


@dataclass(frozen=True)
class Sizes:
    """What a method may need to know of the networks.

    Attributes:
        classes: ``K``.
        student: Channels ``C`` of the student's coarsest features; ``K`` if it gives none.
        teacher: Channels ``D`` of the teacher's features.
    """

    classes: int
    student: int
    teacher: int


@dataclass(frozen=True)
class Signals:
    """What both networks say about one batch, on common grids.

    Attributes:
        student_logits: ``(B, K, h, w)``.
        teacher_logits: ``(B, K, h, w)``; carries no gradient unless the teacher learns.
        labels: Class ids on the logits' grid, int64 ``(B, h, w)``, 255 ignored; on images without
            labels those that the teacher says.
        student_features: The coarsest map ``(B, C, h', w')``; the logits if there is none.
        teacher_features: ``(B, D, h', w')``.
        feature_labels: Class ids on the features' grid, int64 ``(B, h', w')``.
    """

    student_logits: Tensor
    teacher_logits: Tensor
    labels: Tensor
    student_features: Tensor
    teacher_features: Tensor
    feature_labels: Tensor


class Rival(nn.Module, ABC):
    """One method: weighted losses of what student and teacher say.

    What it trains beside the student (a projection) and what it remembers (a queue) are its own
    parameters and buffers. No size and no Python value in it depends on the data, so that a step
    can be recorded.

    Args:
        sizes: Of the networks.
    """

    teacher: ClassVar[Literal["offline", "peer"]] = "offline"
    """``offline``: trained before, frozen; ``peer``: learns beside the student."""
    reads_features: ClassVar[bool] = True
    """Whether features count, or logits alone."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes

    @abstractmethod
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        """Weighted losses by name, float32 scalars whose sum is added to the student's own."""


def pixel_kd(signals: Signals) -> dict[str, Tensor]:
    """Match the teacher's class probabilities at every pixel that counts; most methods add it.

    Weight 1 and temperature 1, as CIRKD's public code sets them (`lambda_kd`, `kd_temperature`).

    Source:
        Hinton et al., arXiv:1503.02531, section 2.
    """
    target = signals.teacher_logits.detach()
    return {"kd": pixel_kl(signals.student_logits, target, signals.labels)}
