"""Which images and videos a user's words name, and what each is called among the results."""

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tsic.data.images import SUFFIXES, image_names
from tsic.errors import ConfigError

VIDEO_SUFFIXES = frozenset(
    {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
)
"""File name endings, in lower case, that count as videos."""

_OURS = SUFFIXES | VIDEO_SUFFIXES

STDIN = "-"
"""The word for a list of paths on standard input."""


@dataclass(frozen=True)
class Input:
    """One image or video.

    Args:
        source: The file.
        name: Its path below the folder that was given, with its ending.
    """

    source: Path
    name: Path

    @property
    def is_video(self) -> bool:
        """Whether its ending is a video's; everything else is taken for an image."""
        return self.source.suffix.lower() in VIDEO_SUFFIXES


_LONGEST_PATH = 4096
_NO_TEXT = re.compile(rb"[\x01-\x08\x0e-\x1f]")  # control characters, of which images are full

Based = tuple[Path, Path]
"""A file, and the folder that its name is relative to."""


def find_inputs(words: Sequence[str], out: Path, listed: bytes = b"") -> list[Input]:
    """Find what the words name, in their order; each file once under a name.

    Of a folder, of a pattern from its first wildcard on, and of a list below the folder that all
    its paths share, the structure is kept. A file that is a word of its own keeps its name; if two
    such files have one, all keep their structure as those of a list do.

    Args:
        words: Files, folders, patterns with ``*``, ``?``, ``[...]`` or ``**``, and `STDIN`.
        out: Folder of the results; what lies in it is no input of a folder around it.
        listed: Paths from standard input, one a line or each ended by a zero byte.

    Returns:
        Images and videos.

    Raises:
        ConfigError: If a word names nothing.
    """
    files = [Path(word) for word in words if word != STDIN and _is_file(Path(word))]
    are_unique = len({file.stem for file in files}) == len({_absolute(file) for file in files})
    found: list[Based] = []
    for word in words:
        if word == STDIN:
            found += _listed(_split(listed), out)
        elif _is_file(Path(word)):  # also where its name looks like a pattern
            found.append((Path(word), Path(word).parent if are_unique else _shared(files)))
        else:
            found += _named(word, out)
    inputs = {}
    for path, base in found:
        name = _absolute(path).relative_to(_absolute(base))
        inputs[name, os.path.realpath(path)] = Input(path, name)
    return list(inputs.values())


def _is_file(path: Path) -> bool:
    return path.exists() and not path.is_dir()


def _absolute(path: Path) -> Path:
    """Without `..`, and with links as they are named."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute leaves `..` in


def _split(listed: bytes) -> list[Path]:
    """Paths of a list; `find -print0` ends them with zero bytes."""
    parts = listed.split(b"\0") if b"\0" in listed else listed.splitlines()
    paths = [Path(os.fsdecode(part)) for part in parts if part.strip()]
    if any(len(part) > _LONGEST_PATH for part in parts) or _NO_TEXT.search(listed):
        raise ConfigError(
            "standard input holds no list of paths, one a line; give an image by its file's name"
        )
    if not paths:
        raise ConfigError("the list on standard input is empty; write one path a line")
    return paths


def _listed(paths: Sequence[Path], out: Path) -> list[Based]:
    """What a list names; a file that is not there is found out when it is read."""
    shared = _shared([path for path in paths if not path.is_dir()])
    found: list[Based] = []
    for path in paths:
        found += _below(path, out) if path.is_dir() else [(path, shared)]
    return found


def _shared(files: Sequence[Path]) -> Path:
    """The innermost folder around all files."""
    folders = [_absolute(file).parent for file in files]
    return Path(os.path.commonpath(folders)) if folders else Path()


def _named(word: str, out: Path) -> list[Based]:
    """Files of a word that is a folder or a pattern."""
    if Path(word).is_dir():
        return _below(Path(word), out)
    if _is_pattern(word):
        return _matches(word, out)
    raise ConfigError(
        f"'{word}' does not exist; name an image, a video, a folder, a pattern, or '{STDIN}' for "
        "a list on standard input"
    )


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _below(folder: Path, out: Path) -> list[Based]:
    """Images and videos in a folder at any depth."""
    if os.path.realpath(folder) == os.path.realpath(out):
        raise ConfigError(f"'{folder}' is both an input and --out; write to another folder")
    files = _walk(folder, os.path.realpath(out))
    if not files:
        raise ConfigError(f"'{folder}' holds no image and no video; {_endings()}")
    return [(file, folder) for file in files]


def _matches(pattern: str, out: Path) -> list[Based]:
    """Images and videos that a pattern matches, and those in folders that it matches."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if _is_pattern(part))
    fixed = Path(*parts[:first])
    results = os.path.realpath(out)
    found: dict[Path, None] = {}
    for match in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207 - skips hidden
        if match.is_dir():
            found.update(dict.fromkeys(_walk(match, results)))
        elif _has_our_ending(match.name) and not _holds(results, match, fixed):
            found[match] = None
    if not found:
        raise ConfigError(f"'{pattern}' matches no image and no video; {_endings()}")
    return [(file, fixed) for file in found]


def _holds(results: str, match: Path, fixed: Path) -> bool:
    """Whether a match is a result, in a folder that is not itself what was asked for."""
    inside = Path(os.path.realpath(match)).is_relative_to(results)
    return inside and not Path(os.path.realpath(fixed)).is_relative_to(results)


def _walk(folder: Path, results: str) -> list[Path]:
    """Images and videos at any depth, in order, but for results."""
    names = image_names(folder, _OURS, left_out=[results], error=ConfigError)
    return sorted(folder / name for name in names)


def _has_our_ending(name: str) -> bool:
    return name.lower().endswith(tuple(_OURS))


def _endings() -> str:
    return f"their names end in {', '.join(sorted(_OURS))}"
