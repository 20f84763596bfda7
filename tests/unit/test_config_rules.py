"""What cannot work is told by its key, and what just can is let through."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tsic.config import RunConfig, TeacherConfig
from tsic.config_file import load_config
from tsic.config_rules import broken_in_run

HINTS = {"teacher.name": "x", "teacher.hints_only": True, "teacher.hint_cache": "y"}
TAUGHT = {"distill.method": "kd", "distill.teacher": "x"}


def broken(values: dict[str, Any]) -> list[str]:
    config: Any = RunConfig()
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        part = replace(getattr(config, section), **{name: value})
        config = replace(config, **{section: part})
    return list(broken_in_run(config))


def test_a_recipe_that_is_only_named_is_told() -> None:
    """Built in Python it presets nothing, and the run would be of the recipe `cycle`."""
    named = RunConfig(recipe="paper", teacher=TeacherConfig("tiny-sam"))
    told = list(broken_in_run(named))
    assert [one.split("; begin with tsic.config_file.load_config(None")[0] for one in told] == [
        "recipe: paper is named, but nothing that it presets in teacher is there",
        "recipe: paper is named, but nothing that it presets in objective is there",
    ]
    assert not list(broken_in_run(replace(named, teacher=TeacherConfig()))), "trains none"
    for recipe in ("paper", "release"):
        words = ["--recipe", recipe, "--teacher.name", "tiny-sam", "--data.crop", "[64, 64]"]
        changed = ["--teacher.mapping", "light", "--objective.kl_weight", "1.5"]
        assert load_config(None, [*words, *changed]).objective.kl_weight == 1.5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**HINTS, "teacher.scale": 2.0}, "teacher.scale has no part in teacher.hint_cache"),
        (
            {**HINTS, "teacher.hint_cache": __file__},
            f"teacher.hint_cache must name a folder, got '{__file__}', a file",
        ),
        (
            {**HINTS, "teacher.hint_cache": f"{__file__}/hints"},
            f"teacher.hint_cache must name a folder, got '{__file__}/hints', a file",
        ),
        ({"teacher.ema": 1.0}, "teacher.ema must lie between 0 and 1, got 1.0"),
        ({"optim.ema": 1.0}, "optim.ema must lie between 0 and 1, got 1.0"),
        ({"trainer.graph": True, "trainer.accumulate": 2}, "trainer.graph needs trainer.devices"),
        ({"trainer.graph": True, "trainer.devices": 2}, "trainer.graph needs trainer.devices"),
        ({"trainer.compile": True, "trainer.devices": 2}, "trainer.compile needs trainer.devices"),
        ({"objective.temperature": 0.0}, "objective.temperature must be > 0"),
        ({**TAUGHT, "distill.weight": 0.0}, "distill.weight must be > 0, got 0.0"),
        ({"distill.method": "kd"}, "distill.teacher must name the folder"),
        (
            {"distill.method": "mutual", "distill.teacher": "x"},
            "distill.teacher: method mutual has none",
        ),
        ({**TAUGHT, "teacher.name": "x"}, "distill.method kd stands in the cycle's place"),
        ({"trainer.accumulate": 3}, "data.batch_size must be a multiple of"),
        ({"data.cutmix": 1.0, "trainer.accumulate": 8}, "data.cutmix exchanges boxes between"),
        (
            {"teacher.name": "x", "teacher.mapping": "uper", "trainer.devices": 8},
            "teacher.mapping uper normalises over the images of a device",
        ),
        ({"objective.class_balance": 1.5}, "objective.class_balance must lie in [0, 1], got 1.5"),
        ({"teacher.rounds": 0}, "teacher.rounds must be >= 1, got 0"),
        ({"objective.mask_weight": -0.5}, "objective.mask_weight must be >= 0, got -0.5"),
    ],
)
def test_what_cannot_work_is_told_by_its_key(values: dict[str, Any], said: str) -> None:
    (told,) = broken(values)
    assert told.startswith(said)


@pytest.mark.parametrize(
    "values",
    [
        {},
        HINTS,
        TAUGHT,
        {"distill.method": "mutual"},
        {"teacher.name": "x", "teacher.ema": 0.5, "optim.ema": 0.5},
        {"trainer.graph": True, "trainer.compile": True},
        {"data.cutmix": 1.0, "trainer.accumulate": 4},
        {"objective.class_balance": 1.0, "teacher.rounds": 1},
    ],
)
def test_what_can_work_is_let_through(values: dict[str, Any]) -> None:
    assert broken(values) == []


def test_a_file_is_read_as_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("data: {root: ./größe}\n", encoding="utf-8-sig")
    told = "from tsic.config_file import load_config as r; print(ascii(r('own.yaml').data.root))"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=tmp_path, env=os.environ | plain, capture_output=True
    )
    assert done.stdout.strip() == rb"'./gr\xf6\xdfe'", done.stderr
