"""Networks of any origin behind one interface: normalised images in, logits and maps out."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from tsic.errors import first_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

REFUSALS = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)
"""How a library says that a network cannot be built."""

Maps = tuple[Tensor, tuple[Tensor, ...]]


class Network(nn.Module):
    """A segmentation network as `Student` drives it.

    Args:
        model: The library's or the user's module.
        read: Calls ``model`` on images ``(B, 3, H, W)`` and returns logits and feature maps.
        size_multiple: Sides of the image that the network takes without rounding, in pixels.
        minimum_px: Smallest side the network takes, in pixels.
        mean: Mean of the RGB images in [0, 1] that the weights expect.
        std: Standard deviation, likewise.
        options: What was resolved while building and is needed to build the same again.
    """

    def __init__(
        self,
        model: nn.Module,
        read: Callable[[Any, Tensor], Maps],
        *,
        size_multiple: int = 1,
        minimum_px: int = 1,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.size_multiple = size_multiple
        self.minimum_px = minimum_px
        self.mean, self.std = mean, std
        self.options = dict(options or {})
        self._read = read

    def forward(self, images: Tensor) -> Maps:
        """Return the logits and feature maps (coarsest last) of one pass over normalised images."""
        return self._read(self.model, images)


def not_fetched(what: str, error: Exception) -> str:
    """Say in one line what could not be had and why."""
    reason = first_line(error)
    return f"{what} could not be read or fetched ({reason}); check the name and the connection"
