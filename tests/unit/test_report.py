import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tsic.data.classes import ClassTable
from tsic.errors import DataError
from tsic.report import Table, per_class_table, write_report

CLASSES = ClassTable.from_names(("road", "sky"), palette=((1, 2, 3), (255, 0, 16)))


class Reader(HTMLParser):
    """Checks that tags are balanced, and gathers what a page holds."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def write_full(path: Path) -> str:
    write_report(
        path,
        title="Runs <of> today",
        intro="Twice & once.",
        summary=[("gain", "+1.5")],
        curves={"loss": {"alone": [(0, 2.0), (10, float("nan")), (20, 1.0)], "cycle": [(0, 1.0)]}},
        tables=[per_class_table({"alone": {"road": 50.0}, "cycle": {"road": 75.0}}, CLASSES)],
        pictures=[("A panel", Image.new("RGB", (5, 4), (9, 8, 7)))],
    )
    return path.read_text(encoding="utf-8")


def test_write_report_is_one_balanced_page_without_outside_resources(tmp_path: Path) -> None:
    page = write_full(tmp_path / "runs" / "report.html")
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["report.html"]
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "link", "iframe"}
    for _, attributes in reader.tags:
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")
        assert (attributes.get("xlink:href") or "#").startswith("#")
    assert "url(" not in re.sub(r"url\(#[^)]*\)", "", page)
    assert "@import" not in page


def test_write_report_escapes_texts(tmp_path: Path) -> None:
    page = write_full(tmp_path / "report.html")
    assert "<h1>Runs &lt;of&gt; today</h1>" in page
    assert "Twice &amp; once." in page


def test_write_report_inlines_pictures(tmp_path: Path) -> None:
    file = tmp_path / "photo.PNG"
    Image.new("RGB", (3, 2), (1, 2, 3)).save(file, format="PNG")
    write_report(
        tmp_path / "report.html",
        title="t",
        pictures=[("from memory", Image.new("L", (5, 4), 9)), ("from a file", file)],
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = re.findall(r'src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    assert [caption for _, caption in found] == ["from memory", "from a file"]
    sizes = [Image.open(io.BytesIO(base64.b64decode(content))).size for content, _ in found]
    assert sizes == [(5, 4), (3, 2)]


def test_write_report_draws_lines_in_the_text_colour_of_the_page(tmp_path: Path) -> None:
    page = write_full(tmp_path / "report.html")
    drawing = page[page.index("<svg") : page.index("</svg>")]
    assert "currentColor" in drawing
    assert "#010203" not in drawing
    assert ">alone<" in drawing
    assert ">step<" in drawing


def test_write_report_twice_gives_the_same_file(tmp_path: Path) -> None:
    assert write_full(tmp_path / "a.html") == write_full(tmp_path / "b.html")


def test_write_report_of_nothing_but_a_title(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", title="empty", curves={"nothing yet": {}})
    assert "<h1>empty</h1>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_write_report_names_a_picture_it_cannot_show(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: picture cannot be read: No such file"):
        write_report(tmp_path / "r.html", title="t", pictures=[("x", tmp_path / "gone.png")])
    with pytest.raises(DataError, match=r"a\.tiff: a picture must be one of \.gif, \.jpeg, \.jpg"):
        write_report(tmp_path / "r.html", title="t", pictures=[("x", tmp_path / "a.tiff")])
    assert list(tmp_path.iterdir()) == []


def test_per_class_table_shows_bars_dashes_and_the_best(tmp_path: Path) -> None:
    table = per_class_table(
        {"alone": {"road": 80.0, "sky": float("nan")}, "cycle": {"road": 60.0, "sky": 90.04}},
        CLASSES,
    )
    assert table.rows[-1] == ["mean", 80.0, pytest.approx(75.02)]
    write_report(tmp_path / "r.html", title="t", tables=[table])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    cells = re.findall(
        r"<td( class=\"best\")?>([^<]+)(?:<span[^>]*><i style=\"width:([\d.]+)%)?", page
    )
    assert cells == [
        (' class="best"', "80.0", "80.0"),
        ("", "60.0", "60.0"),
        ("", "–", ""),  # noqa: RUF001
        ("", "90.0", "90.0"),
        (' class="best"', "80.0", "80.0"),
        ("", "75.0", "75.0"),
    ]
    assert re.findall(r"background:(#\w+)", page) == ["#010203", "#ff0010"]
    assert page.count('<tr class="total">') == 1


def test_per_class_table_takes_means_that_were_measured() -> None:
    table = per_class_table({"a": {"road": 10.0}}, CLASSES, means={"a": 33.3})
    assert table.rows == [["road", 10.0], ["sky", None], ["mean", 33.3]]


def test_per_class_table_of_no_known_class_has_no_mean() -> None:
    assert per_class_table({"a": {}}, CLASSES).rows[-1] == ["mean", None]


def test_table_refuses_uneven_rows() -> None:
    with pytest.raises(ValueError, match="table 't': row 'x' must have 2 cells, got 3"):
        Table("t", ("name", "value"), [["x", 1.0, 2.0]])
    with pytest.raises(ValueError, match="table 't': colours must be as many as rows, got 1 and 0"):
        Table("t", ("name",), [], colours=[None])


def test_table_limits_bars_to_the_cell(tmp_path: Path) -> None:
    table = Table("t", ("n", "v"), [["over", 250.0], ["under", -5.0]], full_bar=100.0, decimals=2)
    write_report(tmp_path / "r.html", title="t", tables=[table])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert re.findall(r"width:([\d.]+)%\"></i>", page) == ["100.0", "0.0"]
    assert "250.00" in page
