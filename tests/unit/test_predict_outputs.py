"""Files that a prediction writes: label PNG, overlay, probabilities, COCO's JSON."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tsic import pictures
from tsic.data.classes import ClassTable
from tsic.data.readers import open_dataset
from tsic.data.readers.rle import counts_to_box, decode_counts, encode_counts, labels_to_counts
from tsic.deploy.predict import outputs
from tsic.deploy.predict.inputs import Input
from tsic.deploy.predict.outputs import CocoImage, Wanted, check_files, coco_file
from tsic.errors import ConfigError, DataError
from tsic.pictures import overlay

CLASSES = ClassTable.from_names(("road", "car", "sky"), palette=[(1, 2, 3), (40, 5, 6), (7, 80, 9)])


def draw(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Ids 0 to 2 in patches and in single pixels."""
    dice = np.random.default_rng(seed)
    rough = dice.integers(0, 3, (-(-height // 8), -(-width // 8)))
    ids = np.repeat(np.repeat(rough, 8, 0), 8, 1)[:height, :width].astype(np.uint8)
    ids[dice.random(ids.shape) < 0.05] = 1
    return ids


def test_labels_are_a_palette_png(tmp_path: Path) -> None:
    ids = draw(21, 34)
    outputs.write_labels(tmp_path / "a.png", ids, CLASSES)
    content = (tmp_path / "a.png").read_bytes()
    assert (content[24], content[25]) == (8, 3)  # bits per index; PNG's colour type 3: palette
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), ids)
        colours = np.asarray(picture.convert("RGB"))
    assert np.array_equal(colours, np.array(CLASSES.palette, np.uint8)[ids])
    again = outputs.read_labels(tmp_path / "a.png", (21, 34), CLASSES)
    assert again is not None
    assert np.array_equal(again, ids)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_bands_of_an_overlay_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = draw(50, 30)
    image = torch.randint(0, 256, (3, 50, 30), dtype=torch.uint8)
    monkeypatch.setattr(pictures, "BAND_PIXELS", 7 * 30)
    outputs.write_overlay(tmp_path / "a.overlay.png", image, ids, CLASSES, 0.3)
    with Image.open(tmp_path / "a.overlay.png") as picture:
        assert np.array_equal(np.asarray(picture), overlay(image, ids, CLASSES, 0.3))
    outputs.write_overlay(tmp_path / "a.overlay.jpg", image, ids, CLASSES, 0.3)
    with Image.open(tmp_path / "a.overlay.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (30, 50))


def test_what_no_jpeg_holds_is_told(tmp_path: Path) -> None:
    image = torch.zeros(3, 1, 65_501, dtype=torch.uint8)
    file = tmp_path / "a.overlay.jpg"
    with pytest.raises(DataError, match="at most 65500 pixels a side; say --overlay-format png"):
        outputs.write_overlay(file, image, image[0].numpy(), CLASSES, 0.3)
    outputs.write_overlay(file.with_suffix(".png"), image, image[0].numpy(), CLASSES, 0.3)


def test_probabilities_keep_the_names(tmp_path: Path) -> None:
    likely = np.random.default_rng(0).random((3, 4, 5)).astype(np.float16)
    outputs.write_probabilities(tmp_path / "a.npz", likely, CLASSES)
    with np.load(tmp_path / "a.npz") as content:
        assert np.array_equal(content["probabilities"], likely)
        assert content["probabilities"].dtype == np.float16
        assert content["classes"].tolist() == ["road", "car", "sky"]


def test_packed_counts_by_hand() -> None:
    # As in the reader's tests: 40 is "X1", 16 needs "`0"; from the fourth on, differences: -2, "N".
    assert encode_counts([40, 16]) == "X1`0"
    assert encode_counts([2, 3, 1, 1]) == "231N"
    assert encode_counts([]) == ""


def test_packed_counts_are_unpacked_again() -> None:
    counts = [0, 15, 16, 17, 31, 32, 1, 108_000_000, 3, 108_000_000, 511, 512, 513, 1023, 1024]
    assert decode_counts(encode_counts(counts)) == counts


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (40, 64)])
def test_runs_go_down_the_columns(height: int, width: int) -> None:
    ids = draw(height, width, seed=height)
    runs = labels_to_counts(ids)
    assert sorted(runs) == np.unique(ids).tolist()
    for class_id, counts in runs.items():
        expected = (ids == class_id).flatten(order="F")
        unrolled = [bool(i % 2) for i, count in enumerate(counts) for _ in range(count)]
        assert unrolled == expected.tolist()
        assert counts.min(initial=1, where=np.arange(len(counts)) > 0) > 0
        rows, columns = np.nonzero(ids == class_id)
        left, top = columns.min(), rows.min()
        box = (left, top, columns.max() - left + 1, rows.max() - top + 1)
        assert counts_to_box(counts, height) == box


def test_box_of_a_run_over_two_columns() -> None:
    # 3 rows: rows 2 of column 0 and 0 of column 1 are inside, one run of 2 after 2.
    assert counts_to_box(np.array([2, 2, 2]), 3) == (0, 0, 2, 3)
    # Rows 1 to 2 of column 1 alone.
    assert counts_to_box(np.array([4, 2]), 3) == (1, 1, 1, 2)


def test_coco_is_read_back_as_the_same_labels(tmp_path: Path) -> None:
    maps = {Path("x/a.png"): draw(20, 31), Path("b.png"): np.full((5, 6), 2, np.uint8)}
    with coco_file(tmp_path / "all.json", CLASSES) as writer:
        for name, ids in maps.items():
            writer.add(CocoImage.of(name, ids))
    written = json.loads((tmp_path / "all.json").read_text())
    assert [one["name"] for one in written["categories"]] == list(CLASSES.names)
    assert [one["id"] for one in written["categories"]] == [1, 2, 3]
    assert [one["file_name"] for one in written["images"]] == ["x/a.png", "b.png"]
    assert [one["id"] for one in written["annotations"]] == [1, 2, 3, 4]
    whole = written["annotations"][-1]
    assert (whole["image_id"], whole["category_id"], whole["area"]) == (2, 3, 30)
    assert whole["bbox"] == [0, 0, 6, 5]
    first = maps[Path("x/a.png")]
    areas = {one["category_id"]: one["area"] for one in written["annotations"][:-1]}
    assert areas == {i + 1: int((first == i).sum()) for i in range(3)}
    root = tmp_path / "dataset"
    for name, ids in maps.items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(root / "images" / name)
    shutil.copy(tmp_path / "all.json", root / "all.json")
    dataset = open_dataset("coco", root, "all")
    for index, sample in enumerate(dataset.samples):
        _, labels = dataset.read(index)
        ids = maps[Path(sample.name).relative_to("images")]
        assert np.array_equal(labels.numpy(), ids + 1)  # 0 is the reader's background


def test_coco_is_not_left_half_written(tmp_path: Path) -> None:
    def interrupted() -> None:
        with coco_file(tmp_path / "all.json", CLASSES) as writer:
            writer.add(CocoImage.of(Path("a.png"), draw(4, 4)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "out", "expected"),
    [
        (["a.png", "a.jpg"], "out", "'a.png' and 'a.jpg' would both be written to 'out/a.png'"),
        (["a.png"], ".", "the result of 'a.png' would overwrite the input 'a.png'"),
        (["a.jpg", "a.overlay.jpg"], ".", "'a.jpg' would overwrite the input 'a.overlay.jpg'"),
        (["v.avi", "v.mov"], "out", "'v.avi' and 'v.mov' would both be written to 'out/v.mp4'"),
        (["b.jpg"], "out", None),
        (["v.mp4", "v.jpg", "w.jpg"], "out", None),
    ],
)
def test_nothing_is_overwritten(files: list[str], out: str, expected: str | None) -> None:
    inputs = [Input(Path(file), Path(file)) for file in files]
    wanted = Wanted(Path(out), overlay="jpg", probabilities=True)
    if expected is None:
        check_files(inputs, wanted, Path("out/all.json"))
        return
    with pytest.raises(ConfigError) as caught:
        check_files(inputs, wanted)
    assert expected in str(caught.value)
