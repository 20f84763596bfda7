"""The bar of work that takes a while."""

import io

import pytest
from rich.console import Console

from tsic.progress import progress


@pytest.mark.parametrize("label", ["pack a[red]b", "pack [/x]"])
def test_a_bar_shows_any_label(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True, width=99)
    monkeypatch.setattr("tsic.progress.Console", lambda **_: terminal)
    with progress(label) as on_progress:
        on_progress(1, 1)
    assert label in text.getvalue()
