"""A tiny configuration in the cycle, on the drawn folder; a command's exit code and words."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tsic.cli import main

Settings = dict[str, Any]
Said = Callable[..., tuple[int, str]]


@pytest.fixture
def settings(folder_dataset: Path) -> Settings:
    """A run of six steps with a teacher from the third on, as its YAML would say it."""
    return {
        "max_steps": 6,
        "data": {
            "name": "folder",
            "root": str(folder_dataset),
            "crop": [32, 48],
            "batch_size": 4,
            "workers": 0,
        },
        "student": {"name": "compact", "options": {"width": 0.25, "dilations": [1, 2]}},
        "teacher": {"name": "tiny-sam", "channels": 16, "lora_rank": 2, "warmup_steps": 2},
        "trainer": {
            "precision": "32-true",
            "accelerator": "cpu",
            "val_every": 3,
            "save_every": 2,
            "log_every": 1,
            "pictures": 1,
        },
    }


@pytest.fixture
def config_file(settings: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def late_sigterm() -> Iterator[None]:
    """One that comes after a run has ended would end the tests."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Exit code of a command and everything printed."""

    def call(*words: object) -> tuple[int, str]:
        code = main([str(word) for word in words])
        return code, "".join(capsys.readouterr())

    return call
