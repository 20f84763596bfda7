"""DIST: the student need only agree with the teacher up to shift and scale."""

from torch import Tensor
from typing_extensions import override

from tsic.losses import relations
from tsic.rivals._rival import Rival, Signals

BETA = 1.0
GAMMA = 1.0


class Dist(Rival):
    """DIST by itself, both weights 1 as in the segmentation part of its public code."""

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        target = signals.teacher_logits.detach()
        inter, intra = relations(signals.student_logits, target, signals.labels)
        return {"dist_inter": BETA * inter, "dist_intra": GAMMA * intra}
