import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import torch
from PIL import Image

from tsic.data.classes import ClassTable
from tsic.evaluation.scores import Report
from tsic.report import write_report

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
        scores={"alone": Report(CLASSES.names, torch.tensor([[1, 1], [0, 2]]), images=1)},
        classes=CLASSES,
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


def test_scores_stand_with_bars_dashes_and_the_best(tmp_path: Path) -> None:
    scores = {
        # Rows are true classes; no pixel is sky in the first.
        "alone": Report(CLASSES.names, torch.tensor([[8, 0], [0, 0]]), images=1),
        "cycle": Report(CLASSES.names, torch.tensor([[6, 2], [0, 18]]), images=1),
    }
    write_report(tmp_path / "r.html", title="t", scores=scores, classes=CLASSES)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    cells = re.findall(
        r"<td( class=\"best\")?>([^<]+)(?:<span[^>]*><i style=\"width:([\d.]+)%)?", page
    )
    assert cells == [
        (' class="best"', "100.0", "100.0"),
        ("", "75.0", "75.0"),
        ("", "–", ""),  # noqa: RUF001
        ("", "90.0", "90.0"),
        (' class="best"', "100.0", "100.0"),
        ("", "82.5", "82.5"),
    ]
    assert re.findall(r"background:(#\w+)", page) == ["#010203", "#ff0010"]
    assert re.findall(r'<tr class="total">\s*<th scope="row">(\w+)', page) == ["mean"]


def test_no_score_of_nothing_labelled(tmp_path: Path) -> None:
    nothing = Report(CLASSES.names, torch.zeros(2, 2, dtype=torch.int64), images=1)
    write_report(tmp_path / "r.html", title="t", scores={"alone": nothing}, classes=CLASSES)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert re.findall(r"<td>([^<]+)", page) == ["–", "–", "–"]  # noqa: RUF001
