"""Attention transfer: the student looks where the teacher looks."""

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from tsic.rivals._rival import Rival, Signals, pixel_kd

# CIRKD's script weighs a mean over the 64x128 cells of its crops by 10,000: so much in a sum.
WEIGHT = 10_000 / (64 * 128)


def attention_transfer(features: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """Squared difference of two maps of mean squared channels, each of unit length per image.

    Args:
        features: ``(B, C, h, w)``.
        target: ``(B, D, h, w)``; gets no gradient.
        labels: Class ids ``(B, h, w)``; cells of 255 are in neither map.

    Returns:
        Sum over cells, mean over images that have labels, float32 ``()``.

    Source:
        Zagoruyko and Komodakis, arXiv:1612.03928, equation 2 with p = 2. CIRKD's public code takes
        the mean over cells, which makes maps of unit length count less the more cells there are.
    """
    counted = labels != 255
    here, there = (
        F.normalize((one.square().mean(1) * counted).flatten(1))
        for one in (features, target.detach())
    )
    told = counted.flatten(1).any(1).sum().clamp(min=1)
    return (here - there).square().sum() / told


class At(Rival):
    """Attention transfer beside pixel distillation, both weighed as in CIRKD's script."""

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        at = attention_transfer(
            signals.student_features, signals.teacher_features, signals.feature_labels
        )
        return pixel_kd(signals) | {"at": WEIGHT * at}
