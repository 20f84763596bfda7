"""Files that are written whole or not at all, and what of their names others may read."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from tsic.errors import ConfigError, DataError


@contextmanager
def alone_in(
    folder: Path, does: str, seconds: float = 0.0, *, other: str = "--name"
) -> Iterator[None]:
    """Keep other processes that ask for this out of a folder, which is made if it is not there.

    Args:
        folder: Where to work.
        does: What another one would be doing there, in a message.
        seconds: How long to wait for it.
        other: What to choose another of, in the message.

    Raises:
        ConfigError: If another process is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=seconds)
    except Timeout as error:
        raise ConfigError(
            f"another process {does} in '{folder}'; wait for it, or choose another {other}"
        ) from error
    try:
        yield
    finally:
        lock.release()


_KEPT = 60
"""Letters of a file's name in the name of what is written in its place."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside the file to write to; it takes the file's place when all went well.

    Each caller has a path of its own: several processes may write one file, and the last counts. A
    link stays one, and what is no file (a pipe, a terminal) is written to itself.

    Args:
        path: The file; its folder exists.

    Yields:
        Where to write.

    Raises:
        OSError: As it comes, with the file's own name.
    """
    is_special = path.parts[:2] in (("/", "dev"), ("/", "proc")) or (
        path.exists() and not path.is_file()
    )
    target = path if is_special else path.resolve()
    # A name may have 255 bytes, and a letter up to 4: the part's is none too long.
    part_name = f"{target.name[:_KEPT]}.{uuid4().hex[:8]}.part"
    part = target if is_special else target.with_name(part_name)
    try:
        yield part
        if not is_special:
            part.replace(target)
    except OSError as error:
        is_ours = error.filename is None or str(part) in (error.filename, error.filename2)
        if error.errno is not None and is_ours:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        if not is_special:
            part.unlink(missing_ok=True)


def public_name(name: str) -> str:
    """A network's name, or its file's, without folders of somebody's machine."""
    return Path(name).name if Path(name).is_absolute() or name.startswith(".") else name


def at_home(path: str) -> str:
    """A path that starts with ``~/`` in the user's folder; any other text as it is."""
    return os.path.expanduser(path) if path.startswith("~/") else path  # noqa: PTH111


def read_text(path: Path, what: str = "file") -> str:
    """Read a user's text file, UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        what: What to call it in a message.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise DataError(f"{path}: {what} cannot be read: {reason}") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as JSON, whole or not at all; what is no number, null."""
    write_text(path, json.dumps(_known(values), indent=1, allow_nan=False))


def _known(values: Any) -> Any:
    """The same values, ``None`` for NaN and infinities, which JSON does not have."""
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {key: _known(one) for key, one in values.items()}
    return [_known(one) for one in values] if isinstance(values, list | tuple) else values


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
