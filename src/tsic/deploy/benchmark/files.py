"""The exported files that a benchmark measures, in a folder that it throws away."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch

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
    exporter = _Exporter(trained, layout, calibration)
    files: Files = {}
    for done, (engine, precision) in enumerate(candidates):
        source, target = (
            folder / f"{name}{SUFFIXES[_FORMATS[engine]]}" for name in ("fp32", precision)
        )
        try:
            if not source.exists():
                exporter.write_float(engine, source)
            if precision == "int8":
                exporter.write_int8(engine, source, target)
            files[engine, precision] = str(target if precision == "int8" else source)
        except Exception as error:  # a converter may raise anything; the other engines go on
            files[engine, precision] = failure_of(error)
        on_progress(done + 1, len(candidates))
    return files


class _Exporter:
    """One student, traced once."""

    def __init__(self, trained: TrainedStudent, layout: Layout, calibration: Images) -> None:
        self.trained = trained
        self.graph = DeployGraph(trained, layout)
        self.calibration = calibration

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The traced student."""
        return capture(self.graph, self.trained.student.spec.name)

    def write_float(self, engine: str, path: Path) -> None:
        """Write float32, which OpenVINO computes in bfloat16, too."""
        text = describe(self.trained, self.graph, "fp32")
        name = self.trained.student.spec.name
        write(self.program, _FORMATS[engine], self.graph.layout, text, path, name)

    def write_int8(self, engine: str, source: Path, target: Path) -> None:
        """Quantise every layer that the engine can."""
        from tsic.deploy.export.int8 import quantise

        batches = CalibrationBatches(open_exported(source), self.calibration)
        quantise(source, target, batches)
