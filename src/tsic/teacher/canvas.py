"""Where an image lies on the padded grid of a foundation model, in both directions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tsic.grid import fit_to_image, sample_axis


class Canvas:
    """The smallest grid of whole patches that holds an image in its top left corner.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        multiple: Canvas sides are multiples of this many pixels.

    Example:
        >>> canvas = Canvas(360, 480, 16)
        >>> canvas.height, canvas.width
        (368, 480)
    """

    def __init__(self, height: int, width: int, multiple: int) -> None:
        self.image_size = (height, width)
        self.height = -(-height // multiple) * multiple
        self.width = -(-width // multiple) * multiple

    def pad(self, images: Tensor) -> Tensor:
        """Extend ``(B, C, H, W)`` images with zeros at the right and the bottom."""
        height, width = self.image_size
        return F.pad(images, (0, self.width - width, 0, self.height - height))

    def place(self, maps: Tensor, stride: int, fill: float) -> Tensor:
        """Bring maps that cover the image onto the canvas at ``stride`` pixels per cell.

        Args:
            maps: ``(B, C, h, w)`` covering exactly the image, whatever ``h`` and ``w``.
            stride: Pixels per cell of the answer; divides the canvas.
            fill: Value of cells whose centre lies outside the image.

        Returns:
            Float32 ``(B, C, canvas height / stride, canvas width / stride)``.
        """
        maps = maps.float()
        cells = []
        for dim, side in zip((2, 3), self.image_size, strict=True):
            # Centres of the canvas's cells that lie inside the image, in cells of the map.
            count = math.ceil(side / stride - 0.5)
            centres = torch.arange(count, dtype=torch.float32, device=maps.device) + 0.5
            at = centres * stride * maps.shape[dim] / side - 0.5
            maps = sample_axis(maps, dim, at)
            cells.append(count)
        right, below = self.width // stride - cells[1], self.height // stride - cells[0]
        return F.pad(maps, (0, right, 0, below), value=fill)

    def crop(self, maps: Tensor) -> Tensor:
        """Cut maps of the whole canvas down to maps that cover exactly the image.

        Args:
            maps: ``(B, C, h, w)`` covering the canvas at one stride in both directions.

        Returns:
            ``(B, C, ceil(H / stride), ceil(W / stride))``: the very cells where the stride divides
            the image, else sampled between them.
        """
        return fit_to_image(maps, (self.height, self.width), self.image_size)
