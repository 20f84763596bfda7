"""Readers: where each dataset keeps its images and masks, and how one pair is read."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tsic.data.classes import IGNORE, MAX_FILE_VALUE, ClassTable, read_classes
from tsic.data.images import SUFFIXES, read_image, read_mask, size_mismatch
from tsic.errors import DataError, nearest

CAMVID_CLASSES = ClassTable.from_names(
    (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    ignore=(11, 255),
)
"""The 11 classes of CamVid as the SegNet tutorial numbers them; 11 is void there."""

ProblemKind = Literal[
    "missing mask", "missing image", "duplicate", "unreadable", "size mismatch", "unknown id"
]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset.

    Args:
        kind: What sort of problem.
        file: The file that has it.
        detail: What exactly, without the file's name.
    """

    kind: ProblemKind
    file: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.file}: {self.detail}"


@dataclass(frozen=True)
class Sample:
    """One image with its mask.

    Args:
        image: Image file.
        mask: Mask file.
        name: The image's path relative to the dataset's root, for messages.
    """

    image: Path
    mask: Path
    name: str


@dataclass(frozen=True, eq=False)
class SegmentationDataset:
    """Pairs of images and masks of one split, read on demand.

    Args:
        name: Name of the reader, as in `READERS`.
        root: The dataset's folder.
        split: Name of the split.
        classes: Class table; its map is applied to every mask.
        samples: Complete pairs, in a fixed order.
        unpaired: Files left out because their partner is missing; the check reports them.

    Raises:
        DataError: If there is no pair at all.
    """

    name: str
    root: Path
    split: str
    classes: ClassTable
    samples: tuple[Sample, ...]
    unpaired: tuple[Problem, ...] = ()

    def __post_init__(self) -> None:
        if not self.samples:
            alone = f"; {len(self.unpaired)} files stand alone, first {self.unpaired[0]}"
            raise DataError(
                f"{self.root}: split '{self.split}' has no image with a mask"
                f"{alone if self.unpaired else ''}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Read one image and its label.

        Args:
            index: Position in ``samples``.

        Returns:
            Image, RGB uint8 ``(3, H, W)``, upright, and label, int64 ``(H, W)``, train ids with
            255 for ignored pixels.

        Raises:
            DataError: If a file cannot be decoded, the two differ in size, or the mask holds ids
                outside the class table; the message names the file.
        """
        sample = self.samples[index]
        image = read_image(sample.image)
        ids = read_mask(sample.mask)
        if image.shape[1:] != ids.shape:
            raise DataError(f"{sample.image}: {size_mismatch(image.shape[1:], ids.shape)}")
        labels = np.take(self._lookup, ids)
        if labels.min(initial=0) < 0:
            raise DataError(f"{sample.mask}: {self.unknown_ids(ids)}")
        return image, torch.from_numpy(labels.astype(np.int64))

    def count_pixels(self, index: int) -> Tensor:
        """Count the pixels of each class in one mask, without reading its image.

        Args:
            index: Position in ``samples``.

        Returns:
            int64 ``(K,)``.

        Raises:
            DataError: If the mask cannot be read.
        """
        train_ids = self._lookup[read_mask(self.samples[index].mask)]
        counts = np.bincount(train_ids[train_ids >= 0], minlength=IGNORE + 1)
        return torch.from_numpy(counts[: self.classes.num_classes])

    def unknown_ids(self, ids: npt.NDArray[Any]) -> str:
        """Describe the ids of a mask that the class table does not know.

        Args:
            ids: Values of the mask file, integers ``(H, W)``.

        Returns:
            One line with each id and its pixel count; empty when all ids are known.
        """
        unknown = ids[np.take(self._lookup, ids) < 0]
        if not unknown.size:
            return ""
        values, counts = np.unique(unknown, return_counts=True)
        listed = [f"{v} ({n} px)" for v, n in zip(values[:10], counts[:10], strict=True)]
        if len(values) > 10:
            listed.append(f"{len(values) - 10} more")
        return f"ids not in the class table: {', '.join(listed)}; add them to classes or to ignore"

    @cached_property
    def _lookup(self) -> npt.NDArray[np.int16]:
        """Train id of each value that a file can hold, -1 where the table has none."""
        lookup = np.full(MAX_FILE_VALUE + 1, -1, np.int16)
        for value, train_id in self.classes.label_map.items():
            lookup[value] = train_id
        return lookup


def pair_folders(
    root: Path, images: Path, masks: Path
) -> tuple[tuple[Sample, ...], tuple[Problem, ...]]:
    """Pair the files of two folders by their names without the ending.

    Args:
        root: The dataset's folder; sample names are relative to it.
        images: Folder of images.
        masks: Folder of masks.

    Returns:
        Complete pairs sorted by name, and what had to be left out.
    """
    image_files, problems = _by_stem(images)
    mask_files, more = _by_stem(masks)
    problems += more
    for stem in sorted(image_files.keys() - mask_files.keys()):
        problems.append(
            Problem("missing mask", image_files[stem], f"no mask of this name in {masks}")
        )
    for stem in sorted(mask_files.keys() - image_files.keys()):
        problems.append(
            Problem("missing image", mask_files[stem], f"no image of this name in {images}")
        )
    samples = (
        Sample(image_files[stem], mask_files[stem], image_files[stem].relative_to(root).as_posix())
        for stem in sorted(image_files.keys() & mask_files.keys())
    )
    return tuple(samples), tuple(problems)


def _by_stem(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Image files of a folder by name without ending; of two with one name the first counts."""
    files: dict[str, Path] = {}
    problems = []
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.name.startswith(".") or file.suffix.lower() not in SUFFIXES:
            continue
        if file.stem in files:
            other = files[file.stem].name
            problems.append(Problem("duplicate", file, f"same name as {other}; remove one"))
        else:
            files[file.stem] = file
    return files, problems


def open_camvid(root: Path, split: str, classes: ClassTable | None = None) -> SegmentationDataset:
    """Open CamVid in the SegNet tutorial's numbering, with list files or without.

    Args:
        root: Folder with ``<split>.txt`` (a line is ``image mask``; a prefix such as
            ``/SegNet/CamVid`` is skipped) or else with folders ``<split>`` and ``<split>annot``.
        split: ``train``, ``val``, ``test``, or ``trainval`` for the first two.
        classes: Another class table than CamVid's own 11 classes.

    Returns:
        The dataset.

    Raises:
        DataError: If the split is not there, or a list file is malformed.
    """
    splits = {s for s in ("train", "val", "test") if _camvid_has(root, s)}
    choices = splits | ({"trainval"} if {"train", "val"} <= splits else set())
    if split not in choices and not _camvid_has(root, split):
        found = nearest(split, choices) if choices else "expected train.txt or train/ + trainannot/"
        raise DataError(f"{root}: no CamVid split '{split}'; {found}")
    parts = ("train", "val") if split == "trainval" and not _camvid_has(root, split) else (split,)
    samples: tuple[Sample, ...] = ()
    unpaired: tuple[Problem, ...] = ()
    for part in parts:
        list_file = root / f"{part}.txt"
        pairs = (
            _listed_pairs(root, list_file)
            if list_file.is_file()
            else pair_folders(root, root / part, root / f"{part}annot")
        )
        samples, unpaired = samples + pairs[0], unpaired + pairs[1]
    return SegmentationDataset("camvid", root, split, classes or CAMVID_CLASSES, samples, unpaired)


def _camvid_has(root: Path, split: str) -> bool:
    """Whether a split has a list file or its two folders."""
    return (root / f"{split}.txt").is_file() or (root / f"{split}annot").is_dir()


def _listed_pairs(root: Path, list_file: Path) -> tuple[tuple[Sample, ...], tuple[Problem, ...]]:
    """Read a list file; a pair with a missing file becomes a problem."""
    samples, problems = [], []
    for number, line in enumerate(list_file.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise DataError(f"{list_file}: line {number} must be 'image mask', got '{line}'")
        image, mask = (_locate(root, field) for field in fields)
        where = f"listed in {list_file.name}, line {number}, but not there"
        if not image.is_file():
            problems.append(Problem("missing image", image, where))
        elif not mask.is_file():
            problems.append(Problem("missing mask", mask, where))
        else:
            samples.append(Sample(image, mask, image.relative_to(root).as_posix()))
    return tuple(samples), tuple(problems)


def _locate(root: Path, listed: str) -> Path:
    """Find a listed file below the root, dropping as little of its path's front as needed."""
    parts = [part for part in PurePosixPath(listed).parts if part != "/"]
    candidates = [root.joinpath(*parts[i:]) for i in range(len(parts))]
    return next((path for path in candidates if path.is_file()), candidates[0])


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
