"""`tsic data` as a user runs it: texts, files and exit codes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tsic.cli import main

Said = Callable[..., tuple[int, str]]


def test_clean_folder_passes(said: Said, folder_dataset: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "check.json"
    words: list[str | Path] = [
        folder_dataset,
        "--data.name",
        "folder",
        "--json",
        report,
    ]  # as of a training
    code, text = said("data", "check", *words)
    assert code == 0
    assert text.startswith("| class  | train px % | train images | val px % | val images |\n")
    assert "| all    |            |            6 |          |          3 |\n" in text
    assert "note: split left out (1)\n" in text
    assert "no split 'test'; choices: train, val\n" in text
    assert text.endswith("\nnothing that would hurt a training\n")
    written = json.loads(report.read_text())
    assert written["images"] == {"train": 6, "val": 3}
    assert written["problems"] == []
    assert [note["kind"] for note in written["notes"]] == ["split left out"]


def test_without_a_training_split_there_is_a_problem(
    said: Said, folder_dataset: Path, tmp_path: Path
) -> None:
    (folder_dataset / "train").rename(folder_dataset / "Train")
    code, text = said("data", "check", folder_dataset)
    assert code == 1
    assert "problem: split left out (1)\n" in text
    assert "no split 'train'; did you mean 'Train'?" in text
    assert said("data", "check", folder_dataset, "--splits", "Train", "val")[0] == 0
    code, text = said("data", "pack", folder_dataset, tmp_path / "pack")
    assert code == 0
    assert "warning: not packed: " in text
    assert "no split 'train'; did you mean 'Train'?" in text


def test_faults_give_exit_code_1(said: Said, folder_dataset: Path, tmp_path: Path) -> None:
    shutil.copy(folder_dataset / "train/images/000.png", folder_dataset / "val/images/000.png")
    for i in (1, 2):
        (folder_dataset / f"train/masks/{i:03}.png").unlink()
    words = ["--max-listed", "1", "--json", str(tmp_path / "check.json")]
    code, text = said("data", "check", folder_dataset, *words)
    assert code == 1
    assert "problem: missing mask (2)\n" in text
    assert "\n  and 1 more\n" in text
    assert "problem: duplicate image (1)\n" in text
    assert text.endswith("\n3 problems that would hurt a training\n")
    written = json.loads((tmp_path / "check.json").read_text())
    kinds = [(problem["split"], problem["kind"]) for problem in written["problems"]]
    assert kinds == [
        ("train", "missing mask"),
        ("train", "missing mask"),
        ("val", "duplicate image"),
    ]


def test_only_the_named_splits_are_checked(said: Said, folder_dataset: Path) -> None:
    (folder_dataset / "train/masks/000.png").unlink()
    code, text = said("data", "check", folder_dataset, "--splits", "val", "val")
    assert code == 0
    assert "train" not in text.replace("a training", "")
    code, _ = said("data", "check", folder_dataset, "--splits", "val", "train")
    assert code == 1


def test_absent_class_hurts_only_the_training_split(said: Said, folder_dataset: Path) -> None:
    classes = folder_dataset / "classes.yaml"
    classes.write_text("classes: [ground, square, disc, star]")
    code, text = said("data", "check", folder_dataset)
    assert code == 1
    assert "problem: absent class (1)\n" in text
    assert "note: absent class (1)\n" in text
    code, _ = said("data", "check", folder_dataset, "--splits", "val")
    assert code == 0


def test_a_run_s_configuration_says_what_to_check(
    said: Said, folder_dataset: Path, tmp_path: Path
) -> None:
    (folder_dataset / "val").rename(folder_dataset / "held")
    table = tmp_path / "other.yaml"
    table.write_text("classes: [floor, box, ball]")
    data = {"root": str(folder_dataset), "val_split": "held", "classes": str(table)}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"max_steps": 5, "data": data}))
    code, text = said("data", "check", config)
    assert code == 0
    assert text.startswith("| class | train px % | train images | held px % | held images |\n")
    assert "| ball " in text
    code, text = said("data", "preview", config, tmp_path / "a.png", "--split", "held")
    assert code == 0
    assert text == f"{tmp_path / 'a.png'}: 3 of the 3 images of split 'held'\n"


def test_unlabelled_test_images_are_left_out_and_told(said: Said, folder_dataset: Path) -> None:
    (folder_dataset / "test/images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder_dataset / "test/images/a.png")
    code, text = said("data", "check", folder_dataset)
    assert code == 0
    assert "split 'test' has no image with a mask; 1 files stand alone" in text
    shutil.rmtree(folder_dataset / "val/masks")
    code, text = said("data", "check", folder_dataset)
    assert code == 1
    assert "split 'val' has no image with a mask" in text
    code, text = said("data", "pack", folder_dataset, folder_dataset.parent / "packed")
    assert code == 2
    assert "split 'val' has no image with a mask" in text
    shutil.rmtree(folder_dataset / "val")
    code, text = said("data", "check", folder_dataset)
    assert code == 1
    assert "problem: split left out (1)" in text
    assert "no split 'val'; choices: test, train; add it, or name another as data.val_split" in text
    assert "| all    |            |            6 |" in text, "the rest is looked at all the same"


def test_preview_writes_a_picture(said: Said, folder_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheets" / "train.png"
    code, text = said("data", "preview", folder_dataset, out, "--count", "4", "--seed", "3")
    assert code == 0
    assert text == f"{out}: 4 of the 6 images of split 'train'\n"
    sheet = np.asarray(Image.open(out))
    assert sheet.shape[1] == 4 * (320 + 6) + 6
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["chek", "shapes"], "'chek' is no verb of tsic data; did you mean 'check'?"),
        (["check"], "the following arguments are required: DATASET; see tsic data check --help"),
        (["check", "shaps"], "shaps: no such folder; in "),
        (["check", "shapes", "--name", "foldr"], "unknown dataset 'foldr'; did you mean 'folder'?"),
        (["check", "shapes", "--splits", "vall"], "no split 'vall'; did you mean 'val'?"),
        (["check", "shapes", "--max-listed", "-1"], "--max-listed must be at least 0, got -1"),
        (["check", "shapes", "--json", "shapes"], "'shapes' is a folder; name a file to write"),
        (["check", "shapes", "--json", "shapes/classes.yaml/x"], "x' cannot be written ("),
        (["check", "shapes", "--classes", "none.yaml"], "none.yaml does not exist; write it"),
        (["check", "nothing.yaml"], "configuration file 'nothing.yaml' does not exist"),
        (["check", "shapes/train/images"], "no split found; expected train/images + train/masks"),
        (["preview", "shapes"], "the following arguments are required: OUT.png"),
        (["preview", "shapes", "a.jpg"], "'a.jpg' must end in .png"),
        (["preview", "shapes", "a.png", "--count", "0"], "--count must be at least 1, got 0"),
        (["preview", "shapes", "a.png", "--split", "trian"], "did you mean 'train'?"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(
    said: Said,
    folder_dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(folder_dataset.parent)
    code, text = said("data", *words)
    assert code == 2
    assert expected in text
    assert len(text.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["shapes"]


def test_help_documents_every_option(capsys: pytest.CaptureFixture[str], said: Said) -> None:
    code, text = said("data", "--help")
    assert code == 0
    assert "check" in text
    assert "preview" in text
    for verb, options in (
        ("check", ("--splits", "--name", "--classes", "--json", "--max-listed")),
        ("preview", ("--split", "--count", "--seed", "OUT.png")),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["data", verb, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert [option for option in options if option not in text] == []


def test_pack_then_train_on_it(
    folder_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "packs" / "shapes"
    words = ["data", "pack", str(folder_dataset), str(out)]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "split 'train', 6 pairs" in told
    assert f"--data.name packed --data.root {out}" in told
    assert main(words) == 0
    assert "split 'val', is there already" in capsys.readouterr().out
    assert main(["data", "check", str(out), "--name", "packed"]) == 0

    run = ["train", "--out", str(tmp_path / "runs"), "--max_steps", "3", "--data.workers", "1"]
    run += ["--data.crop", "[32, 48]", "--trainer.precision", "32-true", "--trainer.log_every", "1"]
    for name, words in (("packed", ["--data.name", "packed"]), ("folder", [])):
        root = out if words else folder_dataset
        assert main([*run, *words, "--name", name, "--data.root", str(root)]) == 0
    logs = [(tmp_path / "runs" / name / "metrics.csv").read_text() for name in ("packed", "folder")]
    assert logs[0] == logs[1]


def test_pack_refuses_faulty_data(
    folder_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder_dataset / "val" / "masks" / "001.png").write_bytes(b"")
    assert main(["data", "pack", str(folder_dataset), str(tmp_path / "out")]) == 2
    assert "001.png: cannot be decoded" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))
