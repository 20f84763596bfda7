"""Exported files as models: ONNX Runtime, OpenVINO and torch.export, on the CPU."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from tsic.data.classes import ClassTable
from tsic.deploy.graph import read_metadata
from tsic.deploy.model import Gives
from tsic.errors import CheckpointError, ConfigError, ShapeError, TsicError, nearest
from tsic.grid import Size, fit_to_image

Array = NDArray[Any]

Batches = Sequence[Array]
"""Images as a graph's own input, ``(B, 3, H, W)`` each."""

Precision = Literal["auto", "f32", "bf16"]
"""What OpenVINO computes floats in; ``auto`` leaves it to OpenVINO."""


class ExportedModel:
    """An exported file, ready to score: a `tsic.deploy.model.Model`.

    Args:
        path: The file.
        text: Its metadata, JSON.

    Attributes:
        path: The file.
        metadata: What the file says of itself; ``docs/export.md`` lists the keys.

    Raises:
        CheckpointError: If the metadata is missing, damaged or of a newer format.
    """

    device = torch.device("cpu")
    engine = ""

    def __init__(self, path: Path, text: str | None) -> None:
        self.path = path
        self.metadata = read_metadata(path, text)
        self.classes = ClassTable.from_names(
            self.metadata["classes"],
            palette=[(r, g, b) for r, g, b in self.metadata["palette"]],
        )
        size = self.metadata["size"]
        self.gives: Gives = self.metadata["output"]
        self.only_size: Size | None = (size[0], size[1]) if size else None
        self.only_batch: int | None = self.metadata["batch"]

    def run(self, array: Array) -> Array:
        """Run the graph on its own input.

        Args:
            array: ``(B, 3, H, W)``, uint8 or float32 as the metadata's ``input`` says, with sides
                that the graph takes.

        Returns:
            Scores, float32 ``(B, K, h, w)``, or labels, uint8 ``(B, H, W)``.
        """
        raise NotImplementedError

    def prepare(self, images: Tensor) -> Array:
        """Turn images into the graph's input; a free size is padded with the mean colour.

        Args:
            images: RGB, float ``(B, 3, H, W)`` in [0, 1].

        Returns:
            ``(B, 3, H', W')`` as `run` takes it.

        Raises:
            ShapeError: If the graph takes another size or number of images.
        """
        size = (images.shape[2], images.shape[3])
        if self.only_size not in (None, size):
            height, width = self.only_size or size
            raise ShapeError(
                f"'{self.path}' takes images of {height}x{width}, got {size[0]}x{size[1]}; "
                "resize them, or export without --size"
            )
        if self.only_batch not in (None, images.shape[0]):
            raise ShapeError(
                f"'{self.path}' takes {self.only_batch} images at a time, got {images.shape[0]}; "
                "export with --batch free"
            )
        images = self._padded(images.to("cpu", torch.float32))
        kind = self.metadata["input"]
        if kind == "uint8":
            images = (images * 255).round().to(torch.uint8)
        elif kind == "normalised":
            images = (images - self._column("mean")) / self._column("std")
        return images.contiguous().numpy()

    def __call__(self, images: Tensor) -> Tensor:
        """Score RGB images in [0, 1], float ``(B, 3, H, W)``.

        Returns:
            Scores, float32 ``(B, K, h, w)`` on a grid that covers the images, or labels, uint8
            ``(B, H, W)``.
        """
        array = self.prepare(images)
        answer = torch.from_numpy(self.run(array))
        size = (images.shape[2], images.shape[3])
        padded = (array.shape[2], array.shape[3])
        if self.gives == "labels":
            return answer[:, : size[0], : size[1]]
        return fit_to_image(answer, padded, size)

    def _padded(self, images: Tensor) -> Tensor:
        """Pad images at the right and the bottom to sides that the graph takes."""
        if self.only_size:
            return images
        multiple, minimum = self.metadata["multiple"], self.metadata["minimum"]
        height, width = (max(-(-side // multiple) * multiple, minimum) for side in images.shape[2:])
        if (height, width) == tuple(images.shape[2:]):
            return images
        padded = self._column("mean").expand(images.shape[0], 3, height, width).clone()
        padded[:, :, : images.shape[2], : images.shape[3]] = images
        return padded

    def _column(self, key: str) -> Tensor:
        return torch.tensor(self.metadata[key]).view(1, 3, 1, 1)


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
        answer: Array = self._session.run(None, {self._input: array})[0]
        return answer


class OpenVinoModel(ExportedModel):
    """An OpenVINO file.

    Args:
        path: The ``.xml``; the ``.bin`` lies beside it.
        threads: Threads; by default OpenVINO's choice.
        precision: What floats are computed in; ``auto`` is bfloat16 on some CPUs.
    """

    engine = "openvino"

    def __init__(
        self, path: Path, threads: int | None = None, precision: Precision = "f32"
    ) -> None:
        openvino = import_engine("openvino", "openvino")
        core = openvino.Core()
        model = core.read_model(path)
        text = str(model.get_rt_info("tsic").value) if model.has_rt_info("tsic") else None
        super().__init__(path, text)
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        if precision != "auto":
            config["INFERENCE_PRECISION_HINT"] = precision
        self._request = core.compile_model(model, "CPU", config).create_infer_request()

    def run(self, array: Array) -> Array:
        """Run the graph on its own input."""
        self._request.infer({0: array}, share_inputs=True)
        answer: Array = self._request.get_output_tensor(0).data
        return answer.copy()  # the engine writes its next answer to the same place


class TorchModel(ExportedModel):
    """A torch.export file in eager PyTorch.

    Args:
        path: The file.
        threads: Threads of all of PyTorch in this process; by default as they are.
    """

    engine = "torch"

    def __init__(self, path: Path, threads: int | None = None) -> None:
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
        path: ``.onnx``, ``.xml`` (OpenVINO) or ``.pt2`` (torch.export).
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
    needed = [path, path.with_suffix(".bin")] if suffix == ".xml" else [path]
    missing = [file.name for file in needed if not file.is_file()]
    if missing:
        raise CheckpointError(f"no exported file at '{path}': {missing[0]} is missing")
    try:
        if suffix == ".xml":
            return OpenVinoModel(path, threads, precision)
        return ENGINES[suffix](path, threads)
    except TsicError:
        raise
    except Exception as error:  # each engine raises kinds of its own on damaged files
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"'{path}' cannot be read ({reason}); export the student again"
        ) from error


ENGINES: Mapping[str, type[OnnxModel] | type[OpenVinoModel] | type[TorchModel]] = {
    ".onnx": OnnxModel,
    ".xml": OpenVinoModel,
    ".pt2": TorchModel,
}
"""Engine of each ending."""


def import_engine(name: str, extra: str) -> Any:
    """Import an engine's package.

    Args:
        name: The package.
        extra: The extra of tsic that installs it.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed; run pip install tsic[{extra}]"
        ) from error
