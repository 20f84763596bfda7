"""What ``student.json`` holds, checked key by key; `docs/model-file.md` lists every key."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsic.data.classes import ClassTable, is_int
from tsic.errors import CheckpointError, TsicError, one_line
from tsic.json_object import Json, Types, check_type, shown, take, take_object
from tsic.student import StudentSpec

FORMAT = 2
"""The format that is written; all from 1 on are read."""

INPUT: Mapping[str, Any] = {"channels": "RGB", "range": [0, 1]}
"""What every student is fed."""

AGAIN = "copy both files again or train anew"

_NUMBER: Types = (int, float, None)

_SPEC: Mapping[str, Types] = {
    "name": (str,),
    "num_classes": (int,),
    "encoder": (str,),
    "output_stride": (int, None),
    "auxiliary": (bool,),
    "options": (dict,),
}
"""Arguments of `build_student`, all of which are there."""

_MORE: Mapping[str, Mapping[str, Types]] = {
    "training": {
        "data": (str, None),
        "train_split": (str, None),
        "unlabelled_images": (int, None),
        "val_split": (str, None),
        "crop": (list, None),
        "steps": (int, None),
        "seed": (int, None),
        "recipe": (str, None),
        "teacher": (str, None),
        "val_miou": _NUMBER,
    },
    "scores": {
        "split": (str, None),
        "images": (int, None),
        "miou": _NUMBER,
        "pixel_accuracy": _NUMBER,
        "per_class_iou": (dict, None),
    },
}
"""Keys that may be there, and what they hold if they are."""

_OWN_KEYS = frozenset(
    {
        "format",
        "spec",
        "classes",
        "input",
        "mean",
        "std",
        "versions",
        "parameters",
        "weights_sha256",
        "saved_at",
    }
)
"""Keys that a student says itself; all others are facts of whoever saved it."""


@dataclass(frozen=True)
class StudentFacts:
    """What ``student.json`` says.

    Args:
        spec: Arguments of `build_student`.
        classes: Names and colours of the classes.
        mean: Mean of RGB images in [0, 1] that is subtracted first.
        std: Standard deviation by which they are divided then.
        versions: Release of tsic and of torch that saved it.
        parameters: Trained numbers; ``None`` in a file of format 1.
        weights_sha256: Digest of the weights file in hexadecimal; ``None`` likewise.
        saved_at: When it was saved, ISO 8601 in UTC; ``None`` likewise.
        more: All other keys as they stand: ``resize``, ``training``, ``scores`` and the user's own.

    Raises:
        CheckpointError: If ``more`` holds a key that the student says itself.
    """

    spec: StudentSpec
    classes: ClassTable
    mean: tuple[float, ...]
    std: tuple[float, ...]
    versions: Mapping[str, str]
    parameters: int | None = None
    weights_sha256: str | None = None
    saved_at: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in _OWN_KEYS & set(self.more):
            raise CheckpointError(f"'{key}' is said by the student itself; leave it out of facts")

    def to_dict(self) -> Json:
        """Return what JSON can hold, in format 2; `from_dict` reads it back."""
        return {
            "format": FORMAT,
            "spec": self.spec.to_dict(),
            "classes": self.classes.to_dict(),
            "input": dict(INPUT),
            "mean": list(self.mean),
            "std": list(self.std),
            "versions": dict(self.versions),
            "parameters": self.parameters,
            "weights_sha256": self.weights_sha256,
            "saved_at": self.saved_at,
            **self.more,
        }

    @classmethod
    def from_dict(cls, values: object) -> "StudentFacts":
        """Read what `to_dict` wrote, in this or an older format.

        Args:
            values: What the JSON holds.

        Raises:
            CheckpointError: Naming the first key that is missing or wrong.
        """
        if not isinstance(values, dict):
            raise CheckpointError("it must hold one object with named keys")
        _read_format(values)
        facts = cls(
            spec=_read_spec(take_object(values, "spec")),
            classes=_read_classes(take_object(values, "classes")),
            mean=_read_channels(values, "mean"),
            std=_read_channels(values, "std"),
            versions=take_object(values, "versions"),
            parameters=_read_parameters(values),
            weights_sha256=_read_text(values, "weights_sha256", r"[0-9a-f]{64}", "64 hex digits"),
            saved_at=_read_text(values, "saved_at", r"\d{4}-\d\d-\d\d.*", "a date, ISO 8601"),
            more={key: value for key, value in values.items() if key not in _OWN_KEYS},
        )
        if min(facts.std) <= 0:
            raise CheckpointError(f"'std' must be above 0, got {shown(values['std'])}")
        if values.get("input") != INPUT:
            raise CheckpointError(
                f"'input' must be {json.dumps(INPUT)}, got {shown(values.get('input'))}"
            )
        facts._check_classes()
        facts._check_more()
        return facts

    def _check_classes(self) -> None:
        """One score per class."""
        if self.spec.num_classes != self.classes.num_classes:
            raise CheckpointError(
                f"'spec.num_classes' is {self.spec.num_classes}, but 'classes' names "
                f"{self.classes.num_classes}"
            )

    def _check_more(self) -> None:
        """Check the known ones of the keys that need not be there."""
        size = self.more.get("resize")
        if size is not None and not (
            isinstance(size, list) and len(size) == 2 and all(is_int(n) and n > 0 for n in size)
        ):
            raise CheckpointError(
                f"'resize' must be null or height and width in pixels, got {shown(size)}"
            )
        for key, types in _MORE.items():
            inner = self.more.get(key, {})
            check_type(key, inner, (dict,))
            for name in types.keys() & inner.keys():
                check_type(f"{key}.{name}", inner[name], types[name])


def read_facts(path: Path) -> StudentFacts:
    """Read and check a ``student.json``.

    Args:
        path: The file.

    Returns:
        What it says.

    Raises:
        CheckpointError: If it cannot be read, is no JSON, is from a newer format, or a key is
            missing or wrong.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is no JSON ({error}); {AGAIN}") from error
    try:
        return StudentFacts.from_dict(values)
    except _NewerFormatError as error:
        raise CheckpointError(f"'{path}' {error}") from None
    except TsicError as error:
        raise CheckpointError(f"'{path}' is damaged: {error}; {AGAIN}") from error


class _NewerFormatError(CheckpointError):
    """The file is whole, but for a later tsic."""


def _read_format(values: Json) -> None:
    """Refuse what a later release wrote, and what is no format."""
    number = take(values, "format")
    if not is_int(number) or number < 1:
        raise CheckpointError(f"'format' must be a whole number from 1, got {shown(number)}")
    if number > FORMAT:
        raise _NewerFormatError(
            f"has format {number}, newer than this tsic reads ({FORMAT}); upgrade tsic"
        )


def _read_spec(values: Json) -> StudentSpec:
    """Read the arguments of `build_student`, each of its type; no weights are fetched."""
    for key, types in _SPEC.items():
        check_type(f"spec.{key}", take(values, key, "spec."), types)
    return StudentSpec.from_dict({**values, "weights": "none"})


def _read_classes(values: Json) -> ClassTable:
    try:
        return ClassTable.from_dict(values)
    except TsicError as error:
        raise CheckpointError(f"'classes' is no table of classes ({one_line(error)})") from error


def _read_channels(values: Json, key: str) -> tuple[float, ...]:
    """Read one number for each of red, green and blue."""
    numbers = take(values, key)
    if (
        not isinstance(numbers, list)
        or len(numbers) != 3
        or not all(type(n) in (int, float) and math.isfinite(n) for n in numbers)
    ):
        raise CheckpointError(f"'{key}' must be three finite numbers, got {shown(numbers)}")
    return tuple(float(number) for number in numbers)


def _read_parameters(values: Json) -> int | None:
    """Read the number of parameters, which format 1 does not know."""
    if values["format"] == 1:
        return None
    number = take(values, "parameters")
    check_type("parameters", number, (int,))
    return int(number)


def _read_text(values: Json, key: str, pattern: str, what: str) -> str | None:
    """Read a text that format 1 does not know; a moment of saving may be unknown in any."""
    if values["format"] == 1:
        return None
    text = take(values, key)
    if text is None and key == "saved_at":
        return None
    if not isinstance(text, str) or not re.fullmatch(pattern, text):
        raise CheckpointError(f"'{key}' must be {what}, got {shown(text)}")
    return text
