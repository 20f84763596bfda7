"""Channel-wise distillation of features, where `cwd` is of logits."""

from torch import Tensor, nn
from typing_extensions import override

from tsic.rivals._rival import Rival, Signals, Sizes, pixel_kd
from tsic.rivals.cwd import channel_wise

WEIGHT = 50.0


class CwdFeatures(Rival):
    """CWD of the features beside pixel distillation, weighed as in CIRKD's script; see `Cwd`."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.project: nn.Module = nn.Identity()
        if sizes.student != sizes.teacher:
            self.project = nn.Conv2d(sizes.student, sizes.teacher, 1, bias=False)

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        projected = self.project(signals.student_features)
        loss = channel_wise(projected, signals.teacher_features, signals.feature_labels)
        return pixel_kd(signals) | {"cwd_features": WEIGHT * loss}
