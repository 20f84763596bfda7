"""What a student or an exported file is, as plain values and as text."""

import json
from pathlib import Path
from typing import Any

from tsic.checkpoint import find_student, load_student, read_weights
from tsic.deploy.card import (
    UNKNOWN,
    architecture,
    by,
    hex_colour,
    mapping,
    measured,
    percent,
    read_run,
)
from tsic.deploy.model import is_exported
from tsic.errors import ConfigError
from tsic.grid import Size
from tsic.model_file import read_facts

Json = dict[str, Any]


def describe(path: str, *, size: Size | None = None, allow_code: bool = False) -> Json:
    """Tell what a student or an exported file is.

    A student's network is built only to count its parameters, where an older file does not say
    them, or its multiply-adds.

    Args:
        path: Folder, file, ``zoo:name``, ``hf:owner/name``, or an exported file.
        size: Height and width in pixels at which to count multiply-adds.
        allow_code: As of `load_student`.

    Returns:
        What its ``student.json`` or its metadata say, with ``path``, ``kind`` and ``file_bytes``.

    Raises:
        CheckpointError: If it is damaged, or no such file.
        ConfigError: If multiply-adds of an exported file are asked for, or its engine is missing.
    """
    if is_exported(path):
        if size:
            raise ConfigError(f"'{path}' is an exported file; give --size with its student")
        return _describe_exported(Path(path))
    return _describe_student(path, size, allow_code=allow_code)


def _describe_exported(path: Path) -> Json:
    """Open the file in its engine, which tells whether it is whole."""
    from tsic.deploy.export.engines import open_exported
    from tsic.deploy.export.exported import parts_of

    model = open_exported(path)
    count = sum(file.stat().st_size for file in parts_of(path))
    return {"path": str(path), "kind": model.engine, "file_bytes": count, **model.metadata}


def _describe_student(path: str, size: Size | None, *, allow_code: bool) -> Json:
    files = find_student(path)
    facts = read_facts(files.facts)
    evaluation, _ = read_run(files.facts.parent)
    described = facts.to_dict()
    if size or facts.parameters is None:
        student = load_student(path, allow_code=allow_code)
        described = student.facts
        if size:
            from tsic.deploy.benchmark.turns import multiply_adds

            described |= {"multiply_adds": {"size": size, "count": multiply_adds(student, size)}}
    else:
        read_weights(files, facts)
    return {
        "path": str(path),
        "kind": "student",
        "file_bytes": files.weights.stat().st_size,
        **described,
        "scores": dict(measured(described, evaluation)),
    }


def to_text(described: Json) -> str:
    """Lay out what `describe` found, one fact a line, then the classes with their IoU.

    Args:
        described: As `describe` returns it.
    """
    rows = _student_rows(described) if described["kind"] == "student" else _rows(described)
    width = max(len(key) for key in rows)
    lines = [f"{key:<{width}}  {value}" for key, value in rows.items()]
    names, palette = _classes(described)
    ious = mapping(described.get("scores")).get("per_class_iou") or {}
    name_width = max(5, *(len(name) for name in names))
    lines += ["", f" id  {'class':<{name_width}}  colour   {'IoU %' if ious else ''}".rstrip()]
    for i, (name, colour) in enumerate(zip(names, palette, strict=True)):
        iou = f"{percent(ious.get(name), '-'):>5}" if ious else ""
        lines.append(f"{i:>3}  {name:<{name_width}}  {hex_colour(colour)}  {iou}".rstrip())
    return "\n".join(lines)


def _student_rows(described: Json) -> Json:
    training, scores = mapping(described.get("training")), mapping(described["scores"])
    resize = described.get("resize")
    count = described.get("multiply_adds")
    rows = {
        "student": described["path"],
        "network": architecture(described["spec"]),
        "options": json.dumps(described["spec"]["options"]),
        "parameters": f"{described['parameters']:,}",
        "weights file": f"{described['file_bytes']:,} bytes",
        "SHA-256": described["weights_sha256"],
        "input": "RGB in [0, 1], any size" + (f", resized to {by(resize)} px" if resize else ""),
        "mean, std": f"{_rounded(described['mean'])}, {_rounded(described['std'])}",
        "saved": described["saved_at"] or UNKNOWN,
        "versions": _named(described["versions"]),
        "training": _named(training) or UNKNOWN,
        "split": scores.get("split") or UNKNOWN,
        "mIoU %": percent(scores.get("miou")),
        "pixel accuracy %": percent(scores.get("pixel_accuracy")),
    }
    if count:
        rows["multiply-adds"] = f"{count['count']:,} at {by(count['size'])} px"
    return rows


def _rows(described: Json) -> Json:
    """Facts of an exported file."""
    size, batch, resize = described["size"], described["batch"], described["resize"]
    free = f"multiples of {described['multiple']} px from {described['minimum']} px"
    return {
        described["kind"]: described["path"],
        "network": architecture(described["spec"]),
        "files": f"{described['file_bytes']:,} bytes",
        "precision": described["precision"],
        "input": f"{described['input']}, {batch or 'any number'} at a time, "
        + (f"{by(size)} px" if size else f"sides {free}")
        + (f", resized to {by(resize)} px inside" if resize not in (None, size) else ""),
        "mean, std": f"{_rounded(described['mean'])}, {_rounded(described['std'])}",
        "output": described["output"],
        "version": f"tsic {described['version']}",
        "SHA-256 of the student's weights": described["weights_sha256"],
    }


def _classes(described: Json) -> tuple[list[str], list[list[int]]]:
    if described["kind"] == "student":
        return described["classes"]["names"], described["classes"]["palette"]
    return described["classes"], described["palette"]


def _named(values: Json) -> str:
    """``key value`` of each known one."""
    known = {key: value for key, value in values.items() if value is not None}
    return ", ".join(
        f"{key} {by(value) if isinstance(value, list) else value}" for key, value in known.items()
    )


def _rounded(numbers: list[float]) -> str:
    return " ".join(f"{number:.4g}" for number in numbers)
