"""Every row of the table of faults in docs/data.md, as one who runs `tsic train` meets it."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsic.cli import main
from tsic.data.check import require_clean
from tsic.data.readers import open_dataset
from tsic.errors import DataError

DOCS = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
Break = Callable[[Path], object]


def _image(root: Path) -> Path:
    return root / "train" / "images" / "001.png"


def _mask(root: Path) -> Path:
    return root / "train" / "masks" / "001.png"


def _save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _as_jpeg(root: Path) -> Path:
    path = _image(root).with_suffix(".jpg")
    Image.open(_image(root)).save(path)
    _image(root).unlink()
    return path


def _empty_split(root: Path) -> None:
    for mask in (root / "train" / "masks").iterdir():
        mask.unlink()


def _all_masks(root: Path, value: int) -> None:
    for mask in (root / "train" / "masks").iterdir():
        _save(mask, np.full((64, 96), value, np.uint8))


FAULTS: dict[str, tuple[Break, str]] = {
    "missing folder": (
        lambda root: root.rename(root.with_name("shapez")),
        r"shapes: no such folder; in .*: did you mean 'shapez'\? .*; set data.root to",
    ),
    "no such split": (
        lambda root: (root / "train").rename(root / "trian"),
        r"shapes: no split 'train'; did you mean 'trian'\? choices: trian, val",
    ),
    "empty split": (_empty_split, r"shapes: split 'train' has no image with a mask; 6 files stand"),
    "names that do not match": (
        lambda root: _mask(root).rename(_mask(root).with_name("1.png")),
        r"images/001\.png: no mask of this name in .*masks",
    ),
    "two files of one name": (
        lambda root: _save(_image(root).with_suffix(".bmp"), np.zeros((64, 96, 3), np.uint8)),
        r"images/001\.png: same name as 001\.bmp; remove one",
    ),
    "unknown id or colour": (
        lambda root: _save(_mask(root), np.full((64, 96), 300, np.uint16)),
        r"masks/001\.png: ids not in the class table: 300 \(6144 px\); add them to classes or to",
    ),
    "grey image of 16 bits": (
        lambda root: _save(_image(root), np.zeros((64, 96), np.uint16)),
        r"images/001\.png: image has more than 8 bits per channel; save it with 8",
    ),
    "truncated JPEG": (
        lambda root: _cut(_as_jpeg(root)),
        r"images/001\.jpg: cannot be decoded \(image file is truncated.*\); replace the file",
    ),
    "truncated PNG": (
        lambda root: _cut(_image(root)),
        r"images/001\.png: cannot be decoded \(.*\); replace the file",
    ),
    "empty file": (
        lambda root: _image(root).write_bytes(b""),
        r"images/001\.png: cannot be decoded \(cannot identify image file\); replace the file",
    ),
    "no image at all": (
        lambda root: _image(root).write_text("holiday"),
        r"images/001\.png: cannot be decoded \(cannot identify image file\); replace the file",
    ),
    "mask saved as JPEG": (
        lambda root: Image.open(_mask(root)).save(_mask(root), "JPEG"),
        r"masks/001\.png: mask is a JPEG, which changes ids; save it as PNG from what it came from",
    ),
    "mask saved as TIFF with JPEG inside": (
        lambda root: Image.open(_mask(root)).save(
            _mask(root).rename(_mask(root).with_suffix(".tif")), compression="jpeg"
        ),
        r"masks/001\.tif: mask is a JPEG, which changes ids; save it as PNG from what it came from",
    ),
    "no permission": (
        lambda root: _image(root).chmod(0),
        r"images/001\.png: cannot be decoded \(\[Errno 13\] Permission denied:?\); replace",
    ),
    "image and mask differ in size": (
        lambda root: _save(_mask(root), np.zeros((32, 48), np.uint8)),
        r"images/001\.png: image is 64x96 but its mask is 32x48 \(height x width\); they must be",
    ),
    "nothing labelled": (
        lambda root: _all_masks(root, 255),
        r"shapes: no mask of split 'train' has a pixel of any class; label some$",
    ),
    "nothing but one class": (
        lambda root: _all_masks(root, 0),
        r"shapes: masks of split 'train' hold the class '.*' alone; name what lies around it as a",
    ),
    "class YAML: an id twice": (
        lambda root: (root / "classes.yaml").write_text(
            "classes: [{name: road, id: 0}, {name: sky, id: 0}]"
        ),
        r"classes\.yaml: classes\[1\]\.id: 0 already belongs to 'road'",
    ),
    "class YAML: an id missing": (
        lambda root: (root / "classes.yaml").write_text("classes: [{name: road, id: 7}, sky]"),
        r"classes\.yaml: classes\[1\] has no id, though others have one; give every class its id",
    ),
    "class YAML: a class without a name": (
        lambda root: (root / "classes.yaml").write_text("classes: [road, {color: [1, 2, 3]}]"),
        r"classes\.yaml: classes\[1\] must be a name, got None; put it in quotes",
    ),
}


def _wide(train: Path) -> None:
    for kind, shape in (("images", (32, 30_000, 3)), ("masks", (32, 30_000))):
        _save(train / kind / "wide.png", np.zeros(shape, np.uint8))


def _odd_names(train: Path) -> None:
    for kind in ("images", "masks"):
        (train / kind / "001.png").rename(train / kind / "weit und größer, 寬.png")


HARMLESS: dict[str, Break] = {
    "image 30,000 pixels wide": _wide,
    "blanks and any letters in names": _odd_names,
    "link to a folder above": lambda train: (train / "images" / "loop").symlink_to(
        train, target_is_directory=True
    ),
}


def test_the_table_names_what_is_tested() -> None:
    table = DOCS.split("| fault | what is said |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()]
    assert rows == [*FAULTS, *HARMLESS]


@pytest.mark.parametrize("fault", FAULTS)
def test_train_stops_before_it_begins(
    fault: str, folder_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if fault == "no permission" and os.geteuid() == 0:
        return  # root may read everything; the next test gives that up
    break_it, message = FAULTS[fault]
    break_it(folder_dataset)
    words = ["train", "--name", "run", "--out", str(tmp_path / "runs")]
    words += ["--data.root", str(folder_dataset), "--trainer.precision", "32-true"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert "Traceback" not in told
    assert not (tmp_path / "runs" / "run" / "checkpoints").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="the test above covers it")
def test_no_permission_as_seen_by_nobody(folder_dataset: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "shapes"
        shutil.copytree(folder_dataset, root)
        Path(folder).chmod(0o755)
        dataset = open_dataset("folder", root, "train")
        require_clean(dataset)
        FAULTS["no permission"][0](root)
        os.seteuid(65534)
        try:
            with pytest.raises(DataError, match=FAULTS["no permission"][1]):
                require_clean(dataset)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("oddity", HARMLESS)
def test_what_only_looks_like_a_fault_trains(
    oddity: str, folder_dataset: Path, tmp_path: Path
) -> None:
    HARMLESS[oddity](folder_dataset / "train")
    count = len(open_dataset("folder", folder_dataset, "train"))
    words = ["train", "--name", "run", "--out", str(tmp_path), "--max_steps", "2"]
    words += ["--data.root", str(folder_dataset), "--data.crop", "[32, 32]", "--data.workers", "0"]
    words += ["--data.batch_size", str(count), "--trainer.precision", "32-true"]
    assert main([*words, "--trainer.pictures", "0"]) == 0
