"""Datasets packed by `tsic data pack`."""

from pathlib import Path

from tsic.data.classes import ClassTable
from tsic.data.dataset import Sample, SegmentationDataset
from tsic.data.packed import Pack, PackedStore
from tsic.errors import DataError, no_split


def open_packed(root: Path, split: str, classes: ClassTable | None = None) -> SegmentationDataset:
    """Open one split of a packed dataset.

    Args:
        root: Folder that `tsic data pack` wrote.
        split: A split that was packed.
        classes: Must be left out: masks were mapped when they were packed.

    Returns:
        The dataset; its images and masks are views of the mapped files.

    Raises:
        DataError: If the split was not packed or its files were cut short.
        CheckpointError: If its description is damaged or of another format.
    """
    described = root / f"{split}.json"
    if not described.is_file():
        packed = [path.stem for path in root.glob("*.json")]
        raise no_split(root, split, packed, of="packed")
    if classes is not None:
        raise DataError(f"{root}: masks are mapped already; give the class table when packing")
    pack = Pack.read(described)
    if file := pack.cut_short(root, split):
        raise DataError(f"{file} is missing or cut short; pack again")
    images, masks = root / f"{split}.images", root / f"{split}.masks"
    return SegmentationDataset(
        "packed",
        root,
        split,
        ClassTable.from_dict(pack.classes),
        tuple(Sample(images, masks, entry.name) for entry in pack.entries),
        store=PackedStore(root, split, pack.entries),
    )
