"""What can be seen in a drawn street, which class it belongs to, and how its surface looks."""

from enum import IntEnum

import numpy as np

from tsic.data.classes import IGNORE, ClassTable

_CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("sky", (132, 190, 232)),
    ("building", (158, 120, 104)),
    ("vegetation", (92, 158, 74)),
    ("road", (98, 92, 122)),
    ("pavement", (214, 168, 206)),
    ("fence", (176, 148, 62)),
    ("pole", (226, 226, 214)),
    ("sign", (255, 212, 24)),
    ("person", (232, 46, 76)),
    ("cyclist", (255, 134, 44)),
    ("car", (44, 92, 216)),
    ("bus", (24, 170, 164)),
)

SCENE_CLASSES = ClassTable.from_names(
    tuple(name for name, _ in _CLASSES), palette=tuple(colour for _, colour in _CLASSES)
)
"""Classes of the drawn scenes; masks hold their positions, and 255 for what has no class."""


class Surface(IntEnum):
    """Code drawn beside every colour; several surfaces may share a class."""

    SKY = 0
    PLASTER = 1
    BRICK = 2
    FOLIAGE = 3
    GRASS = 4
    ROAD = 5
    PAVEMENT = 6
    FENCE = 7
    POLE = 8
    SIGN = 9
    PERSON = 10
    CYCLIST = 11
    CAR = 12
    BUS = 13
    VOID = 14


_NAME_OF = {
    Surface.SKY: "sky",
    Surface.PLASTER: "building",
    Surface.BRICK: "building",
    Surface.FOLIAGE: "vegetation",
    Surface.GRASS: "vegetation",
    Surface.ROAD: "road",
    Surface.PAVEMENT: "pavement",
    Surface.FENCE: "fence",
    Surface.POLE: "pole",
    Surface.SIGN: "sign",
    Surface.PERSON: "person",
    Surface.CYCLIST: "cyclist",
    Surface.CAR: "car",
    Surface.BUS: "bus",
}


LABEL_OF = np.full(len(Surface), IGNORE, dtype=np.uint8)
"""Class id of each surface code, uint8 ``(len(Surface),)``; 255 for what has no class."""

LABEL_OF[list(_NAME_OF)] = [SCENE_CLASSES.names.index(name) for name in _NAME_OF.values()]

GROUND = (Surface.ROAD, Surface.PAVEMENT, Surface.GRASS)
"""Surfaces that lie flat, so that their grain shrinks with distance."""

GRAIN: dict[Surface, tuple[float, float]] = {
    Surface.PLASTER: (0.03, 0.05),
    Surface.BRICK: (0.08, 0.06),
    Surface.FOLIAGE: (0.13, 0.12),
    Surface.GRASS: (0.10, 0.10),
    Surface.ROAD: (0.03, 0.05),
    Surface.PAVEMENT: (0.03, 0.05),
    Surface.FENCE: (0.05, 0.03),
    Surface.PERSON: (0.07, 0.03),
    Surface.CYCLIST: (0.05, 0.03),
    Surface.CAR: (0.015, 0.03),
    Surface.BUS: (0.015, 0.03),
}
"""Relative strength of the fine and of the patchy grain of a surface."""
