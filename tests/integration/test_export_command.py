"""`tsic export` as a user types it, and the script that needs none of tsic."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tsic.checkpoint import load_student, save_student
from tsic.cli import main
from tsic.data.classes import ClassTable
from tsic.data.images import read_image
from tsic.data.readers import open_dataset
from tsic.evaluation.evaluate import evaluate
from tsic.student import build_student

SCRIPT = Path(__file__).parents[2] / "examples" / "onnx_predict.py"
CLASSES = ClassTable.from_names(("ground", "square", "disc"))
pytestmark = pytest.mark.usefixtures("onnx_operators")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a small student of random weights."""
    torch.manual_seed(0)
    options = {"width": 0.25, "dilations": [2], "logits_stride": 8}
    student = build_student("compact", num_classes=3, options=options)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    torch.nn.init.normal_(student.get_parameter("network.model.classifier.weight"))
    folder = tmp_path_factory.mktemp("run")
    save_student(folder, student, CLASSES, {"resize": None})
    return folder


@pytest.fixture(scope="module")
def free(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the verb writes when nothing is said, as ONNX."""
    photos = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 101, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(photos / "noise.png")
    assert main(["export", str(run), "--images", str(photos)]) == 0
    return run / "exported" / "onnx" / "student.onnx"


def predicted(run: Path, path: Path) -> np.ndarray:
    return load_student(run).predict(read_image(path)).numpy()


@pytest.mark.parametrize("size", [(64, 96), (61, 85), (200, 150)])
def test_script_labels_an_image_of_any_size_as_the_student_does(
    run: Path, free: Path, tmp_path: Path, folder_dataset: Path, size: tuple[int, int]
) -> None:
    image = Image.open(folder_dataset / "val" / "images" / "000.png")
    image.resize(size[::-1]).save(tmp_path / "in.png")
    script(free, tmp_path / "in.png", tmp_path / "out.png")
    written = Image.open(tmp_path / "out.png")
    assert written.mode == "P"
    assert tuple(written.getpalette() or ())[:9] == tuple(np.ravel(CLASSES.palette))
    labels = np.asarray(written)
    assert labels.shape == size
    assert (labels == predicted(run, tmp_path / "in.png")).mean() > 0.93


def script(model: Path, source: Path, target: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, model, source, target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_script_refuses_more_than_8_bits(free: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 40), 3000, np.uint16)).save(tmp_path / "in.png")
    with pytest.raises(AssertionError, match="more than 8 bits per channel; save it with 8"):
        script(free, tmp_path / "in.png", tmp_path / "out.png")


def test_script_resizes_to_a_fixed_size(run: Path, tmp_path: Path, folder_dataset: Path) -> None:
    words = ["export", str(run), "--size", "64", "96", "--input", "uint8", "--output", "labels"]
    words += ["--images", str(folder_dataset / "val"), "--out", str(tmp_path)]
    assert main(words) == 0
    image = Image.open(folder_dataset / "val" / "images" / "000.png")
    image.resize((192, 128), Image.Resampling.BICUBIC).save(tmp_path / "in.png")
    script(tmp_path / "onnx" / "student.onnx", tmp_path / "in.png", tmp_path / "out.png")
    shown = Image.open(tmp_path / "in.png").resize((96, 64), Image.Resampling.BILINEAR)
    shown.save(tmp_path / "shown.png")
    expected = predicted(run, tmp_path / "shown.png").repeat(2, 0).repeat(2, 1)
    assert (np.asarray(Image.open(tmp_path / "out.png")) == expected).mean() > 0.9


def test_export_names_the_weights_that_it_was_made_of(run: Path, free: Path) -> None:
    told = json.loads((free.parent / "export.json").read_text())
    assert told["weights_sha256"] == load_student(run).facts["weights_sha256"]


def test_script_needs_no_tsic_and_is_short() -> None:
    text = SCRIPT.read_text()
    assert "tsic." not in text.partition('"""\n\n')[2]
    code = [line for line in text.partition('"""\n\n')[2].splitlines() if line.strip()]
    assert len([line for line in code if "import" not in line]) <= 28


def test_labelled_images_give_the_mean_iou_of_both(
    run: Path, tmp_path: Path, folder_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(run), "--format", "openvino", "--out", str(tmp_path)]
    words += ["--data.name", "folder", "--data.root", str(folder_dataset), "--data.split", "val"]
    assert main(words) == 0
    told = json.loads((tmp_path / "openvino" / "export.json").read_text())
    dataset = open_dataset("folder", folder_dataset, "val")
    expected = evaluate(load_student(run), dataset).miou
    assert told["miou_eager"] == pytest.approx(expected)
    assert told["miou_exported"] == pytest.approx(expected, abs=0.01)
    assert told["label_agreement"] > 0.999
    assert (told["format"], told["precision"]) == ("openvino", "fp32")
    assert told["images"] == f"split 'val' of {folder_dataset.name}"
    assert "mIoU" in capsys.readouterr().out


def test_file_beyond_tolerance_is_not_kept(
    run: Path, tmp_path: Path, folder_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "export",
        str(run),
        "--out",
        str(tmp_path / "out"),
        "--tolerance",
        "0",
        "--size",
        "64",
        "96",
    ]
    assert main([*words, "--images", str(folder_dataset / "val")]) == 2
    said = capsys.readouterr().err
    assert "onnx differs from PyTorch" in said
    assert "largest difference" in said
    assert said.count("\n") == 1
    assert list((tmp_path / "out").rglob("*")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onx"], "did you mean 'onnx'"),
        (["--int8"], "give --calibration DIR"),
        (["--calibration", "x"], "--calibration is for --int8"),
        (["--images", "no/such/folder"], "'no/such/folder' is no folder"),
        (["--data.root", "x"], "belong together"),
        (["--batch", "many"], "--batch must be a number or `free`, got 'many'"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--input", "unit8"], "did you mean 'uint8'"),
        (["--max-images", "0"], "--max-images must be at least 1"),
        (["--tolerance", "-1"], "--tolerance must be 0 or more"),
        (["--data.name", "folder", "--data.root", "x", "--images", "x"], "contradict"),
        (["--data.split", "val", "--images", "x"], "contradict"),
        (["--data.classes", "x.yaml"], "--data.classes is for --data.root"),
    ],
)
def test_mistakes_are_told_in_one_line(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_no_file_is_written_where_another_cannot_be(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--format", "torch", "executorch", "--out", str(tmp_path / "out")]
    assert main(["export", str(run), *words]) == 2
    assert "executorch files take one size" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_no_fault_of_the_format(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "student.onnx")

    monkeypatch.setattr("tsic.deploy.export.writers._write_onnx", full)
    assert main(["export", str(run), "--out", str(tmp_path)]) == 2
    assert "the disk is full" in capsys.readouterr().err


def test_data_of_other_classes_is_refused(
    run: Path, folder_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder_dataset / "classes.yaml").write_text("classes: [a, b, c]\n")
    words = ["--data.name", "folder", "--data.root", str(folder_dataset)]
    assert main(["export", str(run), *words]) == 2
    assert "has the classes a, b, c, but the student knows ground" in capsys.readouterr().err


def test_the_runs_validation_data_is_found(
    run: Path, tmp_path: Path, folder_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("student.json", "student.safetensors"):
        (tmp_path / file).write_bytes((run / file).read_bytes())
    (tmp_path / "config.yaml").write_text(
        f"data: {{name: folder, root: {folder_dataset}, classes: null, val_split: val}}\n"
    )
    assert main(["export", str(tmp_path), "--format", "torch"]) == 0
    told = json.loads((tmp_path / "exported" / "torch" / "export.json").read_text())
    assert told["images"] == f"split 'val' of {folder_dataset.name}"
    assert told["images_compared"] == 3
    assert "miou_exported" in told
    capsys.readouterr()
    assert main(["export", str(tmp_path), "--format", "torch", "--data.split", "vall"]) == 2
    assert "did you mean 'val'?" in capsys.readouterr().err
    assert main(["export", str(run), "--format", "torch", "--data.split", "val"]) == 2
    assert "--data.split val needs --data.root" in capsys.readouterr().err


def test_drawn_scenes_are_said_to_be_drawn(run: Path, tmp_path: Path) -> None:
    words = ["export", str(run), "--format", "torch", "--size", "48", "64", "--out", str(tmp_path)]
    assert main([*words, "--max-images", "2"]) == 0
    told = json.loads((tmp_path / "torch" / "export.json").read_text())
    assert told["images"] == "drawn street scenes"
    assert "miou_eager" not in told
