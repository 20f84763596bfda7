"""Masks drawn from polygons: pixel for pixel, small shapes on top of large ones."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tsic.data.classes import IGNORE, ClassTable, default_palette
from tsic.errors import ConfigError, DataError

Points = npt.NDArray[np.float64]
"""Corners of a polygon in pixels, ``(N, 2)`` as (x, y); pixel (0, 0) spans 0 to 1."""

Ids = npt.NDArray[np.uint16]
"""A mask of class ids, ``(H, W)``."""

BACKGROUND = "background"
"""Name of class 0, which every pixel outside all shapes belongs to."""


def table_with_background(names: Sequence[str], source: object) -> ClassTable:
    """Make the table of masks in which 0 is background and ``i + 1`` is the i-th name.

    A name that is itself "background" becomes no class of its own: its id means class 0 too.

    Args:
        names: Names of the drawn classes, in the order of their ids.
        source: File that the names come from, for messages.

    Returns:
        The table; no id is ignored.

    Raises:
        ConfigError: If a name stands twice, or there are more than 254.
    """
    classes = [BACKGROUND]
    label_map = {0: 0}
    for value, name in enumerate(names, start=1):
        if name.strip().lower() == BACKGROUND:
            label_map[value] = 0
        else:
            label_map[value] = len(classes)
            classes.append(name)
    try:
        return ClassTable(tuple(classes), default_palette(len(classes)), label_map)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def require_places(names: Sequence[str], classes: ClassTable, source: object) -> None:
    """Refuse a table of one's own that gives a drawn class the place of another.

    Splits that list their classes in different orders are drawn with different values, so one
    table cannot serve both. Names that the table does not have say nothing.

    Args:
        names: Names of the drawn classes, in the order of their ids, which start at 1.
        classes: The table.
        source: File that the names come from, for messages.

    Raises:
        ConfigError: Naming the class and its value.
    """
    for value, name in enumerate(names, start=1):
        place = classes.label_map.get(value)
        if name in classes.names and place not in (None, IGNORE, classes.names.index(name)):
            raise ConfigError(
                f"{source}: '{name}' has the value {value} in masks, which the class table gives "
                "another meaning; number from 1 in the order of this file's ids, and list the same "
                "classes in the files of all splits"
            )


def check_polygon(coordinates: npt.NDArray[np.float64]) -> None:
    """Refuse what is no polygon.

    Args:
        coordinates: x and y in turn.

    Raises:
        DataError: If a coordinate has no partner or is not finite, or points are fewer than 3.
    """
    if coordinates.ndim != 1 or coordinates.size % 2:
        raise DataError(f"a polygon has {coordinates.size} coordinates, not pairs of x and y")
    if coordinates.size < 6:
        raise DataError(f"a polygon has {coordinates.size // 2} points; it needs at least 3")
    if not np.isfinite(coordinates).all():
        raise DataError("a polygon has a coordinate that is not a finite number")


def fill_polygon(mask: Ids, points: Points, value: int) -> None:
    """Write an id into every pixel whose centre lies inside a polygon.

    Where a polygon crosses itself, the even-odd rule decides. A centre on the border counts as
    inside at the left and the top, outside at the right and the bottom, so that neighbours that
    share an edge neither overlap nor leave a gap. Pillow's ``ImageDraw.polygon`` would round the
    corners to whole pixels and widen every shape by its border.

    Args:
        mask: Changed in place.
        points: The corners, in order; the last is joined to the first.
        value: The id.
    """
    height, width = mask.shape
    left, top = np.clip(np.floor(points.min(0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(points.max(0)), 0, (width, height)).astype(int)
    if left >= right or top >= bottom:
        return
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    centres = np.arange(top, bottom) + 0.5
    edge, row = np.nonzero((y0[:, None] <= centres) != (y1[:, None] <= centres))
    along = (centres[row] - y0[edge]) / (y1 - y0)[edge]
    crossing = x0[edge] + along * (x1 - x0)[edge]
    first_right_of_it = np.clip(np.ceil(crossing - 0.5), left, right).astype(int) - left
    crossings = np.zeros((bottom - top, right - left + 1), np.bool_)
    np.logical_xor.at(crossings, (row, first_right_of_it), True)
    inside = np.logical_xor.accumulate(crossings, axis=1)[:, :-1]
    mask[top:bottom, left:right][inside] = value


def polygon_area(points: Points) -> float:
    """Area of a polygon in square pixels, by the shoelace formula."""
    x, y = points.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
