"""Readers of public benchmarks, each on small trees in the layouts their publishers use."""

import csv
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
from PIL import Image

from tsic.data.check import check_dataset
from tsic.data.class_file import read_classes, write_classes
from tsic.data.classes import ClassTable
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers.ade20k import ADE20K_CLASSES, open_ade20k
from tsic.data.readers.camvid import CAMVID_CLASSES, open_camvid
from tsic.data.readers.cityscapes import (
    CITYSCAPES_CLASSES,
    CITYSCAPES_TRAIN_ID_CLASSES,
    open_cityscapes,
)
from tsic.data.readers.coco_stuff import (
    COCO_STUFF_CLASSES,
    COCO_STUFF_TRAIN_ID_CLASSES,
    open_coco_stuff,
)
from tsic.data.readers.voc import VOC_CLASSES, open_voc
from tsic.errors import DataError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"

Open = Callable[..., SegmentationDataset]


@pytest.fixture
def ade20k_sample() -> Path:
    """Root of three real images of ADE20K, where they lie beside the repository."""
    if not (SHARED / "ade20k_sample").is_dir():
        pytest.skip("ADE20K's sample is not at ../shared/data/ade20k_sample")
    return SHARED / "ade20k_sample"


@pytest.fixture
def camvid_lists() -> dict[str, list[str]]:
    """Names in the SegNet tutorial's lists, where CamVid lies beside the repository."""
    lists = {split: SHARED / "camvid" / f"{split}.txt" for split in ("train", "val")}
    if not all(path.is_file() for path in lists.values()):
        pytest.skip("CamVid's lists are not at ../shared/data/camvid")
    return {
        split: [Path(line.split()[0]).stem for line in path.read_text().splitlines()]
        for split, path in lists.items()
    }


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _blocks(values: Sequence[int] | Sequence[tuple[int, int, int]]) -> npt.NDArray[np.uint8]:
    """Draw each value as a block of 8x8 pixels, all in one row."""
    return np.array([values], np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def _image(path: Path, blocks: int = 4) -> None:
    _save(path, Image.new("RGB", (8 * blocks, 8), (10, 20, 30)))


def _mask(path: Path, values: Sequence[int] | Sequence[tuple[int, int, int]]) -> None:
    """Write a mask of ids or of colours."""
    _save(path, Image.fromarray(_blocks(values)))


def _palette_mask(path: Path, ids: Sequence[int]) -> None:
    """Write a mask of ids that each point to a colour, as VOC has them."""
    mask = Image.fromarray(_blocks(ids))
    mask.putpalette([value % 251 for value in range(768)])
    assert mask.mode == "P"
    _save(path, mask)


def _label(dataset: SegmentationDataset, name: str) -> list[int]:
    """Train id of each block of the image with this name, without folder and ending."""
    index = [sample.image.stem for sample in dataset.samples].index(name)
    return _blocks_of(dataset, index)


def _blocks_of(dataset: SegmentationDataset, index: int) -> list[int]:
    """Train id of each block."""
    label = dataset.read(index)[1].numpy()
    row: list[int] = label[0, ::8].tolist()
    assert (label == _blocks(row)).all()
    return row


def _names(dataset: SegmentationDataset) -> list[str]:
    return [sample.name for sample in dataset.samples]


def _unpaired(dataset: SegmentationDataset) -> set[tuple[str, str]]:
    return {(problem.kind, problem.file.name) for problem in dataset.unpaired}


# Cityscapes

ULM = "ulm/ulm_000000_000019"
BONN = "bonn/bonn_000001_000019"
MUNSTER = "munster/munster_000002_000019"


def _cityscapes(root: Path, kind: str, ids: Sequence[int]) -> None:
    """Two training images in two cities and one validation image, all with one mask."""
    for part, name in (("train", ULM), ("train", BONN), ("val", MUNSTER)):
        _image(root / "leftImg8bit" / part / f"{name}_leftImg8bit.png", len(ids))
        _mask(root / "gtFine" / part / f"{name}_gtFine_{kind}.png", ids)
        # The public download has these beside each mask of ids.
        _image(root / "gtFine" / part / f"{name}_gtFine_color.png", len(ids))
        _mask(root / "gtFine" / part / f"{name}_gtFine_instanceIds.png", ids)


def test_cityscapes_ids_become_train_mask(tmp_path: Path) -> None:
    _cityscapes(tmp_path, "labelIds", [*range(34), 255])
    dataset = open_cityscapes(tmp_path, "train")
    x = 255
    expected = [x, x, x, x, x, x, x, 0, 1, x, x, 2, 3, 4, x, x, x, 5, x, 6, 7, 8, 9, 10, 11, 12]
    expected += [13, 14, 15, x, x, 16, 17, 18, x]
    assert _label(dataset, "ulm_000000_000019_leftImg8bit") == expected
    assert _names(dataset) == [f"leftImg8bit/train/{name}_leftImg8bit.png" for name in (BONN, ULM)]
    assert dataset.classes.names[13] == "car"
    assert check_dataset(dataset)[0] == []


def test_cityscapes_train_ids_are_read_as_they_are(tmp_path: Path) -> None:
    _cityscapes(tmp_path, "labelTrainIds", [0, 7, 18, 255])
    dataset = open_cityscapes(tmp_path, "val")
    assert _label(dataset, "munster_000002_000019_leftImg8bit") == [0, 7, 18, 255]
    assert dataset.classes is CITYSCAPES_TRAIN_ID_CLASSES


def test_cityscapes_trainval_joins_both(tmp_path: Path) -> None:
    _cityscapes(tmp_path, "labelIds", [7])
    dataset = open_cityscapes(tmp_path, "trainval")
    assert [name.split("/")[2] for name in _names(dataset)] == ["bonn", "ulm", "munster"]


@pytest.mark.parametrize("split", ["train", "trainval"])
def test_cityscapes_never_mixes_kinds_of_masks(tmp_path: Path, split: str) -> None:
    """Ids 7 would be 'traffic sign' if it were read as a train id."""
    _cityscapes(tmp_path, "labelTrainIds", [7])
    _mask(tmp_path / "gtFine" / "train" / f"{ULM}_gtFine_labelIds.png", [7])
    dataset = open_cityscapes(tmp_path, split)
    assert [s.mask.name for s in dataset.samples] == ["ulm_000000_000019_gtFine_labelIds.png"]
    assert _label(dataset, "ulm_000000_000019_leftImg8bit") == [0]
    left_out = {("missing mask", "bonn_000001_000019_leftImg8bit.png")}
    if split == "trainval":
        left_out |= {("missing mask", "munster_000002_000019_leftImg8bit.png")}
    assert _unpaired(dataset) == left_out
    assert "_gtFine_labelIds" in dataset.unpaired[0].detail


# Pascal VOC


def _voc(voc: Path) -> None:
    """Lists, images and masks of VOC 2012: a and b to train on, v to validate."""
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in {"train": "ab", "val": "v", "trainval": "abv"}.items():
        (lists / f"{split}.txt").write_text("".join(f"2007_00000{name}\n" for name in names))
    for name in "abv":
        _image(voc / "JPEGImages" / f"2007_00000{name}.jpg")
        _palette_mask(voc / "SegmentationClass" / f"2007_00000{name}.png", [0, 20, 255, 15])


def _sbd(sbd: Path, names: dict[str, str]) -> None:
    """SBD's lists, images and Matlab files, as scipy writes Matlab's own kind of structure."""
    for split, letters in names.items():
        (sbd / "cls").mkdir(parents=True, exist_ok=True)
        (sbd / f"{split}.txt").write_text("".join(f"2007_00000{name}\n" for name in letters))
        for name in letters:
            _image(sbd / "img" / f"2007_00000{name}.jpg")
            _mat(sbd / "cls" / f"2007_00000{name}.mat", _blocks([0, 9, 9, 20]))


def _mat(path: Path, segmentation: Any) -> None:
    structure = {
        "Boundaries": np.zeros((20, 1), object),
        "Segmentation": segmentation,
        "CategoriesPresent": np.array([[9], [20]], np.uint8),
    }
    scipy.io.savemat(path, {"GTcls": structure})


@pytest.mark.parametrize("above", [".", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_is_found_at_the_root_or_below(tmp_path: Path, above: str) -> None:
    _voc(tmp_path / above)
    dataset = open_voc(tmp_path, "train")
    prefix = "" if above == "." else f"{above}/"
    assert _names(dataset) == [f"{prefix}JPEGImages/2007_00000{n}.jpg" for n in "ab"]
    assert _label(dataset, "2007_00000a") == [0, 20, 255, 15]
    assert dataset.classes.names[15] == "person"
    assert _names(open_voc(tmp_path, "val")) == [f"{prefix}JPEGImages/2007_00000v.jpg"]
    assert len(open_voc(tmp_path, "trainval")) == 3
    assert check_dataset(dataset)[0] == []


@pytest.mark.parametrize("list_name", ["train_aug.txt", "trainaug.txt"])
@pytest.mark.parametrize(
    "line", ["{0}", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png"], ids=["name", "pair"]
)
def test_voc_augmented_list_prefers_augmented_masks(
    tmp_path: Path, list_name: str, line: str
) -> None:
    _voc(tmp_path)
    names = ("2007_00000a", "2007_00000b", "2008_000001")
    (tmp_path / "ImageSets" / "Segmentation" / list_name).write_text(
        "".join(f"{line.format(name)}\n" for name in names)
    )
    _image(tmp_path / "JPEGImages" / "2008_000001.jpg")
    for name in ("2007_00000a", "2008_000001"):
        _mask(tmp_path / "SegmentationClassAug" / f"{name}.png", [1, 2, 3, 255])
    dataset = open_voc(tmp_path, "train_aug")
    assert [sample.image.stem for sample in dataset.samples] == list(names)
    assert _label(dataset, "2007_00000a") == [1, 2, 3, 255]
    assert _label(dataset, "2008_000001") == [1, 2, 3, 255]
    assert _label(dataset, "2007_00000b") == [0, 20, 255, 15]
    assert _label(open_voc(tmp_path, "train"), "2007_00000a") == [0, 20, 255, 15]


@pytest.mark.parametrize(
    ("voc", "sbd"),
    [
        ("VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"),
        ("VOCdevkit/VOC2012", "VOCdevkit/VOCaug/dataset"),
        ("VOC2012", "SBD"),
        (".", "SBD"),
        (".", "dataset"),
        (".", "."),
    ],
)
def test_voc_augmented_without_a_list_is_the_union_less_val(
    tmp_path: Path, voc: str, sbd: str
) -> None:
    """VOC trains on a and b, SBD has b, c, d and VOC's v: the split is a, b, c, d."""
    _voc(tmp_path / voc)
    _sbd(tmp_path / sbd, {"train": "bc", "val": "dv"})
    dataset = open_voc(tmp_path, "train_aug")
    assert sorted(s.image.stem[-1] for s in dataset.samples) == ["a", "b", "c", "d"]
    assert {s.image.stem[-1]: s.mask.suffix for s in dataset.samples} == {
        "a": ".png",
        "b": ".png",
        "c": ".mat",
        "d": ".mat",
    }
    assert _label(dataset, "2007_00000b") == [0, 20, 255, 15]
    assert _label(dataset, "2007_00000c") == [0, 9, 9, 20]
    assert dataset.count_pixels([s.image.stem[-1] for s in dataset.samples].index("d"))[9] == 128
    assert _names(dataset) == sorted(_names(dataset))
    assert check_dataset(dataset)[0] == []
    assert pickle.loads(pickle.dumps(dataset)).read(2)[1].equal(dataset.read(2)[1])


@pytest.mark.parametrize("root", ["data/VOCdevkit/VOC2012", "data/VOCdevkit", "data"])
def test_voc_finds_sbd_beside_any_root(
    tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _voc(tmp_path / "data" / "VOCdevkit" / "VOC2012")
    _sbd(tmp_path / "data" / "benchmark_RELEASE" / "dataset", {"train": "c", "val": "d"})
    for where in (tmp_path / root, Path()):
        monkeypatch.chdir(tmp_path / root)
        dataset = open_voc(where, "train_aug")
        assert len(dataset) == 4
        assert all((where / sample.name).samefile(sample.image) for sample in dataset.samples)


def test_voc_damaged_matlab_file_names_itself(tmp_path: Path) -> None:
    _voc(tmp_path)
    _sbd(tmp_path / "SBD", {"train": "cdef", "val": "v"})
    (tmp_path / "SBD" / "cls" / "2007_00000c.mat").write_bytes(b"\0" * 300)
    _mat(tmp_path / "SBD" / "cls" / "2007_00000d.mat", _blocks([0, 1, 1, 1]) / 2)
    scipy.io.savemat(tmp_path / "SBD" / "cls" / "2007_00000e.mat", {"other": 1})
    problems = check_dataset(open_voc(tmp_path, "train_aug"))[0]
    details = {problem.file.name: problem.detail for problem in problems}
    assert details.keys() == {f"2007_00000{name}.mat" for name in "cde"}
    assert details["2007_00000c.mat"].startswith("GTcls.Segmentation cannot be read (")
    assert details["2007_00000d.mat"].startswith(
        "GTcls.Segmentation must be a uint8 image, got float64 of shape (8, 32)"
    )
    assert details["2007_00000e.mat"].startswith("GTcls.Segmentation cannot be read ('GTcls')")


def test_voc_missing_files_are_left_out_and_reported(tmp_path: Path) -> None:
    _voc(tmp_path)
    (tmp_path / "JPEGImages" / "2007_00000a.jpg").unlink()
    (tmp_path / "SegmentationClass" / "2007_00000b.png").unlink()
    dataset = open_voc(tmp_path, "trainval")
    assert [sample.image.stem for sample in dataset.samples] == ["2007_00000v"]
    assert _unpaired(dataset) == {
        ("missing image", "2007_00000a.jpg"),
        ("missing mask", "2007_00000b.png"),
    }
    assert dataset.unpaired[0].detail == "listed in trainval.txt, but not there"


def test_voc_layout_of_another_tool(tmp_path: Path) -> None:
    """CVAT lists all images in ``default.txt``, and they need not be JPEGs."""
    for kind in ("JPEGImages", "SegmentationClass"):
        (tmp_path / kind).mkdir()
        Image.new("L", (6, 4), 1).save(tmp_path / kind / "a.png")
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("a\n")
    assert _names(open_voc(tmp_path, "default")) == ["JPEGImages/a.png"]


def test_voc_augmented_without_list_or_sbd_says_what_it_needs(tmp_path: Path) -> None:
    _voc(tmp_path)
    with pytest.raises(
        DataError, match=r"'train_aug'; it needs .*train_aug\.txt, or SBD in .*benchmark_RELEASE"
    ):
        open_voc(tmp_path, "train_aug")


def test_voc_list_line_must_be_a_name_or_a_pair(tmp_path: Path) -> None:
    _voc(tmp_path)
    list_file = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    list_file.write_text("2007_00000a\n\n2007_00000b 1 2\n")
    with pytest.raises(DataError, match=r"train\.txt: line 3 must be 'name' or 'image mask', got"):
        open_voc(tmp_path, "train")


# ADE20K


def _ade20k(root: Path) -> None:
    for split, count in (("training", 2), ("validation", 1)):
        for i in range(1, count + 1):
            name = f"ADE_{'train' if split == 'training' else 'val'}_0000000{i}"
            _image(root / "images" / split / f"{name}.jpg")
            _mask(root / "annotations" / split / f"{name}.png", [0, 1, 2, 150])


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["training/ADE_train_00000001", "training/ADE_train_00000002"]),
        ("training", ["training/ADE_train_00000001", "training/ADE_train_00000002"]),
        ("val", ["validation/ADE_val_00000001"]),
        ("validation", ["validation/ADE_val_00000001"]),
    ],
)
def test_ade20k_other_is_ignored_and_classes_count_from_0(
    tmp_path: Path, split: str, names: list[str]
) -> None:
    _ade20k(tmp_path)
    dataset = open_ade20k(tmp_path, split)
    assert dataset.split == split
    assert _names(dataset) == [f"images/{name}.jpg" for name in names]
    assert _blocks_of(dataset, 0) == [255, 0, 1, 149]
    assert check_dataset(dataset)[0] == []


def test_ade20k_id_outside_the_classes_is_reported(tmp_path: Path) -> None:
    _ade20k(tmp_path)
    _mask(tmp_path / "annotations" / "validation" / "ADE_val_00000001.png", [0, 1, 2, 151])
    with pytest.raises(DataError, match=r"ADE_val_00000001\.png: ids not in the class table: 151"):
        open_ade20k(tmp_path, "val").read(0)


def test_ade20k_real_sample(ade20k_sample: Path) -> None:
    dataset = open_ade20k(ade20k_sample, "val")
    assert _names(dataset) == [f"images/ADE_val_0000000{i}.jpg" for i in (1, 2, 3)]
    assert check_dataset(dataset)[0] == []
    for i, sample in enumerate(dataset.samples):
        image, label = dataset.read(i)
        ids = np.asarray(Image.open(sample.mask)).astype(int)
        assert image.shape[1:] == label.shape
        assert (label.numpy() == np.where(ids == 0, 255, ids - 1)).all()


def test_ade20k_names_are_first_synonyms(ade20k_sample: Path) -> None:
    """The CSV has ';' for the blanks within a name, too."""
    with (ade20k_sample / "objectInfo150.csv").open(newline="") as file:
        synonyms = [row["Name"] + ";" for row in csv.DictReader(file)]
    assert len(synonyms) == 150
    for name, listed in zip(ADE20K_CLASSES.names, synonyms, strict=True):
        assert listed.startswith(name.replace(" ", ";") + ";")


# COCO-Stuff

PIXEL_MAP = [0, 10, 12, 24, 26, 91, 181, 255]
"""Person, fire hydrant, stop sign, giraffe, backpack, banner, wood, unlabelled."""


def _coco_stuff(root: Path, images: str, masks: str, tail: str, ids: Sequence[int]) -> None:
    for part, name in (("train2017", "000000000009"), ("val2017", "000000000139")):
        _image(root / images / part / f"{name}.jpg", len(ids))
        _mask(root / masks / part / f"{name}{tail}.png", ids)


@pytest.mark.parametrize("images", ["images", "."])
@pytest.mark.parametrize("masks", ["annotations", "stuffthingmaps"])
@pytest.mark.parametrize("split", ["val", "val2017"])
def test_coco_stuff_pixel_maps_skip_the_unused_ids(
    tmp_path: Path, images: str, masks: str, split: str
) -> None:
    _coco_stuff(tmp_path, images, masks, "", PIXEL_MAP)
    dataset = open_coco_stuff(tmp_path, split)
    assert _names(dataset) == [(Path(images) / "val2017/000000000139.jpg").as_posix()]
    assert _label(dataset, "000000000139") == [0, 10, 11, 23, 24, 80, 170, 255]
    assert dataset.classes.names[24] == "backpack"
    assert dataset.classes.names[80] == "banner"
    assert check_dataset(dataset)[0] == []


@pytest.mark.parametrize("split", ["train", "train2017"])
def test_coco_stuff_train_ids_are_read_as_they_are(tmp_path: Path, split: str) -> None:
    _coco_stuff(tmp_path, "images", "annotations", "_labelTrainIds", [0, 11, 170, 255])
    dataset = open_coco_stuff(tmp_path, split)
    assert _label(dataset, "000000000009") == [0, 11, 170, 255]
    assert dataset.classes is COCO_STUFF_TRAIN_ID_CLASSES
    assert dataset.unpaired == ()


def test_coco_stuff_pixel_maps_come_before_train_mask(tmp_path: Path) -> None:
    """The converter of mmsegmentation writes into the folder that it reads."""
    _coco_stuff(tmp_path, "images", "annotations", "_labelTrainIds", [11])
    _coco_stuff(tmp_path, "images", "annotations", "", [12])
    _image(tmp_path / "images" / "train2017" / "000000000025.jpg", 1)
    _mask(tmp_path / "annotations" / "train2017" / "000000000025_labelTrainIds.png", [12])
    dataset = open_coco_stuff(tmp_path, "train")
    assert [s.mask.name for s in dataset.samples] == ["000000000009.png"]
    assert _label(dataset, "000000000009") == [11]
    assert _unpaired(dataset) == {("missing mask", "000000000025.jpg")}


def test_coco_stuff_unused_id_is_reported(tmp_path: Path) -> None:
    _coco_stuff(tmp_path, "images", "annotations", "", [11])
    with pytest.raises(DataError, match=r"ids not in the class table: 11 \(64 px\)"):
        open_coco_stuff(tmp_path, "val").read(0)


# CamVid

LABEL_COLORS = {
    0: "128 128 128 Sky",
    1: "128 0 0 Building, 0 128 64 Bridge, 64 192 0 Wall, 64 0 64 Tunnel, 192 0 128 Archway",
    2: "192 192 128 Column_Pole, 0 0 64 TrafficCone",
    3: "128 64 128 Road, 128 0 192 LaneMkgsDriv, 192 0 64 LaneMkgsNonDriv",
    4: "0 0 192 Sidewalk, 64 192 128 ParkingBlock, 128 128 192 RoadShoulder",
    5: "128 128 0 Tree, 192 192 0 VegetationMisc",
    6: "192 128 128 SignSymbol, 128 128 64 Misc_Text, 0 64 64 TrafficLight",
    7: "64 64 128 Fence",
    8: "64 0 128 Car, 64 128 192 SUVPickupTruck, 192 128 192 Truck_Bus, 192 64 128 Train, "
    "128 64 64 OtherMoving",
    9: "64 64 0 Pedestrian, 192 128 64 Child, 64 0 192 CartLuggagePram, 64 128 64 Animal",
    10: "0 128 192 Bicyclist, 192 0 192 MotorcycleScooter",
    255: "0 0 0 Void",
}
"""The 32 lines of ``label_colors.txt`` by the train id that they become."""

CAMVID_LINES = [line for lines in LABEL_COLORS.values() for line in lines.split(", ")]
CAMVID_TRAIN_IDS = [i for i, lines in LABEL_COLORS.items() for _ in lines.split(", ")]
CAMVID_COLOURS = [(int(r), int(g), int(b)) for r, g, b, _ in map(str.split, CAMVID_LINES)]

FRAMES = {
    "train": ["0001TP_006690", "0001TP_008520", "0006R0_f00930", "0016E5_07920", "0016E5_08190"],
    "val": ["0016E5_07959", "0016E5_08159"],
    "test": ["0001TP_008550", "0001TP_010380", "Seq05VD_f00000", "Seq05VD_f05100"],
}


def _original_camvid(root: Path) -> None:
    for name in (name for names in FRAMES.values() for name in names):
        _image(root / "701_StillsRaw_full" / f"{name}.png", 32)
        _mask(root / "LabeledApproved_full" / f"{name}_L.png", CAMVID_COLOURS)
    (root / "label_colors.txt").write_text("\n".join(CAMVID_LINES))


def _kaggle_camvid(root: Path) -> None:
    for split, names in FRAMES.items():
        for name in names:
            _image(root / split / f"{name}.png", 32)
            _mask(root / f"{split}_labels" / f"{name}_L.png", CAMVID_COLOURS)


@pytest.mark.parametrize("draw", [_original_camvid, _kaggle_camvid])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_camvid_groups_32_colours_into_11_classes(
    tmp_path: Path, draw: Callable[[Path], None], split: str
) -> None:
    assert len(set(CAMVID_COLOURS)) == len(CAMVID_TRAIN_IDS) == 32
    draw(tmp_path)
    dataset = open_camvid(tmp_path, split)
    assert [sample.image.stem for sample in dataset.samples] == FRAMES[split]
    assert _blocks_of(dataset, 0) == CAMVID_TRAIN_IDS
    assert dataset.unpaired == ()
    assert check_dataset(dataset)[0] == []


@pytest.mark.parametrize("draw", [_original_camvid, _kaggle_camvid])
def test_camvid_trainval_of_colours_joins_both(
    tmp_path: Path, draw: Callable[[Path], None]
) -> None:
    draw(tmp_path)
    dataset = open_camvid(tmp_path, "trainval")
    assert sorted(s.image.stem for s in dataset.samples) == sorted(FRAMES["train"] + FRAMES["val"])


@pytest.mark.parametrize("draw", [_original_camvid, _kaggle_camvid])
def test_camvid_missing_partner_of_colours_is_reported(
    tmp_path: Path, draw: Callable[[Path], None]
) -> None:
    draw(tmp_path)
    first, _, third, *_ = open_camvid(tmp_path, "train").samples
    first.mask.unlink()
    third.image.unlink()
    dataset = open_camvid(tmp_path, "train")
    assert len(dataset) == 3
    assert {(p.kind, p.file.stem.removesuffix("_L")) for p in dataset.unpaired} == {
        ("missing mask", "0001TP_006690"),
        ("missing image", "0006R0_f00930"),
    }


@pytest.mark.parametrize("line", ["{0}", "{0}.png", "/SegNet/train/{0}.png /SegNet/trainannot/{0}"])
def test_camvid_original_lists_come_before_the_standard_splits(tmp_path: Path, line: str) -> None:
    _original_camvid(tmp_path)
    names = ("0001TP_010380", "0016E5_07959", "0016E5_99999")
    (tmp_path / "train.txt").write_text("\n".join(line.format(name) for name in names))
    dataset = open_camvid(tmp_path, "train")
    assert _names(dataset) == [f"701_StillsRaw_full/{name}.png" for name in names[:2]]
    assert _unpaired(dataset) == {("missing image", "0016E5_99999.png")}


def test_camvid_original_with_a_foreign_frame_asks_for_lists(tmp_path: Path) -> None:
    _original_camvid(tmp_path)
    _image(tmp_path / "701_StillsRaw_full" / "0005VD_00100.png", 32)
    with pytest.raises(
        DataError, match=r"'0005VD_00100' belongs to no standard split; .*list the names of each"
    ):
        open_camvid(tmp_path, "val")


def test_camvid_standard_splits_are_the_tutorials(
    tmp_path: Path, camvid_lists: dict[str, list[str]]
) -> None:
    for name in camvid_lists["train"] + camvid_lists["val"]:
        for path in (f"701_StillsRaw_full/{name}.png", f"LabeledApproved_full/{name}_L.png"):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).touch()
    for split, count in (("train", 367), ("val", 101)):
        dataset = open_camvid(tmp_path, split)
        assert len(dataset) == count
        assert [s.image.stem for s in dataset.samples] == sorted(camvid_lists[split])


def test_camvid_colour_outside_the_release_is_reported(tmp_path: Path) -> None:
    _kaggle_camvid(tmp_path)
    _mask(tmp_path / "val_labels" / "0016E5_07959_L.png", [(1, 2, 3)] * 32)
    with pytest.raises(DataError, match=r"colours not in the class table: \(1, 2, 3\) \(2048 px\)"):
        open_camvid(tmp_path, "val").read(0)


# All of them


def _draw_cityscapes(root: Path) -> None:
    _cityscapes(root, "labelIds", [7, 8, 11, 26])


def _draw_coco_stuff(root: Path) -> None:
    _coco_stuff(root, "images", "annotations", "", [0, 1, 2, 255])


READERS: dict[str, tuple[Open, Callable[[Path], None]]] = {
    "cityscapes": (open_cityscapes, _draw_cityscapes),
    "voc": (open_voc, _voc),
    "ade20k": (open_ade20k, _ade20k),
    "coco_stuff": (open_coco_stuff, _draw_coco_stuff),
    "camvid": (open_camvid, _original_camvid),
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Open, Path]:
    """Name of a reader, its function, and the root of what it reads."""
    open_it, draw = READERS[request.param]
    draw(tmp_path)
    return request.param, open_it, tmp_path


class TestReader:
    def test_names_itself_and_what_was_asked_for(self, reader: tuple[str, Open, Path]) -> None:
        name, open_it, root = reader
        dataset = open_it(root, "train")
        assert (dataset.name, dataset.root, dataset.split) == (name, root, "train")
        assert all(root / s.name == s.image for s in dataset.samples)

    def test_lists_without_reading(
        self, reader: tuple[str, Open, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("an image was opened")

        _, open_it, root = reader
        monkeypatch.setattr(Image, "open", refuse)
        assert len(open_it(root, "train")) > 0

    def test_wrong_split_names_the_nearest(self, reader: tuple[str, Open, Path]) -> None:
        _, open_it, root = reader
        with pytest.raises(DataError, match="split 'vall'; did you mean 'val'"):
            open_it(root, "vall")

    def test_empty_folder_says_what_is_expected(
        self, reader: tuple[str, Open, Path], tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match=r"empty: no .*; expected "):
            reader[1](tmp_path / "empty", "train")

    def test_no_mask_at_all_is_an_error(self, reader: tuple[str, Open, Path]) -> None:
        _, open_it, root = reader
        for sample in open_it(root, "train").samples:
            sample.mask.unlink()
        with pytest.raises(DataError, match=r"split 'train' has no image with a mask; \d+ files? "):
            open_it(root, "train")

    def test_class_table_can_be_given(self, reader: tuple[str, Open, Path]) -> None:
        _, open_it, root = reader
        table = ClassTable.from_names(("all",))
        assert open_it(root, "train", table).classes is table

    def test_goes_to_another_process(self, reader: tuple[str, Open, Path]) -> None:
        _, open_it, root = reader
        dataset = open_it(root, "train")
        copy: SegmentationDataset = pickle.loads(pickle.dumps(dataset))
        assert copy.samples == dataset.samples
        assert copy.read(0)[1].equal(dataset.read(0)[1])


@pytest.mark.parametrize(
    ("table", "classes", "colours", "ids"),
    [
        (CITYSCAPES_CLASSES, 19, 19, {*range(34), 255}),
        (CITYSCAPES_TRAIN_ID_CLASSES, 19, 19, {*range(19), 255}),
        (VOC_CLASSES, 21, 21, {*range(21), 255}),
        # Road and skyscraper share one colour in the public palette.
        (ADE20K_CLASSES, 150, 149, {*range(151)}),
        (
            COCO_STUFF_CLASSES,
            171,
            171,
            {*range(182), 255} - {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90},
        ),
        (COCO_STUFF_TRAIN_ID_CLASSES, 171, 171, {*range(171), 255}),
        (CAMVID_CLASSES, 11, 11, {*range(12), 255}),
    ],
    ids=["cityscapes", "cityscapes train ids", "voc", "ade20k", "coco", "coco train ids", "camvid"],
)
def test_class_table(
    table: ClassTable, classes: int, colours: int, ids: set[int], tmp_path: Path
) -> None:
    assert len(table.names) == len({name.strip() for name in table.names}) == classes
    assert len(set(table.palette)) == colours
    assert table.label_map.keys() == ids
    assert set(table.label_map.values()) == {*range(classes), 255}
    if colours == classes:  # a written table cannot say that two classes share a colour
        write_classes(tmp_path / "classes.yaml", table)
        assert read_classes(tmp_path / "classes.yaml") == table


def test_voc_palette_follows_the_kits_rule() -> None:
    """Bit j of a class number, counted in threes from the lowest, is bit 7 - j / 3 of a channel."""
    for number, colour in enumerate(VOC_CLASSES.palette):
        expected = [0, 0, 0]
        for bit in range(8):
            expected[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
        assert list(colour) == expected


def test_coco_stuff_has_80_things_before_91_stuff_classes() -> None:
    names = COCO_STUFF_CLASSES.names
    assert [names[i] for i in (0, 79, 80, 170)] == ["person", "toothbrush", "banner", "wood"]
