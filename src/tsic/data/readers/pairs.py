"""Which image belongs to which mask, by their names or by a list file."""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath

from tsic.data.dataset import Problem, Sample
from tsic.data.images import SUFFIXES, image_names
from tsic.errors import DataError
from tsic.files import read_text

Pairs = tuple[tuple[Sample, ...], tuple[Problem, ...]]
"""Complete pairs sorted by name, and what had to be left out."""


def pair_folders(
    root: Path,
    images: Path,
    masks: Path,
    *,
    image_tail: str = "",
    mask_tail: str = "",
    skip_tail: str | None = None,
) -> Pairs:
    """Pair the files of two folders by their paths in them, without a tail and the ending.

    Args:
        root: The dataset's folder; sample names are relative to it.
        images: Folder of images, with any folders in it.
        masks: Folder of masks, with the same folders in it.
        image_tail: Last part of an image's name before its ending, as in ``_leftImg8bit``.
        mask_tail: Last part of a mask's name before its ending, as in ``_gtFine_labelIds``; files
            with another one are not looked at.
        skip_tail: Tail of other files among the masks, for masks without a tail of their own.

    Returns:
        Complete pairs sorted by name, and what had to be left out.
    """
    image_files, problems = files_by_stem(images)
    mask_files, more = files_by_stem(masks)
    if skip_tail is not None:
        mask_files = {k: file for k, file in mask_files.items() if not k.endswith(skip_tail)}
    samples, unpaired = pair_files(
        root,
        _with_tail(image_files, image_tail),
        _with_tail(mask_files, mask_tail),
        (_named(images, image_tail), _named(masks, mask_tail)),
    )
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


def pair_expected(root: Path, expected: Iterable[tuple[Path, Path, str]]) -> Pairs:
    """Keep the expected pairs whose two files exist.

    Args:
        root: The dataset's folder; sample names are relative to it.
        expected: Image file and mask file of each pair, and what the problem of a missing one says,
            as in ``listed in train.txt, but not there``.

    Returns:
        Complete pairs sorted by name, and what had to be left out.
    """
    samples, problems = [], []
    for image, mask, detail in expected:
        if not image.is_file():
            problems.append(Problem("missing image", image, detail))
        elif not mask.is_file():
            problems.append(Problem("missing mask", mask, detail))
        else:
            samples.append(Sample(image, mask, _name(root, image)))
    return tuple(sorted(samples, key=lambda sample: sample.name)), tuple(problems)


def join_pairs(parts: Iterable[Pairs]) -> Pairs:
    """Put the pairs of several parts of a split together, sorted by name."""
    samples: list[Sample] = []
    problems: list[Problem] = []
    for more_samples, more_problems in parts:
        samples += more_samples
        problems += more_problems
    return tuple(sorted(samples, key=lambda sample: sample.name)), tuple(problems)


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


def listed_pairs(root: Path, list_file: Path) -> Iterator[tuple[Path, Path, str]]:
    """Read a list file whose lines are ``image mask``, for ``pair_expected``.

    Raises:
        DataError: If the file cannot be read, or a line is anything else.
    """
    for number, line in enumerate(read_text(list_file, "list").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise DataError(f"{list_file}: line {number} must be 'image mask', got '{line}'")
        image, mask = (locate(root, field) for field in fields)
        yield image, mask, f"listed in {list_file.name}, line {number}, but not there"


def listed_names(list_file: Path) -> tuple[str, ...]:
    """Read the names of images, without folder and ending, from a list file.

    Args:
        list_file: A line is a name, an image's path, or the paths of an image and its mask.

    Returns:
        The names in the order of the list, each once.

    Raises:
        DataError: If the file cannot be read, or a line is anything else.
    """
    lines = read_text(list_file, "list").splitlines()
    names = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if len(fields) > 2:
            raise DataError(
                f"{list_file}: line {number} must be 'name' or 'image mask', got '{line}'"
            )
        if fields:
            names.append(stem_of(PurePosixPath(PurePosixPath(fields[0]).name)))
    return tuple(dict.fromkeys(names))


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


def _with_tail(files: dict[str, Path], tail: str) -> dict[str, Path]:
    """Files whose stem has the tail, by their stem without it."""
    return {k.removesuffix(tail): file for k, file in files.items() if k.endswith(tail)}


def _named(folder: Path, tail: str) -> Path:
    """A folder's files in a message."""
    return folder / f"*{tail}.*" if tail else folder


def _name(root: Path, image: Path) -> str:
    """Path relative to the root, which may lead out of it where images lie beside it."""
    return Path(os.path.relpath(image, root)).as_posix()
