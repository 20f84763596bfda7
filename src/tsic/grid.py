"""Resizing and cutting of maps that cover one image at different strides."""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from tsic.errors import ShapeError

Size = tuple[int, int]


def size_of(maps: Tensor) -> Size:
    """Height and width of ``(..., H, W)``."""
    return maps.shape[-2], maps.shape[-1]


def require_images(images: Tensor, who: str) -> None:
    """Refuse what is no batch of RGB images in [0, 1], as far as type and shape tell.

    Raises:
        ShapeError: Naming who was given it.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ShapeError(
            f"{who} images must be float RGB (B, 3, H, W) in [0, 1], got "
            f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        )


def resize(maps: Tensor, size: Size) -> Tensor:
    """Bilinear resize of ``(B, C, h, w)`` maps that cover the same image; float32 inside."""
    if size_of(maps) == size:
        return maps.float()
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)


def resize_labels(labels: Tensor, size: Size) -> Tensor:
    """Nearest resize of int64 ``(B, H, W)`` labels: each cell takes the label at its centre."""
    if size_of(labels) == size:
        return labels
    # Doubles hold every class id exactly; interpolate knows no integers.
    resized = F.interpolate(labels[:, None].double(), size=size, mode="nearest-exact")
    return resized[:, 0].to(labels.dtype)


def resize_images(images: Tensor, size: Size | None) -> Tensor:
    """Antialiased resize of float ``(B, 3, H, W)`` images; ``None`` leaves them alone."""
    if size is None or size_of(images) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def fit_to_image(cells: Tensor, padded: Size, size: Size) -> Tensor:
    """Cut a map of the padded image back to the image, resampling where a cell would be cut.

    Args:
        cells: Map of the padded image, float ``(B, C, h, w)`` with ``h`` dividing its height.
        padded: Height and width of the padded image, in pixels.
        size: Height and width of the image in its top left corner, in pixels.

    Returns:
        The map's part over the image, ``(B, C, ceil(H / stride), ceil(W / stride))``: a plain
        crop where the stride divides the side, else bilinear samples at the centres of cells
        that share the side evenly.

    Example:
        >>> import torch
        >>> ramp = torch.arange(4.0).view(1, 1, 1, 4)  # 4 cells of 8 px cover 32 px
        >>> fit_to_image(ramp, (8, 32), (8, 24))
        tensor([[[[0., 1., 2.]]]])
        >>> fit_to_image(ramp, (8, 32), (8, 20))[0, 0, 0, 1]  # centre at 10 px, cell 10/8 - 1/2
        tensor(0.7500)
    """
    if padded == size:
        return cells
    for axis in (0, 1):
        cells = _fit_axis(cells, 2 + axis, padded[axis], size[axis])
    return cells


def _fit_axis(cells: Tensor, dim: int, padded: int, side: int) -> Tensor:
    """Fit one side of a map."""
    stride = padded // cells.shape[dim]
    count = -(-side // stride)
    if side % stride == 0:
        return cells.narrow(dim, 0, count)
    centres = torch.arange(count, dtype=torch.float32, device=cells.device) + 0.5
    at = centres * (side / (count * stride)) - 0.5
    return sample_axis(cells, dim, at)


def sample_axis(cells: Tensor, dim: int, at: Tensor) -> Tensor:
    """Sample a map linearly along one axis, which ``interpolate`` does only from a map's corner.

    Args:
        cells: Float map with ``n`` cells along ``dim``.
        dim: Axis to sample along.
        at: Float ``(m,)``, where to sample, in cells: 0 is the centre of the first, ``n - 1`` that
            of the last; beyond them the border's value counts.

    Returns:
        The map with ``m`` cells along ``dim``.
    """
    last = cells.shape[dim] - 1
    at = at.clamp(0, last)
    lower = at.long()
    upper = (lower + 1).clamp(max=last)
    weight = (at - lower).to(cells.dtype).view([-1 if d == dim else 1 for d in range(cells.ndim)])
    return torch.lerp(cells.index_select(dim, lower), cells.index_select(dim, upper), weight)


def even_parts(size: Size, side: int) -> Iterator[tuple[slice, slice]]:
    """Cut an image into as few rows and columns of parts as have no side longer than asked for."""
    counts = [-(-length // side) for length in size]
    edges = [
        [length * place // count for place in range(count + 1)]
        for length, count in zip(size, counts, strict=True)
    ]
    for top, bottom in pairwise(edges[0]):
        for left, right in pairwise(edges[1]):
            yield slice(top, bottom), slice(left, right)


def resize_part(maps: Tensor, size: Size, rows: range, columns: range) -> Tensor:
    """Compute a part of a bilinear resize, from the cells under it alone.

    Args:
        maps: Maps ``(K, h, w)`` that cover an image.
        size: Height and width that they would be resized to.
        rows: The part's rows in that size.
        columns: The part's columns in that size.

    Returns:
        Float32 ``(K, rows, columns)``.
    """
    height = maps.shape[1]
    under = cells_under(rows, height, size[0])
    part = maps[:, under.start : under.stop]
    # Bilinear resize is separable: first the columns, then the rows.
    wide = resize(part[None], (len(under), size[1]))[0, :, :, columns.start : columns.stop]
    return resize_axis(wide, 1, rows, height, size[0])


def cells_under(part: range, cells: int, side: int) -> range:
    """Cells that decide a part of a linear resize along one axis.

    Args:
        part: Positions in the resized map.
        cells: Cells of the map.
        side: Cells of the resized map.
    """
    if cells == side:
        return part
    first, last = (
        min(max((pixel + 0.5) * (cells / side) - 0.5, 0), cells - 1)
        for pixel in (part.start, part.stop - 1)
    )
    return range(int(first), min(int(last) + 2, cells))


def resize_axis(maps: Tensor, dim: int, part: range, cells: int, side: int) -> Tensor:
    """Compute a part of a linear resize along one axis.

    Args:
        maps: Float maps that hold, along ``dim``, what `cells_under` names.
        dim: Axis.
        part: Positions in the resized map.
        cells: Cells of the map along the axis, were it whole.
        side: Cells of the resized map.
    """
    if cells == side:
        return maps
    pixels = torch.arange(part.start, part.stop, dtype=torch.float64)
    at = ((pixels + 0.5) * (cells / side) - 0.5).clamp(0, cells - 1)
    at = at - cells_under(part, cells, side).start
    return sample_axis(maps, dim, at.to(maps.device, maps.dtype))
