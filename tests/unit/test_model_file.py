"""The schema of student.json: read back equal, older formats, and each mistake by its key."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tsic.data.classes import ClassTable
from tsic.errors import CheckpointError
from tsic.model_file import FORMAT, StudentFacts, read_facts
from tsic.student import StudentSpec

FACTS = StudentFacts(
    spec=StudentSpec("compact", 3, options={"width": 0.25}),
    classes=ClassTable.from_names(("ground", "square", "disc")),
    mean=(0.5, 0.25, 0.125),
    std=(1.0, 2.0, 4.0),
    versions={"tsic": "0.1.0", "torch": "2.15.0"},
    parameters=177_243,
    weights_sha256="0f" * 32,
    saved_at="2026-01-31T12:00:00+00:00",
    more={"resize": [180, 240], "training": {"seed": 3, "val_miou": 51.5}, "note": ["mine"]},
)

# What the first release wrote: without digest, parameters and date.
FORMAT_1: dict[str, Any] = {
    "format": 1,
    "spec": {
        "name": "compact",
        "num_classes": 2,
        "encoder": "resnet18",
        "weights": "none",
        "output_stride": None,
        "auxiliary": False,
        "options": {},
    },
    "classes": {
        "names": ["road", "car"],
        "palette": [[0, 0, 0], [255, 0, 0]],
        "label_map": {"0": 0, "1": 1, "255": 255},
        "colour_map": [[0, 0, 0, 0], [255, 0, 0, 1]],
    },
    "input": {"channels": "RGB", "range": [0, 1]},
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "versions": {"tsic": "0.1.0", "torch": "2.15.0"},
    "resize": None,
    "training": {"crop": [160, 224], "steps": 1000, "seed": 0, "recipe": "cycle"},
}


def written(tmp_path: Path, values: object) -> Path:
    path = tmp_path / "student.json"
    path.write_text(json.dumps(values))
    return path


def test_facts_are_read_back_equal(tmp_path: Path) -> None:
    assert read_facts(written(tmp_path, FACTS.to_dict())) == FACTS


def test_format_1_is_read_and_becomes_format_2(tmp_path: Path) -> None:
    facts = read_facts(written(tmp_path, FORMAT_1))
    assert facts.spec == StudentSpec("compact", 2)
    assert facts.classes.names == ("road", "car")
    assert (facts.parameters, facts.weights_sha256, facts.saved_at) == (None, None, None)
    assert facts.more["training"]["steps"] == 1000
    complete = replace(facts, parameters=5, weights_sha256="a" * 64)
    assert read_facts(written(tmp_path, complete.to_dict())) == complete
    assert complete.to_dict()["format"] == FORMAT


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    path = written(tmp_path, {"format": FORMAT + 1})
    message = rf"student.json' has format {FORMAT + 1}, newer than .* \({FORMAT}\); upgrade tsic$"
    with pytest.raises(CheckpointError, match=message):
        read_facts(path)


@pytest.mark.parametrize("key", [key for key in FACTS.to_dict() if key not in FACTS.more])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    values = FACTS.to_dict()
    del values[key]
    with pytest.raises(CheckpointError, match=rf"student.json' is damaged: .*'{key}'"):
        read_facts(written(tmp_path, values))


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": True}, "'format' must be a whole number from 1, got true"),
        ({"format": 0}, "'format' must be a whole number from 1, got 0"),
        ({"format": "2"}, "'format' must be a whole number"),
        ({"mean": [0.5, NAN, 0.5]}, "'mean' must be three finite numbers, got [0.5, NaN, 0.5]"),
        ({"mean": [0.5, 0.5]}, "'mean' must be three finite numbers"),
        ({"mean": [[0.5], 0.5, 0.5]}, "'mean' must be three finite numbers"),
        ({"std": [1, True, 1]}, "'std' must be three finite numbers"),
        ({"std": [1, 0, 1]}, "'std' must be above 0"),
        ({"spec": []}, "'spec' must be an object, got []"),
        ({"classes": None}, "'classes' must be an object, got null"),
        ({"input": {"channels": "BGR", "range": [0, 1]}}, "'input' must be"),
        ({"parameters": 1.5}, "'parameters' must be a whole number, got 1.5"),
        ({"weights_sha256": "0F" * 32}, "'weights_sha256' must be 64 hex digits"),
        ({"weights_sha256": None}, "'weights_sha256' must be 64 hex digits, got null"),
        ({"saved_at": "yesterday"}, "'saved_at' must be a date"),
        ({"resize": [180]}, "'resize' must be null or height and width in pixels, got [180]"),
        ({"resize": [180, 0]}, "'resize' must be null or height and width"),
        ({"training": []}, "'training' must be an object, got []"),
        ({"training": {"steps": "many"}}, "'training.steps' must be a whole number or null"),
        ({"scores": {"miou": "high"}}, "'scores.miou' must be a whole number or a number or null"),
        ({"versions": 2}, "'versions' must be an object"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_facts(written(tmp_path, FACTS.to_dict() | changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": 7}, "'spec.name' must be a text, got 7"),
        ({"num_classes": True}, "'spec.num_classes' must be a whole number, got true"),
        ({"num_classes": 4}, "'spec.num_classes' is 4, but 'classes' names 3"),
        ({"options": []}, "'spec.options' must be an object"),
        ({"output_stride": 8.0}, "'spec.output_stride' must be a whole number or null"),
        ({"depth": 3}, "student.depth is unknown"),
    ],
)
def test_a_wrong_spec_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    values = FACTS.to_dict()
    values["spec"] |= changes
    with pytest.raises(CheckpointError, match=re.escape(said)):
        read_facts(written(tmp_path, values))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": ["ground", "ground", "disc"]}, "'ground' stands twice"),
        ({"palette": [[0, 0, 0]]}, "one colour per class"),
        ({"palette": [[0, 0, 256]] * 3}, "three numbers from 0 to 255"),
        ({"label_map": {"x": 0}}, "'classes' is no table of classes"),
        ({"names": 3}, "'classes' is no table of classes"),
    ],
)
def test_a_wrong_class_table_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    values = FACTS.to_dict()
    values["classes"] |= changes
    with pytest.raises(CheckpointError, match=re.escape(said)):
        read_facts(written(tmp_path, values))


def test_weights_are_never_fetched(tmp_path: Path) -> None:
    values = FACTS.to_dict()
    values["spec"]["weights"] = "imagenet"
    assert read_facts(written(tmp_path, values)).spec.weights == "none"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"\x80\x04\x95"])
def test_what_is_no_json_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "student.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"student.json' is no JSON \(.+\); copy") as caught:
        read_facts(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "7", "null", '"text"'])
def test_json_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "student.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match="must hold one object with named keys"):
        read_facts(path)


def test_a_student_says_its_own_keys() -> None:
    with pytest.raises(CheckpointError, match="'mean' is said by the student itself"):
        replace(FACTS, more={"mean": [0, 0, 0]})


def test_every_key_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "model-file.md").read_text()
    rows = set(re.findall(r"^\| `([\w.]+)` \|", page, flags=re.MULTILINE))
    values = FACTS.to_dict()
    inner = {f"spec.{key}" for key in values["spec"]} | {f"classes.{k}" for k in values["classes"]}
    assert (set(values) - {"note"}) | inner <= rows
