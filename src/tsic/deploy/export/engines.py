"""Exported files as models: ONNX Runtime, OpenVINO, torch.export, ExecuTorch and LiteRT."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal
from zipfile import is_zipfile

import torch

from tsic.deploy.export.exported import Array, ExportedModel, import_engine, parts_of
from tsic.deploy.export.mobile import ExecuTorchModel, LiteRtModel
from tsic.errors import CheckpointError, ConfigError, TsicError, nearest, one_line

Precision = Literal["f32", "bf16"]
"""What OpenVINO computes floats in."""


class OnnxModel(ExportedModel):
    """An ONNX file in ONNX Runtime.

    Args:
        path: The file.
        threads: Threads of one operator; by default one per core.
    """

    engine = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        runtime = import_engine("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, too
        if threads:
            options.intra_op_num_threads = threads
        self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        super().__init__(path, self._session.get_modelmeta().custom_metadata_map.get("tsic"))
        self._input = self._session.get_inputs()[0].name

    def run(self, array: Array) -> Array:
        """Run the graph on its own input."""
        return self._session.run(None, {self._input: array})[0]


class OpenVinoModel(ExportedModel):
    """An OpenVINO file.

    Args:
        path: The ``.xml``; the ``.bin`` lies beside it.
        threads: Threads; by default OpenVINO's choice.
        precision: What floats are computed in.
    """

    engine = "openvino"

    def __init__(
        self, path: Path, threads: int | None = None, precision: Precision = "f32"
    ) -> None:
        core = _core(import_engine("openvino", "openvino"))
        model = core.read_model(path)
        text = str(model.get_rt_info("tsic").value) if model.has_rt_info("tsic") else None
        super().__init__(path, text)
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        self._request = core.compile_model(model, "CPU", config).create_infer_request()

    def run(self, array: Array) -> Array:
        """Run the graph on its own input."""
        self._request.infer({0: array}, share_inputs=True)
        answer: Array = self._request.get_output_tensor(0).data
        return answer.copy()  # the engine writes its next answer to the same place


@cache
def _core(openvino: Any) -> Any:
    """OpenVINO's core, one for as long as the process runs.

    Each gives the thread a stack for signals, and puts the stack before it back when it goes. That
    one is gone by then unless the last goes first, and the next signal would end the process.
    """
    return openvino.Core()


class TorchModel(ExportedModel):
    """A torch.export file in eager PyTorch.

    Args:
        path: The file.
        threads: Threads of all of PyTorch in this process; by default as they are.
    """

    engine = "torch"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        if not is_zipfile(path):  # of which PyTorch would print a traceback itself
            raise ValueError("no whole archive")
        found = {"tsic.json": ""}
        program = torch.export.load(path, extra_files=found)
        super().__init__(path, found["tsic.json"] or None)
        if threads:
            torch.set_num_threads(threads)
        # One of its guards refuses a map of a single cell, on which it is right, too.
        self._module = program.module(check_guards=False)

    def run(self, array: Array) -> Array:
        """Run the graph on its own input."""
        with torch.inference_mode():
            answer: Array = self._module(torch.from_numpy(array)).numpy()
        return answer


def open_exported(
    path: Path, *, threads: int | None = None, precision: Precision = "f32"
) -> ExportedModel:
    """Open an exported file in the engine that its ending names.

    Args:
        path: ``.onnx``, ``.xml`` (OpenVINO), ``.pt2`` (torch.export), ``.pte`` (ExecuTorch) or
            ``.tflite`` (LiteRT).
        threads: Threads of the engine; by default its own choice.
        precision: What OpenVINO computes floats in.

    Returns:
        The model on the CPU.

    Raises:
        CheckpointError: If the file is missing, damaged, or not written by `tsic export`.
        ConfigError: If the ending is unknown or its engine is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in ENGINES:
        raise ConfigError(f"'{path}' is no exported file; {nearest(suffix, ENGINES)}")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    missing = [file.name for file in reversed(parts_of(path)) if not file.is_file()]
    if missing:
        raise CheckpointError(f"no exported file at '{path}': {missing[0]} is missing")
    try:
        if suffix == ".xml":
            return OpenVinoModel(path, threads, precision)
        return ENGINES[suffix](path, threads)
    except TsicError:
        raise
    except Exception as error:  # each engine raises kinds of its own on damaged files
        raise CheckpointError(
            f"'{path}' cannot be read ({one_line(error)}); export the student again"
        ) from error


ENGINES: Mapping[str, Callable[[Path, int | None], ExportedModel]] = {
    ".onnx": OnnxModel,
    ".xml": OpenVinoModel,
    ".pt2": TorchModel,
    ".pte": ExecuTorchModel,
    ".tflite": LiteRtModel,
}
"""Engine of each ending."""
