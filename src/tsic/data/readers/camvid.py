"""CamVid in the SegNet tutorial's numbering."""

from pathlib import Path

from tsic.data.classes import ClassTable
from tsic.data.dataset import Problem, Sample, SegmentationDataset
from tsic.data.readers.pairs import listed_pairs, pair_folders
from tsic.errors import DataError, nearest

CAMVID_CLASSES = ClassTable.from_names(
    (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    ignore=(11, 255),
)
"""The 11 classes of CamVid as the SegNet tutorial numbers them; 11 is void there."""


def open_camvid(root: Path, split: str, classes: ClassTable | None = None) -> SegmentationDataset:
    """Open CamVid in the SegNet tutorial's numbering, with list files or without.

    Args:
        root: Folder with ``<split>.txt`` (a line is ``image mask``; a prefix such as
            ``/SegNet/CamVid`` is skipped) or else with folders ``<split>`` and ``<split>annot``.
        split: ``train``, ``val``, ``test``, or ``trainval`` for the first two.
        classes: Another class table than CamVid's own 11 classes.

    Returns:
        The dataset.

    Raises:
        DataError: If the split is not there, or a list file is malformed.
    """
    splits = {s for s in ("train", "val", "test") if _camvid_has(root, s)}
    choices = splits | ({"trainval"} if {"train", "val"} <= splits else set())
    if split not in choices and not _camvid_has(root, split):
        found = nearest(split, choices) if choices else "expected train.txt or train/ + trainannot/"
        raise DataError(f"{root}: no CamVid split '{split}'; {found}")
    parts = ("train", "val") if split == "trainval" and not _camvid_has(root, split) else (split,)
    samples: tuple[Sample, ...] = ()
    unpaired: tuple[Problem, ...] = ()
    for part in parts:
        list_file = root / f"{part}.txt"
        pairs = (
            listed_pairs(root, list_file)
            if list_file.is_file()
            else pair_folders(root, root / part, root / f"{part}annot")
        )
        samples, unpaired = samples + pairs[0], unpaired + pairs[1]
    return SegmentationDataset("camvid", root, split, classes or CAMVID_CLASSES, samples, unpaired)


def _camvid_has(root: Path, split: str) -> bool:
    """Whether a split has a list file or its two folders."""
    return (root / f"{split}.txt").is_file() or (root / f"{split}annot").is_dir()
