"""Cityscapes with its fine annotations."""

from collections.abc import Iterable
from pathlib import Path

from tsic.data.classes import IGNORE, ClassTable, Colour
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers.pairs import join_pairs, pair_folders
from tsic.errors import no_split

_CLASSES: tuple[tuple[str, int, Colour], ...] = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
"""Name, id in a labelIds mask, and colour, in the order of the train ids."""

_NAMES = tuple(name for name, _, _ in _CLASSES)
_PALETTE = tuple(colour for _, _, colour in _CLASSES)

CITYSCAPES_CLASSES = ClassTable(
    _NAMES,
    _PALETTE,
    # A licence plate has id -1, which an 8-bit file holds as 255.
    dict.fromkeys((*range(34), 255), IGNORE) | {entry[1]: i for i, entry in enumerate(_CLASSES)},
)
"""The 19 evaluated classes in masks of ids (labelIds); the other ids from 0 to 33 are ignored.

Source:
    ``cityscapesscripts/helpers/labels.py`` of the repository mcordts/cityscapesScripts.
"""

CITYSCAPES_TRAIN_ID_CLASSES = ClassTable.from_names(_NAMES, palette=_PALETTE)
"""The same classes in masks of train ids (labelTrainIds)."""

_TABLES = {
    "_gtFine_labelIds": CITYSCAPES_CLASSES,
    "_gtFine_labelTrainIds": CITYSCAPES_TRAIN_ID_CLASSES,
}
"""How the names of each kind of mask end, the preferred kind first."""


def open_cityscapes(
    root: Path, split: str, classes: ClassTable | None = None
) -> SegmentationDataset:
    """Open Cityscapes as downloaded: masks of ids need no conversion to train ids.

    A split is read from one kind of mask: from ``_gtFine_labelIds.png`` where there is any, else
    from ``_gtFine_labelTrainIds.png``. The public masks of ``test`` hold ignored ids only.

    Args:
        root: Folder with ``leftImg8bit/<split>/<city>`` and ``gtFine/<split>/<city>``.
        split: ``train``, ``val``, ``test``, or ``trainval`` for the first two.
        classes: Another class table than Cityscapes' own 19 classes.

    Returns:
        The dataset.

    Raises:
        DataError: If the split is not there.

    Source:
        Cordts et al., CVPR 2016, arXiv:1604.01685.
    """
    splits = {s for s in ("train", "val", "test") if (root / "leftImg8bit" / s).is_dir()}
    splits |= {"trainval"} if {"train", "val"} <= splits else set()
    if split not in splits:
        expected = f"expected leftImg8bit/{split}/<city> + gtFine/{split}/<city>"
        raise no_split(root, split, splits, of="Cityscapes", expected=expected)
    parts = ("train", "val") if split == "trainval" else (split,)
    tail = _mask_tail(root, parts)
    pairs = join_pairs(
        pair_folders(
            root,
            root / "leftImg8bit" / part,
            root / "gtFine" / part,
            image_tail="_leftImg8bit",
            mask_tail=tail,
        )
        for part in parts
    )
    table = classes or _TABLES[tail]
    return SegmentationDataset("cityscapes", root, split, table, *pairs)


def _mask_tail(root: Path, parts: Iterable[str]) -> str:
    """Choose the kind of mask for all parts of a split, so that kinds never mix."""
    preferred, other = _TABLES
    for tail in (preferred, other):
        if any(any((root / "gtFine" / part).glob(f"*/*{tail}.png")) for part in parts):
            return tail
    return preferred
