"""Class tables: names, colours, and which value in a mask file means which class."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tsic.errors import ConfigError

IGNORE = 255
"""Label of pixels that no loss and no metric counts."""

MAX_CLASSES = 254
"""Most classes: train ids are bytes, of which 255 is ignored and 254 means an unknown value."""

UNLABELLED = 254
"""Label of images without any: cross-entropies leave them out, the teacher teaches on them."""

MAX_FILE_VALUE = 65535
"""Largest class id that a mask file (16 bits) can hold."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset, in the order of their train ids.

    Args:
        names: One name per class; position is the train id, ``K <= 254`` of them.
        palette: One RGB colour per class, each channel in ``[0, 255]``.
        label_map: Value in the mask file -> train id in ``[0, K)``, or 255 for ignored pixels.
        colour_map: RGB colour in a mask of colours -> train id or 255; the palette when left out.

    Raises:
        ConfigError: If a name stands twice or is empty, the palette does not fit the names, or
            the map holds a value that no file or class can have.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    label_map: Mapping[int, int] = field(hash=False)
    colour_map: Mapping[Colour, int] = field(hash=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "palette", tuple(tuple(colour) for colour in self.palette))
        object.__setattr__(self, "label_map", dict(self.label_map))
        by_colour = {colour: i for i, colour in enumerate(self.palette)}
        object.__setattr__(self, "colour_map", dict(self.colour_map) or by_colour)
        self._check_names()
        self._check_palette()
        self._check_label_map()

    def _check_names(self) -> None:
        """Names must be 1 to 254 different, non-empty texts."""
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise ConfigError(f"classes must be 1 to {MAX_CLASSES} names, got {self.num_classes}")
        for train_id, name in enumerate(self.names):
            if not isinstance(name, str) or not name.strip():
                raise ConfigError(
                    f"classes[{train_id}] must be a name, got {name!r}; put it in quotes"
                )
            if name in self.names[:train_id]:
                raise ConfigError(f"classes: name '{name}' stands twice; names must differ")

    def _check_palette(self) -> None:
        """One colour of three bytes per class."""
        if len(self.palette) != self.num_classes:
            raise ConfigError(
                f"palette must hold one colour per class, got {len(self.palette)} colours for "
                f"{self.num_classes} classes"
            )
        for name, colour in zip(self.names, self.palette, strict=True):
            if len(colour) != 3 or not all(is_int(c) and 0 <= c <= 255 for c in colour):
                raise ConfigError(
                    f"color of class '{name}' must be three numbers from 0 to 255, got {colour}"
                )

    def _check_label_map(self) -> None:
        """Keys are values that a file can hold, values are train ids or 255."""
        for value, train_id in self.label_map.items():
            if not is_int(value) or not 0 <= value <= MAX_FILE_VALUE:
                raise ConfigError(f"id must be a number from 0 to {MAX_FILE_VALUE}, got {value!r}")
            if train_id != IGNORE and not 0 <= train_id < self.num_classes:
                raise ConfigError(
                    f"id {value} is mapped to class {train_id}, but there are only "
                    f"{self.num_classes} classes"
                )
        unused = set(range(self.num_classes)) - set(self.label_map.values())
        if unused:
            raise ConfigError(f"class '{self.names[min(unused)]}' has no id in the mask files")

    @property
    def num_classes(self) -> int:
        """Number of classes, ``K``."""
        return len(self.names)

    @classmethod
    def from_names(
        cls,
        names: Sequence[str],
        *,
        palette: Sequence[Colour] | None = None,
    ) -> Self:
        """Make the table of masks whose values are the positions of the names; 255 is ignored.

        Args:
            names: Class names in the order of their ids.
            palette: RGB colours; `default_palette` when left out.

        Returns:
            The table.

        Raises:
            ConfigError: As the class itself.
        """
        label_map = {IGNORE: IGNORE} | {i: i for i in range(len(names))}
        colours = default_palette(len(names)) if palette is None else tuple(palette)
        return cls(tuple(names), colours, label_map)

    def to_dict(self) -> dict[str, Any]:
        """Turn the table into what JSON can hold; `from_dict` reads it back."""
        return {
            "names": list(self.names),
            "palette": [list(colour) for colour in self.palette],
            "label_map": {str(value): train_id for value, train_id in self.label_map.items()},
            "colour_map": [[*colour, train_id] for colour, train_id in self.colour_map.items()],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild a table from `to_dict`.

        Args:
            values: Mapping with the keys ``names``, ``palette``, ``label_map`` and, where masks
                hold colours, ``colour_map``.

        Returns:
            A table equal to the one that was written.

        Raises:
            ConfigError: If a key is missing or holds something else.
        """
        try:
            return cls(
                tuple(values["names"]),
                tuple(read_colour("palette", colour) for colour in values["palette"]),
                {int(value): int(train_id) for value, train_id in values["label_map"].items()},
                {(r, g, b): train_id for r, g, b, train_id in values.get("colour_map", ())},
            )
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ConfigError(
                f"a class table must hold names, palette and label_map, got {values!r}"
            ) from error


def default_palette(num_classes: int) -> tuple[Colour, ...]:
    """Choose distinct colours that stay readable over a photograph.

    Hues follow the golden ratio, so that any first few colours lie far apart; lightness and
    saturation alternate, so that later ones differ from their neighbours in hue.

    Args:
        num_classes: How many colours, ``K``.

    Returns:
        ``K`` different RGB colours, each channel in ``[0, 255]``.
    """
    colours = []
    for i in range(num_classes):
        hue = (0.6 + i * 0.618034) % 1.0
        lightness = (0.50, 0.33, 0.68)[i % 3]
        saturation = (0.85, 0.55)[i // 3 % 2]
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(colours)


def read_colour(key: str, value: Any) -> Colour:
    """Read one RGB colour."""
    try:
        red, green, blue = value
    except (TypeError, ValueError):
        raise ConfigError(f"{key} must be three numbers from 0 to 255, got {value!r}") from None
    if not all(is_int(channel) and 0 <= channel <= 255 for channel in (red, green, blue)):
        raise ConfigError(f"{key} must be three numbers from 0 to 255, got {value!r}")
    return red, green, blue


def is_int(value: object) -> bool:
    """Tell a whole number from YAML's true and false."""
    return isinstance(value, int) and not isinstance(value, bool)
