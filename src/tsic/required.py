"""What a command needs to be there: looked for before anything large is imported."""

import difflib
from pathlib import Path

from tsic.deploy.hub import is_name
from tsic.errors import CheckpointError, ConfigError, DataError, nearest
from tsic.options import DATASETS, TINY_MODELS

MOBILE = "mobile_sam.pt"
"""Name under which MobileSAM's authors publish its weights."""

_SETTINGS = "config.json"  # of a model in the hub's format


def require_root(name: str, root: Path) -> None:
    """Make sure that a dataset's reader and folder are there.

    Args:
        name: Of the reader; a dataset of the hub may be an id instead of a folder.
        root: The folder.

    Raises:
        DataError: If one of them is not.
    """
    if name not in DATASETS:
        raise DataError(f"unknown dataset '{name}'; {nearest(name, DATASETS)}")
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


def require_foundation(name: str, key: str = "teacher.name") -> None:
    """Refuse a name that cannot be one of a model, without loading anything.

    Raises:
        ConfigError: If it is no file, folder or id.
        CheckpointError: If it is a pretraining that has not finished.
    """
    if name in (*TINY_MODELS, "embedded"):
        return
    path = Path(name)
    is_file_name = path.suffix in (".pt", ".pth", ".safetensors") or len(path.parts) > 2
    if not path.exists() and (path.is_absolute() or name.startswith(".") or is_file_name):
        raise ConfigError(
            f"{key} '{name}': no such file or folder; check the path (docs/teachers.md "
            "says where from)"
        )
    if "/" not in name and not path.exists():
        choices = ["embedded", *TINY_MODELS, *(["none"] if key == "teacher.name" else [])]
        raise ConfigError(
            f"{key} '{name}' is neither a file, a folder nor a Hugging Face id such as "
            f"facebook/sam-vit-base; {nearest(name, choices)}"
        )
    is_model = (path / _SETTINGS).is_file() or released_file(path)
    if (path / "config.yaml").is_file() and not is_model:
        raise CheckpointError(
            f"{key} '{name}' is a run that has not finished, or no pretraining; finish it "
            "with tsic pretrain --resume auto"
        )


def require_offline(name: str) -> None:
    """Refuse a trained network, a run's folder or a student's, that is not there.

    Raises:
        ConfigError: If it is neither a path nor a name.
    """
    if not is_name(name) and not Path(name).exists():
        raise ConfigError(
            f"distill.teacher '{name}': no such file or folder; train it first, or check the path"
        )


def released_file(path: Path) -> Path | None:
    """A file that a model's authors publish, where it lies at ``path`` or in it."""
    if path.is_file():
        return path
    inside = path / MOBILE
    return inside if inside.is_file() and not (path / _SETTINGS).is_file() else None
