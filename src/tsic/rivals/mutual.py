"""Deep mutual learning: two students teach each other."""

from torch import Tensor
from typing_extensions import override

from tsic.losses import pixel_kl
from tsic.rivals._rival import Rival, Signals

WEIGHT = 1.0


class Mutual(Rival):
    """Zhang et al., arXiv:1706.00384, at every labelled pixel: each is the other's fixed target."""

    teacher = "peer"
    reads_features = False

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        student, peer, labels = signals.student_logits, signals.teacher_logits, signals.labels
        return {
            "mutual": WEIGHT * pixel_kl(student, peer.detach(), labels),
            "mutual_peer": WEIGHT * pixel_kl(peer, student.detach(), labels),
        }
