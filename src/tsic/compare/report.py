"""The comparison as tables, as JSON and as a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tsic.compare.plan import ALONE
from tsic.compare.statistics import RESAMPLES, Summary
from tsic.files import replacing, write_json, write_text
from tsic.markdown import to_markdown

_UNLABELLED = ", but as many with labels in place of those without"

Facts = Mapping[str, Any]


def write_comparison(
    folder: Path,
    summaries: Mapping[str, Summary],
    facts: Facts,
    failed: Mapping[str, str],
    warned: Mapping[str, Sequence[str]],
) -> str:
    """Write ``comparison.json``, ``comparison.md`` and ``comparison.png``.

    Args:
        folder: Where to.
        summaries: By method, the student alone among them.
        facts: What holds for all: ``split``, ``images``, ``steps``, whether any run is taught on
            images without labels (``unlabelled``), ``student`` (its ``parameters``,
            ``multiply_adds`` and their ``size``), ``command``, ``machine``.
        failed: Why runs failed, by name.
        warned: What runs warned of, by name.

    Returns:
        The page in Markdown.
    """
    ranked = dict(sorted(summaries.items(), key=lambda item: -item[1].miou))
    page = _page(ranked, facts, failed, warned)
    held = {
        **facts,
        "methods": {name: asdict(summary) for name, summary in ranked.items()},
        "failed": dict(failed),
        "warnings": {name: list(said) for name, said in warned.items()},
    }
    write_json(folder / "comparison.json", held)
    write_text(folder / "comparison.md", page)
    with replacing(folder / "comparison.png") as part:
        _plot(ranked).savefig(part, format="png", dpi=150)
    return page


def _page(
    ranked: Mapping[str, Summary],
    facts: Facts,
    failed: Mapping[str, str],
    warned: Mapping[str, Sequence[str]],
) -> str:
    student = facts["student"]
    height, width = student["size"]
    parts = [
        "# Comparison",
        f"Student's mean IoU in percent on {facts['images']} images of the split "
        f"{facts['split']}, which also chose each run's checkpoint; {facts['steps']} steps"
        f"{' (NAME:TIMES: so many times as many)' if any(':' in one for one in ranked) else ''}.",
        to_markdown(_rows(ranked)),
        "`gain`: mean difference to the student alone, paired by seed (same initial student, same "
        f"order of images{_UNLABELLED if facts['unlabelled'] else ''}), with its 95 % interval: "
        f"Student's t over the seeds and a bootstrap of the images ({RESAMPLES} resamples). With "
        "one seed it covers the images alone.",
        "At inference all are the same student: "
        f"{student['parameters']:,} parameters, {student['multiply_adds'] / 1e9:.2f} G "
        f"multiply-adds at {height}x{width}.",
        "![mIoU against cost](comparison.png)",
        "## Gain of each class",
        to_markdown(_class_rows(ranked)),
    ]
    if failed:
        parts.append("## Runs that failed")
        parts += [f"- {name}: {why}" for name, why in failed.items()]
    if warned:
        parts.append("## Warnings")
        parts += [f"- {name}: {one}" for name, said in warned.items() for one in said]
    parts.append(f"`{facts['command']}`")
    return "\n\n".join(parts) + "\n"


def _rows(ranked: Mapping[str, Summary]) -> list[list[str]]:
    base = ranked[ALONE].train_seconds
    rows = [["method", "mIoU", "std", "gain", "95 %", "seeds", "teacher", "s", "x", "MiB"]]
    for name, one in ranked.items():
        interval = one.delta_ci95
        rows.append(
            [
                name,
                f"{one.miou:.2f}",
                _number(one.std),
                _number(one.delta, "+.2f"),
                f"{interval[0]:+.2f} to {interval[1]:+.2f}" if interval else "-",
                f"{len(one.seeds)}",
                _number(one.teacher_miou),
                f"{one.train_seconds:.0f}",
                f"{one.train_seconds / base:.2f}" if base else "-",
                f"{one.peak_memory_mib:.0f}",
            ]
        )
    return rows


def _class_rows(ranked: Mapping[str, Summary]) -> list[list[str]]:
    """A class a row, a method a column."""
    gains = {name: one.per_class_delta for name, one in ranked.items() if one.per_class_delta}
    classes = next(iter(gains.values()), {})
    return [
        ["class", *gains],
        *([each, *(_number(gain[each], "+.2f") for gain in gains.values())] for each in classes),
    ]


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else f"{value:{form}}"


def _plot(ranked: Mapping[str, Summary]) -> Figure:
    """Accuracy against seconds of training, with the spread over seeds."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, one in ranked.items():
        axes.errorbar(one.train_seconds, one.miou, yerr=one.std or 0, fmt="o", capsize=3)
        axes.annotate(
            name, (one.train_seconds, one.miou), xytext=(6, 4), textcoords="offset points"
        )
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("student's mIoU, %")
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    return figure
