"""What a process says where nobody reads it."""

import os
import subprocess
import sys

import pytest

from tsic.streams import tell


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_work_goes_on_where_nobody_reads_what_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr("sys.stderr", pipe)
        for text in ("one\n", "two\n"):
            tell(text)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_mistake_that_nobody_reads_keeps_its_exit_code() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        assert subprocess.run([sys.executable, "-m", "tsic", "trian"], stderr=pipe).returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="has no such shell")
@pytest.mark.parametrize(("word", "code"), [("help", 0), ("trian", 2)])
def test_closed_streams_lead_nowhere(word: str, code: int) -> None:
    closed = f'"{sys.executable}" -m tsic {word} <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", closed]).returncode == code
