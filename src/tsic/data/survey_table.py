"""A survey as text: a Markdown table of classes and short lists of files."""

from collections.abc import Mapping, Sequence

from tsic.data.dataset import Problem
from tsic.markdown import to_markdown

Counts = Mapping[str, tuple[int, Sequence[float], Sequence[int]]]
"""By split: its images, and of each class the percent of pixels and the images that show it."""


def class_table(class_names: Sequence[str], counts: Counts) -> str:
    """Set the classes of all splits side by side, one class a row.

    Args:
        class_names: Names of the ``K`` classes.
        counts: What each split holds.

    Returns:
        A Markdown table; its last row counts all images.
    """
    columns = [["class", *class_names, "all"]]
    for split, (images, shares, images_with) in counts.items():
        columns.append([f"{split} px %", *map(_percent, shares), ""])
        columns.append([f"{split} images", *map(str, images_with), str(images)])
    return to_markdown(list(zip(*columns, strict=True)))


def listing(heading: str, problems: Sequence[Problem], max_listed: int) -> list[str]:
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
