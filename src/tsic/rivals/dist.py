"""DIST: the student need only agree with the teacher up to shift and scale."""

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
    counts = (labels != 255).flatten()[:, None].to(logits.dtype)  # (M, 1)
    total = counts.sum()
    here, there = (
        one.softmax(1).movedim(1, 3).flatten(0, 2) for one in (logits, target.detach())
    )  # (M, K)
    # By weights, since to pick pixels would cost a GPU's CPU a wait.
    one, other = (x - x.mean(1, keepdim=True) for x in (here, there))
    inter = (1 - F.cosine_similarity(one, other, dim=1)) * counts[:, 0]
    one, other = ((x - (x * counts).sum(0) / total.clamp(min=1)) * counts for x in (here, there))
    intra = (1 - F.cosine_similarity(one, other, dim=0)).mean()
    return inter.sum() / total.clamp(min=1), intra * (total > 0)


class Dist(Rival):
    """DIST by itself, both weights 1 as in the segmentation part of its public code."""

    reads_features = False

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        inter, intra = relations(signals.student_logits, signals.teacher_logits, signals.labels)
        return {"dist_inter": BETA * inter, "dist_intra": GAMMA * intra}
