"""Find what is wrong with a dataset before training starts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from tsic.data.dataset import Problem, SegmentationDataset
from tsic.data.images import size_mismatch
from tsic.errors import DataError
from tsic.machine import usable_cores
from tsic.progress import OnProgress
from tsic.streams import tell

MAX_LISTED = 10
"""How many problems one message lists."""

T = TypeVar("T")
Job = TypeVar("Job")


def require_one_table(datasets: Sequence[SegmentationDataset]) -> None:
    """Refuse splits that do not list the same classes in the same order.

    Raises:
        DataError: With both lists.
    """
    for other in datasets[1:]:
        one, names = datasets[0], other.classes.names
        if names != one.classes.names:
            raise DataError(
                f"{other.root}: split '{other.split}' has the classes {', '.join(names)}, but "
                f"split '{one.split}' {', '.join(one.classes.names)}; list the same in the same "
                "order in both"
            )


def check_dataset(
    dataset: SegmentationDataset, *, on_progress: OnProgress | None = None
) -> tuple[list[Problem], Tensor, list[bytes]]:
    """Decode every mask and image of a split, collect all problems and count pixels.

    Args:
        dataset: What to check.
        on_progress: Called with (pairs done, pairs in all) after each pair.

    Returns:
        Unpaired files first, then problems in the order of the samples, empty when all is well;
        pixels of each class, int64 ``(K,)``; and what tells the images that can be decoded apart.
    """
    problems = list(dataset.unpaired)
    pixels = torch.zeros(dataset.classes.num_classes, dtype=torch.int64)
    digests = []
    look = partial(check_sample, dataset)
    for checked in on_threads(look, range(len(dataset)), on_progress):
        problems += checked.problems
        if checked.pixels is not None:
            pixels += checked.pixels
        if checked.digest is not None:
            digests.append(checked.digest)
    return problems or unlabelled(dataset, pixels), pixels, digests


def unlabelled(dataset: SegmentationDataset, pixels: Tensor) -> list[Problem]:
    """The problem of a split of which no pixel was counted ``(K,)``."""
    detail = f"no mask of split '{dataset.split}' has a pixel of any class; label some"
    return [] if pixels.any() else [Problem("unlabelled", dataset.root, detail)]


def require_clean(
    *splits: SegmentationDataset,
    trained_on: SegmentationDataset | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Stop with one message if anything in these splits is wrong.

    Warns of classes that a split which is trained on does not hold, and of its images in others.

    Args:
        splits: What to check.
        trained_on: The one of them that must hold two classes at least.
        on_progress: Called with (pairs done, pairs in all) of one split after the other.

    Raises:
        DataError: If there is a problem; lists up to 10 files and how many more there are.
    """
    problems, contents = {}, {}
    for split in splits:
        problems[split], pixels, contents[split] = check_dataset(split, on_progress=on_progress)
        if split is trained_on and not problems[split]:
            problems[split] = one_class(split, pixels)
            if not problems[split]:
                _warn_of_absent(split, pixels)
    found = [problem for of_split in problems.values() for problem in of_split]
    if not found:
        if trained_on is not None:
            _warn_of_copies(contents, trained_on)
        return
    lines = [f"\n  {problem}" for problem in found[:MAX_LISTED]]
    if len(found) > MAX_LISTED:
        lines.append(f"\n  and {len(found) - MAX_LISTED} more")
    counts = [
        f"{split.name} split '{split.split}' has {len(of_split)} "
        f"{'problem' if len(of_split) == 1 else 'problems'}"
        for split, of_split in problems.items()
        if of_split
    ]
    raise DataError(f"{', '.join(counts)}:{''.join(lines)}")


def one_class(dataset: SegmentationDataset, pixels: Tensor) -> list[Problem]:
    """The problem of a split that is trained on and leaves nothing to tell apart.

    Args:
        dataset: The split.
        pixels: Those counted of each class, ``(K,)``.
    """
    present = [dataset.classes.names[index] for index in pixels.nonzero().flatten().tolist()]
    if len(present) != 1:
        return []
    detail = (
        f"masks of split '{dataset.split}' hold the class '{present[0]}' alone; name what lies "
        "around it as a class, too; one that is drawn as 255 is left out unless it has `id: 255`"
    )
    return [Problem("one class", dataset.root, detail)]


def _warn_of_absent(dataset: SegmentationDataset, pixels: Tensor) -> None:
    absent = [dataset.classes.names[index] for index in (pixels == 0).nonzero().flatten().tolist()]
    if absent:
        tell(
            f"tsic: warning: split '{dataset.split}' has no pixel of {', '.join(absent)}, which "
            "the student cannot learn from it\n"
        )


def _warn_of_copies(
    contents: Mapping[SegmentationDataset, Sequence[bytes]], trained_on: SegmentationDataset
) -> None:
    known = set(contents[trained_on])
    for split, digests in contents.items():
        copies = sum(digest in known for digest in digests)
        if split is trained_on or not copies:
            continue
        some = "all" if split.split == trained_on.split else f"{copies} of the {len(digests)}"
        tell(
            f"tsic: warning: {some} images of split '{split.split}' are trained on, too, which "
            "flatters its scores\n"
        )


def count_pixels(dataset: SegmentationDataset) -> Tensor:
    """Count the pixels of each class in a split, int64 ``(K,)``."""
    return torch.stack(list(on_threads(dataset.count_pixels, range(len(dataset))))).sum(0)


class Checked(NamedTuple):
    """What one pair showed.

    Args:
        problems: Empty when all is well.
        pixels: Of each class ``(K,)``, if the mask can be read.
        digest: What tells the image from others, if it can be decoded.
    """

    problems: list[Problem]
    pixels: Tensor | None
    digest: bytes | None


def check_sample(dataset: SegmentationDataset, index: int) -> Checked:
    """Decode one mask and its image and collect their problems.

    Args:
        dataset: What to check.
        index: Position in ``samples``.

    Returns:
        Its problems and what was seen on the way.
    """
    sample = dataset.samples[index]
    problems = []
    image = values = None
    try:
        image = dataset.verify(index)
    except DataError as error:
        detail = str(error).removeprefix(f"{sample.image}: ")
        problems.append(Problem("unreadable", sample.image, detail))
    try:
        values = dataset.store.mask(sample)
    except DataError as error:
        detail = str(error).removeprefix(f"{sample.mask}: ")
        problems.append(Problem("unreadable", sample.mask, detail))
    if image and values is not None and image.size != values.shape[:2]:
        detail = size_mismatch(image.size, values.shape[:2])
        problems.append(Problem("size mismatch", sample.image, detail))
    if values is not None and (unknown := dataset.unknown_values(values)):
        problems.append(Problem("unknown id", sample.mask, unknown))
    elif values is not None:
        wrong = dataset.contradiction(values, dataset.store.palette(sample))
        problems += [Problem("mask palette", sample.mask, wrong)] if wrong else []
    pixels = None if values is None else dataset.count_values(values)
    return Checked(problems, pixels, image and image.digest)


def on_threads(
    look: Callable[[Job], T], jobs: Sequence[Job], on_progress: OnProgress | None = None
) -> Iterator[T]:
    """Do jobs on as many threads as there are cores; decoding runs outside Python's lock.

    Args:
        look: Does one job.
        jobs: What to do.
        on_progress: Called with (jobs done, jobs in all) after each job.

    Yields:
        What ``look`` returned, in the order of the jobs.
    """
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        for done, found in enumerate(pool.map(look, jobs), start=1):
            if on_progress is not None:
                on_progress(done, len(jobs))
            yield found
