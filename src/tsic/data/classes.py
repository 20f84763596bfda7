"""Class tables: names, colours, and which value in a mask file means which class."""

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from tsic.errors import ConfigError, nearest
from tsic.files import read_text, write_text

IGNORE = 255
"""Label of pixels that no loss and no metric counts."""

MAX_CLASSES = 254
"""Most classes: train ids are bytes, of which 255 is ignored and 254 means an unknown value."""

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
            if len(colour) != 3 or not all(_is_int(c) and 0 <= c <= 255 for c in colour):
                raise ConfigError(
                    f"color of class '{name}' must be three numbers from 0 to 255, got {colour}"
                )

    def _check_label_map(self) -> None:
        """Keys are values that a file can hold, values are train ids or 255."""
        for value, train_id in self.label_map.items():
            if not _is_int(value) or not 0 <= value <= MAX_FILE_VALUE:
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
        ignore: Iterable[int] = (IGNORE,),
    ) -> Self:
        """Make the table of masks whose values are the positions of the names.

        Args:
            names: Class names in the order of their ids.
            palette: RGB colours; `default_palette` when left out.
            ignore: Values in the mask files that mean "no label".

        Returns:
            The table.

        Raises:
            ConfigError: As the class itself.
        """
        label_map = dict.fromkeys(ignore, IGNORE) | {i: i for i in range(len(names))}
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
                tuple(_colour("palette", colour) for colour in values["palette"]),
                {int(value): int(train_id) for value, train_id in values["label_map"].items()},
                {(r, g, b): train_id for r, g, b, train_id in values.get("colour_map", ())},
            )
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
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


def read_classes(path: str | Path) -> ClassTable:
    """Read a class table from a small YAML file.

    Short form, where an id is a position: ``classes: [road, sky]``. Long form, where ``color`` or
    all the ``id`` may be left out, and each may be a list, whose ids or colours become one class:
    ``classes: [{name: road, id: 7, color: [128, 64, 128]}]``. ``ignore: [11, 255]`` lists the
    ids and colours that mean "no label"; it is ``[255]`` when left out. Masks of colours need the
    colours, masks of ids the ids.

    Args:
        path: The YAML file.

    Returns:
        The table.

    Raises:
        DataError: If the file cannot be read.
        ConfigError: If its content is not a class table; the message names file and key.
    """
    path = Path(path)
    content = _load_yaml(path)
    try:
        return _parse(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_splits(path: str | Path) -> dict[str, float]:
    """Read how a class table's file shares the images out to splits.

    The key is ``splits: {train: 0.8, val: 0.2}``; the shares sum to 1.

    Args:
        path: The YAML file.

    Returns:
        Share of the images in ``(0, 1]`` by split, in the file's order; empty without the key.

    Raises:
        DataError: If the file cannot be read.
        ConfigError: If the key holds something else; the message names the file.
    """
    content = _load_yaml(Path(path))
    if not isinstance(content, dict) or "splits" not in content:
        return {}
    splits = content["splits"]
    if not isinstance(splits, dict) or not splits:
        raise ConfigError(
            f"{path}: splits must hold a share by split, as in splits: {{train: 0.8, val: 0.2}}, "
            f"got {splits!r}"
        )
    for name, share in splits.items():
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{path}: splits: {name!r} must be a name; put it in quotes")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ConfigError(
                f"{path}: splits.{name} must be a share above 0 and up to 1, got {share!r}"
            )
    if abs(sum(splits.values()) - 1) > 1e-6:
        raise ConfigError(f"{path}: splits must sum to 1, got {sum(splits.values()):g}")
    return splits


def write_classes(path: str | Path, classes: ClassTable) -> None:
    """Write a class table so that `read_classes` reads an equal one.

    Args:
        path: The YAML file to write.
        classes: The table.
    """

    def values_of(table: Mapping[Any, int], train_id: int) -> list[Any]:
        return [value for value, target in table.items() if target == train_id]

    entries = []
    for i, (name, colour) in enumerate(zip(classes.names, classes.palette, strict=True)):
        ids = values_of(classes.label_map, i)
        others = [c for c in values_of(classes.colour_map, i) if c != colour]
        entries.append(
            {
                "name": name,
                "id": ids[0] if len(ids) == 1 else ids,
                "color": [list(c) for c in (colour, *others)] if others else list(colour),
            }
        )
    ignored = values_of(classes.label_map, IGNORE)
    ignored += [list(colour) for colour in values_of(classes.colour_map, IGNORE)]
    content = {"classes": entries, "ignore": ignored}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)
    write_text(Path(path), text)


def _load_yaml(path: Path) -> Any:
    """Content of a class table's file."""
    try:
        return yaml.safe_load(read_text(path, "class table"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def _parse(content: Any) -> ClassTable:
    """Turn the YAML's content into a table."""
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise ConfigError("key 'classes' must hold a list of classes, as in classes: [road, sky]")
    _check_keys("", content, ("classes", "ignore", "splits"))
    _require_all_or_no_ids(content["classes"])
    names: list[Any] = []
    palette: list[Colour] = []
    table: dict[int | Colour, int] = {}
    for i, (entry, default) in enumerate(
        zip(content["classes"], default_palette(len(content["classes"])), strict=True)
    ):
        settings = entry if isinstance(entry, dict) else {"name": entry}
        _check_keys(f"classes[{i}].", settings, ("name", "id", "color"))
        names.append(settings.get("name"))
        colours = _colours(f"classes[{i}].color", settings.get("color", [default]))
        palette.append(colours[0])
        ids = _ids(f"classes[{i}].id", settings.get("id", i))
        for key, values in (("id", ids), ("color", colours)):
            for value in values:
                if value in table:
                    raise ConfigError(
                        f"classes[{i}].{key}: {value} already belongs to '{names[table[value]]}'"
                    )
                table[value] = i
    for value in _ignored(content.get("ignore", [IGNORE])):
        # The usual 255 is a mere default and gives way to a class that claims it.
        if value in table and "ignore" in content:
            raise ConfigError(f"ignore: {value} also belongs to '{names[table[value]]}'")
        table.setdefault(value, IGNORE)
    label_map = {value: i for value, i in table.items() if isinstance(value, int)}
    colour_map = {value: i for value, i in table.items() if isinstance(value, tuple)}
    return ClassTable(tuple(names), tuple(palette), label_map, colour_map)


def _require_all_or_no_ids(entries: list[Any]) -> None:
    """Refuse a class without an id among others with one: its position would be a guess."""
    have = [isinstance(entry, dict) and "id" in entry for entry in entries]
    if any(have) and not all(have):
        i = have.index(False)
        raise ConfigError(
            f"classes[{i}] has no id, though others have one; give every class its id, or none"
        )


def _check_keys(prefix: str, settings: Mapping[Any, Any], known: Sequence[str]) -> None:
    """Refuse a key that nothing reads."""
    for key in settings:
        if key not in known:
            raise ConfigError(f"unknown key '{prefix}{key}'; {nearest(str(key), known)}")


def _ids(key: str, value: Any) -> list[int]:
    """Read one mask value or a list of them."""
    values = value if isinstance(value, list) else [value]
    if not all(_is_int(v) and 0 <= v <= MAX_FILE_VALUE for v in values):
        raise ConfigError(f"{key} must be a number from 0 to {MAX_FILE_VALUE}, got {value!r}")
    return values


def _colours(key: str, value: Any) -> list[Colour]:
    """Read one RGB colour or a list of them."""
    is_list = isinstance(value, list) and value and isinstance(value[0], (list, tuple))
    return [_colour(key, colour) for colour in (value if is_list else [value])]


def _ignored(value: Any) -> list[int | Colour]:
    """Read the ids and colours that mean no label."""
    values = value if isinstance(value, list) else [value]
    found: list[int | Colour] = []
    for one in values:
        found += [_colour("ignore", one)] if isinstance(one, list) else _ids("ignore", one)
    return found


def _colour(key: str, value: Any) -> Colour:
    """Read one RGB colour."""
    try:
        red, green, blue = value
    except (TypeError, ValueError):
        raise ConfigError(f"{key} must be three numbers from 0 to 255, got {value!r}") from None
    if not all(_is_int(channel) and 0 <= channel <= 255 for channel in (red, green, blue)):
        raise ConfigError(f"{key} must be three numbers from 0 to 255, got {value!r}")
    return red, green, blue


def _is_int(value: object) -> bool:
    """Tell a whole number from YAML's true and false."""
    return isinstance(value, int) and not isinstance(value, bool)
