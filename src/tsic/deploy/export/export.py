"""Write a student for other engines, each file proven before it is kept."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from tsic.checkpoint import TrainedStudent
from tsic.deploy.export.engines import open_exported
from tsic.deploy.export.exported import parts_of
from tsic.deploy.export.graph import DeployGraph, Layout, describe
from tsic.deploy.export.proof import Agreement, CalibrationBatches, Images, compare
from tsic.deploy.export.writers import (
    SUFFIXES,
    Format,
    capture,
    is_of_the_machine,
    require_format,
    write,
)
from tsic.errors import CheckpointError, ConfigError, DataError, first_line, nearest
from tsic.files import write_json
from tsic.progress import OnProgress

INT8_FORMATS = frozenset({"onnx", "openvino"})
"""Formats that are quantised, too."""


@dataclass(frozen=True)
class Limits:
    """How far an exported file may differ from eager PyTorch.

    Args:
        tolerance: Largest difference of scores in float32, as a share of the largest score.
        agreement: Smallest share of pixels with equal labels in float32.
        max_drop: Points of mean IoU that int8 may lose; of label agreement without labels.
    """

    tolerance: float = 1e-3
    agreement: float = 0.999
    max_drop: float = 1.0


@dataclass(frozen=True)
class Exported:
    """A file that was written and proven.

    Args:
        path: The file; ``export.json`` lies beside it.
        agreement: How far it agrees with eager PyTorch.
        facts: What ``export.json`` says.
    """

    path: Path
    agreement: Agreement
    facts: dict[str, Any]


def export(
    trained: TrainedStudent,
    folder: str | Path,
    formats: Sequence[Format] | Format,
    layout: Layout,
    images: Images,
    *,
    calibration: Images | None = None,
    limits: Limits | None = None,
    on_progress: OnProgress | None = None,
) -> list[Exported]:
    """Export a student; every file is loaded again and compared with it before it is kept.

    Each format has a folder of its own, named like it, with ``export.json`` beside the file; int8
    files lie in ``onnx-int8`` and ``openvino-int8``.

    Args:
        trained: The student, on the CPU, in evaluation mode.
        folder: Where the formats' folders are made.
        formats: What to write.
        layout: What the graph takes and gives.
        images: What to compare on.
        calibration: Images to choose int8 ranges on; without them no int8 file is written.
        limits: How far a file may differ.
        on_progress: Called with files done and in all.

    Returns:
        The files, in the order of the formats, int8 after float32.

    Raises:
        ConfigError: If a format is unknown, cannot hold the student or its package is missing, or
            a file differs too much; that file is deleted.
    """
    _refuse_paths(trained, images, calibration)
    formats = [formats] if isinstance(formats, str) else formats
    job = _Job(trained, DeployGraph(trained, layout), images, limits or Limits())
    folder = Path(folder)
    for kind in formats:
        if kind not in SUFFIXES:
            raise ConfigError(f"format '{kind}' is unknown; {nearest(kind, SUFFIXES)}")
    if calibration and not INT8_FORMATS & set(formats):
        raise ConfigError("int8 is for onnx and openvino; add one of them to --format")
    for kind in formats:
        require_format(kind, layout)
    folder.mkdir(parents=True, exist_ok=True)
    program = capture(job.graph, job.name)
    total = sum(2 if calibration and one in INT8_FORMATS else 1 for one in formats)
    done: list[Exported] = []
    for kind in formats:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as place:
            written = Path(place) / f"student{SUFFIXES[kind]}"
            text = describe(trained, job.graph)
            write(program, kind, layout, text, written, job.name)
            fp32 = _prove(job, kind, written)
            kept = _keep(fp32, folder / kind)
            done.append(kept)
            if on_progress:
                on_progress(len(done), total)
            if calibration and kind in INT8_FORMATS:
                int8 = _quantise(job, kind, kept, written.parent, calibration)
                done.append(_keep(int8, folder / f"{kind}-int8"))
                if on_progress:
                    on_progress(len(done), total)
    return done


def _refuse_paths(trained: object, *images: object) -> None:
    """What the command line takes as a path is opened first in Python."""
    ways = ((trained, "tsic.load_student"), *((one, "images_in") for one in images))
    for given, way in ways:
        if isinstance(given, str | PathLike):
            raise ConfigError(f"'{given}' is a path; open it with {way}")


@dataclass(frozen=True)
class _Job:
    """What is exported, and what every file of it must stand."""

    trained: TrainedStudent
    graph: DeployGraph
    images: Images
    limits: Limits

    @property
    def name(self) -> str:
        """The student's name, for messages."""
        return self.trained.student.spec.name


def _compare(job: _Job, kind: str, path: Path) -> Agreement:
    """Compare a file with the student, or say that it cannot even be run."""
    try:
        return compare(job.trained, open_exported(path), job.images)
    except Exception as error:  # each engine raises kinds of its own
        if isinstance(error, DataError) or is_of_the_machine(error):  # DataError: an image
            raise
        cause = error.__cause__ if isinstance(error, CheckpointError) else None
        reason = first_line(cause or error)  # our own sentence would name a passing file
        raise ConfigError(
            f"student '{job.name}' as {kind} does not run on {job.images.source} ({reason}); "
            f"{_way_out(job)}"
        ) from error


def _way_out(job: _Job) -> str:
    """What to choose where a format does not hold the student."""
    if job.graph.layout.size is None:
        return "fix the size with --size H W, or choose another format"
    return "choose another format or another student"


def _prove(job: _Job, kind: str, path: Path) -> Exported:
    """Compare a float32 file with the student."""
    found = _compare(job, kind, path)
    limits = job.limits
    if not found.within(limits.tolerance, limits.agreement):
        raise ConfigError(
            f"{kind} differs from PyTorch on {job.images.source} by more than --tolerance "
            f"{limits.tolerance:g} of the largest score or on more than "
            f"{100 * (1 - limits.agreement):.2g}% of the labels: {found}; the file is deleted, "
            f"{_way_out(job)}"
        )
    return Exported(path, found, _facts(job, kind, "fp32", found))


def _quantise(job: _Job, kind: str, fp32: Exported, place: Path, calibration: Images) -> Exported:
    """Write int8 from a float32 file, and compare it with the student."""
    source = fp32.path
    from tsic.deploy.export.int8 import quantise

    target = place / f"student.int8{source.suffix}"

    def score(candidate: Path) -> float:
        found = fp32.agreement if candidate == source else _compare(job, kind, candidate)
        return 100 * found.label_agreement if found.miou_exported is None else found.miou_exported

    batches = CalibrationBatches(open_exported(source), calibration)
    left = quantise(source, target, batches, score=score, max_drop=job.limits.max_drop)
    found = _compare(job, kind, target)
    if not found.drop <= job.limits.max_drop:
        raise ConfigError(
            f"{kind} in int8 loses {found.drop:.2f} points on {job.images.source}, more than "
            f"--max-drop {job.limits.max_drop:g}: {found}; the file is deleted, give more "
            "calibration images or a larger --max-drop"
        )
    facts = _facts(job, kind, "int8", found)
    facts |= {"calibration": calibration.source, "left_in_float": left}
    return Exported(target, found, facts)


def _facts(job: _Job, kind: str, precision: str, found: Agreement) -> dict[str, Any]:
    """What ``export.json`` says."""
    return {
        "format": kind,
        "precision": precision,
        **found.to_dict(),
        "images": job.images.source,
        "images_compared": job.images.count,
        "weights_sha256": job.trained.facts.get("weights_sha256"),
    }


def _keep(made: Exported, folder: Path) -> Exported:
    """Move a proven file into its folder, with ``export.json`` beside it."""
    folder.mkdir(exist_ok=True)
    facts = folder / "export.json"
    facts.unlink(missing_ok=True)  # it would speak of another file in between
    for file in parts_of(made.path):
        file.replace(folder / file.name)
    write_json(facts, made.facts)
    return replace(made, path=folder / made.path.name)
