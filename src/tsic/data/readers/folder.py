"""A plain folder of images and masks."""

from pathlib import Path

from tsic.data.classes import ClassTable, read_classes
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers.pairs import pair_folders
from tsic.errors import DataError, nearest


def open_folder(root: Path, split: str, classes: ClassTable | None = None) -> SegmentationDataset:
    """Open a plain folder of images and masks of class ids.

    Args:
        root: Folder with ``<split>/images`` and ``<split>/masks``, or with ``images/<split>`` and
            ``masks/<split>``.
        split: Name of the split.
        classes: Class table; read from ``<root>/classes.yaml`` when left out.

    Returns:
        The dataset.

    Raises:
        DataError: If the folders or the class table are missing.
        ConfigError: If the class table is wrong.
    """
    outer = {path.parent.name for path in root.glob("*/images") if path.is_dir()}
    inner = {path.name for path in root.glob("images/*") if path.is_dir()}
    if not outer | inner:
        raise DataError(
            f"{root}: no split found; expected {split}/images + {split}/masks, "
            f"or images/{split} + masks/{split}"
        )
    if split not in outer | inner:
        raise DataError(f"{root}: no split '{split}'; {nearest(split, outer | inner)}")
    folders = [root / split / kind if split in outer else root / kind / split for kind in _KINDS]
    classes = classes or read_classes(root / "classes.yaml")
    samples, unpaired = pair_folders(root, *folders)
    return SegmentationDataset("folder", root, split, classes, samples, unpaired)


_KINDS = ("images", "masks")
