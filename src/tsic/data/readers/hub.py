"""Datasets of the Hugging Face library `datasets`: folders that it wrote, or names on its hub.

Source: https://huggingface.co/docs/datasets, "Load" and "Process image data".
"""

import importlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from tsic.data.class_file import read_classes
from tsic.data.classes import IGNORE, ClassTable, default_palette
from tsic.data.dataset import Sample, SegmentationDataset, Store, Values
from tsic.data.images import Verified, read_image, read_mask, verify_image
from tsic.data.surprises import Surprise, image_surprises
from tsic.errors import ConfigError, DataError, SplitError, no_split, one_line
from tsic.files import read_text

IMAGE_COLUMNS = ("image", "pixel_values", "img")
"""Names of the column of images, the likeliest first."""

MASK_COLUMNS = ("label", "mask", "annotation", "labels", "segmentation", "semantic")
"""Names of the column of masks, the likeliest first."""

T = TypeVar("T")


@dataclass(frozen=True)
class HubStore(Store):
    """Reads rows of a dataset, which each process opens for itself when it reads the first.

    Args:
        source: Folder, or name on the hub.
        split: Name of the split.
        image_column: Column of images.
        mask_column: Column of masks.
    """

    source: str
    split: str
    image_column: str
    mask_column: str

    def image(self, sample: Sample, rows: int | None = None) -> Tensor:
        """Read the image: RGB uint8 ``(3, H, W)``, upright, whole."""
        return self._read(sample, sample.image, self.image_column, read_image)

    def verify(self, sample: Sample) -> Verified:
        """Decode the image as cheaply as finds a damaged one."""
        return self._read(sample, sample.image, self.image_column, verify_image)

    def surprises(self, sample: Sample) -> list[Surprise]:
        """Tell what reading the image changes."""
        return self._read(
            sample, sample.image, self.image_column, lambda file: list(image_surprises(file))
        )

    def mask(self, sample: Sample) -> Values:
        """Read the mask: ids ``(H, W)``, or colours ``(H, W, 3)``."""
        return self._read(sample, sample.mask, self.mask_column, read_mask)

    def _read(self, sample: Sample, cell: Path, column: str, read: Callable[[Any], T]) -> T:
        """Read the file that lies in a cell, or that the cell names."""
        row = int(sample.name.rpartition("/")[2])
        try:
            content = _column(self.source, self.split, column)[row][column]
        except Exception as error:  # the library, the network and the files raise many kinds
            raise DataError(f"{cell}: cannot be read ({error}); try again") from error
        if content is None:
            raise DataError(f"{cell}: is empty; remove the row")
        if content["bytes"] is None:
            return read(Path(content["path"]))
        stream = io.BytesIO(content["bytes"])
        try:
            return read(stream)
        except DataError as error:
            # The decoder only knows a stream; the user wants to know which row it came from.
            reason = str(error).removeprefix(f"{stream}: ")
            raise DataError(f"{cell}: {reason}") from error


def open_hub(root: Path, split: str, classes: ClassTable | None = None) -> SegmentationDataset:
    """Open a dataset of the library `datasets`.

    A folder is one that ``save_to_disk`` wrote, or holds ``<split>.parquet`` or
    ``<split>-*.parquet``, in itself or in ``data``. Without a folder of this name, it is the name
    of a dataset on the hub, such as ``owner/name``.

    Two columns must hold images: one of `IMAGE_COLUMNS`, or else the first, is the image; one of
    `MASK_COLUMNS`, or else the first other, is the mask of class ids or of colours.

    Args:
        root: Folder, or name on the hub.
        split: Name of the split.
        classes: Class table; read from ``classes.yaml`` or ``id2label.json`` in the folder when
            left out.

    Returns:
        The dataset; sample ``i`` is row ``i``, named ``<split>/<i>``.

    Raises:
        DataError: If the library is not installed, the dataset or the split cannot be opened, or
            there are no such columns or no class names.
        ConfigError: If the class table is wrong.
    """
    source = root.as_posix()
    opened = _open(source, split)
    image_column, mask_column = _columns(root, opened)
    classes = classes or _classes(root)
    digits = len(str(len(opened)))
    names = (f"{split}/{row:0{digits}}" for row in range(len(opened)))
    samples = tuple(Sample(root / name, root / name / mask_column, name) for name in names)
    store = HubStore(source, split, image_column, mask_column)
    files = tuple(Path(file["filename"]) for file in opened.cache_files)
    return SegmentationDataset("hub", root, split, classes, samples, store=store, files=files)


def _library() -> Any:
    """The library `datasets`, which tsic runs without."""
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            "data of the Hugging Face hub needs the package datasets; pip install datasets"
        ) from error


@lru_cache(maxsize=8)
def _open(source: str, split: str) -> Any:
    """Open a split; nothing is decoded."""
    datasets = _library()
    root = Path(source)
    if not root.is_dir() and (root.is_absolute() or len(root.parts) > 2):
        raise DataError(f"{root}: no such folder, and no name on the hub such as owner/name")
    try:
        if not root.is_dir():
            return datasets.load_dataset(source, split=split)
        if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
            return _saved(datasets, root, split)
        files = _parquet_files(root, split)
        return datasets.load_dataset("parquet", data_files={split: files}, split=split)
    except DataError:
        raise
    except Exception as error:  # the library, the network and the files raise many kinds
        kind = "" if root.is_dir() else "no such folder, and on the Hugging Face hub: "
        reason = one_line(error)
        if reason.startswith("Unknown split"):
            raise SplitError(f"{source}: no split '{split}' ({reason})") from error
        raise DataError(f"{source}: {kind}cannot be opened ({reason})") from error


@lru_cache(maxsize=16)
def _column(source: str, split: str, column: str) -> Any:
    """One column whose cells are files as they are, not decoded."""
    as_files = _library().Image(decode=False)
    return _open(source, split).select_columns([column]).cast_column(column, as_files)


def _saved(datasets: Any, root: Path, split: str) -> Any:
    """A split of what ``save_to_disk`` wrote: splits in folders, or a single one."""
    if (root / "dataset_dict.json").is_file():
        splits = {file.parent.name for file in root.glob("*/state.json")}
        if split not in splits:
            raise no_split(root, split, splits)
        return datasets.load_from_disk(str(root / split))
    opened = datasets.load_from_disk(str(root))
    if opened.split is not None and str(opened.split) != split:
        raise no_split(root, split, {str(opened.split)})
    return opened


def _parquet_files(root: Path, split: str) -> list[str]:
    """Parquet files of a split, in their order."""
    files = [*root.glob("*.parquet"), *root.glob("data/*.parquet")]
    by_split: dict[str, list[str]] = {}
    for file in sorted(files):
        name = file.stem.partition("-")[0]
        by_split.setdefault(name, []).append(str(file))
    if not files:
        raise DataError(
            f"{root}: expected a folder of save_to_disk, or {split}.parquet or "
            f"data/{split}-*.parquet"
        )
    if split not in by_split:
        raise no_split(root, split, by_split)
    return by_split[split]


def _columns(root: Path, opened: Any) -> tuple[str, str]:
    """Names of the columns of images and of masks."""
    image_type = _library().Image
    found = [name for name, kind in opened.features.items() if isinstance(kind, image_type)]
    if len(found) < 2:
        raise DataError(
            f"{root}: an image and its mask must be two columns of type Image; of the columns "
            f"{', '.join(opened.column_names)} these are: {', '.join(found) or 'none'}"
        )
    mask = next((name for name in MASK_COLUMNS if name in found), None)
    others = [name for name in found if name != mask]
    image = next((name for name in IMAGE_COLUMNS if name in found), others[0])
    return image, mask or next(name for name in found if name != image)


def _classes(root: Path) -> ClassTable:
    """The class table that lies in the folder."""
    if (root / "classes.yaml").is_file():
        return read_classes(root / "classes.yaml")
    file = root / "id2label.json"
    if not file.is_file():
        raise DataError(
            f"{root}: nothing names the classes; give a class table with --data.classes, or put "
            "classes.yaml or id2label.json into the folder"
        )
    text = read_text(file)
    try:
        content = json.loads(text)
        by_id = sorted((int(value), name) for value, name in content.items())
        ids = [value for value, _ in by_id]
        label_map = {IGNORE: IGNORE} | {value: i for i, value in enumerate(ids)}
        names = tuple(name for _, name in by_id)
        return ClassTable(names, default_palette(len(names)), label_map)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f'{file}: must hold a name by id, as in {{"0": "road"}}') from error
