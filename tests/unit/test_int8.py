"""Int8 files: what is quantised, what stays in float, and what a file that loses much becomes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import nn

from tsic.checkpoint import TrainedStudent
from tsic.data.classes import ClassTable
from tsic.deploy.export.engines import open_exported
from tsic.deploy.export.exported import Array
from tsic.deploy.export.graph import DeployGraph, Layout, describe
from tsic.deploy.export.int8 import quantise
from tsic.deploy.export.writers import SUFFIXES, Format, capture, write
from tsic.errors import ConfigError
from tsic.networks import Network
from tsic.student import Student, StudentSpec

CLASSES = ClassTable.from_names(("ground", "square", "disc"))
pytestmark = pytest.mark.usefixtures("onnx_operators")
LAYERS = 6
SENSITIVE = 2
"""Number of the convolution whose input spans so much that 8 bits cannot hold it."""


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def kind(request: pytest.FixtureRequest) -> Format:
    found: Format = request.param
    return found


@pytest.fixture
def batches() -> list[Array]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, 24, 32, generator=generator).numpy() for _ in range(4)]


@pytest.fixture(scope="module")
def source(kind: Format, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 file of a few convolutions, one of which is sensitive."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3 if i == 0 else 16, 16, 1) for i in range(LAYERS - 1)]
    convolutions.append(nn.Conv2d(16, 3, 1))
    for one in convolutions:
        nn.init.kaiming_normal_(one.weight, nonlinearity="relu")
    with torch.no_grad():
        before, after = convolutions[SENSITIVE - 1], convolutions[SENSITIVE]
        before.weight[0] *= 1000
        assert before.bias is not None
        before.bias[0] = 500  # positive, so that it reaches the next layer
        after.weight[:, 0] /= 1000
    layers: list[nn.Module] = []
    for one in convolutions:
        layers += [one, nn.ReLU()]
    network = Network(nn.Sequential(*layers[:-1]), lambda model, images: (model(images), ()))
    student = Student(network, StudentSpec("tiny", 3))
    trained = TrainedStudent(student, CLASSES, {}).eval()
    graph = DeployGraph(trained, Layout(size=(24, 32)))
    path = tmp_path_factory.mktemp(kind) / f"student{SUFFIXES[kind]}"
    write(capture(graph, "tiny"), kind, graph.layout, describe(trained, graph), path, "it")
    return path


def count_quantisers(path: Path) -> int:
    if path.suffix == ".onnx":
        return sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)
    operations: list[Any] = openvino.Core().read_model(path).get_ops()
    return sum(one.get_type_name() == "FakeQuantize" for one in operations)


def distance(path: Path, source: Path, batches: list[Array]) -> float:
    """Mean difference of scores, as a share of their spread."""
    answer, expected = (
        np.concatenate([open_exported(one, threads=1).run(batch) for batch in batches])
        for one in (path, source)
    )
    return float(np.abs(answer - expected).mean() / expected.std((0, 2, 3)).mean())


def test_every_layer_is_quantised_and_the_file_says_so(
    kind: Format, source: Path, batches: list[Array], tmp_path: Path
) -> None:
    target = tmp_path / f"int8{source.suffix}"
    assert quantise(source, target, batches) == []
    assert count_quantisers(source) == 0
    assert count_quantisers(target) >= LAYERS
    before, after = open_exported(source).metadata, open_exported(target).metadata
    assert after == before | {"precision": "int8"}
    assert distance(target, source, batches) > 0.5  # the sensitive layer is lost


def test_sensitive_layer_stays_in_float_and_the_rest_does_not(
    kind: Format, source: Path, batches: list[Array], tmp_path: Path
) -> None:
    def score(path: Path) -> float:
        return -100 * distance(path, source, batches)

    target = tmp_path / f"int8{source.suffix}"
    left = quantise(source, target, batches, score=score, max_drop=20)
    layer = {"onnx": f"model.{2 * SENSITIVE}", "openvino": f"convolution_{SENSITIVE}/"}[kind]
    assert layer in left[0]
    assert len(left) <= 2  # it, and at most the one before, whose range it is
    assert distance(target, source, batches) < 0.2
    assert count_quantisers(target) >= LAYERS - 2


def test_a_drop_that_no_layer_mends_fails_with_the_numbers(
    kind: Format, source: Path, batches: list[Array], tmp_path: Path
) -> None:
    asked: list[int] = []

    def score(path: Path) -> float:
        asked.append(count_quantisers(path))
        return 50.0 if asked[-1] else 80.0

    before = source.read_bytes()
    target = tmp_path / "new" / f"int8{source.suffix}"
    target.parent.mkdir()
    with pytest.raises(
        ConfigError,
        match=r"int8 loses 30.00 of 80.00 points, and 30.00 with the 3 most sensitive of 6 layers "
        r"in float, more than 1; give more calibration images",
    ):
        quantise(source, target, batches, score=score)
    assert asked[0] == 0
    assert asked[-1] < asked[1]  # layers were taken out of int8 in between
    assert list(target.parent.iterdir()) == []
    assert source.read_bytes() == before


def test_no_image_to_calibrate_on_is_refused(kind: Format, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one calibration image; give --calibration"):
        quantise(source, tmp_path / f"int8{source.suffix}", [])
