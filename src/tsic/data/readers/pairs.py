"""Which image belongs to which mask, by their names or by a list file."""

import os
import unicodedata
from pathlib import Path, PurePath, PurePosixPath

from tsic.data.dataset import Problem, Sample
from tsic.data.images import SUFFIXES, image_names
from tsic.errors import DataError
from tsic.files import read_text

Pairs = tuple[tuple[Sample, ...], tuple[Problem, ...]]
"""Complete pairs sorted by name, and what had to be left out."""


def pair_folders(root: Path, images: Path, masks: Path) -> Pairs:
    """Pair the files of two folders by their paths in them without the ending.

    Args:
        root: The dataset's folder; sample names are relative to it.
        images: Folder of images, with any folders in it.
        masks: Folder of masks, with the same folders in it.

    Returns:
        Complete pairs sorted by name, and what had to be left out.
    """
    image_files, problems = files_by_stem(images)
    mask_files, more = files_by_stem(masks)
    samples, unpaired = pair_files(root, image_files, mask_files, (images, masks))
    return samples, (*problems, *more, *unpaired)


def pair_files(
    root: Path,
    image_files: dict[str, Path],
    mask_files: dict[str, Path],
    folders: tuple[Path, Path],
) -> Pairs:
    """Pair files that have the same stem.

    Args:
        root: The dataset's folder; sample names are relative to it.
        image_files: Images by stem, as `files_by_stem` finds them.
        mask_files: Masks by stem.
        folders: Where they lie, images and masks, for messages.

    Returns:
        Complete pairs sorted by name, and files that have no partner.
    """
    images, masks = folders
    problems = [
        Problem("missing mask", image_files[stem], f"no mask of this name in {masks}")
        for stem in sorted(image_files.keys() - mask_files.keys())
    ]
    problems += [
        Problem("missing image", mask_files[stem], f"no image of this name in {images}")
        for stem in sorted(mask_files.keys() - image_files.keys())
    ]
    samples = (
        Sample(image_files[stem], mask_files[stem], image_files[stem].relative_to(root).as_posix())
        for stem in sorted(image_files.keys() & mask_files.keys())
    )
    return tuple(samples), tuple(problems)


def files_by_stem(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Find the image files of a folder and of all folders in it.

    Args:
        folder: Where to look, as `image_names` does; it may be missing.

    Returns:
        Files by `stem_of`, of two with one stem the first by name; and a problem for each other.

    Raises:
        DataError: If a folder cannot be listed.
    """
    files: dict[str, Path] = {}
    problems = []
    for relative in sorted(image_names(folder)):
        stem, file = stem_of(relative), folder / relative
        if stem in files:
            other = files[stem].name
            problems.append(Problem("duplicate", file, f"same name as {other}; remove one"))
        else:
            files[stem] = file
    return files, problems


def stem_of(path: str | PurePath) -> str:
    """Write a relative path without the ending of an image file, with composed letters.

    Some file systems take an accent apart from its letter; pairs are found all the same.
    """
    relative = path if isinstance(path, str) else path.as_posix()
    stem, ending = os.path.splitext(relative)  # noqa: PTH122 - a Path a file takes seconds
    return unicodedata.normalize("NFC", stem if ending.lower() in SUFFIXES else relative)


def listed_pairs(root: Path, list_file: Path) -> Pairs:
    """Read a list file; a pair with a missing file becomes a problem."""
    samples, problems = [], []
    for number, line in enumerate(read_text(list_file, "list").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise DataError(f"{list_file}: line {number} must be 'image mask', got '{line}'")
        image, mask = (locate(root, field) for field in fields)
        where = f"listed in {list_file.name}, line {number}, but not there"
        if not image.is_file():
            problems.append(Problem("missing image", image, where))
        elif not mask.is_file():
            problems.append(Problem("missing mask", mask, where))
        else:
            samples.append(Sample(image, mask, image.relative_to(root).as_posix()))
    return tuple(samples), tuple(problems)


def locate(root: Path, listed: str) -> Path:
    """Find a listed file or folder below the root.

    Args:
        root: Where to look.
        listed: A path, perhaps of another machine.

    Returns:
        The path below the root with as little of its front dropped as needed; with nothing
        dropped where none of them is there.
    """
    parts = [part for part in PurePosixPath(listed).parts if part not in {"/", ".."}]
    candidates = [root.joinpath(*parts[i:]) for i in range(len(parts))]
    return next((path for path in candidates if path.exists()), root / listed.lstrip("/"))
