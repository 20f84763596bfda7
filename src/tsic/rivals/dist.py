"""DIST: the student need only agree with the teacher up to shift and scale."""

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from tsic.rivals._rival import Rival, Signals

BETA = 1.0
GAMMA = 1.0


def relations(logits: Tensor, target: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How little class probabilities correlate: over the classes of a pixel, the pixels of a class.

    Args:
        logits: ``(B, K, h, w)``.
        target: ``(B, K, h, w)``; gets no gradient.
        labels: Class ids ``(B, h, w)``; pixels of 255 are left out.

    Returns:
        One minus Pearson's correlation, float32 ``()`` each: mean over the batch's labelled pixels
        (inter-class), mean over classes (intra-class).

    Source:
        Huang et al., arXiv:2205.10536, equations 7 and 9.
    """
    counted = labels != 255
    here, there = (
        one.softmax(1).movedim(1, 3)[counted] for one in (logits, target.detach())
    )  # (M, K)
    if not len(here):
        nothing = here.sum()
        return nothing, nothing
    return _uncorrelated(here, there, 1), _uncorrelated(here, there, 0)


def _uncorrelated(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Mean of one minus the correlation along a dimension."""
    one, other = (x - x.mean(dim, keepdim=True) for x in (one, other))
    return torch.mean(1 - F.cosine_similarity(one, other, dim=dim))


class Dist(Rival):
    """DIST by itself, both weights 1 as in the segmentation part of its public code."""

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        inter, intra = relations(signals.student_logits, signals.teacher_logits, signals.labels)
        return {"dist_inter": BETA * inter, "dist_intra": GAMMA * intra}
