"""Channel-wise distillation: where in the image each channel is strong."""

from torch import Tensor
from typing_extensions import override

from tsic.rivals._rival import Rival, Signals, pixel_kd

WEIGHT = 3.0
TEMPERATURE = 4.0


def channel_wise(
    maps: Tensor, target: Tensor, labels: Tensor, *, temperature: float = TEMPERATURE
) -> Tensor:
    """KL divergence of each channel's distribution over an image's pixels: ``KL(target || maps)``.

    Args:
        maps: ``(B, C, h, w)``.
        target: ``(B, C, h, w)``; gets no gradient.
        labels: Class ids ``(B, h, w)``; pixels of 255 are in no distribution.
        temperature: Softening divisor.

    Returns:
        Sum over pixels, mean over channels and over images that have labels, times
        ``temperature**2``, float32 ``()``.

    Source:
        Shu et al., arXiv:2011.13256, equations 3 and 4.
    """
    counted = (labels != 255).flatten(1)[:, None]
    # Not minus infinity: of an image without labels all pixels are alike, and nothing is NaN.
    here, there = (
        (one.flatten(2) / temperature).masked_fill(~counted, -1e4).log_softmax(2)
        for one in (maps, target.detach())
    )
    divergence = there.exp() * (there - here) * counted
    told = counted.any(2).sum().clamp(min=1)
    return divergence.sum(2).mean(1).sum() / told * temperature**2


class Cwd(Rival):
    """CWD of the logits beside pixel distillation, weighed as in CIRKD's script.

    The script adds CWD of the features, here `cwd_features`, and an adversarial term, left out.
    """

    reads_features = False

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        loss = channel_wise(signals.student_logits, signals.teacher_logits, signals.labels)
        return pixel_kd(signals) | {"cwd": WEIGHT * loss}
