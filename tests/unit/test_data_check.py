import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tsic.data.check import check_dataset, count_pixels, require_clean
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers import open_dataset
from tsic.errors import DataError


def _open(root: Path) -> SegmentationDataset:
    return open_dataset("folder", root, "train")


def _break_everything(root: Path) -> None:
    """One problem of each kind; pair 005 stays clean."""
    images, masks = root / "train" / "images", root / "train" / "masks"
    ids = np.zeros((64, 96), np.uint16)
    ids[0, :3], ids[1, :2] = 300, 7
    Image.fromarray(ids).save(masks / "000.png")
    content = (images / "001.png").read_bytes()
    (images / "001.png").write_bytes(content[: len(content) // 2])
    Image.new("L", (10, 20)).save(masks / "002.png")
    Image.new("RGB", (96, 64)).save(masks / "003.png")
    (masks / "004.png").unlink()


def test_check_finds_each_kind(folder_dataset: Path) -> None:
    _break_everything(folder_dataset)
    problems = check_dataset(_open(folder_dataset))[0]
    assert [(p.kind, p.file.parent.name, p.file.name) for p in problems] == [
        ("missing mask", "images", "004.png"),
        ("unknown id", "masks", "000.png"),
        ("unreadable", "images", "001.png"),
        ("size mismatch", "images", "002.png"),
        ("unknown id", "masks", "003.png"),
    ]
    assert problems[1].detail == (
        "ids not in the class table: 7 (2 px), 300 (3 px); add them to classes or to ignore"
    )
    assert problems[3].detail == (
        "image is 64x96 but its mask is 20x10 (height x width); they must be equal"
    )
    assert problems[4].detail.startswith("colours not in the class table: (0, 0, 0) (6144 px)")


def test_check_reports_progress(folder_dataset: Path) -> None:
    seen: list[tuple[int, int]] = []
    check_dataset(_open(folder_dataset), on_progress=lambda *done: seen.append(done))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_require_clean_is_silent_on_a_clean_set(folder_dataset: Path) -> None:
    require_clean(_open(folder_dataset))


def test_images_of_both_splits_are_told(
    folder_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, val = (open_dataset("folder", folder_dataset, split) for split in ("train", "val"))
    require_clean(train, val, trained_on=train)
    assert "flatters" not in capsys.readouterr().err
    shutil.copy(train.samples[2].image, val.samples[0].image)
    require_clean(train, val, trained_on=train)
    told = f"1 of the {len(val)} images of split 'val' are trained on, too, which flatters its"
    assert told in capsys.readouterr().err
    require_clean(train, replace(train), trained_on=train)
    assert "all images of split 'train' are trained on, too" in capsys.readouterr().err


def test_a_class_alone_is_nothing_to_train_on(
    folder_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in masks of 0 and 255, of which 255 is left out."""
    dataset = _open(folder_dataset)
    names = dataset.classes.names
    for mask in (folder_dataset / "train" / "masks").iterdir():
        Image.fromarray(np.full((64, 96), 255, np.uint8)).save(mask)
    ids = np.full((64, 96), 255, np.uint8)
    ids[:32] = 0
    Image.fromarray(ids).save(mask)
    require_clean(dataset)
    with pytest.raises(DataError, match=f"hold the class '{names[0]}' alone; .*`id: 255`"):
        require_clean(dataset, trained_on=dataset)
    assert capsys.readouterr().err == ""
    ids[:8] = 1
    Image.fromarray(ids).save(mask)
    require_clean(dataset, trained_on=dataset)
    assert f"no pixel of {', '.join(names[2:])}, which" in capsys.readouterr().err


def test_require_clean_lists_all_in_one_message(folder_dataset: Path) -> None:
    _break_everything(folder_dataset)
    message = r"^folder split 'train' has 5 problems:\n(  .*png: .*\n){4}  .*003\.png: colours not"
    with pytest.raises(DataError, match=message):
        require_clean(_open(folder_dataset))


def test_require_clean_tells_of_all_splits_at_once(folder_dataset: Path) -> None:
    for split in ("train", "val"):
        (folder_dataset / split / "masks" / "000.png").write_bytes(b"")
    splits = [open_dataset("folder", folder_dataset, split) for split in ("train", "val")]
    with pytest.raises(DataError) as raised:
        require_clean(*splits)
    told = str(raised.value)
    assert told.startswith("folder split 'train' has 1 problem, folder split 'val' has 1 problem:")
    assert told.count("000.png") == 2


def test_require_clean_counts_what_it_does_not_list(folder_dataset: Path) -> None:
    for i in range(12):
        Image.new("L", (4, 4)).save(folder_dataset / "train" / "masks" / f"alone{i:02}.png")
    with pytest.raises(
        DataError, match=r"12 problems:(\n  .*alone\d\d\.png: .*){10}\n  and 2 more"
    ):
        require_clean(_open(folder_dataset))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("000", r"masks/000\.png: ids not in the class table: 7 \(2 px\), 300 \(3 px\)"),
        ("001", r"images/001\.png: cannot be decoded"),
        ("002", r"images/002\.png: image is 64x96 but its mask is 20x10"),
        ("003", r"masks/003\.png: colours not in the class table"),
    ],
)
def test_read_names_the_file(folder_dataset: Path, file: str, message: str) -> None:
    _break_everything(folder_dataset)
    dataset = _open(folder_dataset)
    index = [s.image.stem for s in dataset.samples].index(file)
    with pytest.raises(DataError, match=message):
        dataset.read(index)


def test_ids_saved_as_grey_colours_are_told_so(folder_dataset: Path) -> None:
    dataset = _open(folder_dataset)
    ids = np.repeat(np.array([[0, 1], [2, 1]], np.uint8)[..., None], 3, 2)
    assert dataset.unknown_values(ids).endswith("in three equal channels: save the masks with one")
    ids[0, 0] = 100  # no id of this table either
    assert dataset.unknown_values(ids).endswith("add them to classes or to ignore")


def test_a_palette_that_says_other_classes_than_its_indices_is_found(folder_dataset: Path) -> None:
    """Editors save masks of colours with a palette of their own."""
    classes = open_dataset("folder", folder_dataset, "train").classes
    path = folder_dataset / "train" / "masks" / "000.png"
    listed = [*classes.palette, (0, 0, 0)]

    def problems(*indices: int) -> list[str]:
        mask = Image.open(path).convert("L").convert("P")
        mask.putdata([0, 1, 2, 0] * (64 * 96 // 4))
        mask.putpalette([channel for index in indices for channel in listed[index]])
        mask.save(path)
        return [f"{one.kind}: {one.detail}" for one in check_dataset(_open(folder_dataset))[0]]

    assert problems(0, 1, 2) == []
    assert problems(0, 1, 3) == [], "black is no class's colour, so ids count"
    assert problems(0, 2, 3) == [], "one that is another's may be so by chance"
    (told,) = problems(1, 0, 3)
    assert "palette index 0 means ground, but has the colour of square" in told
    assert problems(0, 2, 1) == [
        "mask palette: palette index 1 means square, but has the colour of disc; "
        "save the mask as RGB, or class ids as its indices, or correct the colours of the class "
        "table"
    ]


def test_a_split_without_pairs_is_told(folder_dataset: Path) -> None:
    for path in [*folder_dataset.glob("val/*/*.*")]:
        path.unlink()
    with pytest.raises(DataError, match=r"split 'val' has no image with a mask$"):
        open_dataset("folder", folder_dataset, "val")


def test_many_unknown_ids_are_cut_short(folder_dataset: Path) -> None:
    dataset = _open(folder_dataset)
    detail = dataset.unknown_values(np.arange(64).reshape(8, 8))
    assert ", 12 (1 px), 51 more; add them" in detail
    assert dataset.unknown_values(np.array([[0, 1, 2, 255]])) == ""


def test_count_pixels_counts_each_class_once(folder_dataset: Path) -> None:
    dataset = open_dataset("folder", folder_dataset, "train")
    labels = torch.stack([dataset.read(index)[1] for index in range(len(dataset))])
    expected = [(labels == train_id).sum().item() for train_id in range(3)]
    assert count_pixels(dataset).tolist() == expected
    assert sum(expected) == labels.numel() - (labels == 255).sum().item()


@pytest.mark.parametrize("shape", [(3000, 3000, 3), (3000, 3000)])
def test_a_huge_mask_is_looked_up_in_bands(folder_dataset: Path, shape: tuple[int, ...]) -> None:
    dataset = _open(folder_dataset)
    of_class = dataset.classes.palette if len(shape) == 3 else (0, 1)
    values = np.full(shape, of_class[0], np.uint8)
    values[-1] = of_class[1]
    dataset.count_values(values[:1])  # the tables of ids and colours are made
    tracemalloc.start()
    counts = dataset.count_values(values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counts.tolist() == [2999 * 3000, 3000, 0]
    assert peak < 7 * 3000 * 3000  # an index takes 8 bytes a pixel
