"""What makes one run another."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from tsic.config import DataConfig, RunConfig
from tsic.config_file import differences
from tsic.data.dataset import SegmentationDataset
from tsic.data.packed import PackedStore
from tsic.data.readers import open_dataset
from tsic.data.unlabelled import open_unlabelled
from tsic.errors import CheckpointError, TsicError
from tsic.training.folder import RunFolder

_FREE = (
    "data.root",
    "data.workers",
    "trainer.compile",
    "trainer.graph",
    "trainer.log_every",
    "trainer.pictures",
    "trainer.save_every",
)
"""Keys that may change between the parts of a resumed run: none of them changes its weights."""


def changes(held: RunConfig, asked: RunConfig) -> list[str]:
    """What of a run would be another, as ``key: one -> other``; a dataset may move.

    Args:
        held: As it began.
        asked: As it shall go on.

    Raises:
        DataError: If the root that is asked for holds no such dataset.
    """
    changed = [one for one in differences(held, asked) if not one.startswith(_FREE)]
    return changed + moved("data.root", _labelled(held), _labelled(asked))


class Labelled(NamedTuple):
    """Where labelled images are.

    Args:
        name: Reader.
        root: The dataset's folder, or an id.
        classes: Classes YAML, if it has one elsewhere.
        splits: Those that count.
    """

    name: str
    root: str
    classes: str | None
    splits: tuple[str, ...]


def _labelled(config: RunConfig) -> Labelled:
    """Where a run's are."""
    data = config.data
    return Labelled(data.name, data.root, data.classes, (data.train_split, data.val_split))


def moved(key: str, held: Labelled, asked: Labelled) -> list[str]:
    """What is another if two roots hold other data: neither one folder, nor moved, nor copied.

    Rows of `hub` have neither names nor sizes of their own, so there another root is other data.
    """
    if held.root == asked.root or Path(held.root).resolve() == Path(asked.root).resolve():
        return []
    change = f"{key}: {held.root} -> {asked.root}"
    if held.name == "hub":
        return [f"{change}, whose rows cannot be compared"]
    try:
        known = _listing(held)
    except TsicError:
        return []  # it is there no more
    return [f"{change}, which holds other files"] if known != _listing(asked) else []


def _listing(data: Labelled) -> list[tuple[str, object]]:
    return _files(open_dataset(data.name, data.root, one, data.classes) for one in data.splits)


def _files(splits: Iterable[SegmentationDataset]) -> list[tuple[str, object]]:
    """Names and sizes in bytes of images and masks, or what tells more of them."""
    return [row for split in splits for row in _rows(split)]


def _rows(split: SegmentationDataset) -> Iterator[tuple[str, object]]:
    """Of a pack the checksums of its pixels, of a file with all masks a digest of its text."""
    if isinstance(split.store, PackedStore):
        for entry in split.store.entries.values():
            yield entry.name, (entry.image_crc, entry.mask_crc)
        return
    for mask, count in Counter(sample.mask for sample in split.samples).items():
        if count > 1 and mask.is_file():
            yield "", blake2b(mask.read_bytes(), digest_size=16).hexdigest()
    for sample in split.samples:
        for file in (sample.image, sample.mask):
            yield sample.name, file.stat().st_size if file.is_file() else -1


def material_of(
    data: DataConfig, train_set: SegmentationDataset, val_set: SegmentationDataset
) -> dict[str, Any]:
    """What a run is trained on, wherever it lies: its classes, and a digest of the files.

    Files are told apart by names and sizes in bytes, packs by checksums of their pixels.

    Args:
        data: Names the images without labels, if there are any.
        train_set: The labelled images.
        val_set: Those that choose the checkpoint.
    """
    splits = [train_set, val_set]
    if data.unlabelled is not None:
        splits.append(open_unlabelled(Path(data.unlabelled), train_set.classes))
    classes = train_set.classes.to_dict()
    return {
        "classes": list(train_set.classes.names),
        "meanings": _digest([classes["label_map"], classes["colour_map"]]),
        "files": _digest(_files(splits)),
    }


def _digest(values: list[Any]) -> str:
    return blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def read_material(files: RunFolder) -> Mapping[str, Any] | None:
    """What a run was trained on when it began; earlier versions did not write it.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if not files.material.is_file():
        return None
    try:
        held = json.loads(files.material.read_text())
        return {key: held[key] for key in ("classes", "meanings", "files")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"'{files.material}' is damaged ({error}); without it the run goes on unchecked"
        ) from error
