"""Intra-class feature variation distillation: how a class's cells differ from its centre."""

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from tsic.rivals._rival import Rival, Signals, pixel_kd

WEIGHT = 20.0


def intra_class_variation(
    features: Tensor, target: Tensor, labels: Tensor, num_classes: int
) -> Tensor:
    """Squared difference of each cell's cosine similarity with the centre of its class.

    Args:
        features: ``(B, C, h, w)``.
        target: ``(B, D, h, w)``; gets no gradient.
        labels: Class ids ``(B, h, w)``; cells of 255 are left out.
        num_classes: ``K``.

    Returns:
        Mean over labelled cells, float32 ``()``.

    Source:
        Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV
        2020, equations 1 to 3.
    """
    counted = labels != 255
    ids = labels.masked_fill(~counted, 0)
    members = F.one_hot(ids, num_classes) * counted[..., None]
    members = members.flatten(1, 2).to(features.dtype)  # (B, hw, K)
    here, there = (
        _similarity_to_centre(one, members, ids.flatten(1)) for one in (features, target.detach())
    )
    difference = (here - there).square() * counted.flatten(1)
    return difference.sum() / counted.sum().clamp(min=1)


def _similarity_to_centre(features: Tensor, members: Tensor, ids: Tensor) -> Tensor:
    """Cosine similarity ``(B, hw)`` of each cell with the mean of its class in its image."""
    cells = features.flatten(2)
    with torch.autocast(cells.device.type, enabled=False):
        centres = cells @ members / members.sum(1, keepdim=True).clamp(min=1)  # (B, C, K)
    own = centres.gather(2, ids[:, None].expand(-1, cells.shape[1], -1))
    return F.cosine_similarity(cells, own, dim=1)


class Ifvd(Rival):
    """IFVD beside pixel distillation, weighed as in CIRKD's script.

    The adversarial term that the script adds is left out.
    """

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        loss = intra_class_variation(
            signals.student_features,
            signals.teacher_features,
            signals.feature_labels,
            self.sizes.classes,
        )
        return pixel_kd(signals) | {"ifvd": WEIGHT * loss}
