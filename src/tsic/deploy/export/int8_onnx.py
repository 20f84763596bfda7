"""Int8 for ONNX Runtime: static quantisation with pairs of quantise and dequantise nodes."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from tsic.deploy.export.exported import Batches
from tsic.deploy.export.quiet import quiet

_COMPUTING = ("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "GlobalAveragePool", "Sigmoid")
_MOVING = (
    *("Relu", "Clip", "MaxPool", "Resize", "Pad", "Slice", "Split"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
)
# The other operators have no integer kernel on CPUs, or one that is slower than in float, as
# these two. Softmax and ArgMax need more steps than 256, too.
_SLOW = frozenset({"AveragePool", "Softmax"})


class OnnxQuantiser:
    """ONNX Runtime's static quantisation.

    Weights are signed, with a scale for each output channel; activations are unsigned with one
    scale: the one pair with fast kernels on x86 CPUs.

    Args:
        source: The float32 file.
        place: Folder for files that all int8 files are made from.

    Source:
        ONNX Runtime, "Quantize ONNX models", on types and ``reduce_range``.
    """

    def __init__(self, source: Path, place: Path) -> None:
        self._float = place / "float.onnx"
        self._ranges = place / "ranges.json"
        with quiet():
            quant_pre_process(str(source), str(self._float), skip_symbolic_shape=True)
        model = onnx.load(self._float)
        self._weights = {one.name for one in model.graph.initializer}
        self._input = model.graph.input[0].name
        self._names = {node.name: self._layer(node) for node in model.graph.node}
        self._float_nodes = {
            node.name
            for node in model.graph.node
            # The products of attention have no constant factor.
            if node.op_type in _SLOW
            or (node.op_type == "MatMul" and self._weights.isdisjoint(node.input))
        }
        self._metadata = {one.key: one.value for one in onnx.load(source).metadata_props}

    def write(self, target: Path, left_out: Collection[str], batches: Batches) -> None:
        """Write the network in int8 but for some layers; ranges are those of the first call."""
        excluded = [node for node, layer in self._names.items() if layer in left_out]
        with quiet():
            quantize_static(
                self._float,
                target,
                _Reader(batches, self._input),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*_COMPUTING, *_MOVING],
                nodes_to_exclude=excluded,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                # 7 bits: CPUs without VNNI add pairs of products in 16 bits.
                reduce_range=True,
                calibration_cache_path=self._ranges,
                extra_options={"MatMulConstBOnly": True},
            )
        model = onnx.load(target)
        _hold(model, self._float_nodes.union(excluded))
        self._label(model)
        onnx.save(model, target)

    def layers(self, quantised: Path) -> list[str]:
        """Name the layers that a file holds in int8."""
        nodes = onnx.load(quantised).graph.node
        integers = {
            out for node in nodes if node.op_type == "DequantizeLinear" for out in node.output
        }
        found = [
            self._names[node.name]
            for node in nodes
            if node.op_type in _COMPUTING
            and node.name in self._names
            and not integers.isdisjoint(node.input)
        ]
        return list(dict.fromkeys(found))

    def _layer(self, node: Any) -> str:
        """Name a node by its weights, which have PyTorch's names, else by itself."""
        if len(node.input) > 1 and node.input[1] in self._weights:
            name: str = node.input[1]
            if name.endswith(".weight"):
                return name.removesuffix(".weight")
        return str(node.name)

    def _label(self, model: Any) -> None:
        """Keep the metadata; say that it is int8."""
        metadata = dict(self._metadata)
        if "tsic" in metadata:
            metadata["tsic"] = json.dumps(json.loads(metadata["tsic"]) | {"precision": "int8"})
        onnx.helper.set_model_props(model, metadata)


class _Reader(CalibrationDataReader):
    """Batches as ONNX Runtime asks for them."""

    def __init__(self, batches: Batches, name: str) -> None:
        self._rest: Iterator[Any] = iter(batches)
        self._name = name

    def get_next(self) -> dict[str, Any] | None:
        """One more batch, or none."""
        batch = next(self._rest, None)
        return None if batch is None else {self._name: batch}


def _hold(model: Any, names: Collection[str]) -> None:
    """Put a leaky ReLU of slope 1, which changes nothing, behind nodes that are to stay in float.

    ONNX Runtime takes a float node between a dequantise and a quantise node for one to be
    computed in integers, and quantises its weights when it loads the file, with one scale.

    Source:
        ``WeightBiasQuantization`` among the graph optimisations of ONNX Runtime.
    """
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.name in names:
            out = node.output[0]
            node.output[0] = f"{out}_float"
            nodes.append(
                onnx.helper.make_node(
                    "LeakyRelu", [node.output[0]], [out], name=f"{node.name}_float", alpha=1.0
                )
            )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
