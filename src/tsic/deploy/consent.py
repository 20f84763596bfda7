"""What in a student's description would run code, and whether it may.

The two files hold numbers and text alone. Two kinds of text could still lead to code: the import
path of a class, and settings with which transformers fetches code from the hub.
"""

import importlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from tsic.errors import CheckpointError
from tsic.networks.smp import SMP_NAMES
from tsic.student import StudentSpec

ASK = "read that code, then say --allow-code (in Python allow_code=True)"

_FETCHING_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_generate"})
"""Settings of transformers that name code to be fetched."""


def names_code(spec: StudentSpec) -> bool:
    """Whether a description names a class by its import path."""
    return not _is_built_in(spec.name) and not spec.is_hugging_face and ":" in spec.name


def require_safe(spec: StudentSpec, folder: Path, *, is_local: bool, allow_code: bool) -> None:
    """Refuse a description that leads to code which the user has not chosen to run.

    From the hub, no import path is followed. A local file may name a class of the user's own:
    derived from ``torch.nn.Module`` and importable already, from elsewhere than the student's
    folder. A transformers model must carry its configuration, so that nothing is fetched.

    Args:
        spec: The description that was read.
        folder: Where the two files lie.
        is_local: Whether the user gave the folder, rather than a name on the hub.
        allow_code: Whether the user trusts what an import path names.

    Raises:
        CheckpointError: If it leads to code.
    """
    if _is_built_in(spec.name):
        return
    if spec.is_hugging_face:
        _require_configuration(spec)
    elif names_code(spec) and not allow_code:
        if not is_local:
            raise CheckpointError(
                f"this student from the hub names the class '{spec.name}', whose code would run; "
                f"{ASK}"
            )
        _require_own_class(spec.name, folder)


def _is_built_in(name: str) -> bool:
    return name == "compact" or name in SMP_NAMES


def _require_configuration(spec: StudentSpec) -> None:
    """A transformers model is built from what the file says, without code from elsewhere."""
    if set(spec.options) != {"config"} or not isinstance(spec.options["config"], Mapping):
        raise CheckpointError(
            f"the student is the transformers model '{spec.name}', but 'spec.options' does not "
            "hold its configuration alone; save it again with this tsic"
        )
    for key, value in _settings(spec.options["config"]):
        fetches_kernel = key.endswith("_implementation") and "/" in str(value)
        if key in _FETCHING_KEYS or fetches_kernel:
            raise CheckpointError(
                f"'spec.options.config' holds '{key}', with which transformers fetches code; "
                "take it out"
            )


def _settings(values: object) -> Iterator[tuple[str, object]]:
    """All keys with their values, at any depth."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield str(key), value
            yield from _settings(value)
    elif isinstance(values, list):
        for value in values:
            yield from _settings(value)


def _require_own_class(path: str, folder: Path) -> None:
    """A local file may name the user's own network class, not code that came along with it."""
    module_name, _, class_name = path.partition(":")
    if _lies_in(module_name.partition(".")[0], folder):
        raise CheckpointError(
            f"the student names the class '{path}', whose code lies in its own folder; {ASK}"
        )
    try:
        named = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError:
        return  # building it says what cannot be imported
    if named is not None and not (isinstance(named, type) and issubclass(named, nn.Module)):
        raise CheckpointError(
            f"the student names '{path}', which is no class derived from torch.nn.Module; {ASK}"
        )


def _lies_in(package: str, folder: Path) -> bool:
    """Whether a package or module would be imported from the folder; nothing is imported."""
    try:
        found = find_spec(package)
    except (ImportError, ValueError):
        return False
    if found is None:
        return False
    places = [found.origin, *(found.submodule_search_locations or ())]
    inside = folder.resolve()
    return any(Path(place).resolve().is_relative_to(inside) for place in places if place)
