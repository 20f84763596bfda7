"""Channel-wise distillation: where in the image each channel is strong."""

from torch import Tensor
from typing_extensions import override

from tsic.losses import channel_wise
from tsic.rivals._rival import Rival, Signals, pixel_kd

WEIGHT = 3.0


class Cwd(Rival):
    """CWD of the logits beside pixel distillation, weighed as in CIRKD's script.

    The script adds CWD of the features, here `cwd_features`, and an adversarial term, left out.
    """

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        target = signals.teacher_logits.detach()
        loss = channel_wise(signals.student_logits, target, signals.labels)
        return pixel_kd(signals) | {"cwd": WEIGHT * loss}
