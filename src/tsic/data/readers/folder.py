"""A plain folder of images and masks."""

import hashlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NoReturn

from typing_extensions import override

from tsic.data.class_file import read_classes, read_splits
from tsic.data.classes import ClassTable, Colour
from tsic.data.dataset import Problem, Sample, SegmentationDataset, Store
from tsic.data.images import SUFFIXES, read_palette
from tsic.data.readers.pairs import files_by_stem, pair_files, stem_of
from tsic.errors import DataError, SplitError, no_split
from tsic.files import read_text

MASK_SUFFIXES = ("_mask", "_label", "_L", "_gt", "_labelIds")
"""What people append to an image's name to name its mask."""

LIST_NAMES = ("train", "val", "valid", "test", "trainval")
"""Splits whose list file is looked for, besides the one that is asked for."""


class FolderStore(Store):
    """Reads masks whose palette may tell what their maker meant."""

    @override
    def palette(self, sample: Sample) -> dict[int, Colour]:
        return read_palette(sample.mask)


def open_folder(root: Path, split: str, classes: ClassTable | None = None) -> SegmentationDataset:
    """Open a plain folder of images and masks of class ids or of colours.

    The layouts, of which the first that is there counts:

    1. ``<split>/images`` and ``<split>/masks``.
    2. ``images`` and ``masks``, with list files ``<split>.txt`` in the root; a line is an image's
       path relative to ``images``, with or without its ending.
    3. ``images`` and ``masks``, with the key ``splits`` in ``classes.yaml``, as in
       ``splits: {train: 0.8, val: 0.2}``. A hash of the image's path decides, so that a new
       image moves no other one.
    4. ``images/<split>`` and ``masks/<split>``, with no image in ``images`` itself.

    An image and its mask have the same path without the ending, at any depth. Where every mask
    ends in the same one of `MASK_SUFFIXES` and no image does, masks are paired without it.

    Args:
        root: The dataset's folder.
        split: Name of the split.
        classes: Class table; read from ``<root>/classes.yaml`` when left out.

    Returns:
        The dataset.

    Raises:
        DataError: If the folders, the split or the class table are missing.
        ConfigError: If the class table or its shares are wrong.
    """
    folders = _folders(root, split)
    classes = classes or read_classes(root / "classes.yaml")
    image_files, problems = files_by_stem(folders[0])
    mask_files, more = files_by_stem(folders[1])
    mask_files = _without_suffix(image_files, mask_files)
    problems += more
    if folders[0] == root / "images":
        if shares := _shares(root):
            stems = {s for s in image_files | mask_files if _split_of(s, shares) == split}
        else:
            stems, more = _listed(root / f"{split}.txt", folders[0], image_files)
            problems += more
        image_files = {stem: file for stem, file in image_files.items() if stem in stems}
        mask_files = {stem: file for stem, file in mask_files.items() if stem in stems}
    samples, unpaired = pair_files(root, image_files, mask_files, folders)
    return SegmentationDataset(
        "folder", root, split, classes, samples, (*problems, *unpaired), FolderStore()
    )


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """Where the images and the masks of a split lie, alone or among those of others."""
    outer = {path.parent.name for path in root.glob("*/images") if path.is_dir()}
    if split in outer:
        return root / split / "images", root / split / "masks"
    lists, shares = _lists(root, split), _shares(root)
    if lists and shares:
        raise DataError(
            f"{root}: both {min(lists)}.txt and the key splits of classes.yaml say which image "
            "belongs to which split; remove one"
        )
    by_folder = not (lists or shares or _loose_image(root))
    if by_folder and (root / "images" / split).is_dir() and not (root / "masks" / split).is_dir():
        raise SplitError(f"{root}: images/{split} is there, but its masks/{split} is not")
    choices = outer | (lists or set(shares) or _inner(root))
    if not choices:
        _refuse(root, split)
    if split not in choices:
        raise no_split(root, split, choices)
    if lists or shares:
        return root / "images", root / "masks"
    return root / "images" / split, root / "masks" / split


def _lists(root: Path, split: str) -> set[str]:
    """Splits that have a list file; other text files in the root are none."""
    if not (root / "images").is_dir():
        return set()
    return {name for name in (*LIST_NAMES, split) if (root / f"{name}.txt").is_file()}


def _shares(root: Path) -> Mapping[str, float]:
    """Share of the images by split, where the class table's file says so."""
    table = root / "classes.yaml"
    return read_splits(table) if (root / "images").is_dir() and table.is_file() else {}


def _inner(root: Path) -> set[str]:
    """Folders that images and masks both have; none where images lie beside them."""
    if _loose_image(root):
        return set()
    kinds = (root.glob(f"{kind}/[!.]*") for kind in ("images", "masks"))
    images, masks = ({path.name for path in paths if path.is_dir()} for paths in kinds)
    return images & masks


def _loose_image(root: Path) -> str | None:
    """Name of the first image that lies in the folder of images itself."""
    names = (path.name for path in root.glob("images/[!.]*") if path.suffix.lower() in SUFFIXES)
    return min(names, default=None)


def _refuse(root: Path, split: str) -> NoReturn:
    """Say how a folder without splits can get them."""
    ways = f"list images in {split}.txt, or add splits: {{train: 0.8, val: 0.2}} to classes.yaml"
    if loose := _loose_image(root):
        raise DataError(
            f"{root}: nothing says which split images/{loose} belongs to; {ways}, "
            f"or move it to images/{split} and its mask to masks/{split}"
        )
    raise DataError(
        f"{root}: no split found; expected {split}/images + {split}/masks, "
        f"or images/{split} + masks/{split}; with images/ + masks/ alone, {ways}; "
        "for a public dataset say its reader (data.name; --name of tsic data)"
    )


def _without_suffix(
    image_files: Mapping[str, Path], mask_files: dict[str, Path]
) -> dict[str, Path]:
    """Drop the suffix that all masks and no images have."""
    for suffix in MASK_SUFFIXES:
        if (
            mask_files
            and all(stem.endswith(suffix) for stem in mask_files)
            and not any(stem.endswith(suffix) for stem in image_files)
        ):
            return {stem.removesuffix(suffix): file for stem, file in mask_files.items()}
    return mask_files


def _split_of(stem: str, shares: Mapping[str, float]) -> str:
    """Split of an image, drawn by the hash of its stem."""
    digest = hashlib.blake2b(stem.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    left = int.from_bytes(digest, "big") / 2**64
    for split, share in shares.items():
        left -= share
        if left < 0:
            return split
    return list(shares)[-1]  # shares may sum to a little less than 1


def _listed(
    list_file: Path, images: Path, image_files: Mapping[str, Path]
) -> tuple[set[str], list[Problem]]:
    """Stems that a list file names, and lines that name no image or one again."""
    lines = read_text(list_file, "list").splitlines()
    first_lines: dict[str, int] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path = PurePosixPath(line.strip().replace("\\", "/"))
        if path.parts[:1] == (images.name,) and not (images / images.name).exists():
            path = path.relative_to(images.name)  # counted from the root
        stem = _find(path, image_files)
        where = f"listed in {list_file.name}, line {number}"
        if stem is None:
            problems.append(Problem("missing image", images / path, f"{where}, but not there"))
        elif stem in first_lines:
            again = f"{where}, and already in line {first_lines[stem]}; remove one"
            problems.append(Problem("duplicate", image_files[stem], again))
        else:
            first_lines[stem] = number
    return set(first_lines), problems


def _find(listed: PurePosixPath, image_files: Mapping[str, Path]) -> str | None:
    """Stem of a listed image, written without its ending or with that one."""
    whole = unicodedata.normalize("NFC", listed.as_posix())
    if whole in image_files:
        return whole
    stem = stem_of(listed)
    ending = image_files[stem].suffix if stem in image_files else ""
    return stem if ending and ending.lower() == listed.suffix.lower() else None
