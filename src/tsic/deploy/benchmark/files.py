"""The exported files that a benchmark measures, in a folder that it throws away."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tsic.checkpoint import TrainedStudent
from tsic.deploy.benchmark.worker import Failure, failure_of
from tsic.deploy.export.engines import open_exported
from tsic.deploy.export.graph import DeployGraph, Layout, describe
from tsic.deploy.export.proof import CalibrationBatches, Images
from tsic.deploy.export.writers import SUFFIXES, Format, capture, write
from tsic.progress import OnProgress

Candidate = tuple[str, str]
"""Engine and precision."""

Files = dict[Candidate, str | Failure]
"""Path of each candidate's file, or why there is none."""

_FORMATS: dict[str, Format] = {"onnxruntime": "onnx", "openvino": "openvino"}


def export_files(
    trained: TrainedStudent,
    layout: Layout,
    candidates: Sequence[Candidate],
    folder: Path,
    calibration: Images,
    on_progress: OnProgress,
) -> Files:
    """Export a student for each engine, and quantise it, without proving what was written.

    Only speed is measured on these files; what ships comes from `tsic export`, which proves it.

    Args:
        trained: The student, on the CPU.
        layout: Size and batch.
        candidates: ``onnxruntime`` and ``openvino``, with precision.
        folder: Where the files are written.
        calibration: Images that int8 is calibrated on.
        on_progress: Told after each file.

    Returns:
        A path or a `Failure` for each candidate.
    """
    name, graph = trained.student.spec.name, DeployGraph(trained, layout)
    program = cache(lambda: capture(graph, name))  # which all engines share
    files: Files = {}
    for done, (engine, precision) in enumerate(candidates):
        kind = _FORMATS[engine]
        source, target = (folder / f"{stem}{SUFFIXES[kind]}" for stem in ("fp32", precision))
        try:
            if not source.exists():
                write(program(), kind, layout, describe(trained, graph), source, name)
            if precision == "int8":
                from tsic.deploy.export.int8 import quantise

                quantise(source, target, CalibrationBatches(open_exported(source), calibration))
            files[engine, precision] = str(target if precision == "int8" else source)
        except Exception as error:  # a converter may raise anything; the other engines go on
            files[engine, precision] = failure_of(error)
        on_progress(done + 1, len(candidates))
    return files
