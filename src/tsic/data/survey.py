"""Everything worth knowing about a dataset before a training: counts, faults, surprises."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tsic.data.check import MAX_LISTED, Checked, check_sample, on_threads, one_class, unlabelled
from tsic.data.classes import ClassTable
from tsic.data.dataset import Problem, SegmentationDataset
from tsic.markdown import to_markdown
from tsic.progress import OnProgress


@dataclass(frozen=True)
class Finding:
    """A problem and the split that has it."""

    split: str
    problem: Problem


@dataclass(frozen=True)
class SplitCounts:
    """What one split holds.

    Args:
        images: Complete pairs.
        pixels: Pixels of each class, int64 ``(K,)``.
        images_with: Images in which each class has a pixel, int64 ``(K,)``.
    """

    images: int
    pixels: Tensor
    images_with: Tensor

    @property
    def shares(self) -> list[float]:
        """Percent of the labelled pixels that each class has; 0 where nothing is labelled."""
        labelled = max(1, int(self.pixels.sum()))
        return [100 * pixels / labelled for pixels in self.pixels.tolist()]


@dataclass(frozen=True)
class Survey:
    """What a dataset holds and what is wrong with it.

    Args:
        class_names: Names of the ``K`` classes.
        splits: Counts by split.
        problems: What would hurt a training.
        notes: What is worth knowing.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, SplitCounts]
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; shares in percent of the labelled pixels."""
        classes = {
            name: {
                split: {
                    "pixels": int(counts.pixels[train_id]),
                    "share": counts.shares[train_id],
                    "images": int(counts.images_with[train_id]),
                }
                for split, counts in self.splits.items()
            }
            for train_id, name in enumerate(self.class_names)
        }
        return {
            "images": {split: counts.images for split, counts in self.splits.items()},
            "classes": classes,
            "problems": [_plain(finding) for finding in self.problems],
            "notes": [_plain(finding) for finding in self.notes],
        }

    def to_text(self, max_listed: int = MAX_LISTED) -> str:
        """A table of classes, the findings by kind, and whether a training would be hurt.

        Args:
            max_listed: How many files are listed of each kind.

        Returns:
            Lines of text.
        """
        parts = [_class_table(self.class_names, self.splits)]
        for heading, findings in (("problem", self.problems), ("note", self.notes)):
            parts += _listing(heading, [finding.problem for finding in findings], max_listed)
        number = len(self.problems)
        verdict = {0: "nothing", 1: "1 problem"}.get(number, f"{number} problems")
        return "\n\n".join([*parts, f"{verdict} that would hurt a training"])


def survey(
    datasets: Sequence[SegmentationDataset],
    *,
    trained_on: Collection[str],
    scored_on: Collection[str] = (),
    problems: Sequence[Finding] = (),
    notes: Sequence[Finding] = (),
    on_progress: OnProgress | None = None,
) -> Survey:
    """Look at every image and mask of some splits.

    Args:
        datasets: Splits of one dataset.
        trained_on: Names of the splits that must hold every class.
        scored_on: Names of those that must hold any.
        problems: What is known already.
        notes: Likewise.
        on_progress: Called with (pairs done, pairs in all) after each pair.

    Returns:
        Counts and findings: of each split unpaired files, then samples in their order, then
        classes; then images that stand in two splits.
    """
    jobs = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    seen = on_threads(lambda job: _look(*job), jobs, on_progress)
    counts, found, known = {}, list(problems), list(notes)
    first: dict[bytes, tuple[str, str]] = {}
    for dataset in datasets:
        of_split = [next(seen) for _ in range(len(dataset))]
        counts[dataset.split] = _sum(dataset.classes, [one for one, _ in of_split])
        faults = [*dataset.unpaired, *(fault for one, _ in of_split for fault in one.problems)]
        surprises = [note for _, notes_of_one in of_split for note in notes_of_one]
        pixels, absent = counts[dataset.split].pixels, _absent(dataset, counts[dataset.split])
        if dataset.split in trained_on:
            faults += [*absent, *one_class(dataset, pixels)]
        else:
            bare = unlabelled(dataset, pixels)
            (faults if dataset.split in scored_on else surprises).extend(bare)
            surprises += absent
        within, elsewhere = _copies(dataset, [one.digest for one, _ in of_split], first)
        faults += elsewhere
        surprises += within
        found += [Finding(dataset.split, fault) for fault in faults]
        known += [Finding(dataset.split, surprise) for surprise in surprises]
    return Survey(datasets[0].classes.names, counts, tuple(found), tuple(known))


def _look(dataset: SegmentationDataset, index: int) -> tuple[Checked, list[Problem]]:
    """Check, count and describe one pair; what cannot be read is left out of the counts."""
    checked = check_sample(dataset, index)
    if checked.digest is None:
        return checked, []
    sample = dataset.samples[index]
    surprises = dataset.store.surprises(sample)
    return checked, [Problem(kind, sample.image, detail) for kind, detail in surprises]


def _sum(classes: ClassTable, seen: Sequence[Checked]) -> SplitCounts:
    """Add up the pairs of a split."""
    none = torch.zeros(classes.num_classes, dtype=torch.int64)
    pixels = torch.stack([none, *(one.pixels for one in seen if one.pixels is not None)])
    return SplitCounts(len(seen), pixels.sum(0), (pixels > 0).sum(0))


def _absent(dataset: SegmentationDataset, counts: SplitCounts) -> list[Problem]:
    """Classes without a pixel in a split."""
    return [
        Problem(
            "absent class",
            dataset.root,
            f"class '{name}' has no pixel in split '{dataset.split}'; "
            "add images of it, or take it out of the class table",
        )
        for name, pixels in zip(dataset.classes.names, counts.pixels.tolist(), strict=True)
        if not pixels
    ]


def _copies(
    dataset: SegmentationDataset,
    contents: Sequence[bytes | None],
    first: dict[bytes, tuple[str, str]],
) -> tuple[list[Problem], list[Problem]]:
    """Images that a split holds twice, and those of an earlier one; ``None`` is no content.

    ``first`` remembers by content the split and the name where an image was seen first.
    """
    within: list[Problem] = []
    elsewhere: list[Problem] = []
    for sample, content in zip(dataset.samples, contents, strict=True):
        if content is None:
            continue
        split, name = first.setdefault(content, (dataset.split, sample.name))
        if (split, name) != (dataset.split, sample.name):
            detail = f"is the same image as {name} of split '{split}'; remove one of them"
            problem = Problem("duplicate image", dataset.root / sample.name, detail)
            (within if split == dataset.split else elsewhere).append(problem)
    return within, elsewhere


def _plain(finding: Finding) -> dict[str, str]:
    """A finding as JSON holds it."""
    problem = finding.problem
    return {
        "kind": problem.kind,
        "file": str(problem.file),
        "detail": problem.detail,
        "split": finding.split,
    }


def _class_table(class_names: Sequence[str], splits: Mapping[str, SplitCounts]) -> str:
    """All splits side by side, one class a row; the last row counts all images."""
    columns = [["class", *class_names, "all"]]
    for split, counts in splits.items():
        columns.append([f"{split} px %", *map(_percent, counts.shares), ""])
        with_class = counts.images_with.tolist()
        columns.append([f"{split} images", *map(str, with_class), str(counts.images)])
    return to_markdown(list(zip(*columns, strict=True)))


def _listing(heading: str, problems: Sequence[Problem], max_listed: int) -> list[str]:
    """List problems by kind.

    Args:
        heading: Stands before each kind.
        problems: What to list; kinds come in the order of their first problem.
        max_listed: How many of each kind are listed.

    Returns:
        A paragraph per kind.
    """
    paragraphs = []
    for kind in dict.fromkeys(problem.kind for problem in problems):
        of_kind = [problem for problem in problems if problem.kind == kind]
        lines = [f"{heading}: {kind} ({len(of_kind)})"]
        lines += [f"  {problem}" for problem in of_kind[:max_listed]]
        if len(of_kind) > max_listed:
            lines.append(f"  and {len(of_kind) - max_listed} more")
        paragraphs.append("\n".join(lines))
    return paragraphs


def _percent(share: float) -> str:
    """Two digits; a dash for nothing, so that a little is not taken for nothing."""
    if not share:
        return "-"
    return "<0.01" if share < 0.005 else f"{share:.2f}"
