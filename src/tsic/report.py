"""Writes the report of a run: one HTML file that stands alone."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from tsic.data.classes import ClassTable
from tsic.evaluation.scores import Report
from tsic.files import write_text

Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]

_LINE_COLOURS = ("#d1603d", "#2f86bd", "#4d9a58", "#b08a1e", "#9062b0", "#5f8f93", "#b5567f")
_PLOT = (0.14, 0.16, 0.82, 0.75)
"""Left, bottom, width and height of a plot's axes; to fit them to labels takes twice as long."""

_TEXT_COLOUR = "#010203"  # stands for the page's own text colour until the drawing is done


@dataclass(frozen=True)
class _Cell:
    """A score of the table: its text, the length of its bar in percent, whether none is larger."""

    text: str
    share: float | None
    is_best: bool


@dataclass(frozen=True)
class _Row:
    head: str
    colour: str | None
    cells: list[_Cell]


def write_report(
    path: Path,
    *,
    title: str,
    intro: str = "",
    summary: Sequence[tuple[str, str]] = (),
    curves: Curves | None = None,
    scores: Mapping[str, Report] | None = None,
    classes: ClassTable | None = None,
    pictures: Sequence[tuple[str, Path | Image.Image]] = (),
) -> None:
    """Write one HTML file with everything inside; it needs neither network nor scripts.

    Args:
        path: File to write, whole or not at all; its folder is made if need be.
        title: Heading of the page.
        intro: A sentence or two below it.
        summary: Name and value of each key figure.
        curves: Title of each plot -> name of each line -> its (step, value) points. Values that
            are not finite leave a gap.
        scores: Name of each network -> its scores, for a table of every class's IoU.
        classes: Names and colours of that table's rows; goes with ``scores``.
        pictures: Caption and picture (PNG file or PIL image), in order.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = resources.files("tsic").joinpath("templates/report.html").read_text("utf-8")
    page = environment.from_string(template).render(
        title=title,
        intro=intro,
        summary=summary,
        networks=list(scores or {}),
        rows=_rows(scores, classes) if scores and classes else [],
        pictures=[(caption, _inline_picture(picture)) for caption, picture in pictures],
        curves=[(name, _draw_curves(name, lines)) for name, lines in (curves or {}).items()],
        version=metadata.version("tsic"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def _rows(scores: Mapping[str, Report], classes: ClassTable) -> list[_Row]:
    """One row per class, the means last."""
    per_class = [report.per_class_iou for report in scores.values()]
    rows = [
        _Row(name, "#{:02x}{:02x}{:02x}".format(*colour), _cells([one[name] for one in per_class]))
        for name, colour in zip(classes.names, classes.palette, strict=True)
    ]
    return [*rows, _Row("mean", None, _cells([report.miou for report in scores.values()]))]


def _cells(values: Sequence[float | None]) -> list[_Cell]:
    known = [value for value in values if value is not None and math.isfinite(value)]
    best = f"{max(known):.1f}" if len(known) > 1 else None
    cells = []
    for value in values:
        if value is None or not math.isfinite(value):
            cells.append(_Cell("–", None, is_best=False))  # noqa: RUF001 - a dash, not a minus
        else:
            cells.append(_Cell(f"{value:.1f}", round(value, 1), f"{value:.1f}" == best))
    return cells


def _inline_picture(picture: Path | Image.Image) -> str:
    """Turn a picture into a data address."""
    if isinstance(picture, Path):
        content = picture.read_bytes()
    else:
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "PNG")
        content = buffer.getvalue()
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def _draw_curves(name: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Draw one plot as SVG whose text and axes take the page's colour."""
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # the same report twice is the same file; plots share no ids
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": _TEXT_COLOUR,
        "axes.labelcolor": _TEXT_COLOUR,
        "axes.edgecolor": _TEXT_COLOUR,
        "xtick.color": _TEXT_COLOUR,
        "ytick.color": _TEXT_COLOUR,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(5.2, 3.0))
        axes = figure.add_axes(_PLOT)
        for number, (label, points) in enumerate(lines.items()):
            colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
            steps = [step for step, _ in points]
            values = [value if math.isfinite(value) else math.nan for _, value in points]
            marker = "o" if len(points) < 25 else None
            axes.plot(steps, values, label=label.lstrip("_"), color=colour, linewidth=1.8,
                      marker=marker, markersize=3.5)  # fmt: skip
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=_TEXT_COLOUR, alpha=0.12, linewidth=0.8)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if lines:
            axes.legend(frameon=False, fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :].replace(_TEXT_COLOUR, "currentColor")
