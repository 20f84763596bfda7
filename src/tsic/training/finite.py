"""A step whose numbers are not finite changes no weights: the run stops before it."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tsic.errors import NonFiniteLossError


def require_finite(
    losses: Mapping[str, Tensor], total: Tensor, step: int, images: Sequence[str] = ()
) -> None:
    """Stop at a loss that is not finite.

    Args:
        losses: By name.
        total: What is minimised.
        step: Optimiser steps before this one.
        images: What this one saw, if it has names.

    Raises:
        NonFiniteLossError: Naming the losses, the step and what to do.
    """
    if not torch.isfinite(total):
        bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
        raise _stopped(f"loss {', '.join(bad) or 'total'}", step, images)


def limit_gradients(
    parts: Mapping[str, tuple[Iterable[nn.Parameter], float | None]],
    step: int,
    images: Sequence[str] = (),
    *,
    scale: float | None = None,
) -> None:
    """Clip the gradient of each part by its own norm, and stop at one that is not finite.

    Lightning itself clips for no fused optimiser in mixed precision.

    Args:
        parts: Parameters and the largest norm, ``None`` for any, by name.
        step: Optimiser steps before this one.
        images: What this one saw, if it has names.
        scale: What the loss was multiplied by for float16, if it was. A step too large is then left
            out and the scale falls; once it is below 1, it is not the scale that is at fault.

    Raises:
        NonFiniteLossError: Naming the parts, the step and what to do. Clipped by such a norm,
            every weight would be lost.
    """
    norms = {}
    for name, (parameters, limit) in parts.items():
        held = [one for one in parameters if one.grad is not None]
        if held:
            norms[name] = get_total_norm([one.grad for one in held if one.grad is not None])
            if limit is not None:
                clip_grads_with_norm_(held, limit, norms[name])
    if not norms or (scale is not None and scale >= 1):
        return
    found = torch.stack(list(norms.values())).tolist()
    bad = [name for name, norm in zip(norms, found, strict=True) if not math.isfinite(norm)]
    if bad:
        raise _stopped(f"the norm of the gradient of the {' and the '.join(bad)}", step, images)


def scale_of(precision: object) -> float | None:
    """What Lightning's plugin of a precision multiplies losses by, if it does."""
    scaler = getattr(precision, "scaler", None)
    return None if scaler is None else float(scaler.get_scale())


def _stopped(what: str, step: int, images: Sequence[str]) -> NonFiniteLossError:
    seen = f" on images {', '.join(images)}" if images else ""
    look = "look at these images, then --resume auto; or " if images else ""
    return NonFiniteLossError(
        f"{what} is not finite at step {step}{seen}; the weights were not changed by it: {look}"
        "begin anew with another --name and a lower optim.lr, with optim.clip or with "
        "trainer.precision: 32-true"
    )
