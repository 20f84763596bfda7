"""Exported files in int8: post-training quantisation that leaves sensitive layers in float."""

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tsic.deploy.export.engines import open_exported
from tsic.deploy.export.exported import Batches, import_engine, parts_of
from tsic.deploy.export.quiet import quiet, without_telemetry
from tsic.errors import ConfigError

Score = Callable[[Path], float]
"""Points of a file, such as mean IoU in percent; higher is better."""

RANKING_BATCHES = 2
"""Batches that the error of each layer is measured on."""


class Quantiser(Protocol):
    """One engine's way from a float32 file to an int8 one."""

    def write(self, target: Path, left_out: Collection[str], batches: Batches) -> None:
        """Write the network in int8 but for some layers."""

    def layers(self, quantised: Path) -> list[str]:
        """Name the layers that a file holds in int8."""


def quantise(
    source: Path,
    target: Path,
    batches: Batches,
    *,
    score: Score | None = None,
    max_drop: float = 1.0,
) -> list[str]:
    """Write a file in int8: ONNX for ONNX Runtime on CPUs, OpenVINO with NNCF.

    Args:
        source: The float32 file that `tsic export` wrote: ``.onnx``, or ``.xml`` with its ``.bin``
            beside it.
        target: Where the int8 file is written, of the same kind.
        batches: Calibration images.
        score: Points of a file. Layers are left in float until it loses no more than
            ``max_drop``; ``None`` quantises every layer and asks nothing.
        max_drop: Points that the file may lose against ``source``.

    Returns:
        Names of the layers left in float, the most sensitive first.

    Raises:
        ConfigError: If the drop stays larger with the more sensitive half of the layers in float,
            there are no batches, or a package is missing. No file is left.
    """
    if not len(batches):
        raise ConfigError("int8 needs at least one calibration image; give --calibration DIR")
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=target.parent) as name:
        place = Path(name)
        return _Search(_quantiser(source, place), source, target, batches, place).run(
            score, max_drop
        )


def _quantiser(source: Path, place: Path) -> Quantiser:
    """Of the engine that reads the file; its packages are imported here alone."""
    if source.suffix == ".onnx":
        import_engine("onnx", "onnx")
        import_engine("onnxruntime", "onnx")
        from tsic.deploy.export.int8_onnx import OnnxQuantiser

        return OnnxQuantiser(source, place)
    with quiet(), without_telemetry():
        import_engine("openvino", "openvino")
        import_engine("nncf", "openvino")
    from tsic.deploy.export.int8_openvino import OpenVinoQuantiser

    return OpenVinoQuantiser(source)


@dataclass(frozen=True)
class _Search:
    """For the fewest layers in float that keep the drop within bounds.

    Args:
        quantiser: Who writes int8 files.
        source: The float32 file.
        target: Where the result goes.
        batches: Calibration images.
        place: Folder for files that are tried.
    """

    quantiser: Quantiser
    source: Path
    target: Path
    batches: Batches
    place: Path

    def run(self, score: Score | None, max_drop: float) -> list[str]:
        """Write the target; return the layers left in float."""
        whole = self.place / f"whole{self.target.suffix}"
        self.quantiser.write(whole, (), self.batches)
        if score is None:
            _move(whole, self.target)
            return []
        best = score(self.source)
        drop = best - score(whole)
        if drop <= max_drop:
            _move(whole, self.target)
            return []
        ranked = self._ranked(self.quantiser.layers(whole))
        drops = {0: drop}
        count = self._fewest(ranked, lambda path: best - score(path), max_drop, drops)
        if count is None:
            most = max(drops)
            raise ConfigError(
                f"int8 loses {drop:.2f} of {best:.2f} points, and {drops[most]:.2f} with the "
                f"{most} most sensitive of {len(ranked)} layers in float, more than {max_drop:g}; "
                "give more calibration images, allow a larger drop, or ship float32"
            )
        return ranked[:count]

    def _fewest(
        self,
        ranked: Sequence[str],
        drop_of: Callable[[Path], float],
        max_drop: float,
        drops: dict[int, float],
    ) -> int | None:
        """Double the number of layers left out until it does, then halve the way back.

        Half of the layers in float are the end: what remains in int8 would hardly be faster.
        """
        failed, fits, count = 0, None, 1
        while failed < count <= len(ranked) // 2:
            candidate = self.place / f"candidate{self.target.suffix}"
            self.quantiser.write(candidate, ranked[:count], self.batches)
            drops[count] = drop_of(candidate)
            if drops[count] <= max_drop:
                fits = count
                _move(candidate, self.target)
            else:
                failed = count
            count = min(2 * count, len(ranked) // 2) if fits is None else (failed + fits) // 2
        return fits

    def _ranked(self, layers: Sequence[str]) -> list[str]:
        """Sort layers by the error at the output when only that one is in int8."""
        few = [self.batches[index] for index in range(min(RANKING_BATCHES, len(self.batches)))]
        expected = _answers(self.source, few)
        errors = {}
        for layer in layers:
            alone = self.place / f"alone{self.target.suffix}"
            self.quantiser.write(alone, [one for one in layers if one != layer], few)
            errors[layer] = sum(map(_distance, _answers(alone, few), expected))
        return sorted(layers, key=lambda layer: -errors[layer])


def _answers(path: Path, batches: Batches) -> list[NDArray[Any]]:
    model = open_exported(path)
    return [model.run(batch) for batch in batches]


def _distance(answer: NDArray[Any], expected: NDArray[Any]) -> float:
    """Mean squared error of scores; share of labels that differ."""
    if np.issubdtype(expected.dtype, np.integer):
        return float(np.mean(answer != expected))
    return float(np.mean(np.square(answer - expected, dtype=np.float64)))


def _move(source: Path, target: Path) -> None:
    for old, new in zip(parts_of(source), parts_of(target), strict=True):
        old.replace(new)
