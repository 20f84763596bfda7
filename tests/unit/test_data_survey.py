import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tsic.data.packed import pack_split
from tsic.data.readers import open_dataset
from tsic.data.survey import Finding, SplitCounts, Survey, survey
from tsic.files import write_json

# Rows of each mask, 4x6: train has 36 ground, 30 wall, 6 roof and 24 ignored pixels.
MASKS = {
    "train": {"a": (0, 0, 0, 0), "b": (0, 0, 1, 1), "c": (255, 1, 1, 1), "d": (255, 255, 255, 2)},
    "val": {"e": (0, 1, 2, 2), "f": (0, 0, 2, 2)},
}
ORIENTATION = 0x0112


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clean folder of four training and two validation pairs, 4x6, no two images alike."""
    folder = tmp_path / "drawn"
    for split, masks in MASKS.items():
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for stem, rows in masks.items():
            Image.new("RGB", (6, 4), (ord(stem), 0, 0)).save(folder / split / f"images/{stem}.png")
            mask = np.repeat(np.array(rows, np.uint8)[:, None], 6, axis=1)
            Image.fromarray(mask).save(folder / split / f"masks/{stem}.png")
    (folder / "classes.yaml").write_text("classes: [ground, wall, roof]")
    return folder


def look(root: Path, name: str = "folder") -> Survey:
    datasets = [open_dataset(name, root, split) for split in MASKS]
    return survey(datasets, trained_on={"train"}, scored_on={"val"})


def told(findings: tuple[Finding, ...], root: Path) -> list[tuple[str, str, str, str]]:
    """Split, kind, file below the root, and detail."""
    return [
        (f.split, f.problem.kind, f.problem.file.relative_to(root).as_posix(), f.problem.detail)
        for f in findings
    ]


def test_clean_folder_is_counted(root: Path) -> None:
    found = look(root)
    assert (found.problems, found.notes) == ((), ())
    train, val = found.splits["train"], found.splits["val"]
    assert (train.images, val.images) == (4, 2)
    assert train.pixels.tolist() == [36, 30, 6]
    assert train.images_with.tolist() == [2, 2, 1]
    assert train.shares == pytest.approx([50, 100 * 30 / 72, 100 * 6 / 72])
    assert val.pixels.tolist() == [18, 6, 24]
    assert val.images_with.tolist() == [2, 1, 2]


def test_progress_goes_over_all_splits(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    datasets = [open_dataset("folder", root, split) for split in MASKS]
    survey(datasets, trained_on={"train"}, on_progress=lambda *done: seen.append(done))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_faults_of_files_are_those_of_the_cheap_check(root: Path) -> None:
    images, masks = root / "train/images", root / "train/masks"
    Image.new("RGB", (6, 4)).save(images / "alone.png")
    Image.new("L", (6, 4)).save(masks / "lonely.png")
    (images / "a.png").write_bytes((images / "a.png").read_bytes()[:45])
    mask = np.zeros((4, 6), np.uint8)
    mask[0] = 9
    Image.fromarray(mask).save(masks / "b.png")
    Image.new("RGB", (8, 4)).save(root / "val/images/f.png")
    (root / "val/masks/e.png").write_bytes(b"")
    found = look(root)
    assert [row[:3] for row in told(found.problems, root)] == [
        ("train", "missing mask", "train/images/alone.png"),
        ("train", "missing image", "train/masks/lonely.png"),
        ("train", "unreadable", "train/images/a.png"),
        ("train", "unknown id", "train/masks/b.png"),
        ("val", "unreadable", "val/masks/e.png"),
        ("val", "size mismatch", "val/images/f.png"),
    ]
    assert found.problems[3].problem.detail == (
        "ids not in the class table: 9 (6 px); add them to classes or to ignore"
    )
    # The mask beside the unreadable image counts, unknown ids and unreadable masks do not.
    assert found.splits["train"].pixels.tolist() == [24 + 18, 18, 6]
    assert found.splits["val"].pixels.tolist() == [12, 0, 12]
    assert told(found.notes, root) == [
        (
            "val",
            "absent class",
            ".",
            "class 'wall' has no pixel in split 'val'; add images of it, or take it out of the "
            "class table",
        )
    ]


def test_absent_class_hurts_where_it_is_trained(root: Path) -> None:
    Image.new("L", (6, 4)).save(root / "train/masks/d.png")
    found = look(root)
    assert [row[:3] for row in told(found.problems, root)] == [("train", "absent class", ".")]
    assert "class 'roof' has no pixel in split 'train'" in found.problems[0].problem.detail
    assert found.notes == ()


def test_what_training_refuses_hurts_here_too(root: Path) -> None:
    for mask in (root / "val/masks").iterdir():
        Image.new("L", (6, 4), 255).save(mask)
    (problem,) = look(root).problems
    assert (problem.split, problem.problem.kind) == ("val", "unlabelled")
    for mask in (root / "train/masks").iterdir():
        Image.new("L", (6, 4)).save(mask)
    kinds = [found.problem.kind for found in look(root).problems if found.split == "train"]
    assert kinds == ["absent class", "absent class", "one class"]


def test_same_content_in_two_splits_is_a_problem_under_any_name(root: Path) -> None:
    shutil.copy(root / "train/images/b.png", root / "val/images/e.png")
    shutil.copy(root / "train/images/b.png", root / "train/images/c.png")  # once more in its own
    detail = "is the same image as train/images/b.png of split 'train'; remove one of them"
    found = look(root)
    assert told(found.problems, root) == [("val", "duplicate image", "val/images/e.png", detail)]
    assert told(found.notes, root) == [("train", "duplicate image", "train/images/c.png", detail)]


def test_same_pixels_in_another_file_are_found(root: Path) -> None:
    picture = Image.open(root / "train/images/a.png").copy()
    picture.save(root / "val/images/e.png", compress_level=0)
    Image.open(root / "val/images/f.png").save(root / "train/images/b.bmp")
    (root / "train/images/b.png").unlink()
    assert [row[:3] for row in told(look(root).problems, root)] == [
        ("val", "duplicate image", "val/images/e.png"),
        ("val", "duplicate image", "val/images/f.png"),
    ]


def _grey(path: Path) -> None:
    Image.new("L", (6, 4), 7).save(path)


def _palette(path: Path) -> None:
    Image.new("P", (6, 4), 7).save(path)


def _transparent(path: Path) -> None:
    Image.new("RGBA", (6, 4), (1, 2, 3, 4)).save(path)


def _cmyk(path: Path) -> None:
    Image.new("CMYK", (6, 4)).save(path.with_suffix(".tif"))
    path.unlink()


def _lab(path: Path) -> None:
    Image.new("LAB", (6, 4)).save(path.with_suffix(".tif"))
    path.unlink()


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    Image.new("RGB", (6, 4), (1, 2, 3)).save(path, exif=exif)


@pytest.mark.parametrize(
    ("draw", "kind", "detail"),
    [
        (_grey, "grey", "three equal channels"),
        (_palette, "palette", "as masks often have"),
        (_transparent, "transparency", "all opaque"),
        (_cmyk, "CMYK", "without its colour profile"),
        (_lab, "colour space", "Pillow's mode LAB"),
        (_turned, "EXIF rotation", "EXIF orientation 3"),
    ],
)
def test_surprises_are_notes(
    root: Path, draw: Callable[[Path], None], kind: str, detail: str
) -> None:
    draw(root / "val/images/e.png")
    found = look(root)
    assert found.problems == ()
    assert [(f.split, f.problem.kind, f.problem.file.stem) for f in found.notes] == [
        ("val", kind, "e")
    ]
    assert detail in found.notes[0].problem.detail


def test_deep_grey_images_are_refused(root: Path) -> None:
    Image.fromarray(np.full((4, 6), 999, np.uint16)).save(root / "train/images/a.png")
    (one,) = told(look(root).problems, root)
    assert one[1:] == (
        "unreadable",
        "train/images/a.png",
        "image has more than 8 bits per channel; save it with 8",
    )


def test_packed_splits_are_surveyed_by_their_pixels(root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "train/images/a.png", root / "val/images/e.png")
    pack = tmp_path / "pack"
    for split in MASKS:
        pack_split(open_dataset("folder", root, split), pack)
    found = look(pack, "packed")
    assert [row[:3] for row in told(found.problems, pack)] == [
        ("val", "duplicate image", "val/images/e.png")
    ]
    assert found.splits["train"].pixels.tolist() == [36, 30, 6]


def test_json_holds_everything(root: Path, tmp_path: Path) -> None:
    (root / "train/masks/a.png").unlink()
    _grey(root / "val/images/e.png")
    found = look(root)
    write_json(tmp_path / "found.json", found.to_dict())
    written = json.loads((tmp_path / "found.json").read_text())
    assert set(written) == {"images", "classes", "problems", "notes"}
    assert written["images"] == {"train": 3, "val": 2}
    assert list(written["classes"]) == ["ground", "wall", "roof"]
    assert written["classes"]["roof"] == {
        "train": {"pixels": 6, "share": pytest.approx(12.5), "images": 1},
        "val": {"pixels": 24, "share": pytest.approx(50), "images": 2},
    }
    assert written["problems"] == [
        {
            "kind": "missing mask",
            "file": str(root / "train/images/a.png"),
            "detail": f"no mask of this name in {root / 'train/masks'}",
            "split": "train",
        }
    ]
    assert [(note["kind"], note["split"]) for note in written["notes"]] == [("grey", "val")]


def test_text_shows_shares_and_cuts_lists(root: Path) -> None:
    Image.new("L", (6, 4), 255).save(root / "val/masks/e.png")
    Image.new("L", (6, 4), 2).save(root / "val/masks/f.png")
    for i in range(3):
        Image.new("RGB", (6, 4)).save(root / f"train/images/z{i}.png")
    text = look(root).to_text(max_listed=2)
    assert text.splitlines()[:6] == [
        "| class  | train px % | train images | val px % | val images |",
        "|--------|-----------:|-------------:|---------:|-----------:|",
        "| ground |      50.00 |            2 |        - |          0 |",
        "| wall   |      41.67 |            2 |        - |          0 |",
        "| roof   |       8.33 |            1 |   100.00 |          1 |",
        "| all    |            |            4 |          |          2 |",
    ]
    problems = text.split("\n\n")[1].splitlines()
    assert problems[0] == "problem: missing mask (3)"
    assert [line.split(":")[0].strip() for line in problems[1:]] == [
        str(root / "train/images/z0.png"),
        str(root / "train/images/z1.png"),
        "and 1 more",
    ]
    assert text.split("\n\n")[2].startswith("note: absent class (2)\n")
    assert text.endswith("\n\n3 problems that would hurt a training")


def test_a_little_is_not_nothing() -> None:
    pixels = torch.tensor([0, 4, 5, 99_991])  # of 100,000: 0.004 and 0.005 percent
    counts = SplitCounts(1, pixels, (pixels > 0).long())
    rows = Survey(("a", "b", "c", "d"), {"train": counts}, (), ()).to_text().splitlines()[2:6]
    assert [row.split("|")[2].strip() for row in rows] == ["-", "<0.01", "0.01", "99.99"]


def test_text_of_a_clean_set_says_so(root: Path) -> None:
    assert look(root).to_text().split("\n\n")[1:] == ["nothing that would hurt a training"]
