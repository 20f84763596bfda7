"""Class tables as small YAML files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tsic.data.classes import (
    IGNORE,
    MAX_FILE_VALUE,
    ClassTable,
    Colour,
    default_palette,
    is_int,
    read_colour,
)
from tsic.errors import ConfigError, DataError, nearest, one_line
from tsic.files import read_text, write_text
from tsic.yaml_text import load_yaml


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
    if not path.exists():
        raise DataError(
            f"{path} does not exist; write it, one line will do: 'classes: [road, sky]', or name "
            "another as data.classes"
        )
    try:
        return load_yaml(read_text(path, "class table"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {one_line(error)}") from error


def _parse(content: Any) -> ClassTable:
    """Turn the YAML's content into a table."""
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise ConfigError("key 'classes' must hold a list of classes, as in classes: [road, sky]")
    _check_keys("", content, ("classes", "ignore", "splits"))
    _require_all_or_no_ids(content["classes"])
    entries = [one if isinstance(one, dict) else {"name": one} for one in content["classes"]]
    for i, settings in enumerate(entries):
        _check_keys(f"classes[{i}].", settings, ("name", "id", "color"))
    names: list[Any] = []
    palette: list[Colour] = []
    table: dict[int | Colour, int] = {}
    defaults = _free_colours(entries, _ignored(content.get("ignore", [])))
    for i, settings in enumerate(entries):
        names.append(settings.get("name"))
        colours = _colours(f"classes[{i}].color", settings.get("color", [defaults[i]]))
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


def _free_colours(
    entries: Sequence[Mapping[str, Any]], ignored: Sequence[int | Colour]
) -> list[Colour]:
    """A colour for each class that names none, which the file does not use for another."""
    written = [one for one in ignored if isinstance(one, tuple)]
    for i, settings in enumerate(entries):
        if "color" in settings:
            written += _colours(f"classes[{i}].color", settings["color"])
    palette = default_palette(2 * len(entries) + len(written))
    spare = (colour for colour in palette[len(entries) :] if colour not in written)
    return [one if one not in written else next(spare) for one in palette[: len(entries)]]


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
    if not all(is_int(v) and 0 <= v <= MAX_FILE_VALUE for v in values):
        raise ConfigError(f"{key} must be a number from 0 to {MAX_FILE_VALUE}, got {value!r}")
    return values


def _colours(key: str, value: Any) -> list[Colour]:
    """Read one RGB colour or a list of them."""
    is_list = isinstance(value, list) and value and isinstance(value[0], (list, tuple))
    return [read_colour(key, colour) for colour in (value if is_list else [value])]


def _ignored(value: Any) -> list[int | Colour]:
    """Read the ids and colours that mean no label."""
    values = value if isinstance(value, list) else [value]
    found: list[int | Colour] = []
    for one in values:
        found += [read_colour("ignore", one)] if isinstance(one, list) else _ids("ignore", one)
    return found
