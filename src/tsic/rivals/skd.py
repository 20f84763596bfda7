"""Structured knowledge distillation: which cells are alike to the teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from tsic.rivals._rival import Rival, Signals, pixel_kd

WEIGHT = 10.0


def pair_wise(features: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """Squared difference of the cosine similarities of all pairs of cells within an image.

    Cells are the maxima of 2x2 cells; one counts if any of the four is labelled.

    Args:
        features: ``(B, C, h, w)``.
        target: ``(B, D, h, w)``; gets no gradient.
        labels: Class ids ``(B, h, w)``; cells of 255 are left out.

    Returns:
        Mean over the pairs that count, float32 ``()``.

    Source:
        Liu et al., arXiv:1903.04197, equation 2; cells of 2x2 as in CIRKD's public code.
    """
    counted = (labels != 255)[:, None]
    alike = []
    for one in (features, target.detach()):
        # Ignored cells must win no maximum; where all four are, the pair is dropped below.
        cells = F.max_pool2d(one.masked_fill(~counted, -1e4), 2, ceil_mode=True).flatten(2)
        cells = F.normalize(cells, dim=1)
        # The networks agree up to less than half precision tells apart.
        with torch.autocast(cells.device.type, enabled=False):
            alike.append(cells.transpose(1, 2) @ cells)
    kept = F.max_pool2d(counted.float(), 2, ceil_mode=True).flatten(2)
    pairs = kept.transpose(1, 2) * kept
    return ((alike[0] - alike[1]).square() * pairs).sum() / pairs.sum().clamp(min=1)


class Skd(Rival):
    """The pair-wise term beside pixel distillation, weighed as in CIRKD's scripts.

    The paper's third term, an adversarial one, is left out.
    """

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        loss = pair_wise(signals.student_features, signals.teacher_features, signals.feature_labels)
        return pixel_kd(signals) | {"skd": WEIGHT * loss}
