"""What makes one run another."""

from pathlib import Path
from typing import NamedTuple

from tsic.config import RunConfig
from tsic.config_file import differences
from tsic.data.readers import open_dataset
from tsic.errors import TsicError

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


def _listing(data: Labelled) -> list[tuple[str, int]]:
    """Names and sizes in bytes of images and masks."""
    return [
        (sample.name, file.stat().st_size if file.is_file() else -1)
        for split in data.splits
        for sample in open_dataset(data.name, data.root, split, data.classes).samples
        for file in (sample.image, sample.mask)
    ]
