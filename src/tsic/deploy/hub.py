"""Students by name: ``zoo:name`` ships with the package, ``hf:owner/name`` is on the hub."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tsic.errors import CheckpointError, ConfigError, first_line, nearest
from tsic.files import replacing, write_text

PREFIX = "hf:"

ZOO_PREFIX = "zoo:"

ZOO = Path(__file__).parents[1] / "zoo"
"""Folder of what ships with the package."""

STUDENT_FILES = ("student.safetensors", "student.json")
"""What is fetched: never anything else of a repository."""

CARD_FILE = "README.md"
CARD_MARK = "library_name: tsic"
"""What tells a student's card from any other README."""


@dataclass(frozen=True)
class HubAddress:
    """A model repository of the hub.

    Args:
        repo: Owner and name, ``owner/name``.
        revision: Branch, tag or commit; ``None`` for the newest of its main branch.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_hub(path: str | Path) -> bool:
    """Whether a path is a name on the hub."""
    return str(path).startswith(PREFIX)


def is_name(path: str | Path) -> bool:
    """Whether a path is a name, in the zoo or on the hub, instead of a place on this machine."""
    return is_hub(path) or str(path).startswith(ZOO_PREFIX)


def parse_address(text: str | Path) -> HubAddress:
    """Read ``hf:owner/name`` or ``hf:owner/name@revision``.

    Raises:
        ConfigError: If it is neither.

    Example:
        >>> parse_address("hf:owner/name@v1")
        HubAddress(repo='owner/name', revision='v1')
    """
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", str(text))
    if not match or ".." in match[0]:
        raise ConfigError(
            f"'{text}' is no name on the hub; write hf:owner/name or hf:owner/name@v1"
        )
    return HubAddress(match[1], match[2])


def zoo_names() -> list[str]:
    """Names of the students that ship with the package."""
    return sorted(file.parent.name for file in ZOO.glob(f"*/{STUDENT_FILES[1]}"))


def fetch_student(text: str | Path) -> Path:
    """Find a student's two files by name: in the package, in the hub's cache or on the hub.

    Args:
        text: ``zoo:name``, ``hf:owner/name`` or ``hf:owner/name@revision``.

    Returns:
        The folder in which they lie.

    Raises:
        ConfigError: If it is no name on the hub, or none in the zoo.
        CheckpointError: If there is no such repository, or it cannot be reached.
    """
    if str(text).startswith(ZOO_PREFIX):
        name = str(text).removeprefix(ZOO_PREFIX)
        students = zoo_names()
        if name not in students:
            raise ConfigError(
                f"'{text}': the zoo has no student '{name}'; {nearest(name, students)}"
            )
        return ZOO / name
    address = parse_address(text)
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            address.repo, revision=address.revision, allow_patterns=list(STUDENT_FILES)
        )
    except Exception as error:
        raise _told(error, f"'{address}' cannot be fetched") from error
    missing = [name for name in STUDENT_FILES if not (Path(folder) / name).is_file()]
    if missing:
        raise CheckpointError(
            f"'{address}' holds no {missing[0]}; give a repository that `tsic push` wrote"
        )
    return Path(folder)


def write_folder(
    folder: Path,
    *,
    weights: Path,
    facts: str,
    card: str,
    exported: Mapping[str, Path],
) -> None:
    """Lay a student's files out as a repository of the hub holds them.

    Args:
        folder: Where to; files of the same names are replaced, each whole or not at all.
        weights: The safetensors file to copy.
        facts: Text of ``student.json``.
        card: Text of ``README.md``.
        exported: Exported files to copy, by their paths in the folder.

    Raises:
        ConfigError: If the folder holds a README.md that is no student's.
    """
    readme = folder / CARD_FILE
    if readme.is_file() and CARD_MARK not in readme.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"'{readme}' is not a student's card; push to another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in {STUDENT_FILES[0]: weights, **exported}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as part:
            shutil.copyfile(file, part)
    write_text(folder / STUDENT_FILES[1], facts)
    write_text(readme, card)


def send_folder(folder: Path, text: str | Path, *, private: bool = False) -> str:
    """Put a folder's files into a repository of the hub, which is made if need be.

    Args:
        folder: Its files are added, or replace those of the same name; what ``exported/`` held
            before is removed, but from the repository's history.
        text: ``hf:owner/name``.
        private: Whether a new repository is seen by its owner alone.

    Returns:
        The commit's address.

    Raises:
        ConfigError: If it is no name on the hub, or names a revision.
        CheckpointError: If the hub refuses or cannot be reached.
    """
    address = parse_address(text)
    if address.revision:
        raise ConfigError(f"'{address}' names a revision; push to hf:{address.repo}")
    import huggingface_hub

    try:
        huggingface_hub.create_repo(address.repo, private=private or None, exist_ok=True)
        commit = huggingface_hub.upload_folder(
            repo_id=address.repo,
            folder_path=folder,
            commit_message="Student of tsic",
            delete_patterns="exported/*",
        )
    except Exception as error:
        raise _told(error, f"nothing was pushed to '{address}'") from error
    return str(commit.commit_url)


def _told(error: Exception, what: str) -> CheckpointError:
    """Say in one sentence what the hub answered."""
    from huggingface_hub import errors

    offline = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError)
    ways_out: dict[type[Exception] | tuple[type[Exception], ...], str] = {
        offline: "the hub is out of reach and its cache does not hold all of it; connect, or "
        "unset HF_HUB_OFFLINE",
        errors.RevisionNotFoundError: "there is no such revision; take one of the repository's "
        "branches, tags or commits",
        errors.GatedRepoError: "its owner has to grant access; ask on its page, then log in with "
        "`hf auth login`",
        errors.RepositoryNotFoundError: "there is no such repository that you may use; check the "
        "name, or log in with `hf auth login`",
    }
    for kinds, way_out in ways_out.items():
        if isinstance(error, kinds):
            return CheckpointError(f"{what}: {way_out}")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
        return CheckpointError(f"{what}: the hub does not let you; log in with `hf auth login`")
    return CheckpointError(
        f"{what} ({first_line(error)}); check the name, the login and the connection"
    )
