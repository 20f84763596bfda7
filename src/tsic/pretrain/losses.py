"""How SAM learns to answer: focal and Dice on masks, squared error on the IoU it expects."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tsic.grid import size_of

ALPHA = 0.25
"""Weight of the pixels in a mask in `focal`; the others have the rest."""


def answer_loss(logits: Tensor, ious: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Score answers against the truth, of several answers to one prompt the best.

    Both are compared on twice the answers' grid, where a target is the share that it covers of a
    cell: as sharp as an answer of such a grid can be, at a quarter of the cost of full size.

    Args:
        logits: Mask logits ``(P, M, h, w)``.
        ious: IoU that the model expects of each ``(P, M)``.
        targets: True masks, bool ``(P, H, W)``, at least as fine as ``2h`` by ``2w``.

    Returns:
        ``20 * focal + Dice`` of the best of ``M`` answers, and the squared error of the expected
        IoUs, both float32 means over ``P``.

    Source:
        Kirillov et al., arXiv:2304.02643, appendix A, "Losses": weights 20, 1 and 1; only the
        answer of lowest loss gets a gradient.
    """
    logits = F.interpolate(logits.float(), scale_factor=2, mode="bilinear", align_corners=False)
    truth = F.adaptive_avg_pool2d(targets[:, None].float(), size_of(logits)).expand_as(logits)
    mask = 20 * focal(logits, truth) + dice(logits, truth)
    best = mask.min(1).values
    error = (ious.float() - iou_of(logits, truth)).square()
    return best.mean(), error.mean()


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy that looks away from what is easy, mean over pixels.

    Args:
        logits: ``(..., H, W)``.
        truth: Share of each pixel that is covered, in [0, 1], same shape.

    Returns:
        ``(...)``.

    Source:
        Lin et al., arXiv:1708.02002, equation 5 with gamma 2; for partly covered pixels how wrong
        the answer is takes the place of one less the probability of the truth.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    weight = (1 - ALPHA) + (2 * ALPHA - 1) * truth
    return (weight * (logits.sigmoid() - truth).square() * entropy).mean((-2, -1))


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """One less the Dice coefficient, of shapes ``(..., H, W)`` to ``(...)``; 1 is added above and
    below, so that two empty masks agree.

    Source:
        Milletari et al., arXiv:1606.04797, equation 3, without squares.
    """  # noqa: D205
    probability = logits.sigmoid()
    overlap = 2 * (probability * truth).sum((-2, -1)) + 1
    return 1 - overlap / (probability.sum((-2, -1)) + truth.sum((-2, -1)) + 1)


@torch.no_grad()
def iou_of(logits: Tensor, truth: Tensor) -> Tensor:
    """IoU of the mask where logits are positive with the truth, ``(..., H, W)`` to ``(...)``."""
    mask, truth = logits > 0, truth > 0.5
    union = (mask | truth).sum((-2, -1))
    return torch.where(union > 0, (mask & truth).sum((-2, -1)) / union.clamp(min=1), 1.0)
