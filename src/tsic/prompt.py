"""Coarse student logits become mask prompts: pure functions, no parameters."""

from dataclasses import dataclass

import torch
from torch import Tensor

# SAM 2 keeps the mask logits it feeds back within this range (Ravi et al., arXiv:2408.00714, code).
LOGIT_RANGE = 32.0


@dataclass(frozen=True)
class Prompts:
    """Mask prompts for a promptable foundation model.

    Attributes:
        masks: Mask logits ``(B, N, h, w)`` that cover the image at the student's grid.
        class_ids: Class of each mask, int64 ``(B, N)``; ``None`` when a mask is no single class.
        log_odds: Log-odds of every class ``(B, K, h, w)``; ``None`` for an index prompt.
    """

    masks: Tensor
    class_ids: Tensor | None = None
    log_odds: Tensor | None = None


def class_log_odds(logits: Tensor) -> Tensor:
    """Turn class scores into one mask logit per class: ``log p_k - log(1 - p_k)``.

    This is what SAM's mask prompt was trained on: the logit of one object against the rest.
    Exact where ``p_k`` rounds to one, and differentiable everywhere inside ``LOGIT_RANGE``.

    Args:
        logits: Unnormalised scores ``(B, K, h, w)``.

    Returns:
        Float32 ``(B, K, h, w)`` within ``[-LOGIT_RANGE, LOGIT_RANGE]``.

    Example:
        >>> import torch
        >>> class_log_odds(torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)).flatten()
        tensor([ 2., -2.])
    """
    logits = logits.float()
    is_top = torch.zeros_like(logits, dtype=torch.bool)
    is_top.scatter_(1, logits.argmax(1, keepdim=True), value=True)
    rest = logits.masked_fill(is_top, -torch.inf).logsumexp(1, keepdim=True)
    log_p = logits.log_softmax(1)
    # Below the top p <= 1/2, where log(1 - p) is safe; the top class is compared with the rest.
    # The clamp is for the top's unused branch; at 1/2 itself it would cut a tie's gradient.
    below = log_p - torch.log1p(-log_p.exp().clamp(max=0.6))
    return torch.where(is_top, logits - rest, below).clamp(-LOGIT_RANGE, LOGIT_RANGE)


def class_prompts(logits: Tensor, max_classes: int, *, has_gradient: bool) -> Prompts:
    """Prompt with one mask per class, for the classes of largest expected area in each image.

    Args:
        logits: Student scores ``(B, K, h, w)``, ``K >= 2``.
        max_classes: At most this many prompts per image.
        has_gradient: Whether the teacher's gradient may reach the student through the masks.

    Returns:
        ``N = min(K, max_classes)`` masks per image, largest area first.
    """
    logits = logits if has_gradient else logits.detach()
    log_odds = class_log_odds(logits)
    area = log_odds.detach().sigmoid().mean((2, 3))
    class_ids = area.topk(min(max_classes, logits.shape[1]), dim=1).indices
    index = class_ids[:, :, None, None].expand(-1, -1, *log_odds.shape[-2:])
    return Prompts(log_odds.gather(1, index), class_ids, log_odds)


def index_prompt(logits: Tensor) -> Prompts:
    """Prompt with the class index as one float channel, as the authors' public code does.

    Class 7 is then "seven times" class 1, and no gradient passes. The index of the most probable
    class is taken on the grid of ``logits``: resize them first to the grid the prompt needs.

    Args:
        logits: Student scores ``(B, K, h, w)``.

    Returns:
        One mask ``(B, 1, h, w)`` with values ``0 .. K - 1``.
    """
    return Prompts(logits.detach().argmax(1, keepdim=True).float())
