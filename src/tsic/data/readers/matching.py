"""Which image belongs to which mask where names carry endings or a list gives names only."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tsic.data.dataset import Problem, Sample
from tsic.data.readers.pairs import Pairs, files_by_stem, pair_files, stem_of
from tsic.errors import DataError
from tsic.files import read_text


def pair_by_tail(
    root: Path,
    images: Path,
    masks: Path,
    *,
    image_tail: str = "",
    mask_tail: str = "",
    skip_tail: str | None = None,
) -> Pairs:
    """Pair the files of two folders by their paths in them without a tail and the ending.

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
        (images / f"*{image_tail}.*", masks / f"*{mask_tail}.*"),
    )
    return samples, (*problems, *more, *unpaired)


def pair_expected(root: Path, expected: Iterable[tuple[Path, Path]], detail: str) -> Pairs:
    """Keep the expected pairs whose two files exist.

    Args:
        root: The dataset's folder; sample names are relative to it.
        expected: Image file and mask file of each pair.
        detail: What a missing file's problem says, as in ``listed in train.txt, but not there``.

    Returns:
        Complete pairs sorted by name, and what had to be left out.
    """
    samples, problems = [], []
    for image, mask in expected:
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


def _with_tail(files: dict[str, Path], tail: str) -> dict[str, Path]:
    """Files whose stem has the tail, by their stem without it."""
    return {k.removesuffix(tail): file for k, file in files.items() if k.endswith(tail)}


def _name(root: Path, image: Path) -> str:
    """Path relative to the root, which may lead out of it where images lie beside it."""
    return Path(os.path.relpath(image, root)).as_posix()
