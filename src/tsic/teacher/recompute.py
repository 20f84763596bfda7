"""Maps that are cheap to make and large to keep."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recomputed(make: Callable[..., Tensor], *sources: Any) -> Tensor:
    """``make(*sources)``, of which the backward pass finds the sources alone and makes it again.

    Args:
        make: Draws no random numbers and changes no buffers, since it runs twice.
        sources: Tensors and whatever else it takes.
    """
    return checkpoint(make, *sources, use_reentrant=False, preserve_rng_state=False)
