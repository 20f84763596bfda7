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
from tsic.errors import DataError
from tsic.files import write_text

Cell = str | float | None
Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]

_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
_LINE_COLOURS = ("#d1603d", "#2f86bd", "#4d9a58", "#b08a1e", "#9062b0", "#5f8f93", "#b5567f")
_TEXT_COLOUR = "#010203"  # stands for the page's own text colour until the drawing is done


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Args:
        title: Heading above it.
        columns: Heading of each column, that of the row names first.
        rows: Row name, then one cell per further column; a number is shown with ``decimals``
            digits, ``None`` and NaN as a dash.
        full_bar: Number whose bar fills the cell; no bars without it.
        colours: RGB colour before each row's name, or ``None`` for none.
        has_total: Whether the last row sums up the others and is set apart.
        mark_best: Whether the largest number of each row is printed bold.
        decimals: Digits after the point.
        note: Sentence below the table.

    Raises:
        ValueError: If a row is not as long as the columns, or the colours not as long as the rows.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    full_bar: float | None = None
    colours: Sequence[tuple[int, int, int] | None] | None = None
    has_total: bool = False
    mark_best: bool = False
    decimals: int = 1
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table '{self.title}': row '{row[0] if row else ''}' must have "
                    f"{len(self.columns)} cells, got {len(row)}"
                )
        if self.colours is not None and len(self.colours) != len(self.rows):
            raise ValueError(
                f"table '{self.title}': colours must be as many as rows, "
                f"got {len(self.colours)} and {len(self.rows)}"
            )


@dataclass(frozen=True)
class _ShownCell:
    text: str
    share: float | None
    is_best: bool


@dataclass(frozen=True)
class _ShownRow:
    head: str
    colour: str | None
    cells: list[_ShownCell]
    is_total: bool


@dataclass(frozen=True)
class _ShownTable:
    title: str
    columns: tuple[str, ...]
    rows: list[_ShownRow]
    note: str


def per_class_table(
    columns: Mapping[str, Mapping[str, float | None]],
    classes: ClassTable,
    *,
    title: str = "IoU per class",
    means: Mapping[str, float] | None = None,
    note: str = "",
) -> Table:
    """Lay out the IoU of each class for several networks, with bars.

    Args:
        columns: Name of each network -> class name -> IoU in percent; a class that is missing,
            ``None`` or NaN (it never occurs) is shown as a dash.
        classes: Names and colours.
        title: Heading of the table.
        means: Mean IoU of each network in percent; computed from the classes when left out.
        note: Sentence below the table.

    Returns:
        A table with one row per class and the means last.
    """
    rows: list[list[Cell]] = [
        [name, *(values.get(name) for values in columns.values())] for name in classes.names
    ]
    total: list[Cell] = ["mean"]
    for column, values in columns.items():
        if means is not None:
            total.append(means[column])
            continue
        known = [v for name in classes.names if (v := values.get(name)) is not None]
        known = [value for value in known if math.isfinite(value)]
        total.append(sum(known) / len(known) if known else None)
    return Table(
        title=title,
        columns=("class", *columns),
        rows=[*rows, total],
        full_bar=100.0,
        colours=[*classes.palette, None],
        has_total=True,
        mark_best=True,
        note=note,
    )


def write_report(
    path: str | Path,
    *,
    title: str,
    intro: str = "",
    summary: Sequence[tuple[str, str]] = (),
    curves: Curves | None = None,
    tables: Sequence[Table] = (),
    pictures: Sequence[tuple[str, str | Path | Image.Image]] = (),
) -> None:
    """Write one HTML file with everything inside; it needs neither network nor scripts.

    Args:
        path: File to write, whole or not at all; its folder is made if need be.
        title: Heading of the page.
        intro: A sentence or two below it.
        summary: Name and value of each key figure.
        curves: Title of each plot -> name of each line -> its (step, value) points. Values that
            are not finite leave a gap.
        tables: Tables, in order.
        pictures: Caption and picture (image file or PIL image), in order.

    Raises:
        DataError: If a picture's file cannot be read or is of a kind browsers do not show.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = resources.files("tsic").joinpath("templates/report.html").read_text("utf-8")
    page = environment.from_string(template).render(
        title=title,
        intro=intro,
        summary=summary,
        tables=[_show_table(table) for table in tables],
        pictures=[(caption, _inline_picture(picture)) for caption, picture in pictures],
        curves=[(name, _draw_curves(name, lines)) for name, lines in (curves or {}).items()],
        version=metadata.version("tsic"),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def _show_table(table: Table) -> _ShownTable:
    """Turn the cells of a table into texts and lengths of bars."""
    rows = []
    for index, row in enumerate(table.rows):
        numbers = [float(cell) for cell in row[1:] if isinstance(cell, int | float)]
        finite = [number for number in numbers if math.isfinite(number)]
        best = max(finite) if table.mark_best and len(finite) > 1 else None
        colour = table.colours[index] if table.colours is not None else None
        rows.append(
            _ShownRow(
                head=str(row[0]),
                colour=None if colour is None else "#{:02x}{:02x}{:02x}".format(*colour),
                cells=[_show_cell(cell, table, best) for cell in row[1:]],
                is_total=table.has_total and index == len(table.rows) - 1,
            )
        )
    return _ShownTable(table.title, table.columns, rows, table.note)


def _show_cell(cell: Cell, table: Table, best: float | None) -> _ShownCell:
    """Turn one cell into its text and the length of its bar in percent."""
    if isinstance(cell, str):
        return _ShownCell(cell, None, is_best=False)
    if cell is None or not math.isfinite(cell):
        return _ShownCell("–", None, is_best=False)  # noqa: RUF001 - a dash, not a minus
    share = None
    if table.full_bar is not None:
        share = round(100.0 * min(1.0, max(0.0, cell / table.full_bar)), 1)
    text = f"{cell:.{table.decimals}f}"
    is_best = best is not None and text == f"{best:.{table.decimals}f}"
    return _ShownCell(text, share, is_best)


def _inline_picture(picture: str | Path | Image.Image) -> str:
    """Turn a picture into a data address."""
    if isinstance(picture, Image.Image):
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "PNG")
        media_type, content = "image/png", buffer.getvalue()
    else:
        file = Path(picture)
        if file.suffix.lower() not in _MEDIA_TYPES:
            raise DataError(f"{file}: a picture must be one of {', '.join(sorted(_MEDIA_TYPES))}")
        try:
            media_type, content = _MEDIA_TYPES[file.suffix.lower()], file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: picture cannot be read: {error.strerror}") from error
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


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
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
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
