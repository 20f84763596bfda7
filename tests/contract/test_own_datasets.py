"""What people bring themselves: plain folders, COCO, YOLO, and Hugging Face datasets."""

import io
import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tsic.data.check import check_dataset
from tsic.data.class_file import read_classes, read_splits
from tsic.data.classes import ClassTable
from tsic.data.dataset import Problem, SegmentationDataset
from tsic.data.readers.coco import open_coco
from tsic.data.readers.folder import open_folder
from tsic.data.readers.hub import open_hub
from tsic.data.readers.rle import decode_counts
from tsic.data.readers.yolo import open_yolo
from tsic.data.survey import survey
from tsic.errors import ConfigError, DataError, SplitError

TABLE = "classes: [k0, k1, k2, k3, k4]\n"


def _save(path: Path, values: Any = 0) -> None:
    """Write a 4x6 PNG of one grey value or colour, or of an array of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(values, np.ndarray):
        Image.fromarray(values).save(path)
    else:
        mode = "L" if isinstance(values, int) else "RGB"
        Image.new(mode, (6, 4), values).save(path)


def _pairs(root: Path, stems: Sequence[str], table: str = TABLE) -> None:
    """Write ``images/<stem>.png`` and ``masks/<stem>.png``; the i-th mask is all class i."""
    for value, stem in enumerate(stems):
        _save(root / "images" / f"{stem}.png", 10 * value)
        _save(root / "masks" / f"{stem}.png", value)
    (root / "classes.yaml").write_text(table, encoding="utf-8")


def _names(dataset: SegmentationDataset) -> list[str]:
    return [sample.name for sample in dataset.samples]


def _label(dataset: SegmentationDataset, index: int = 0) -> list[list[int]]:
    return dataset.read(index)[1].tolist()


class TestFolderLists:
    def test_lines_name_images_with_or_without_ending(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["a", "b.c", "köln/straße 1", "köln/straße 2"])
        (tmp_path / "train.txt").write_text("b.c\n\nköln/straße 2.png\n", encoding="utf-8")
        (tmp_path / "val.txt").write_text("./images/a.PNG\r\nköln\\straße 1", encoding="utf-8-sig")
        (tmp_path / "README.txt").write_text("not a list")
        train, val = (open_folder(tmp_path, split) for split in ("train", "val"))
        assert _names(train) == ["images/b.c.png", "images/köln/straße 2.png"]
        assert _names(val) == ["images/a.png", "images/köln/straße 1.png"]
        assert train.unpaired == val.unpaired == ()
        assert [train.read(i)[1].unique().tolist() for i in (0, 1)] == [[1], [3]]

    def test_wrong_lines_are_reported(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["a", "b", "c"])
        (tmp_path / "masks" / "c.png").unlink()
        (tmp_path / "fold1.txt").write_text("a\nz.png\nb.jpg\na.png\nc")
        dataset = open_folder(tmp_path, "fold1")
        images = tmp_path / "images"
        assert _names(dataset) == ["images/a.png"]
        assert dataset.unpaired == (
            Problem(
                "missing image", images / "z.png", "listed in fold1.txt, line 2, but not there"
            ),
            Problem(
                "missing image", images / "b.jpg", "listed in fold1.txt, line 3, but not there"
            ),
            Problem(
                "duplicate",
                images / "a.png",
                "listed in fold1.txt, line 4, and already in line 1; remove one",
            ),
            Problem(
                "missing mask", images / "c.png", f"no mask of this name in {tmp_path / 'masks'}"
            ),
        )

    def test_wrong_split_names_the_nearest(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["a"])
        (tmp_path / "train.txt").write_text("a")
        with pytest.raises(DataError, match="no split 'trian'; did you mean 'train'"):
            open_folder(tmp_path, "trian")

    def test_list_must_be_text(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["a"])
        (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match=r"train\.txt: list cannot be read: not a text file"):
            open_folder(tmp_path, "train")


class TestFolderShares:
    SHARES = f"{TABLE}splits: {{train: 0.8, val: 0.2}}\n"

    def test_hash_of_the_path_decides(self, tmp_path: Path) -> None:
        # First 8 bytes of blake2b over 2**64: a 0.25, b 0.52, city/b 0.76, d 0.71, é 0.79.
        _pairs(
            tmp_path, ["a", "b", "city/b", "d", "é"], TABLE + "splits: {x: 0.6, y: 0.15, z: 0.25}"
        )
        assert _names(open_folder(tmp_path, "x")) == ["images/a.png", "images/b.png"]
        assert _names(open_folder(tmp_path, "y")) == ["images/d.png"]
        assert _names(open_folder(tmp_path, "z")) == ["images/city/b.png", "images/é.png"]

    def test_new_images_move_no_other(self, tmp_path: Path) -> None:
        _pairs(tmp_path, [f"{i:03}" for i in range(0, 200, 2)], self.SHARES)
        before = {split: set(_names(open_folder(tmp_path, split))) for split in ("train", "val")}
        _pairs(tmp_path, [f"{i:03}" for i in range(200)], self.SHARES)
        after = {split: set(_names(open_folder(tmp_path, split))) for split in ("train", "val")}
        assert before["train"] < after["train"]
        assert before["val"] < after["val"]
        assert not after["train"] & after["val"]
        assert len(after["train"] | after["val"]) == 200
        assert 20 < len(after["val"]) < 60

    def test_missing_partner_belongs_to_its_split_only(self, tmp_path: Path) -> None:
        _pairs(tmp_path, [f"{i:03}" for i in range(20)], self.SHARES)
        stem = open_folder(tmp_path, "val").samples[0].image.stem
        (tmp_path / "masks" / f"{stem}.png").unlink()
        assert open_folder(tmp_path, "train").unpaired == ()
        (problem,) = open_folder(tmp_path, "val").unpaired
        assert (problem.kind, problem.file.stem) == ("missing mask", stem)

    def test_wrong_split_names_the_nearest(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["a"], self.SHARES)
        with pytest.raises(DataError, match="no split 'vall'; did you mean 'val'"):
            open_folder(tmp_path, "vall")

    def test_lists_and_shares_exclude_each_other(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["a"], self.SHARES)
        (tmp_path / "val.txt").write_text("a")
        with pytest.raises(DataError, match=r"both val\.txt and the key splits .*; remove one"):
            open_folder(tmp_path, "train")

    def test_classes_are_read_beside_shares(self, tmp_path: Path) -> None:
        (tmp_path / "classes.yaml").write_text(self.SHARES)
        assert read_classes(tmp_path / "classes.yaml").num_classes == 5
        assert read_splits(tmp_path / "classes.yaml") == {"train": 0.8, "val": 0.2}
        (tmp_path / "classes.yaml").write_text(TABLE)
        assert read_splits(tmp_path / "classes.yaml") == {}

    @pytest.mark.parametrize(
        ("splits", "message"),
        [
            ("{train: 0.8, val: 0.1}", "splits must sum to 1, got 0.9"),
            ("[train, val]", r"splits must hold a share by split, .*got \['train', 'val'\]"),
            ("{}", "splits must hold a share by split"),
            ("{train: 1.2, val: -0.2}", r"splits\.train must be a share above 0 .*, got 1\.2"),
            ("{train: 1, val: 0}", r"splits\.val must be a share above 0 and up to 1, got 0"),
            ("{train: yes}", r"splits\.train must be a share above 0 and up to 1, got True"),
            ("{1: 1.0}", r"splits: 1 must be a name; put it in quotes"),
        ],
    )
    def test_wrong_shares(self, tmp_path: Path, splits: str, message: str) -> None:
        _pairs(tmp_path, ["a"], f"{TABLE}splits: {splits}\n")
        with pytest.raises(ConfigError, match=rf"classes\.yaml: {message}"):
            open_folder(tmp_path, "train")

    def test_shares_may_miss_one_by_rounding(self, tmp_path: Path) -> None:
        shares = "splits: {a: 0.3333333, b: 0.3333333, c: 0.3333333}"
        _pairs(tmp_path, [f"{i}" for i in range(9)], TABLE + shares)
        assert sum(len(open_folder(tmp_path, split)) for split in ("a", "b", "c")) == 9


class TestFolderLayout:
    def test_images_that_nothing_assigns_show_the_ways_out(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["b", "a", "sub/c"])
        message = (
            r"nothing says which split images/a\.png belongs to; list images in train\.txt, or add "
            r"splits: \{train: 0\.8, val: 0\.2\} to classes\.yaml"
        )
        with pytest.raises(DataError, match=message):
            open_folder(tmp_path, "train")

    def test_folders_of_images_without_masks_are_no_splits(self, tmp_path: Path) -> None:
        _save(tmp_path / "images" / "train" / "a.png")
        (tmp_path / "masks").mkdir()
        with pytest.raises(DataError, match="images/train is there, but its masks/train is not"):
            open_folder(tmp_path, "train")
        with pytest.raises(DataError, match=r"no split found; .*list images in val\.txt"):
            open_folder(tmp_path, "val")

    @pytest.mark.parametrize("layout", ["{split}/{kind}", "{kind}/{split}"])
    def test_subfolders_pair_by_path(self, tmp_path: Path, layout: str) -> None:
        for city, value in (("Zürich", 1), ("new york/5th av", 2)):
            for kind, ending in (("images", "jpg"), ("masks", "png")):
                folder = tmp_path / layout.format(split="train", kind=kind) / city
                _save(folder / f"a.{ending}", value)
        (tmp_path / "classes.yaml").write_text(TABLE)
        dataset = open_folder(tmp_path, "train")
        assert [(s.image.parent.name, s.mask.parent.name) for s in dataset.samples] == [
            ("Zürich", "Zürich"),
            ("5th av", "5th av"),
        ]
        assert [dataset.read(i)[1].unique().tolist() for i in (0, 1)] == [[1], [2]]

    def test_no_folder_of_masks_leaves_every_image_alone(self, tmp_path: Path) -> None:
        _save(tmp_path / "train" / "images" / "a.png")
        (tmp_path / "classes.yaml").write_text(TABLE)
        with pytest.raises(DataError, match=r"1 files stand alone, .*no mask of this name in"):
            open_folder(tmp_path, "train")

    def test_same_name_in_other_folder_is_no_partner(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["train/x/a", "train/y/b"])
        (tmp_path / "masks/train/y/b.png").rename(tmp_path / "masks/train/x/b.png")
        dataset = open_folder(tmp_path, "train")
        assert _names(dataset) == ["images/train/x/a.png"]
        assert {p.kind for p in dataset.unpaired} == {"missing mask", "missing image"}

    def test_accents_pair_however_they_are_written(self, tmp_path: Path) -> None:
        _save(tmp_path / "images/train/u\u0308.png")
        _save(tmp_path / "masks/train/\u00fc.png", 3)
        (tmp_path / "classes.yaml").write_text(TABLE)
        assert _label(open_folder(tmp_path, "train"))[0][0] == 3

    def test_loops_are_entered_once(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["train/x/a", "train/y/b"])
        for kind in ("images", "masks"):
            folder = tmp_path / kind / "train"
            (folder / "x" / "up").symlink_to(folder, target_is_directory=True)
            (folder / "y" / "self").symlink_to("self")
            (folder / "y" / "root").symlink_to("/", target_is_directory=True)
        assert _names(open_folder(tmp_path, "train")) == [
            "images/train/x/a.png",
            "images/train/y/b.png",
        ]

    def test_linked_folders_are_followed(self, tmp_path: Path) -> None:
        _pairs(tmp_path / "elsewhere", ["a"])
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / "train").mkdir(parents=True)
            link = tmp_path / "data" / kind / "train" / "city"
            link.symlink_to(tmp_path / "elsewhere" / kind, target_is_directory=True)
        (tmp_path / "data" / "classes.yaml").write_text(TABLE)
        assert _names(open_folder(tmp_path / "data", "train")) == ["images/train/city/a.png"]

    def test_hidden_files_and_folders_are_skipped(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["train/a"])
        _save(tmp_path / "images/train/.thumbs/a.png")
        _save(tmp_path / "images/train/._a.png")
        dataset = open_folder(tmp_path, "train")
        assert (len(dataset), dataset.unpaired) == (1, ())

    @pytest.mark.parametrize("suffix", ["_mask", "_label", "_L", "_gt", "_labelIds"])
    def test_suffix_of_all_masks_is_dropped(self, tmp_path: Path, suffix: str) -> None:
        for stem, value in (("a", 1), ("x/b", 2)):
            _save(tmp_path / "images/train" / f"{stem}.png")
            _save(tmp_path / "masks/train" / f"{stem}{suffix}.png", value)
        (tmp_path / "classes.yaml").write_text(TABLE)
        dataset = open_folder(tmp_path, "train")
        assert dataset.unpaired == ()
        assert [_label(dataset, i)[0][0] for i in (0, 1)] == [1, 2]

    @pytest.mark.parametrize("odd", ["masks/train/c.png", "images/train/d_mask.png"])
    def test_suffix_of_some_is_part_of_the_name(self, tmp_path: Path, odd: str) -> None:
        _save(tmp_path / "images/train/a.png")
        _save(tmp_path / "masks/train/a_mask.png")
        _save(tmp_path / odd)
        (tmp_path / "classes.yaml").write_text(TABLE)
        with pytest.raises(DataError, match="no image with a mask; 3 files stand alone"):
            open_folder(tmp_path, "train")


class TestFolderMasks:
    COLOURS = (
        "classes: [{name: road, color: [[128, 64, 128], [244, 35, 232]]},"
        " {name: sky, color: [70, 130, 180]}]\nignore: [[0, 0, 0]]\n"
    )

    def test_colours_merge_and_are_ignored(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["train/a"], self.COLOURS)
        mask = np.array([[[128, 64, 128], [244, 35, 232]], [[70, 130, 180], [0, 0, 0]]], np.uint8)
        _save(tmp_path / "images/train/a.png", mask)
        _save(tmp_path / "masks/train/a.png", mask)
        dataset = open_folder(tmp_path, "train")
        assert _label(dataset) == [[0, 0], [1, 255]]
        assert check_dataset(dataset)[0] == []

    def test_unknown_colour_is_named(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["train/a"], self.COLOURS)
        mask = np.full((4, 6, 3), (70, 130, 180), np.uint8)
        mask[0, :3] = (1, 2, 3)
        _save(tmp_path / "masks/train/a.png", mask)
        message = r"a\.png: colours not in the class table: \(1, 2, 3\) \(3 px\); add them"
        with pytest.raises(DataError, match=message):
            open_folder(tmp_path, "train").read(0)

    def test_palette_images_hold_indices(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["train/a"])
        mask = Image.new("P", (6, 4), 2)
        mask.putpalette([0, 0, 0, 255, 0, 0, 9, 9, 9])
        mask.save(tmp_path / "masks/train/a.png")
        assert _label(open_folder(tmp_path, "train")) == [[2] * 6] * 4

    def test_ids_may_have_16_bits(self, tmp_path: Path) -> None:
        _pairs(tmp_path, ["train/a"], "classes: [{name: x, id: 7}, {name: y, id: 40000}]")
        mask = np.full((4, 6), 40000, np.uint16)
        mask[0, 0] = 7
        _save(tmp_path / "masks/train/a.png", mask)
        assert _label(open_folder(tmp_path, "train"))[0] == [0, 1, 1, 1, 1, 1]


def _coco(
    file: Path,
    annotations: list[dict[str, Any]],
    images: Sequence[tuple[str, int, int]] = (("a.png", 4, 6),),
    categories: Sequence[tuple[int, str]] = ((1, "cat"), (18, "dog")),
) -> None:
    """Write COCO's JSON; images are (file name, height, width) and get the ids 0, 1, ..."""
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": name, "height": height, "width": width}
            for i, (name, height, width) in enumerate(images)
        ],
        "annotations": [
            {"id": 100 + i, "image_id": 0, "category_id": 1, "iscrowd": 0} | annotation
            for i, annotation in enumerate(annotations)
        ],
        "categories": [{"id": i, "name": n, "supercategory": "none"} for i, n in categories],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]
"""Columns and rows 1 and 2."""


class TestCoco:
    @pytest.mark.parametrize(
        ("file", "images", "split"),
        [
            ("annotations/instances_train.json", "train", "train"),
            ("annotations/instances_train2017.json", "train2017", "train"),
            ("annotations/instances_train2017.json", "train2017", "train2017"),
            ("annotations/instances_val2014.json", "images/val2014", "val"),
            ("annotations/train.json", "images/train", "train"),
            ("train.json", "images", "train"),
            ("valid/_annotations.coco.json", "valid", "valid"),
        ],
    )
    def test_layouts(self, tmp_path: Path, file: str, images: str, split: str) -> None:
        _coco(tmp_path / file, [{"segmentation": [SQUARE]}])
        _save(tmp_path / images / "a.png")
        dataset = open_coco(tmp_path, split)
        assert (dataset.name, dataset.split, _names(dataset)) == (
            "coco",
            split,
            [f"{images}/a.png"],
        )
        assert dataset.classes.names == ("background", "cat", "dog")
        expected = [[0] * 6, [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0] * 6]
        assert _label(dataset) == expected
        assert check_dataset(dataset)[0] == []
        copy: SegmentationDataset = pickle.loads(pickle.dumps(dataset))
        assert _label(copy) == expected

    def test_of_two_years_the_later_one_is_meant(self, tmp_path: Path) -> None:
        for year, name in (("2014", "cat"), ("2017", "dog")):
            _coco(tmp_path / f"annotations/instances_train{year}.json", [], categories=[(1, name)])
        _save(tmp_path / "train2017" / "a.png")
        assert open_coco(tmp_path, "train").classes.names == ("background", "dog")

    def test_a_table_of_ones_own_cannot_serve_files_of_other_orders(self, tmp_path: Path) -> None:
        table = ClassTable.from_names(("background", "cat", "dog"))
        merged = ClassTable(("background", "pet"), ((0, 0, 0), (9, 9, 9)), {0: 0, 1: 1, 2: 1})
        for split, categories in (
            ("train", ((1, "cat"), (18, "dog"))),
            ("one", ((1, "cat"),)),
            ("val", ((1, "dog"), (18, "cat"))),
            ("two", ((18, "dog"),)),
        ):
            _coco(tmp_path / f"{split}.json", [], categories=categories)
            _save(tmp_path / "images" / "a.png")
            assert open_coco(tmp_path, split, merged).classes == merged
            if split in ("train", "one"):
                assert open_coco(tmp_path, split, table).classes == table
            else:
                with pytest.raises(ConfigError, match=r"'dog' has the value 1 in masks, which the"):
                    open_coco(tmp_path, split, table)
        ignored = ClassTable(("background", "dog"), ((0, 0, 0), (9, 9, 9)), {0: 0, 1: 255, 2: 1})
        assert open_coco(tmp_path, "val", ignored).classes == ignored, "told apart by hand"

    def _drawn(self, root: Path, *annotations: dict[str, Any]) -> list[list[int]]:
        _coco(root / "train.json", list(annotations))
        _save(root / "train" / "a.png")
        return _label(open_coco(root, "train"))

    def test_smaller_objects_lie_on_top(self, tmp_path: Path) -> None:
        large = {"segmentation": [[0, 0, 5, 0, 5, 4, 0, 4]], "category_id": 18, "area": 1}
        small = {"segmentation": [SQUARE], "category_id": 1, "area": 99}
        expected = [[2] * 5 + [0], [2, 1, 1, 2, 2, 0], [2, 1, 1, 2, 2, 0], [2] * 5 + [0]]
        assert self._drawn(tmp_path, small, large) == expected
        assert self._drawn(tmp_path, large, small) == expected

    def test_polygons_are_not_rounded_to_whole_pixels(self, tmp_path: Path) -> None:
        # Centres at 0.5, 1.5, ...: 0.4 to 2.6 holds three of them, 0.6 to 2.4 only one.
        wide = {"segmentation": [[0.4, 0, 2.6, 0, 2.6, 1, 0.4, 1]]}
        narrow = {"segmentation": [[0.6, 2, 2.4, 2, 2.4, 3, 0.6, 3]]}
        triangle = {"segmentation": [[6, 1, 6, 4, 3, 4]], "category_id": 18}
        assert self._drawn(tmp_path, wide, narrow, triangle) == [
            [1, 1, 1, 0, 0, 0],
            [0, 0, 0, 0, 0, 2],
            [0, 1, 0, 0, 2, 2],
            [0, 0, 0, 2, 2, 2],
        ]

    def test_centres_on_the_border_belong_to_one_of_two_neighbours(self, tmp_path: Path) -> None:
        """Inside at the left and at the top: corners lie on the centres of pixels."""
        upper = {"segmentation": [[0.5, 0.5, 3.5, 0.5, 3.5, 1.5, 0.5, 1.5]]}
        lower = {"segmentation": [[0.5, 1.5, 3.5, 1.5, 3.5, 3.5, 0.5, 3.5]], "category_id": 18}
        expected = [[1, 1, 1, 0, 0, 0], *[[2, 2, 2, 0, 0, 0]] * 2, [0] * 6]
        assert self._drawn(tmp_path, upper, lower) == expected

    def test_a_small_crowd_lies_on_top_of_a_polygon(self, tmp_path: Path) -> None:
        crowd = {"segmentation": {"size": [4, 6], "counts": [5, 2, 17]}, "category_id": 18}
        square = {"segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]}
        expected = [[1, 1, 1, 0, 0, 0], *[[1, 2, 1, 0, 0, 0]] * 2, [0] * 6]
        assert self._drawn(tmp_path, crowd, square) == expected
        assert self._drawn(tmp_path, square, crowd) == expected

    def test_parts_belong_together_and_may_leave_the_image(self, tmp_path: Path) -> None:
        parts = [[-5, -5, 1, -5, 1, 2, -5, 2], [4, 3, 9, 3, 9, 9, 4, 9], [7, 0, 9, 0, 9, 2, 7, 2]]
        expected = [[1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 1, 1]]
        assert self._drawn(tmp_path, {"segmentation": parts}) == expected

    @pytest.mark.parametrize("far", [1e20, -1e20])
    def test_parts_may_lie_further_away_than_whole_numbers_reach(
        self, tmp_path: Path, far: float
    ) -> None:
        parts = [SQUARE, [far, 0, far, 5, 2 * far, 5], [0, far, 5, far, 5, 2 * far]]
        expected = [[0] * 6, *[[0, 1, 1, 0, 0, 0]] * 2, [0] * 6]
        assert self._drawn(tmp_path, {"segmentation": parts}) == expected

    # Runs go down the columns: 5 out, 2 in (rows 1, 2 of column 1), 3 out, 1 in (row 3 of
    # column 2)... packed, the fourth and fifth are differences: 1 - 2 = -1, 13 - 3 = 10.
    @pytest.mark.parametrize("counts", [[5, 2, 4, 1, 12], "524O8"])
    def test_run_lengths_of_crowds(self, tmp_path: Path, counts: Any) -> None:
        rle = {"segmentation": {"size": [4, 6], "counts": counts}, "iscrowd": 1, "category_id": 18}
        expected = [[0] * 6, [0, 2, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0]]
        assert self._drawn(tmp_path, rle) == expected

    def test_compressed_counts(self) -> None:
        # 40 = 8 + 32 * 1: "X" (8 + 32 + 48), "1"; 16 needs a second character, as its bit 16
        # would be a sign; from the fourth number on, differences: 1 - 3 = -2 is 30, "N".
        assert decode_counts("X1`0") == [40, 16]
        assert decode_counts("231N") == [2, 3, 1, 1]
        assert decode_counts("") == []
        with pytest.raises(DataError, match="breaks off"):
            decode_counts("2X")
        with pytest.raises(DataError, match="holds the character 'z'"):
            decode_counts("2z")

    @pytest.mark.parametrize(
        ("segmentation", "message"),
        [
            ([[1, 1, 3, 3]], "a polygon has 2 points; it needs at least 3"),
            ([SQUARE, []], "a polygon has 0 points; it needs at least 3"),
            ([[1, 1, 3, 1, 3, 3, 1]], "a polygon has 7 coordinates, not pairs"),
            ([[1, 1, 3, 1, 3, float("nan")]], "a coordinate that is not a finite number"),
            ([], "neither a polygon nor RLE; a box alone is no mask"),
            (None, "neither a polygon nor RLE; a box alone is no mask"),
            ({"size": [4, 6], "counts": [5, 2]}, "RLE covers 7 pixels, but the image has 24"),
            ({"size": [4, 6], "counts": [30, -6]}, "RLE has a run of -6 pixels"),
            ({"size": [6, 4], "counts": [24]}, r"RLE is of size \(6, 4\), but the image of \(4, 6"),
            ({"size": [4, 6], "counts": "5~"}, "compressed RLE holds the character '~'"),
        ],
    )
    def test_shapes_that_cannot_be_drawn(
        self, tmp_path: Path, segmentation: Any, message: str
    ) -> None:
        file = tmp_path / "train.json"
        _coco(file, [{"segmentation": segmentation}])
        _save(tmp_path / "train" / "a.png")
        dataset = open_coco(tmp_path, "train")
        (problem,) = check_dataset(dataset)[0]
        assert (problem.kind, problem.file) == ("unreadable", file)
        assert problem.detail.startswith("annotation 100 of train/a.png: ")
        with pytest.raises(DataError, match=message):
            dataset.read(0)

    def test_categories_follow_their_ids(self, tmp_path: Path) -> None:
        categories = [(90, "z"), (0, "y"), (7, "Background"), (13, "x")]
        squares = [
            {"segmentation": [[i, 0, i + 1, 0, i + 1, 1, i, 1]], "category_id": category}
            for i, (category, _) in enumerate(categories)
        ]
        _coco(tmp_path / "train.json", squares, categories=categories)
        _save(tmp_path / "train" / "a.png")
        dataset = open_coco(tmp_path, "train")
        assert dataset.classes.names == ("background", "y", "x", "z")
        assert _label(dataset)[0] == [3, 1, 0, 2, 0, 0]
        own = ClassTable(("rest", "z"), ((0, 0, 0), (9, 9, 9)), {0: 0, 1: 255, 2: 0, 3: 255, 4: 1})
        assert _label(open_coco(tmp_path, "train", own))[0] == [1, 255, 0, 255, 0, 0]

    def test_roboflow_heading_is_no_class(self, tmp_path: Path) -> None:
        file = tmp_path / "train" / "_annotations.coco.json"
        _coco(file, [{"segmentation": [SQUARE]}])
        content = json.loads(file.read_text())
        content["categories"] = [
            {"id": 0, "name": "pets", "supercategory": "none"},
            {"id": 1, "name": "cat", "supercategory": "pets"},
            {"id": 2, "name": "pets", "supercategory": "pets"},
        ]
        file.write_text(json.dumps(content))
        _save(tmp_path / "train" / "a.png")
        dataset = open_coco(tmp_path, "train")
        assert dataset.classes.names == ("background", "cat", "pets")
        assert _label(dataset)[1] == [0, 1, 1, 0, 0, 0]

    def test_a_class_that_is_another_s_heading_is_one_where_it_is_drawn(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "train.json"
        _coco(file, [{"segmentation": [SQUARE], "category_id": 18}])
        content = json.loads(file.read_text())
        content["categories"][0]["supercategory"] = "dog"
        file.write_text(json.dumps(content))
        _save(tmp_path / "train" / "a.png")
        assert open_coco(tmp_path, "train").classes.names == ("background", "cat", "dog")

    @pytest.mark.parametrize(
        ("listed", "name"),
        [
            *((one, "a.png") for one in ("images/a.png", "images\\a.png", "/else/images/a.png")),
            ("u\u0308.png", "\u00fc.png"),
            ("\u00fc.png", "u\u0308.png"),
        ],
    )
    def test_however_an_exporter_writes_paths(self, tmp_path: Path, listed: str, name: str) -> None:
        _coco(tmp_path / "train.json", [{"segmentation": [SQUARE]}], [(listed, 4, 6)])
        _save(tmp_path / "images" / name)
        assert len(open_coco(tmp_path, "train")) == 1

    @pytest.mark.parametrize(
        "wrong",
        [{"id": [1]}, {"width": float("inf")}, {"height": 1e9}, {"file_name": None}],
    )
    def test_odd_entries_are_named(self, tmp_path: Path, wrong: dict[str, Any]) -> None:
        file = tmp_path / "train.json"
        _coco(file, [])
        content = json.loads(file.read_text())
        content["images"] = [content["images"][0] | wrong]
        file.write_text(json.dumps(content))
        _save(tmp_path / "train" / "a.png")
        with pytest.raises(DataError, match=r"images\[0\] must have id"):
            open_coco(tmp_path, "train")

    @pytest.mark.parametrize("wrong", [{"size": [float("inf"), 6]}, {"counts": [float("inf")]}])
    def test_run_lengths_that_are_not_finite_are_named(
        self, tmp_path: Path, wrong: dict[str, Any]
    ) -> None:
        _coco(tmp_path / "train.json", [{"segmentation": {"size": [4, 6], "counts": [24]} | wrong}])
        _save(tmp_path / "train" / "a.png")
        with pytest.raises(DataError, match=r"annotations\[0\] must have image_id, category_id"):
            open_coco(tmp_path, "train")

    def test_missing_images_and_empty_ones(self, tmp_path: Path) -> None:
        file = tmp_path / "train.json"
        annotations = [
            {"segmentation": [SQUARE], "image_id": 1},
            {"segmentation": [SQUARE], "image_id": 7},
        ]
        _coco(file, annotations, [("sub/b.png", 4, 6), ("gone.png", 4, 6), ("a.png", 4, 6)])
        _save(tmp_path / "train" / "a.png")
        _save(tmp_path / "train" / "sub" / "b.png")
        dataset = open_coco(tmp_path, "train")
        assert _names(dataset) == ["train/a.png", "train/sub/b.png"]
        assert _label(dataset) == [[0] * 6] * 4
        gone = tmp_path / "train" / "gone.png"
        assert dataset.unpaired == (
            Problem("missing image", gone, "listed in train.json, but not there"),
            Problem(
                "missing image", file, "annotation 101 belongs to image 7, which is not listed"
            ),
        )

    def test_two_images_of_one_id_are_refused(self, tmp_path: Path) -> None:
        _coco(tmp_path / "train.json", [{"segmentation": [SQUARE]}])
        content = json.loads((tmp_path / "train.json").read_text())
        content["images"].append({**content["images"][0], "file_name": "b.png"})
        (tmp_path / "train.json").write_text(json.dumps(content))
        for name in "ab":
            _save(tmp_path / "train" / f"{name}.png")
        with pytest.raises(DataError, match=r"images\[1\] has the id 0 of another image"):
            open_coco(tmp_path, "train")

    def test_size_in_the_file_must_be_the_images(self, tmp_path: Path) -> None:
        _coco(tmp_path / "train.json", [{"segmentation": [SQUARE]}], [("a.png", 6, 4)])
        _save(tmp_path / "train" / "a.png")
        (problem,) = check_dataset(open_coco(tmp_path, "train"))[0]
        assert (problem.kind, problem.file.name) == ("size mismatch", "a.png")

    def test_wrong_split(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"expected annotations/instances_val\.json, val\.json or"
        ):
            open_coco(tmp_path, "val")
        _coco(tmp_path / "annotations/instances_val2017.json", [])
        _coco(tmp_path / "annotations/captions_val2017.json", [])
        _coco(tmp_path / "valid/_annotations.coco.json", [])
        with pytest.raises(DataError, match=r"mean 'val2017'.* choices: val2017, valid$"):
            open_coco(tmp_path, "val2018")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", r"train\.json: not valid JSON"),
            ("[]", "not in COCO's format: it has no list 'images'"),
            ('{"images": [], "annotations": []}', "it has no list 'categories'"),
            (
                '{"images": [{"id": 1}], "annotations": [], "categories": []}',
                r"images\[0\] must have id, file_name, height and width",
            ),
            (
                '{"images": [], "annotations": [{"id": 1}], "categories": []}',
                r"annotations\[0\] must have image_id",
            ),
            (
                '{"images": [], "annotations": [{"image_id": 1, "segments_info": []}], '
                '"categories": []}',
                r"train\.json: is in COCO's panoptic format",
            ),
            (
                '{"images": [], "annotations": [], "categories": [{"name": "a"}]}',
                "categories must have an id",
            ),
            (
                '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"},'
                ' {"id": 1, "name": "b"}]}',
                "two categories have the same id",
            ),
            (
                '{"images": [], "annotations": [{"id": 5, "image_id": 1, "category_id": 3}],'
                ' "categories": []}',
                "annotation 5 has category 3, which is no class there",
            ),
            (
                '{"images": [], "annotations": [], "categories": [{"id": 1e999, "name": "a"}]}',
                r"categories must have an id \(a number\) and a name",
            ),
        ],
    )
    def test_files_in_another_format(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "train.json").write_text(content)
        with pytest.raises(DataError, match=message):
            open_coco(tmp_path, "train")

    def test_names_must_differ(self, tmp_path: Path) -> None:
        _coco(tmp_path / "train.json", [], categories=[(1, "a"), (2, "a")])
        with pytest.raises(ConfigError, match=r"train\.json: classes: name 'a' stands twice"):
            open_coco(tmp_path, "train")


LINE = "1 0.5 0.25 1 0.25 1 0.75 0.5 0.75\n"
"""Class 1 on columns 3 to 5 of 6 and rows 1 and 2 of 4."""

DRAWN = [[0] * 6, [0, 0, 0, 2, 2, 2], [0, 0, 0, 2, 2, 2], [0] * 6]


def _yolo(root: Path, settings: str | None, images: str = "images/train", line: str = LINE) -> None:
    """Write the image ``a.png`` with its label file, and ``data.yaml``."""
    _save(root / images / "a.png")
    labels = root / "labels".join(images.rsplit("images", 1))
    labels.mkdir(parents=True, exist_ok=True)
    (labels / "a.txt").write_text(line)
    if settings is not None:
        (root / "data.yaml").write_text(settings)


NAMES = "names: [cat, dog]\n"


class TestYolo:
    @pytest.mark.parametrize(
        ("images", "settings"),
        [
            ("images/train", "train: images/train\n"),
            ("images/train", "path: .\ntrain: images/train/\n"),
            ("sub/images/train", "path: sub\ntrain: images/train\n"),
            ("images/train", "path: ../datasets/coco8-seg\ntrain: images/train\n"),
            ("images/train", "path: /another/machine/data\ntrain: images/train\n"),
            ("images/train", "train: /another/machine/data/images/train\n"),
            ("images/train", "train: C:\\data\\images\\train\n"),
            ("train/images", "train: ../train/images\n"),
            ("images/train", "train: [images/train]\n"),
        ],
    )
    def test_paths_of_settings(self, tmp_path: Path, images: str, settings: str) -> None:
        root = tmp_path / "x" / "data"
        _yolo(root, settings + NAMES, images)
        dataset = open_yolo(root, "train")
        assert _names(dataset) == [f"{images}/a.png"]
        assert dataset.classes.names == ("background", "cat", "dog")
        assert _label(dataset) == DRAWN
        assert check_dataset(dataset)[0] == []
        copy: SegmentationDataset = pickle.loads(pickle.dumps(dataset))
        assert _label(copy) == DRAWN

    def test_list_files(self, tmp_path: Path) -> None:
        _yolo(tmp_path, "train: lists/train.txt\nnames: {0: cat, 1: dog}\n")
        _yolo(tmp_path, None, "images/new/b c")
        lines = "images/train/a.png\n\n../images/new/b c/a.png\n/else/images/train/z.png"
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists" / "train.txt").write_text(lines)
        dataset = open_yolo(tmp_path, "train")
        assert {sample.image.resolve() for sample in dataset.samples} == {
            tmp_path / "images/train/a.png",
            tmp_path / "images/new/b c/a.png",
        }
        assert [_label(dataset, i) for i in (0, 1)] == [DRAWN, DRAWN]
        (problem,) = dataset.unpaired
        assert problem.detail == "listed in train.txt, line 4, but not there"

    def test_labels_that_no_image_has_are_told_whatever_their_case(self, tmp_path: Path) -> None:
        _yolo(tmp_path, "train: train.txt\n" + NAMES)
        _save(tmp_path / "images/train/b.png")
        lonely = tmp_path / "labels/train/c.TXT"
        lonely.write_text(LINE)
        (tmp_path / "train.txt").write_text("images/train/a.png\nimages/train/b.png\n")
        dataset = open_yolo(tmp_path, "train")
        assert [problem.file for problem in dataset.unpaired] == [lonely]
        *_, (kind, said) = dataset.store.surprises(dataset.samples[1])
        assert (kind, said.split(";")[1]) == ("no label file", " all of it is background")

    def test_other_text_files_beside_images_are_no_labels(self, tmp_path: Path) -> None:
        """Darknet keeps images, labels and lists in one folder."""
        (tmp_path / "data.yaml").write_text("train: train.txt\n" + NAMES)
        (tmp_path / "train.txt").write_text("a.png\n")
        (tmp_path / "a.txt").write_text(LINE)
        _save(tmp_path / "a.png")
        assert open_yolo(tmp_path, "train").unpaired == ()

    def test_a_split_that_is_not_there_stops_no_other(self, tmp_path: Path) -> None:
        _yolo(tmp_path, "train: images/train\ntest: ../test/images\n" + NAMES)
        with pytest.raises(SplitError, match=r"test: .*test/images is not there, and .* holds ano"):
            open_yolo(tmp_path, "test")

    def test_without_settings(self, tmp_path: Path) -> None:
        _yolo(tmp_path, None)
        (tmp_path / "classes.yaml").write_text("classes: [background, cat, dog]")
        assert _label(open_yolo(tmp_path, "train")) == DRAWN
        with pytest.raises(DataError, match="no split 'trains'; did you mean 'train'"):
            open_yolo(tmp_path, "trains")
        (tmp_path / "classes.yaml").unlink()
        with pytest.raises(DataError, match=r"classes\.yaml does not exist; write it, .*road, sky"):
            open_yolo(tmp_path, "train")

    def test_images_without_labels_are_background(self, tmp_path: Path) -> None:
        _yolo(tmp_path, "train: images/train\n" + NAMES)
        _save(tmp_path / "images/train/b.png")
        _save(tmp_path / "images/train/sub/c.png")
        (tmp_path / "labels/train/b.txt").write_text("\n")
        dataset = open_yolo(tmp_path, "train")
        assert [_label(dataset, i) for i in (1, 2)] == [[[0] * 6] * 4] * 2
        assert dataset.unpaired == ()

    def test_no_label_at_all_is_an_error(self, tmp_path: Path) -> None:
        _yolo(tmp_path, "train: images/train\n" + NAMES)
        (tmp_path / "labels").rename(tmp_path / "label")
        with pytest.raises(DataError, match=r"no label file, not even .*labels/train/a\.txt"):
            open_yolo(tmp_path, "train")

    def test_labels_without_images_are_reported(self, tmp_path: Path) -> None:
        _yolo(tmp_path, "train: images/train\n" + NAMES)
        lonely = tmp_path / "labels/train/z.txt"
        lonely.write_text(LINE)
        (tmp_path / "labels/train/classes.txt").write_text("cat\ndog\n")
        folder = tmp_path / "images/train"
        assert open_yolo(tmp_path, "train").unpaired == (
            Problem("missing image", lonely, f"no image of this name in {folder}"),
        )

    def test_smaller_objects_lie_on_top(self, tmp_path: Path) -> None:
        whole = "0 0 0 1 0 1 1 0 1\n"
        expected = [[1] * 6, [1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 2], [1] * 6]
        for text in (LINE + whole, whole + LINE):
            _yolo(tmp_path, "train: images/train\n" + NAMES, line=text)
            assert _label(open_yolo(tmp_path, "train")) == expected

    def test_background_among_the_names_is_class_0(self, tmp_path: Path) -> None:
        settings = "train: images/train\nnames: [background, dog]\n"
        _yolo(tmp_path, settings, line=LINE + "0 0 0 1 0 1 0.25 0 0.25\n")
        dataset = open_yolo(tmp_path, "train")
        assert dataset.classes.names == ("background", "dog")
        assert _label(dataset)[:2] == [[0] * 6, [0, 0, 0, 1, 1, 1]]

    def test_size_is_that_of_the_upright_image(self, tmp_path: Path) -> None:
        _yolo(tmp_path, "train: images/train\n" + NAMES)
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        Image.new("RGB", (4, 6)).save(tmp_path / "images/train/a.png", exif=exif)
        assert _label(open_yolo(tmp_path, "train")) == DRAWN

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1", "a polygon has 7 coordinates, not pairs"),
            ("0 0.1 0.1", "a polygon has 1 points; it needs at least 3"),
            ("0", "a polygon has 0 points"),
            ("2 0 0 1 0 1 1", "class 2, id 3 in masks, is not in the class table"),
            ("-1 0 0 1 0 1 1", r"class must be 0, 1, 2, \.\.\., got -1"),
            ("0.5 0 0 1 0 1 1", r"class must be 0, 1, 2, \.\.\., got 0\.5"),
            ("0 0 0 1.002 0 1 1", r"coordinate 1\.002 is not in \[0, 1\]"),
            ("0 0 -0.002 1 0 1 1", r"coordinate -0\.002 is not in \[0, 1\]"),
            ("0 0.5 0.5 0.2 0.2", "is the box of a detection; segmentation needs a polygon"),
            ("cat 0 0 1 0 1 1", "holds something other than numbers"),
            ("0 0 0 1 0 1 nan", "a coordinate that is not a finite number"),
        ],
    )
    def test_wrong_lines_name_file_and_line(self, tmp_path: Path, line: str, message: str) -> None:
        _yolo(tmp_path, "train: images/train\n" + NAMES, line=LINE + line)
        with pytest.raises(DataError, match=rf"labels/train/a\.txt: line 2: .*{message}"):
            open_yolo(tmp_path, "train").read(0)

    def test_coordinates_may_miss_the_border_by_rounding(self, tmp_path: Path) -> None:
        line = "1 0.5 0.25 1.0009 0.25 1.0009 0.75 0.5 0.75"
        _yolo(tmp_path, "train: images/train\n" + NAMES, line=line)
        assert _label(open_yolo(tmp_path, "train")) == DRAWN

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ("val: images/train\n" + NAMES, r"data\.yaml: no split 'train'; choices: val"),
            ("train: images/trian\n" + NAMES, r"data\.yaml: train: .*images/trian not there"),
            (
                "train: ../train/imgs/images\nval: images/train\n" + NAMES,
                r"train: .*imgs/images is not there, and .*/images holds another split as well",
            ),
            ("train: images/train\n", "key names must hold the class names, got None"),
            ("train: images/train\nnames: {1: cat}", "names must be numbered 0 to 0 without a gap"),
            ("train: images/train\nnames: [yes]", r"names\[0\] must be a name, got True"),
            ("[", r"data\.yaml: not valid YAML"),
            ("a", r"data\.yaml: must hold the keys train, val and names"),
        ],
    )
    def test_wrong_settings(self, tmp_path: Path, settings: str, message: str) -> None:
        _yolo(tmp_path, settings)
        with pytest.raises(DataError, match=message):
            open_yolo(tmp_path, "train")


def _png(array: np.ndarray) -> dict[str, Any]:
    """An image as `datasets` stores it."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three rows of the library `datasets`; the i-th mask is class i, with 255 in a corner."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    masks = [np.full((4, 6), value, np.uint8) for value in range(3)]
    for mask in masks:
        mask[0, 0] = 255
    columns = {
        "id": [10, 11, 12],
        "label": [_png(mask) for mask in masks],
        "picture": [_png(np.full((4, 6, 3), 50 * i, np.uint8)) for i in range(3)],
    }
    image = datasets.Image()
    features = {"id": datasets.Value("int64"), "label": image, "picture": image}
    return datasets.Dataset.from_dict(columns, datasets.Features(features), split="train")


def _hub_folder(rows: Any, root: Path, layout: str) -> None:
    """Write rows the way `datasets` or the hub does."""
    datasets = pytest.importorskip("datasets")

    if layout == "dict":
        datasets.DatasetDict({"train": rows, "val": rows}).save_to_disk(str(root))
    elif layout == "single":
        rows.save_to_disk(str(root))
    elif layout == "shards":
        for i, part in enumerate((rows.select([0, 1]), rows.select([2]))):
            (root / "data").mkdir(parents=True, exist_ok=True)
            part.to_parquet(str(root / "data" / f"train-{i:05}-of-00002.parquet"))
    else:
        root.mkdir()
        rows.to_parquet(str(root / "train.parquet"))
    (root / "id2label.json").write_text('{"2": "sky", "0": "road", "1": "tree"}')


class TestHub:
    @pytest.mark.parametrize("layout", ["dict", "single", "shards", "parquet"])
    def test_rows_are_read_on_demand(self, rows: Any, tmp_path: Path, layout: str) -> None:
        root = tmp_path / "data"
        _hub_folder(rows, root, layout)
        dataset = open_hub(root, "train")
        assert (dataset.name, len(dataset)) == ("hub", 3)
        assert _names(dataset) == ["train/0", "train/1", "train/2"]
        assert dataset.classes.names == ("road", "tree", "sky")
        copy: SegmentationDataset = pickle.loads(pickle.dumps(dataset))
        for opened in (dataset, copy):
            image, label = opened.read(2)
            assert (image.shape, image.dtype) == ((3, 4, 6), torch.uint8)
            assert image.unique().tolist() == [100]
            assert label[0].tolist() == [255, 2, 2, 2, 2, 2]
        assert check_dataset(dataset)[0] == []
        with pytest.raises(DataError, match="no split 'trian'; did you mean 'train'"):
            open_hub(root, "trian")

    def test_class_table_in_the_folder_or_given(self, rows: Any, tmp_path: Path) -> None:
        root = tmp_path / "data"
        _hub_folder(rows, root, "parquet")
        (root / "classes.yaml").write_text("classes: [{name: x, id: [0, 1]}, {name: y, id: 2}]")
        assert int(open_hub(root, "train").read(1)[1][1, 1]) == 0
        given = ClassTable.from_names(("p", "q", "r"))
        assert open_hub(root, "train", given).classes == given
        (root / "classes.yaml").unlink()
        (root / "id2label.json").write_text("[]")
        with pytest.raises(DataError, match=r"id2label\.json: must hold a name by id"):
            open_hub(root, "train")
        (root / "id2label.json").unlink()
        with pytest.raises(DataError, match=r"nothing names the classes; .*--data\.classes"):
            open_hub(root, "train")

    def test_faults_name_the_row(self, rows: Any, tmp_path: Path) -> None:
        root = tmp_path / "data"
        rows = rows.cast_column("label", _undecoded()).cast_column("picture", _undecoded())
        broken = rows.to_list()
        broken[0]["label"] = {"bytes": b"no image", "path": None}
        broken[1]["picture"] = None
        broken[2]["label"] = _png(np.full((3, 6), 9, np.uint8))
        datasets = pytest.importorskip("datasets")

        _hub_folder(datasets.Dataset.from_list(broken, rows.features), root, "parquet")
        problems = check_dataset(open_hub(root, "train"))[0]
        assert [(p.kind, p.file.relative_to(root).as_posix()) for p in problems] == [
            ("unreadable", "train/0/label"),
            ("unreadable", "train/1"),
            ("size mismatch", "train/2"),
            ("unknown id", "train/2/label"),
        ]
        assert problems[0].detail == (
            "cannot be decoded (cannot identify image file); replace the file"
        )
        assert problems[1].detail == "is empty; remove the row"

    def test_survey_tells_what_reading_changes(self, rows: Any, tmp_path: Path) -> None:
        as_files = rows.cast_column("label", _undecoded()).cast_column("picture", _undecoded())
        turned = as_files.to_list()
        turned[1]["picture"] = _png(np.zeros((4, 6), np.uint8))
        turned[2]["picture"] = turned[0]["picture"]
        datasets = pytest.importorskip("datasets")
        _hub_folder(datasets.Dataset.from_list(turned, rows.features), tmp_path / "d", "parquet")
        found = survey([open_hub(tmp_path / "d", "train")], trained_on=())
        notes = [one.problem for one in found.notes if one.problem.kind != "absent class"]
        told = [(note.kind, note.file.name) for note in notes]
        assert told == [("grey", "1"), ("duplicate image", "2")]

    def test_two_columns_of_images_are_needed(self, rows: Any, tmp_path: Path) -> None:
        _hub_folder(rows.remove_columns("label"), tmp_path / "data", "parquet")
        message = "of the columns id, picture these are: picture"
        with pytest.raises(DataError, match=message):
            open_hub(tmp_path / "data", "train")

    def test_likely_names_are_preferred(self, rows: Any, tmp_path: Path) -> None:
        more = rows.add_column("instances", rows["id"]).rename_columns(
            {"label": "annotation", "picture": "pixel_values", "id": "image_id"}
        )
        _hub_folder(more, tmp_path / "data", "parquet")
        assert int(open_hub(tmp_path / "data", "train").read(1)[1][1, 1]) == 1

    def test_name_on_the_hub(self, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def load(name: str, split: str) -> Any:
            asked.append((name, split))
            return rows

        monkeypatch.setattr("datasets.load_dataset", load)
        table = ClassTable.from_names(("p", "q", "r"))
        dataset = open_hub(Path("owner/rows-for-this-test"), "train", table)
        assert int(dataset.read(1)[1][1, 1]) == 1
        assert asked == [("owner/rows-for-this-test", "train")]

    def test_what_is_neither_folder_nor_name(self, rows: Any, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such folder, and no name on the hub"):
            open_hub(tmp_path / "none", "train")
        with pytest.raises(DataError, match="owner/none: no such folder, and on the Hugging Face"):
            open_hub(Path("owner/none"), "train")
        (tmp_path / "empty").mkdir()
        with pytest.raises(
            DataError, match=r"expected a folder of save_to_disk, or train\.parquet"
        ):
            open_hub(tmp_path / "empty", "train")

    def test_library_is_optional(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(DataError, match="pip install datasets"):
            open_hub(tmp_path, "train")


def _undecoded() -> Any:
    """The type of an image column whose cells are files."""
    datasets = pytest.importorskip("datasets")

    return datasets.Image(decode=False)
