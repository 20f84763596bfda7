"""Files are written whole or not at all, and what is no file is not replaced by one."""

import errno
import json
import os
import re
import stat
import threading
from pathlib import Path

import pytest

from tsic.cli import main
from tsic.files import replacing, write_json, write_text


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": ("x", None)})
    held = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert held == {"a": None, "b": [None, 1.5], "c": ["x", None]}


def test_a_write_that_fails_leaves_the_file_before_and_names_it(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "before")

    def run_out() -> None:
        with replacing(file) as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        run_out()
    assert caught.value.filename == str(file)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_copy_that_finds_no_room_names_the_file(
    tmp_path: Path,
) -> None:
    """The error of `shutil.copyfile` names both files, first the one that is read."""
    file = tmp_path / "to.bin"
    with pytest.raises(OSError, match="No space left") as caught, replacing(file) as part:
        raise OSError(errno.ENOSPC, "No space left on device", "from.bin", None, str(part))
    assert (caught.value.filename, caught.value.filename2) == (str(file), None)


@pytest.mark.parametrize("letter", ["a", "ü", "\U0001f697"])
def test_a_name_as_long_as_one_may_be_is_written(tmp_path: Path, letter: str) -> None:
    fits = 255 // len(letter.encode())
    write_text(tmp_path / (letter * fits), "text")
    too_long = tmp_path / (letter * (fits + 1))
    with pytest.raises(OSError, match="too long") as caught:
        write_text(too_long, "text")
    assert caught.value.filename == str(too_long)
    assert [file.name for file in tmp_path.iterdir()] == [letter * fits]


def test_a_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("before")
    link.symlink_to(real)
    write_text(link, "after")
    assert link.is_symlink()
    assert real.read_text() == "after"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_text(pipe, "through")
    reader.join(10)
    assert read == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize(
    ("verb", "error", "said"),
    [
        ("train", OSError(errno.ENOSPC, "No space", "a.ckpt"), "full (a.ckpt); .* --resume auto"),
        ("evaluate", OSError(errno.ENOSPC, "No space", "a.json"), "full (a.json); .* try again"),
        ("push", OSError(errno.EDQUOT, "Quota", "from", None, "to"), "quota .* (to); "),
        ("train", OSError(errno.EFBIG, "File too large"), "larger than this system allows; "),
        ("info", OSError(errno.EACCES, "Permission denied", "a"), "cannot use 'a': Permission"),
    ],
)
def test_a_disk_that_takes_no_more_is_told_in_one_sentence(
    verb: str,
    error: OSError,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(verb: str, words: object) -> int:
        raise error

    monkeypatch.setattr("tsic.cli._run", fail)
    assert main([verb]) == 2
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1
    assert re.search(said.replace("(", r"\(").replace(")", r"\)"), text)
