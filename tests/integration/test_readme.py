"""README's own commands, on the drawn folder and scaled down."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import tsic
from tsic.cli import main
from tsic.data.readers import open_dataset

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SMALL = (
    "--max_steps 2 --data.crop [32,48] --data.batch_size 2 --data.workers 0 --trainer.val_every 2 "
    "--trainer.precision 32-true --optim.lr_warmup_steps 1 --teacher.warmup_steps 1"
)


def test_readme_commands_run_in_order(
    folder_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = re.findall(r"^ *\.venv/bin/tsic (.+)$", README, re.MULTILINE)
    verbs = [shlex.split(command)[0] for command in commands]
    assert verbs == ["data", "train", "train", "compare", "evaluate", "predict", "export"]
    assert folder_dataset.name == "shapes"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for command in commands:
        words = shlex.split(command)
        if words[0] == "train":
            words += SMALL.split()
        if words[0] == "compare":
            words.append("--dry-run")
        if words[0] in ("train", "compare") and "--teacher.name" not in words:
            words += ["--teacher.name", "tiny-mobile-sam"]  # MobileSAM's file is not at hand
        assert main(words) == 0
    assert (tmp_path / "scores.json").is_file()
    assert len(list((tmp_path / "labels").rglob("*.overlay.jpg"))) == 3
    assert (tmp_path / "runs/cycle/exported/onnx/student.onnx").is_file()

    snippet = re.search(r"```python\n(.+?)```", README, re.DOTALL)
    assert snippet is not None
    image = torch.randint(256, (3, 50, 70), dtype=torch.uint8)
    names: dict[str, object] = {"tsic": tsic, "image": image}
    exec("\n".join(line.strip() for line in snippet[1].splitlines()), names)
    labels = names["labels"]
    assert isinstance(labels, torch.Tensor)
    assert labels.shape == (50, 70)


def test_readme_classes_are_those_of_the_folder(folder_dataset: Path) -> None:
    block = re.search(r"```yaml\n(.+?)```", README, re.DOTALL)
    assert block is not None
    lines = "\n".join(line.strip() for line in block[1].splitlines())
    (folder_dataset / "classes.yaml").write_text(lines)
    dataset = open_dataset("folder", folder_dataset, "train")
    assert dataset.classes.names == ("ground", "square", "disc")
    dataset.read(0)
