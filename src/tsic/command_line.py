"""What the verbs share: a parser whose mistakes read like ours, and a place for what they write."""

import argparse
import os
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from tsic.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are ours: one sentence, nearest right option."""

    @property
    def options(self) -> list[str]:
        """Long names of its options, without dashes."""
        return [name[2:] for name in self._option_string_actions if name.startswith("--")]

    @override
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def add_allow_code(parser: argparse.ArgumentParser) -> None:
    """Let the user trust a class that a student names by import path."""
    parser.add_argument(
        "--allow-code",
        action="store_true",
        help="build the class that the student names by import path, which runs its code",
    )


def require_least(options: argparse.Namespace, least: int, *names: str) -> None:
    """Refuse options of those names that are given and smaller.

    Raises:
        ConfigError: Naming the first.
    """
    for name in names:
        value = getattr(options, name.replace("-", "_"))
        if value is not None and value < least:
            raise ConfigError(f"--{name} must be at least {least}, got {value}")


def make_room(file: Path) -> None:
    """Make a file's folder before the work starts.

    Raises:
        ConfigError: If it cannot be written there.
    """
    if file.is_dir():
        raise ConfigError(f"'{file}' is a folder; name a file to write")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(file.parent, os.W_OK) else "no permission"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise ConfigError(f"'{file}' cannot be written ({reason}); choose another place")


def name_of(options: argparse.Namespace, otherwise: str = "") -> str:
    """What ``--name`` says, else the stem of ``--config``, else another.

    Raises:
        ConfigError: If it would lead out of the folder that ``--out`` names.
    """
    name: str = options.name or (options.config.stem if options.config else otherwise)
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(f"--name '{name}' must be a name; --out takes the folder it lies in")
    return name
