"""Tables as Markdown."""

import pytest

from tsic.markdown import to_markdown


@pytest.mark.parametrize(("texts", "cell", "rule"), [(1, "   b", "-----:"), (2, "b   ", "------")])
def test_texts_stand_at_the_left_and_numbers_at_the_right(texts: int, cell: str, rule: str) -> None:
    told = to_markdown([["class", "name", "IoU"], ["road", "b", "7.5"]], texts=texts)
    assert told.splitlines() == [
        "| class | name | IoU |",
        f"|-------|{rule}|----:|",
        f"| road  | {cell} | 7.5 |",
    ]


def test_a_bar_in_a_name_begins_no_column() -> None:
    assert to_markdown([["class"], ["a|b"]]).splitlines()[-1] == r"| a\|b  |"
