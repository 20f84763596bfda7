"""Knowledge distillation of pixels: the student matches the teacher's class probabilities."""

from torch import Tensor
from typing_extensions import override

from tsic.rivals._rival import Rival, Signals, pixel_kd


class Kd(Rival):
    """Hinton et al., arXiv:1503.02531, at every labelled pixel; see ``pixel_kd``."""

    reads_features = False

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        return pixel_kd(signals)
