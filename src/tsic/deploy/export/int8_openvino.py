"""Int8 for OpenVINO: post-training quantisation by NNCF."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import nncf
import openvino
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

from tsic.deploy.export.exported import Batches
from tsic.deploy.export.quiet import quiet

_CONSTANT = frozenset({"Constant", "Convert", "Multiply", "Transpose", "Reshape"})


class OpenVinoQuantiser:
    """NNCF's post-training quantisation.

    Weights are symmetric, with a scale for each output channel; activations have one scale and
    an offset, from the least and the largest value seen.

    Args:
        source: The float32 ``.xml``.
    """

    def __init__(self, source: Path) -> None:
        self._source = source
        operations = _read(source).get_ops()
        self._names = {one.get_friendly_name() for one in operations}
        self._attention = {
            one.get_friendly_name()
            for one in operations
            if one.get_type_name() == "MatMul"
            and not any(_is_constant(value.get_node()) for value in one.input_values())
        }

    def write(self, target: Path, left_out: Collection[str], batches: Batches) -> None:
        """Write the network in int8 but for some layers."""
        with quiet():
            model = nncf.quantize(
                _read(self._source),
                nncf.Dataset(batches),
                subset_size=len(batches),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER if self._attention else None,
                # OpenVINO fuses attention with float products only.
                ignored_scope=nncf.IgnoredScope(names=sorted({*left_out, *self._attention})),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    # 7 bits: CPUs without VNNI add pairs of products in 16 bits.
                    overflow_fix=nncf.OverflowFix.ENABLE,
                    # Not needed: docs/int8.md has the mIoU without it.
                    disable_bias_correction=True,
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                ),
            )
        if model.has_rt_info("tsic"):
            metadata = json.loads(str(model.get_rt_info("tsic").value))
            model.set_rt_info(json.dumps(metadata | {"precision": "int8"}), "tsic")
        openvino.save_model(model, target, compress_to_fp16=False)

    def layers(self, quantised: Path) -> list[str]:
        """Name the layers that a file holds in int8: those with something new before them."""
        return [
            one.get_friendly_name()
            for one in _read(quantised).get_ordered_ops()
            if one.get_friendly_name() in self._names - self._attention
            and any(self._is_new(value.get_node()) for value in one.input_values())
        ]

    def _is_new(self, operation: Any) -> bool:
        """Whether quantisation put an operation there; biases that it corrected do not count."""
        return (
            operation.get_type_name() != "Constant"
            and operation.get_friendly_name() not in self._names
        )


def _read(path: Path) -> Any:
    return openvino.Core().read_model(path)


def _is_constant(operation: Any) -> bool:
    """Whether an operation is a constant, perhaps in another form."""
    return operation.get_type_name() in _CONSTANT and all(
        _is_constant(value.get_node()) for value in operation.input_values()
    )
