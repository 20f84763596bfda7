"""COCO-Stuff with all 164 thousand images of COCO 2017."""

from pathlib import Path

from tsic.data.classes import IGNORE, ClassTable, default_palette
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers.coco_stuff_classes import COCO_STUFF_NAMES
from tsic.data.readers.pairs import pair_folders
from tsic.errors import no_split

_NAMES = tuple(COCO_STUFF_NAMES.values())
# COCO-Stuff publishes no fixed colours.
_PALETTE = default_palette(len(_NAMES))

COCO_STUFF_CLASSES = ClassTable(
    _NAMES, _PALETTE, {255: IGNORE} | {value: i for i, value in enumerate(COCO_STUFF_NAMES)}
)
"""The 171 classes in the published pixel maps, where 255 is unlabelled."""

COCO_STUFF_TRAIN_ID_CLASSES = ClassTable.from_names(_NAMES, palette=_PALETTE)
"""The same classes in masks of train ids, as mmsegmentation's converter writes them."""

_FOLDERS = {
    "train": "train2017",
    "train2017": "train2017",
    "val": "val2017",
    "val2017": "val2017",
}
"""Name of a split -> its folder."""

_TRAIN_IDS = "_labelTrainIds"


def open_coco_stuff(
    root: Path, split: str, classes: ClassTable | None = None
) -> SegmentationDataset:
    """Open COCO-Stuff 164K as published, or as prepared for mmsegmentation.

    A split is read from one kind of mask: from the published pixel maps where there is any, else
    from masks of train ids, whose names end in ``_labelTrainIds``.

    Args:
        root: Folder with ``images/train2017`` (or ``train2017``), and with
            ``annotations/train2017`` or ``stuffthingmaps/train2017``; the same for ``val2017``.
        split: ``train`` or ``train2017``, ``val`` or ``val2017``.
        classes: Another class table than COCO-Stuff's 171 classes.

    Returns:
        The dataset.

    Raises:
        DataError: If the split is not there.

    Source:
        Caesar et al., CVPR 2018, arXiv:1612.03716; repository nightrome/cocostuff.
    """
    image_folders = {
        name: folder
        for name, part in _FOLDERS.items()
        if (folder := _first_folder(root / "images" / part, root / part)).is_dir()
    }
    if split not in image_folders:
        expected = "expected images/train2017 + annotations/train2017"
        raise no_split(root, split, image_folders, of="COCO-Stuff", expected=expected)
    images, part = image_folders[split], _FOLDERS[split]
    masks = _first_folder(root / "annotations" / part, root / "stuffthingmaps" / part)
    if _has_pixel_maps(masks):
        pairs = pair_folders(root, images, masks, skip_tail=_TRAIN_IDS)
        table = COCO_STUFF_CLASSES
    else:
        pairs = pair_folders(root, images, masks, mask_tail=_TRAIN_IDS)
        table = COCO_STUFF_TRAIN_ID_CLASSES
    return SegmentationDataset("coco_stuff", root, split, classes or table, *pairs)


def _first_folder(preferred: Path, other: Path) -> Path:
    """Choose the folder that exists; the preferred one if none does."""
    return other if other.is_dir() and not preferred.is_dir() else preferred


def _has_pixel_maps(masks: Path) -> bool:
    """Whether a mask is there that is not one of train ids, or no mask at all."""
    names = [path.stem for path in masks.glob("*.png")]
    return not names or any(not name.endswith(_TRAIN_IDS) for name in names)
