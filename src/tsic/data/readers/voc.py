"""Pascal VOC 2012 and its training list augmented with SBD."""

from pathlib import Path

import numpy as np

from tsic.data.classes import ClassTable
from tsic.data.dataset import Sample, SegmentationDataset, Store, Values
from tsic.data.images import SUFFIXES
from tsic.data.readers.pairs import Pairs, listed_names, pair_expected
from tsic.errors import DataError, no_split

VOC_CLASSES = ClassTable.from_names(
    (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
    palette=(
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
        (128, 0, 128),
        (0, 128, 128),
        (128, 128, 128),
        (64, 0, 0),
        (192, 0, 0),
        (64, 128, 0),
        (192, 128, 0),
        (64, 0, 128),
        (192, 0, 128),
        (64, 128, 128),
        (192, 128, 128),
        (0, 64, 0),
        (128, 64, 0),
        (0, 192, 0),
        (128, 192, 0),
        (0, 64, 128),
    ),
)
"""Background and the 20 classes; 255 is the border of objects.

Source:
    Development kit of the PASCAL VOC challenge 2012, ``VOClabelcolormap`` for the colours.
"""

_SBD_FOLDERS = ("benchmark_RELEASE/dataset", "SBD", "VOCaug/dataset", "dataset", ".")
"""Where SBD's folder ``cls`` lies, below or beside VOC."""


def open_voc(root: Path, split: str, classes: ClassTable | None = None) -> SegmentationDataset:
    """Open Pascal VOC 2012, alone or with SBD's annotations, without converting anything.

    ``train_aug`` is the list ``train_aug.txt`` or ``trainaug.txt``; without one it is made of
    VOC's train list and both lists of SBD, less VOC's val list (10 582 images in all). The mask of
    an image is the first of ``SegmentationClassAug/ID.png``, ``SegmentationClass/ID.png`` and
    SBD's ``cls/ID.mat``, which is read as it is.

    Args:
        root: The folder ``VOC2012``, or ``VOCdevkit`` above it, or the folder that contains that.
            SBD may lie below or beside it, as ``benchmark_RELEASE/dataset``, ``SBD``,
            ``VOCaug/dataset``, ``dataset``, or with ``cls`` and ``img`` in a folder itself.
        split: ``train``, ``val``, ``trainval``, any other with a list, or ``train_aug``.
        classes: Another class table than VOC's background and 20 classes.

    Returns:
        The dataset.

    Raises:
        DataError: If the split is not there or a list file cannot be read
            where SBD's masks are needed.

    Source:
        Everingham et al., IJCV 2010 (VOC); Hariharan et al., ICCV 2011 (SBD).
    """
    voc = _find_voc(root)
    sbd = _find_sbd(root, voc)
    lists = voc / "ImageSets" / "Segmentation"
    splits = {file.stem for file in lists.glob("*.txt")} - {"trainaug"}
    if _aug_list(lists) or (sbd and {"train", "val"} <= splits):
        splits.add("train_aug")
    if split not in splits:
        if split == "train_aug":
            needs = f"it needs {lists / 'train_aug.txt'}, or SBD in {root / _SBD_FOLDERS[0]}"
            raise no_split(root, split, (), of="VOC", expected=needs)
        raise no_split(root, split, splits, of="VOC", expected=f"expected {split}.txt in {lists}")
    pairs = (
        _augmented_pairs(root, voc, sbd)
        if split == "train_aug"
        else _plain_pairs(root, voc, lists / f"{split}.txt")
    )
    return SegmentationDataset("voc", root, split, classes or VOC_CLASSES, *pairs, VocStore())


class VocStore(Store):
    """Reads VOC's mask files, and SBD's masks in Matlab files."""

    def mask(self, sample: Sample) -> Values:
        """Read the ids of a mask, uint8 ``(H, W)``."""
        is_matlab = sample.mask.suffix == ".mat"
        return _read_sbd_mask(sample.mask) if is_matlab else super().mask(sample)


def _find_voc(root: Path) -> Path:
    """Find the folder of the year 2012 at the root or below."""
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "ImageSets" / "Segmentation").is_dir():
            return folder
    raise DataError(
        f"{root}: no Pascal VOC found; expected ImageSets/Segmentation, JPEGImages and "
        "SegmentationClass there, in VOC2012 or in VOCdevkit/VOC2012"
    )


def _find_sbd(root: Path, voc: Path) -> Path | None:
    """Find the folder with SBD's ``cls`` and ``img`` below or beside VOC."""
    beside = (root.absolute().parent, voc.absolute().parent.parent)
    for base in dict.fromkeys((root, voc, voc.parent, *beside)):
        for inner in _SBD_FOLDERS:
            # The files are asked for because some other folder may be called cls.
            if any((base / inner / "cls").glob("*.mat")):
                return base / inner
    return None


def _aug_list(lists: Path) -> Path | None:
    """The list file of the augmented split, if there is one."""
    files = (lists / "train_aug.txt", lists / "trainaug.txt")
    return next((file for file in files if file.is_file()), None)


def _plain_pairs(root: Path, voc: Path, list_file: Path) -> Pairs:
    """Pairs of one of VOC's own lists."""
    images, masks = voc / "JPEGImages", voc / "SegmentationClass"
    detail = f"listed in {list_file.name}, but not there"
    expected = [(_image(images, n), masks / f"{n}.png", detail) for n in listed_names(list_file)]
    return pair_expected(root, expected)


def _image(folder: Path, name: str) -> Path:
    """VOC's JPEG of that name, or what another tool has put there in VOC's layout."""
    jpeg = folder / f"{name}.jpg"
    others = (jpeg.with_name(name + suffix) for suffix in sorted(SUFFIXES))
    return next((file for file in (jpeg, *others) if file.is_file()), jpeg)


def _augmented_pairs(root: Path, voc: Path, sbd: Path | None) -> Pairs:
    """Pairs of the augmented training list."""
    lists = voc / "ImageSets" / "Segmentation"
    list_file = _aug_list(lists)
    if list_file is not None:
        names, detail = listed_names(list_file), f"listed in {list_file.name}, but not there"
    else:
        assert sbd is not None  # or the split would not have been offered
        wanted = {*listed_names(lists / "train.txt")}
        wanted |= {*listed_names(sbd / "train.txt"), *listed_names(sbd / "val.txt")}
        names = tuple(sorted(wanted - {*listed_names(lists / "val.txt")}))
        detail = "listed in train.txt of VOC, or in train.txt or val.txt of SBD, but not there"
    expected = [
        (_augmented_image(voc, sbd, name), _augmented_mask(voc, sbd, name), detail)
        for name in names
    ]
    return pair_expected(root, expected)


def _augmented_image(voc: Path, sbd: Path | None, name: str) -> Path:
    """VOC's image, or SBD's copy of it where VOC's is missing."""
    image = voc / "JPEGImages" / f"{name}.jpg"
    copy = None if sbd is None or image.is_file() else sbd / "img" / f"{name}.jpg"
    return copy if copy is not None and copy.is_file() else image


def _augmented_mask(voc: Path, sbd: Path | None, name: str) -> Path:
    """The first mask of an image that exists."""
    candidates = [
        voc / "SegmentationClassAug" / f"{name}.png",
        voc / "SegmentationClass" / f"{name}.png",
    ]
    candidates += [] if sbd is None else [sbd / "cls" / f"{name}.mat"]
    return next((mask for mask in candidates if mask.is_file()), candidates[-1])


def _read_sbd_mask(path: Path) -> Values:
    """Read ``GTcls.Segmentation``, uint8 (H, W)."""
    from scipy.io import loadmat

    try:
        values = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # scipy's reader raises many kinds on damaged files
        raise DataError(
            f"{path}: GTcls.Segmentation cannot be read ({error}); replace the file"
        ) from error
    if values.ndim != 2 or values.dtype != np.uint8:
        raise DataError(
            f"{path}: GTcls.Segmentation must be a uint8 image, got {values.dtype} of shape "
            f"{values.shape}; replace the file"
        )
    return values
