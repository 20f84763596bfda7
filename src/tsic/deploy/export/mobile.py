"""Files for phones and small devices: LiteRT and ExecuTorch, each for one size of images.

Source: `litert-torch` and `ai-edge-litert`; `executorch` with its XNNPACK backend.
"""

from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from tsic.deploy.export.exported import Array, ExportedModel, import_engine, metadata_beside
from tsic.errors import ConfigError
from tsic.files import read_text, replacing, write_text

_SPLITS = frozenset(
    {
        torch.ops.aten.chunk.default,
        torch.ops.aten.split.Tensor,
        torch.ops.aten.split_with_sizes.default,
    }
)

_SMOOTH_RESIZE = torch.ops.aten._upsample_bilinear2d_aa.vec


def export_executorch(program: ExportedProgram, target: Path, metadata: str) -> None:
    """Write an ExecuTorch file whose convolutions run in XNNPACK.

    Args:
        program: Graph of a fixed size and batch, as `DeployGraph.capture` traces it.
        target: ``.pte`` file to write; ``.pte.json`` is written beside it.
        metadata: JSON text of `tsic.deploy.export.graph.describe`, which has no place in it.

    Raises:
        ConfigError: If executorch is not installed.
    """
    lower = import_engine("executorch.exir", "executorch").to_edge_transform_and_lower
    backend = import_engine(
        "executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch"
    )
    lowered = lower(program, partitioner=[backend.XnnpackPartitioner()])
    with replacing(target) as part:
        part.write_bytes(bytes(lowered.to_executorch().buffer))
    write_text(metadata_beside(target), metadata)


def export_litert(program: ExportedProgram, target: Path, metadata: str) -> None:
    """Write a LiteRT file.

    Args:
        program: Graph of a fixed size and batch, as `DeployGraph.capture` traces it.
        target: ``.tflite`` file to write; ``.tflite.json`` is written beside it.
        metadata: JSON text of `tsic.deploy.export.graph.describe`, which has no place in it.

    Raises:
        ConfigError: If litert-torch is not installed, or the graph resizes its images, for which
            LiteRT has no operator.
    """
    if any(node.target is _SMOOTH_RESIZE for node in program.graph.nodes):
        raise ConfigError(
            "LiteRT has no antialiased resize; say the size that the training resized to as "
            "--size H W and leave --resize out, then the graph resizes nothing"
        )
    litert = import_engine("litert_torch", "litert")
    module = _without_whole_splits(program)
    converted = litert.convert(module, program.example_inputs[0])
    with replacing(target) as part:
        converted.export(str(part))
    write_text(metadata_beside(target), metadata)


class ExecuTorchModel(ExportedModel):
    """An ExecuTorch file, run by XNNPACK on this machine.

    Args:
        path: The ``.pte``; its ``.pte.json`` lies beside it.
        threads: Not settable from Python; the runtime chooses.
    """

    engine = "executorch"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        runtime = import_engine("executorch.runtime", "executorch").Runtime.get()
        super().__init__(path, read_text(metadata_beside(path)))
        self._program = runtime.load_program(path)  # the method needs it alive
        self._method = self._program.load_method("forward")

    def run(self, array: Array) -> Array:
        """Run the graph on its own input."""
        answer: Array = self._method.execute((torch.from_numpy(array),))[0].numpy()
        return answer.copy()  # the runtime writes its next answer to the same place


class LiteRtModel(ExportedModel):
    """A LiteRT file, run by XNNPACK on this machine.

    Args:
        path: The ``.tflite``; its ``.tflite.json`` lies beside it.
        threads: Threads; by default the interpreter's choice.
    """

    engine = "litert"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        litert = import_engine("ai_edge_litert.interpreter", "litert")
        super().__init__(path, read_text(metadata_beside(path)))
        self._interpreter = litert.Interpreter(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def run(self, array: Array) -> Array:
        """Run the graph on its own input."""
        self._interpreter.set_tensor(self._input, array)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)  # a copy


def _without_whole_splits(program: ExportedProgram) -> GraphModule:
    """Take out splits into a single piece, for which litert-torch 0.10 stops with an error."""
    module: GraphModule = program.module(check_guards=False)
    for node in list(module.graph.nodes):
        if node.target not in _SPLITS or len(node.meta["val"]) > 1:
            continue
        for piece in list(node.users):
            piece.replace_all_uses_with(node.args[0])
            module.graph.erase_node(piece)
        module.graph.erase_node(node)
    module.recompile()
    module.training = False  # it was traced for inference and knows no other mode
    return module
