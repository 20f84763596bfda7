"""Every dataset that can be opened by name; a new one is a file here and an entry in two tables."""

from collections.abc import Callable
from pathlib import Path

from tsic.config import DataConfig
from tsic.data.class_file import read_classes
from tsic.data.classes import ClassTable
from tsic.data.dataset import SegmentationDataset
from tsic.data.packed import Pack, fingerprint
from tsic.data.readers.ade20k import open_ade20k
from tsic.data.readers.camvid import open_camvid
from tsic.data.readers.cityscapes import open_cityscapes
from tsic.data.readers.coco import open_coco
from tsic.data.readers.coco_stuff import open_coco_stuff
from tsic.data.readers.folder import open_folder
from tsic.data.readers.hub import open_hub
from tsic.data.readers.packed import open_packed
from tsic.data.readers.voc import open_voc
from tsic.data.readers.yolo import open_yolo
from tsic.errors import DataError, TsicError
from tsic.required import require_root

Reader = Callable[[Path, str, ClassTable | None], SegmentationDataset]

READERS: dict[str, Reader] = {
    "ade20k": open_ade20k,
    "camvid": open_camvid,
    "cityscapes": open_cityscapes,
    "coco": open_coco,
    "coco_stuff": open_coco_stuff,
    "folder": open_folder,
    "hub": open_hub,
    "packed": open_packed,
    "voc": open_voc,
    "yolo": open_yolo,
}
"""Every dataset by name; a new one is one more entry here and in `DATASETS`."""


def open_dataset(
    name: str, root: str | Path, split: str, classes: str | Path | None = None
) -> SegmentationDataset:
    """Open one split of a dataset without reading its images.

    Args:
        name: A key of `READERS`.
        root: The dataset's folder; of `hub` also an id.
        split: Name of the split.
        classes: Class table (YAML) to use instead of the dataset's own.

    Returns:
        The dataset; files without a partner are left out and listed in ``unpaired``.

    Raises:
        DataError: If the name, the folder or the split does not exist, no pair is complete, or what
            was packed has changed since.
        ConfigError: If the class table is wrong.
        CheckpointError: If a pack's description is damaged.
    """
    root = Path(root)
    require_root(name, root)
    dataset = READERS[name](root, split, None if classes is None else read_classes(classes))
    if name == "packed":
        _refuse_changed_source(root, split)
    return dataset


def open_split(data: DataConfig, split: str) -> SegmentationDataset:
    """Open a split of the dataset that a configuration names, as `open_dataset` does."""
    return open_dataset(data.name, data.root, split, data.classes)


def _refuse_changed_source(root: Path, split: str) -> None:
    """Compare a pack with the files that were packed, where they are at hand."""
    packed = Pack.read(root / f"{split}.json").source
    folder, classes = root / packed["root"], packed["classes"]
    if not folder.is_dir():
        return  # the pack has moved away from its source, or this was a dataset of the hub
    try:
        source = open_dataset(packed["reader"], folder, split, root / classes if classes else None)
    except TsicError as error:
        raise DataError(
            f"{root} cannot be compared with what was packed ({error}); repair that, or move it"
        ) from error
    if fingerprint(source) != packed["fingerprint"]:
        raise DataError(
            f"{root} was packed from '{folder.resolve()}', whose split '{split}' or class "
            "table has changed since; delete the pack and pack again"
        )
