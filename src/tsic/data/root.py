"""Where a dataset lies: asked before anything large is imported."""

import difflib
from pathlib import Path

from tsic.errors import DataError, nearest


def require_root(name: str, root: Path) -> None:
    """Make sure that a dataset's folder is there.

    Args:
        name: Of its reader; a dataset of the hub may be an id instead.
        root: The folder.

    Raises:
        DataError: If it is not.
    """
    if name == "hub" or root.is_dir():
        return
    way_out = "set data.root to the dataset's folder"
    if not root.is_absolute():
        way_out += ", which starts where the command runs"
    raise DataError(f"{root}: no such folder{_near_folder(root)}; {way_out}")


def _near_folder(missing: Path) -> str:
    """Name the folder that was probably meant, where one is near."""
    while not missing.parent.is_dir():
        missing = missing.parent
    folders = [path.name for path in missing.parent.iterdir() if path.is_dir()]
    close = difflib.get_close_matches(missing.name, folders, n=3, cutoff=0.5)
    return f"; in {missing.parent.resolve()}: {nearest(missing.name, close)}" if close else ""
