"""What a process says, whoever still reads it."""

import os
import sys
from typing import TextIO


def tell(text: str) -> None:
    """Write to the error stream; work goes on where nobody reads that any more."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        to_nowhere(sys.stderr)


def to_nowhere(stream: TextIO) -> None:
    """Lose what is written to a stream from here on: what read it went away."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fill_closed() -> None:
    """Open what was closed when this process began; else a file would take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
