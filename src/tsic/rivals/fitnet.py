"""FitNets: the student's features, projected, are the teacher's."""

from torch import Tensor, nn
from typing_extensions import override

from tsic.rivals._rival import Rival, Signals, Sizes, pixel_kd

WEIGHT = 10.0


def hint(features: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """Squared difference of two feature maps.

    Args:
        features: ``(B, D, h, w)``.
        target: ``(B, D, h, w)``; gets no gradient.
        labels: Class ids ``(B, h, w)``; cells of 255 are left out.

    Returns:
        Mean over labelled cells and channels, float32 ``()``.

    Source:
        Romero et al., arXiv:1412.6550, equation 3.
    """
    counted = labels != 255
    difference = (features - target.detach()).square().mean(1)
    return (difference * counted).sum() / counted.sum().clamp(min=1)


class FitNet(Rival):
    """FitNets beside pixel distillation, in one stage and weighed as in CIRKD's script."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.project = nn.Conv2d(sizes.student, sizes.teacher, 1, bias=False)

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        projected = self.project(signals.student_features)
        loss = hint(projected, signals.teacher_features, signals.feature_labels)
        return pixel_kd(signals) | {"fitnet": WEIGHT * loss}
