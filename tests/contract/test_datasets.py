"""What every reader owes: one test class, one drawing of the same six pairs per layout."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tsic.data.check import check_dataset
from tsic.data.dataset import Problem, SegmentationDataset
from tsic.data.readers import READERS, open_dataset
from tsic.errors import DataError
from tsic.options import DATASETS

STEMS = {"train": ("a", "b", "c"), "val": ("d", "e")}
Draw = Callable[[Path], None]


def _draw(folder: Path, images: str, masks: str) -> None:
    """Write the pairs into folders named after ``{split}``; pixel values tell which is which."""
    for split, stems in STEMS.items():
        for kind, pattern in (("image", images), ("mask", masks)):
            target = folder / pattern.format(split=split)
            target.mkdir(parents=True)
            for stem in stems:
                value = ord(stem) - ord("a")
                array = np.full((4, 6), value, np.uint8)
                array[0, 0] = 255
                if kind == "image":
                    array = np.stack([array, array + 50, array + 100], axis=2)
                Image.fromarray(array).save(target / f"{stem}.png")


def _camvid_folders(root: Path) -> None:
    _draw(root, "{split}", "{split}annot")


def _camvid_lists(root: Path) -> None:
    _camvid_folders(root)
    for split, stems in STEMS.items():
        lines = [f"{split}/{s}.png {split}annot/{s}.png\n" for s in stems]
        (root / f"{split}.txt").write_text("".join(lines) + "\n")


def _camvid_prefixed_lists(root: Path) -> None:
    _camvid_folders(root)
    for split, stems in STEMS.items():
        lines = [
            f"/SegNet/CamVid/{split}/{s}.png /SegNet/CamVid/{split}annot/{s}.png" for s in stems
        ]
        (root / f"{split}.txt").write_text("\n".join(lines))


def _folder_split_first(root: Path) -> None:
    _draw(root, "{split}/images", "{split}/masks")
    (root / "classes.yaml").write_text("classes: [k0, k1, k2, k3, k4]")


def _folder_kind_first(root: Path) -> None:
    _draw(root, "images/{split}", "masks/{split}")
    (root / "classes.yaml").write_text("classes: [k0, k1, k2, k3, k4]")


LAYOUTS: dict[str, tuple[str, Draw]] = {
    "camvid folders": ("camvid", _camvid_folders),
    "camvid lists": ("camvid", _camvid_lists),
    "camvid prefixed lists": ("camvid", _camvid_prefixed_lists),
    "folder, split first": ("folder", _folder_split_first),
    "folder, kind first": ("folder", _folder_kind_first),
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Name of a reader and the root of what it reads."""
    reader, draw = LAYOUTS[request.param]
    root = tmp_path / "data"
    draw(root)
    return reader, root


class TestReader:
    def test_pairs_are_complete_ordered_and_named(self, layout: tuple[str, Path]) -> None:
        reader, root = layout
        dataset = open_dataset(reader, root, "train")
        assert (dataset.name, dataset.split, len(dataset)) == (reader, "train", 3)
        assert [s.image.stem for s in dataset.samples] == ["a", "b", "c"]
        assert all(s.image.stem == s.mask.stem for s in dataset.samples)
        assert all(root / s.name == s.image for s in dataset.samples)
        assert dataset.unpaired == ()
        assert check_dataset(dataset)[0] == []

    def test_read_gives_image_and_its_own_label(self, layout: tuple[str, Path]) -> None:
        dataset = open_dataset(*layout, "val")
        image, label = dataset.read(1)
        assert (image.shape, image.dtype) == ((3, 4, 6), torch.uint8)
        assert (label.shape, label.dtype) == ((4, 6), torch.uint8)
        assert image[:, 2, 2].tolist() == [4, 54, 104]
        assert label[0, 0] == 255
        assert label[2, 2] == 4

    def test_class_table_can_be_given(self, layout: tuple[str, Path], tmp_path: Path) -> None:
        table = tmp_path / "two.yaml"
        table.write_text("classes: [{name: x, id: [0, 1]}, {name: y, id: [2, 3, 4]}]")
        dataset = open_dataset(*layout, "train", table)
        assert dataset.classes.names == ("x", "y")
        assert [int(dataset.read(i)[1][1, 1]) for i in range(3)] == [0, 0, 1]

    def test_missing_partner_is_left_out_and_reported(self, layout: tuple[str, Path]) -> None:
        reader, root = layout
        samples = open_dataset(reader, root, "train").samples
        samples[0].mask.unlink()
        samples[2].image.unlink()
        dataset = open_dataset(reader, root, "train")
        assert [s.image.stem for s in dataset.samples] == ["b"]
        kinds = {(p.kind, p.file.stem) for p in dataset.unpaired}
        assert kinds == {("missing mask", "a"), ("missing image", "c")}
        assert check_dataset(dataset)[0] == list(dataset.unpaired)

    def test_no_pair_at_all_is_an_error(self, layout: tuple[str, Path]) -> None:
        reader, root = layout
        for sample in open_dataset(reader, root, "train").samples:
            sample.mask.unlink()
        message = r"split 'train' has no image with a mask; 3 files stand alone, first .*a\.png"
        with pytest.raises(DataError, match=message):
            open_dataset(reader, root, "train")

    def test_wrong_split_names_the_nearest(self, layout: tuple[str, Path]) -> None:
        with pytest.raises(DataError, match="split 'vall'; did you mean 'val'"):
            open_dataset(*layout, "vall")

    def test_dataset_goes_to_another_process(self, layout: tuple[str, Path]) -> None:
        dataset = open_dataset(*layout, "train")
        copy: SegmentationDataset = pickle.loads(pickle.dumps(dataset))
        assert copy.samples == dataset.samples
        assert copy.read(0)[1].equal(dataset.read(0)[1])


def test_camvid_trainval_joins_both(tmp_path: Path) -> None:
    _camvid_lists(tmp_path / "data")
    dataset = open_dataset("camvid", tmp_path / "data", "trainval")
    assert [s.image.stem for s in dataset.samples] == ["a", "b", "c", "d", "e"]


def test_camvid_void_is_ignored(tmp_path: Path) -> None:
    _camvid_folders(tmp_path)
    Image.new("L", (6, 4), 11).save(tmp_path / "trainannot" / "a.png")
    assert open_dataset("camvid", tmp_path, "train").read(0)[1].unique().tolist() == [255]


def test_camvid_list_line_must_be_a_pair(tmp_path: Path) -> None:
    _camvid_lists(tmp_path)
    (tmp_path / "train.txt").write_text("train/a.png trainannot/a.png\ntrain/b.png\n")
    with pytest.raises(DataError, match=r"train\.txt: line 2 must be 'image mask', got 'train/b"):
        open_dataset("camvid", tmp_path, "train")


def test_camvid_without_anything_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no CamVid split 'train'; expected train\.txt or train/"):
        open_dataset("camvid", tmp_path, "train")


def test_folder_without_splits_shows_both_layouts(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(
        DataError,
        match=r"no split found; expected train/images \+ train/masks, or images/train \+ masks/tra",
    ):
        open_dataset("folder", tmp_path, "train")


def test_folder_without_class_table_names_the_file(tmp_path: Path) -> None:
    _folder_kind_first(tmp_path)
    (tmp_path / "classes.yaml").unlink()
    with pytest.raises(DataError, match=r"classes\.yaml does not exist; write it, .*road, sky"):
        open_dataset("folder", tmp_path, "train")


def test_folder_two_files_of_one_name(tmp_path: Path) -> None:
    _folder_split_first(tmp_path)
    images = tmp_path / "train" / "images"
    shutil.copy(images / "a.png", images / "a.TIF")
    (images / "._a.png").write_bytes(b"")
    (images / "notes.txt").write_text("not an image")
    dataset = open_dataset("folder", tmp_path, "train")
    assert dataset.unpaired == (
        Problem("duplicate", images / "a.png", "same name as a.TIF; remove one"),
    )


def test_unknown_dataset_and_root_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown dataset 'camvit'; did you mean 'camvid'"):
        open_dataset("camvit", tmp_path, "train")
    (tmp_path / "CamVid").mkdir()
    with pytest.raises(DataError, match=r"Camvid/sub: no such folder; in .*did you mean 'CamVid'"):
        open_dataset("camvid", tmp_path / "Camvid" / "sub", "train")


def test_real_camvid(camvid_root: Path) -> None:
    train, val = (open_dataset("camvid", camvid_root, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (367, 101)
    assert len(open_dataset("camvid", camvid_root, "trainval")) == 468
    image, label = train.read(0)
    assert (image.shape, label.shape) == ((3, 360, 480), (360, 480))
    assert set(label.unique().tolist()) <= {*range(11), 255}
    assert check_dataset(val)[0] == []


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    _camvid_lists(tmp_path / "data")
    (tmp_path / "data" / "train.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"train\.txt: list cannot be read: not a text file"):
        open_dataset("camvid", tmp_path / "data", "train")


def test_every_reader_is_known_before_it_is_imported() -> None:
    assert tuple(READERS) == DATASETS
