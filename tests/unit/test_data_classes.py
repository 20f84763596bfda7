import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from tsic.data.class_file import read_classes, write_classes
from tsic.data.classes import IGNORE, ClassTable, default_palette
from tsic.errors import ConfigError, DataError


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "classes.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_read_classes_short_form_numbers_by_position(tmp_path: Path) -> None:
    table = read_classes(_write(tmp_path, "classes: [road, sky]"))
    assert table.names == ("road", "sky")
    assert table.label_map == {0: 0, 1: 1, 255: IGNORE}
    assert table.palette == default_palette(2)
    assert table.num_classes == 2


def test_read_classes_long_form_maps_ids(tmp_path: Path) -> None:
    text = """
    classes:
      - {name: road, id: 7, color: [128, 64, 128]}
      - {name: vehicle, id: [26, 27]}
      - {name: sky, id: 2}
    ignore: [0, 255]
    """
    table = read_classes(_write(tmp_path, text))
    assert table.names == ("road", "vehicle", "sky")
    assert table.label_map == {7: 0, 26: 1, 27: 1, 2: 2, 0: IGNORE, 255: IGNORE}
    assert table.palette == ((128, 64, 128), *default_palette(3)[1:])


def test_read_classes_lets_a_class_claim_255(tmp_path: Path) -> None:
    table = read_classes(_write(tmp_path, "classes: [{name: soil, id: 0}, {name: leaf, id: 255}]"))
    assert table.label_map == {0: 0, 255: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[road]", "key 'classes' must hold a list of classes"),
        ("klasses: [road]", "key 'classes' must hold a list of classes"),
        ("classes: []", "classes must be 1 to 254 names, got 0"),
        ("classes: [road, road]", "name 'road' stands twice"),
        ("classes: [yes, road]", r"classes[0] must be a name, got True; put it in quotes"),
        (
            "classes: [{name: a, colour: [1, 2, 3]}]",
            "unknown key 'classes[0].colour'; did you mean",
        ),
        ("classes: [{name: a, color: [1, 2]}]", "classes[0].color must be three numbers"),
        ("classes: [{name: a, color: [1, 2, 300]}]", "color must be three numbers"),
        ("classes: [{name: a, id: -1}]", "classes[0].id must be a number from 0 to 65535, got -1"),
        ("classes: [{name: a, id: []}]", "class 'a' has no id"),
        (
            "classes: [{name: a, id: 3}, {name: b, id: 3}]",
            "classes[1].id: 3 already belongs to 'a'",
        ),
        ("classes: [a]\nignore: [0]", "ignore: 0 also belongs to 'a'"),
        ("classes: [a]\nignor: [9]", "unknown key 'ignor'; did you mean 'ignore'"),
        ("classes: [a", "not valid YAML"),
        (
            "classes: [a]\nignore: [9]\nclasses: [b]",
            "key classes stands twice, in lines 1 and 3; remove one",
        ),
    ],
)
def test_read_classes_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: ") + ".*" + re.escape(message)):
        read_classes(path)


def test_read_classes_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.yaml does not exist; write it, one line will do: "):
        read_classes(tmp_path / "none.yaml")


def test_write_classes_is_read_back(tmp_path: Path) -> None:
    table = ClassTable(
        ("straße", "sky"), ((1, 2, 3), (4, 5, 6)), {3: 0, 300: 0, 1: 1, 0: 255, 255: 255}
    )
    write_classes(tmp_path / "c.yaml", table)
    assert read_classes(tmp_path / "c.yaml") == table


def test_to_dict_survives_json() -> None:
    table = ClassTable(("a", "b"), ((1, 2, 3), (4, 5, 6)), {11: 255, 255: 255, 0: 0, 1: 1})
    assert ClassTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_from_dict_names_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="must hold names, palette and label_map"):
        ClassTable.from_dict({"names": ["a"]})


def test_class_table_checks_palette_and_map() -> None:
    with pytest.raises(ConfigError, match="got 1 colours for 2 classes"):
        ClassTable.from_names(("a", "b"), palette=((0, 0, 0),))
    with pytest.raises(ConfigError, match="id 4 is mapped to class 2, but there are only 1"):
        ClassTable(("a",), ((0, 0, 0),), {0: 0, 4: 2})
    with pytest.raises(ConfigError, match="from 0 to 65535, got 65536"):
        ClassTable(("a",), ((0, 0, 0),), {0: 0, 65536: 255})


def test_default_palette_is_distinct() -> None:
    assert len(set(default_palette(255))) == 255
    first = default_palette(20)
    distances = [
        sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
        for i, a in enumerate(first)
        for b in first[:i]
    ]
    assert min(distances) > 25
    assert all(a != b for a, b in pairwise(first))


def test_colours_of_masks_may_be_merged_and_ignored(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(
        "classes: [{name: a, color: [[1, 2, 3], [4, 5, 6]]}, {name: b, color: [7, 8, 9]}]\n"
        "ignore: [255, [0, 0, 0]]\n"
    )
    classes = read_classes(path)
    assert classes.palette == ((1, 2, 3), (7, 8, 9))
    expected = {(1, 2, 3): 0, (4, 5, 6): 0, (7, 8, 9): 1, (0, 0, 0): 255}
    assert classes.colour_map == expected
    assert classes.label_map == {0: 0, 1: 1, 255: 255}
    write_classes(path, classes)
    assert read_classes(path) == classes
    assert ClassTable.from_dict(classes.to_dict()) == classes


def test_a_colour_belongs_to_one_class(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("classes: [{name: a, color: [1, 2, 3]}, {name: b, color: [1, 2, 3]}]")
    with pytest.raises(
        ConfigError, match=r"classes\[1\].color: \(1, 2, 3\) already belongs to 'a'"
    ):
        read_classes(path)


def test_a_colour_of_ours_is_none_of_yours(tmp_path: Path) -> None:
    first, second = default_palette(2)
    table = {"classes": [{"name": "a", "color": list(second)}, "b"], "ignore": [list(first)]}
    (tmp_path / "classes.yaml").write_text(json.dumps(table))
    classes = read_classes(tmp_path / "classes.yaml")
    assert classes.palette[0] == second
    assert classes.palette[1] not in (first, second)


def test_ignore_may_be_one_number(tmp_path: Path) -> None:
    classes = read_classes(_write(tmp_path, "classes: [a, b]\nignore: 7"))
    assert classes.label_map == {0: 0, 1: 1, 7: IGNORE}
