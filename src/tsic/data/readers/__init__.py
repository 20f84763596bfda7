"""Every dataset that can be opened by name; a new one is one file here and one entry."""

import difflib
from collections.abc import Callable
from pathlib import Path

from tsic.data.classes import ClassTable, read_classes
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers.camvid import open_camvid
from tsic.data.readers.folder import open_folder
from tsic.errors import DataError, nearest

Reader = Callable[[Path, str, ClassTable | None], SegmentationDataset]

READERS: dict[str, Reader] = {"camvid": open_camvid, "folder": open_folder}
"""Every dataset by name; a new one is one more entry."""


def open_dataset(
    name: str, root: str | Path, split: str, classes: str | Path | None = None
) -> SegmentationDataset:
    """Open one split of a dataset without reading its images.

    Args:
        name: A key of `READERS`.
        root: The dataset's folder.
        split: Name of the split.
        classes: Class table (YAML) to use instead of the dataset's own.

    Returns:
        The dataset; files without a partner are left out and listed in ``unpaired``.

    Raises:
        DataError: If the name, the folder or the split does not exist, or no pair is complete.
        ConfigError: If the class table is wrong.
    """
    if name not in READERS:
        raise DataError(f"unknown dataset '{name}'; {nearest(name, READERS)}")
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder{_near_folder(root)}; set it to the dataset's root")
    return READERS[name](root, split, None if classes is None else read_classes(classes))


def _near_folder(missing: Path) -> str:
    """Name the folder that was probably meant, where one is near."""
    while not missing.parent.is_dir():
        missing = missing.parent
    folders = [path.name for path in missing.parent.iterdir() if path.is_dir()]
    close = difflib.get_close_matches(missing.name, folders, n=3, cutoff=0.5)
    return f"; in {missing.parent.resolve()}: {nearest(missing.name, close)}" if close else ""
