"""Mistakes a user can make, each told in one sentence with a way out."""

import difflib
import errno
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "a file would be larger than this system allows",
}
"""What the system says where no more can be written, in words."""


class TsicError(Exception):
    """Base of every error that the command line prints in one line, exit code 2."""


class ConfigError(TsicError, ValueError):
    """A configuration key or value that cannot work."""


class ShapeError(TsicError, ValueError):
    """A tensor or image whose size does not fit."""


class DataError(TsicError, ValueError):
    """A file of a dataset that is missing, unreadable or holds what it should not."""


class CheckpointError(TsicError, RuntimeError):
    """A saved run or student that cannot be read back."""


class SplitError(DataError):
    """A dataset has no such split."""


class EmptySplitError(SplitError):
    """A split has no image with a mask."""


class NonFiniteLossError(TsicError, ArithmeticError):
    """A loss became NaN or infinite; training stopped before the weights were touched."""


def one_line(error: Exception) -> str:
    """What an error says, in one line of at most 300 letters; its kind where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an error says, at most 200 letters; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def not_installed(package: object, extra: str) -> ConfigError:
    """The error about a package that only an extra of tsic brings."""
    return ConfigError(
        f"{package} is not installed; in tsic's repository run "
        f"{sys.executable} -m pip install -e '.[{extra}]'"
    )


def nearest(name: str, choices: Iterable[str]) -> str:
    """Finish an error message about a wrong name with the nearest right one and all choices.

    Args:
        name: What the user wrote.
        choices: What may be written.

    Returns:
        ``"did you mean 'x'? choices: a, b, x"``, without the question when nothing is near;
        ``"there is none"`` without choices.

    Example:
        >>> nearest("camvit", ["camvid", "folder"])
        "did you mean 'camvid'? choices: camvid, folder"
    """
    choices = sorted(set(choices))
    if not choices:
        return "there is none"
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    question = f"did you mean '{close[0]}'? " if close else ""
    return f"{question}choices: {', '.join(choices)}"


def no_split(
    where: Path, split: str, found: Collection[str], *, of: str = "", expected: str = ""
) -> SplitError:
    """The error about a split that is not there.

    Args:
        where: The dataset's folder or file.
        split: What the user wrote.
        found: Splits that are there.
        of: Name of the dataset's kind.
        expected: What would make it a dataset, where there is no split at all.
    """
    way_out = nearest(split, found) if found or not expected else expected
    return SplitError(f"{where}: no {f'{of} split'.strip()} '{split}'; {way_out}")
