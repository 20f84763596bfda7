"""Write a traced graph in any format, or name the layer that is in the way."""

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tsic.deploy.export.exported import import_engine
from tsic.deploy.export.graph import DeployGraph, Layout
from tsic.deploy.export.mobile import export_executorch, export_litert
from tsic.errors import NO_ROOM, ConfigError, TsicError, first_line

Format = Literal["onnx", "openvino", "torch", "executorch", "litert"]
SUFFIXES: dict[str, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch": ".pt2",
    "executorch": ".pte",
    "litert": ".tflite",
}
"""Ending of each format's file."""


_PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": (),
    "executorch": ("executorch",),
    "litert": ("litert_torch", "ai_edge_litert"),
}
_OPERATOR = re.compile(
    r"\b(?:aten|torchvision|prims)(?:\.|::)(\w+)"
    r"|<built-in function (\w+)>|serializing node ([a-z]+)"
)
"""How converters write an operator's name in their messages."""


def require_format(kind: Format, layout: Layout) -> None:
    """Refuse a format that cannot be written here, or not with this layout.

    Raises:
        ConfigError: If a package is not installed, or one size is missing.
    """
    if kind in ("executorch", "litert") and None in (layout.size, layout.batch):
        raise ConfigError(
            f"{kind} files take one size and number of images; say --size H W, and leave --batch "
            "at a number"
        )
    for name in _PACKAGES[kind]:
        import_engine(name, kind)


def capture(graph: DeployGraph, name: str) -> torch.export.ExportedProgram:
    """Trace a graph with torch.export.

    Args:
        graph: The graph.
        name: The student's name, for messages.

    Returns:
        The program, with the layout's free dimensions.

    Raises:
        ConfigError: If the network does what cannot be traced.
    """
    try:
        return graph.capture()
    except Exception as error:  # whatever a network does that cannot be traced
        way_out = "choose another student"
        if graph.layout.size is None or graph.layout.batch is None:
            way_out = "fix the size with --size H W and --batch N, or choose another student"
        if ":" in name:
            way_out += "; a network of your own may lack the class attribute size_multiple"
        raise ConfigError(
            f"student '{name}' cannot be traced"
            f"{_traced_layer(graph, error)}: {first_line(error)}; {way_out}"
        ) from error


def write(
    program: torch.export.ExportedProgram,
    kind: Format,
    layout: Layout,
    text: str,
    path: Path,
    name: str,
) -> None:
    """Write one format in float32.

    Args:
        program: What `capture` returned.
        kind: The format.
        layout: What the graph takes and gives.
        text: Metadata, JSON.
        path: File to write, with the format's ending.
        name: The student's name, for messages.

    Raises:
        ConfigError: If the format does not know an operator, or as `require_format`.
    """
    require_format(kind, layout)
    try:
        if kind == "onnx":
            _write_onnx(program, layout, text, path)
        elif kind == "openvino":
            _write_openvino(program, layout, text, path)
        elif kind == "torch":
            torch.export.save(program, path, extra_files={"tsic.json": text})
        elif kind == "executorch":
            export_executorch(program, path, text)
        else:
            export_litert(program, path, text)
    except Exception as error:  # converters raise kinds of their own
        if isinstance(error, TsicError) or is_of_the_machine(error):
            raise
        way_out = "choose another format, of which torch knows most, or another student"
        if layout.size is None:  # what computes free sizes is what converters know least
            way_out = f"fix the size with --size H W, {way_out}"
        raise ConfigError(
            f"student '{name}' cannot be exported as {kind}: "
            f"{_unknown_operator(program, error)}; {way_out}"
        ) from error


def _write_onnx(
    program: torch.export.ExportedProgram, layout: Layout, text: str, path: Path
) -> None:
    """Write ONNX."""
    converted = torch.onnx.export(
        program, (), input_names=["image"], output_names=[layout.output], verbose=False
    )
    if converted is None:
        raise RuntimeError("the converter gave nothing")
    converted.model.metadata_props["tsic"] = text
    converted.save(path)


def _write_openvino(
    program: torch.export.ExportedProgram, layout: Layout, text: str, path: Path
) -> None:
    """Write OpenVINO, in float32 as it is."""
    openvino = import_engine("openvino", "openvino")
    from openvino.frontend.pytorch import ConversionExtension

    resize = ConversionExtension("aten._upsample_bilinear2d_aa.default", _antialiased_resize)
    model = openvino.convert_model(program, extension=resize)
    sides = layout.size or (-1, -1)
    model.reshape({0: openvino.PartialShape([layout.batch or -1, 3, *sides])})
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({layout.output})
    model.set_rt_info(text, "tsic")
    openvino.save_model(model, path, compress_to_fp16=False)


def _antialiased_resize(context: Any) -> list[Any]:
    """The antialiased bilinear resize, which OpenVINO has but does not convert by itself."""
    from openvino import opset11

    resized = opset11.interpolate(
        context.get_input(0),
        context.get_input(1),
        mode="bilinear_pillow",
        shape_calculation_mode="sizes",
        axes=opset11.constant(np.array([2, 3], np.int32)),
    )
    return [resized.output(0)]


def _traced_layer(graph: nn.Module, error: BaseException) -> str:
    """Name the innermost layer that was running when tracing failed."""
    names = {id(module): name for name, module in graph.named_modules() if name}
    found = ""
    frame = error.__traceback__
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        found = names.get(id(owner), found)
        frame = frame.tb_next
    return f" in layer '{found.removeprefix('network.')}'" if found else ""


def _unknown_operator(program: torch.export.ExportedProgram, error: Exception) -> str:
    """Name the operator that a converter does not know, and the layer that uses it."""
    said = _OPERATOR.search(f"{error} {error.__cause__ or ''}")
    if said is None:
        return first_line(error)
    known_as = next(group for group in said.groups() if group)
    for node in program.graph.nodes:
        name = ".".join(str(node.target).split(".")[:2])
        if not name.startswith("aten."):
            name = getattr(node.target, "__name__", name)
        if name == known_as or name.endswith((f".{known_as}", f"_{known_as}")):
            layers = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
            if layers:
                layer = layers[-1].removeprefix("network.")
                return f"layer '{layer}' uses the operator {name}, which it cannot convert"
    return f"it cannot convert the operator {known_as}"


def is_of_the_machine(error: Exception) -> bool:
    """Whether an error is a full disk's or memory's, of which no format is to blame."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in NO_ROOM
