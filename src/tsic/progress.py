"""A bar for work that takes a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

OnProgress = Callable[[int, int], None]
"""Told, after each part of some work, how many parts are done and how many there are."""


@contextmanager
def progress(label: str) -> Iterator[OnProgress]:
    """A bar on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(console=console) as bar:
        task = bar.add_task(escape(label))
        yield lambda done, total: bar.update(task, completed=done, total=total)
