"""A comparison's page: who is first, and what it costs against the student alone."""

from pathlib import Path

import pytest

from tsic.compare import report
from tsic.compare.report import write_comparison
from tsic.compare.statistics import Summary


def summary(miou: float, seconds: float, delta: float | None) -> Summary:
    interval = None if delta is None else (delta - 1, delta + 1)
    gains = None if delta is None else {"road": delta, "car": None}
    return Summary(miou, None, delta, interval, {0: miou}, None, seconds, 100.0, gains)


def test_methods_are_ranked_and_cost_what_they_take_against_the_student_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Figure:
        def savefig(self, part: Path, **_: object) -> None:
            part.touch()

    monkeypatch.setattr(report, "_plot", lambda _: Figure())
    summaries = {
        "alone": summary(60.0, 10.0, None),
        "kd": summary(58.0, 15.0, -2.0),
        "cycle": summary(63.0, 45.0, 3.0),
    }
    student = {"parameters": 5, "multiply_adds": 1e9, "size": [8, 9]}
    facts = {"split": "val", "images": 3, "steps": 4, "unlabelled": False, "student": student}
    page = write_comparison(tmp_path, summaries, {**facts, "command": "c"}, {}, {})
    table, classes = (
        [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()]
        for part in page.split("\n\n")
        if part.startswith("|")
    )
    assert [row[0] for row in table[2:]] == ["cycle", "alone", "kd"]
    column = dict(zip(table[0], zip(*table[2:], strict=True), strict=True))
    assert column["gain"] == ("+3.00", "-", "-2.00")
    assert column["95 %"] == ("+2.00 to +4.00", "-", "-3.00 to -1.00")
    assert column["x"] == ("4.50", "1.00", "1.50")
    assert classes[2:] == [["road", "+3.00", "-2.00"], ["car", "-", "-"]]
