"""ADE20K with the 150 classes of the scene parsing challenge of 2016."""

from pathlib import Path

from tsic.data.classes import IGNORE, ClassTable
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers.ade20k_classes import ADE20K_NAMES_AND_COLOURS
from tsic.data.readers.pairs import pair_folders
from tsic.errors import no_split

ADE20K_CLASSES = ClassTable(
    tuple(name for name, _ in ADE20K_NAMES_AND_COLOURS),
    tuple(colour for _, colour in ADE20K_NAMES_AND_COLOURS),
    {0: IGNORE} | {i + 1: i for i in range(len(ADE20K_NAMES_AND_COLOURS))},
)
"""The 150 classes; in a mask 0 is 'other', which is ignored, and 1 to 150 are the classes."""

_FOLDERS = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "validation": "validation",
}
"""Name of a split -> its folder."""


def open_ade20k(root: Path, split: str, classes: ClassTable | None = None) -> SegmentationDataset:
    """Open ADE20K in the form of the challenge (ADEChallengeData2016).

    Args:
        root: Folder with ``images/training``, ``annotations/training``, ``images/validation`` and
            ``annotations/validation``; or, as in the challenge's sample, with images and masks of
            ``val`` right in ``images`` and ``annotations``.
        split: ``train`` or ``training``, ``val`` or ``validation``.
        classes: Another class table than the challenge's 150 classes.

    Returns:
        The dataset.

    Raises:
        DataError: If the split is not there.

    Source:
        Zhou et al., CVPR 2017; repository CSAILVision/sceneparsing.
    """
    images, masks = root / "images", root / "annotations"
    found = {name for name, folder in _FOLDERS.items() if (images / folder).is_dir()}
    if found:
        images, masks = (path / _FOLDERS.get(split, split) for path in (images, masks))
    elif images.is_dir():
        found = {"val"}
    if split not in found:
        expected = "expected images/training + annotations/training"
        raise no_split(root, split, found, of="ADE20K", expected=expected)
    pairs = pair_folders(root, images, masks)
    return SegmentationDataset("ade20k", root, split, classes or ADE20K_CLASSES, *pairs)
