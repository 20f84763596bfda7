import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tsic.checkpoint import TrainedStudent
from tsic.data.classes import ClassTable
from tsic.deploy.export.engines import OnnxModel, OpenVinoModel, open_exported
from tsic.deploy.export.graph import DeployGraph, Layout, describe
from tsic.deploy.export.writers import SUFFIXES, Format, capture, write
from tsic.deploy.inference import View, label_images, require_view
from tsic.errors import CheckpointError, ConfigError, ShapeError
from tsic.evaluation.metrics import to_labels
from tsic.networks import Network
from tsic.student import Student, StudentSpec

CLASSES = ClassTable.from_names(("ground", "square", "disc"))
Files = Callable[[Layout], dict[str, Path]]
KINDS: tuple[Format, ...] = ("onnx", "openvino", "torch")
pytestmark = pytest.mark.usefixtures("onnx_operators")


@pytest.fixture(scope="module")
def trained() -> TrainedStudent:
    """A student of a few layers, with logits at stride 4 and sides that are multiples of 8."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 1)
    )
    head = nn.Sequential(nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.Conv2d(8, 3, 1))
    network = Network(
        nn.Sequential(layers, head), lambda model, images: (model(images), ()), size_multiple=8
    )
    return TrainedStudent(Student(network, StudentSpec("tiny", 3)), CLASSES, {}).eval()


@pytest.fixture(scope="module")
def files(trained: TrainedStudent, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """All formats of a layout; each layout is exported once."""
    made: dict[Layout, dict[str, Path]] = {}

    def get(layout: Layout) -> dict[str, Path]:
        if layout not in made:
            folder = tmp_path_factory.mktemp("exported")
            graph = DeployGraph(trained, layout)
            program = capture(graph, "tiny")
            text = describe(trained, graph)
            made[layout] = {kind: folder / f"student{SUFFIXES[kind]}" for kind in KINDS}
            for kind in KINDS:
                write(program, kind, layout, text, made[layout][kind], "tiny")
        return made[layout]

    return get


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 96), (70, 101), (33, 18), (5, 7), (160, 48)])
def test_free_size_equals_eager_whatever_the_image(
    trained: TrainedStudent, files: Files, kind: str, size: tuple[int, int]
) -> None:
    model = open_exported(files(Layout(batch=None))[kind], threads=1)
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        expected = trained(images)
    assert (model.only_size, model.only_batch, model.gives) == (None, None, "scores")
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_in_and_labels_out_at_a_fixed_size_that_is_no_multiple(
    trained: TrainedStudent, files: Files, kind: str
) -> None:
    layout = Layout(size=(70, 101), resize=(50, 75), input="uint8", output="labels")
    model = open_exported(files(layout)[kind], threads=1)
    images = torch.randint(0, 256, (1, 3, 70, 101), dtype=torch.uint8)
    resized = torch.nn.functional.interpolate(
        images.float() / 255, size=(50, 75), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        expected = to_labels(trained(resized)[0], (70, 101))
    by_hand = model.run(images.numpy())
    assert by_hand.dtype == np.uint8
    assert by_hand.shape == (1, 70, 101)
    assert (torch.from_numpy(by_hand)[0] == expected).float().mean() > 0.999
    assert torch.equal(model(images.float() / 255), torch.from_numpy(by_hand))
    assert (model.only_size, model.only_batch, model.gives) == (None, 1, "labels")


def test_metadata_and_classes_are_those_of_the_student(
    trained: TrainedStudent, files: Files
) -> None:
    for path in files(Layout(batch=None)).values():
        model = open_exported(path)
        assert model.classes.names == CLASSES.names
        assert model.classes.palette == CLASSES.palette
        assert model.metadata["multiple"] == model.metadata["minimum"] == 8
        assert model.metadata["spec"] == trained.student.spec.to_dict()


def test_answers_are_not_overwritten_by_the_next_one(files: Files) -> None:
    for path in files(Layout(batch=None)).values():
        model = open_exported(path)
        first = model(torch.zeros(1, 3, 32, 48))
        before = first.clone()
        model(torch.ones(1, 3, 32, 48))
        assert torch.equal(first, before)


def test_other_size_or_number_of_images_is_refused(files: Files) -> None:
    model = open_exported(files(Layout(size=(70, 101)))["onnx"])
    with pytest.raises(ShapeError, match="takes images of 70x101, got 64x96"):
        model(torch.zeros(1, 3, 64, 96))
    with pytest.raises(ShapeError, match="takes 1 images at a time, got 2"):
        model(torch.zeros(2, 3, 70, 101))


def test_openvino_computes_in_the_precision_that_is_asked_for(files: Files) -> None:
    path = files(Layout(batch=None))["openvino"]
    model = open_exported(path)
    assert isinstance(model, OpenVinoModel)
    compiled = model._request.get_compiled_model()
    assert "float" in str(compiled.get_property("INFERENCE_PRECISION_HINT"))


def test_engines_take_as_many_threads_as_are_asked_for(files: Files) -> None:
    made = files(Layout(batch=None))
    onnx_model, openvino_model = (open_exported(made[k], threads=1) for k in ("onnx", "openvino"))
    assert isinstance(onnx_model, OnnxModel)
    assert onnx_model._session.get_session_options().intra_op_num_threads == 1
    assert isinstance(openvino_model, OpenVinoModel)
    compiled = openvino_model._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_signal_after_models_have_gone_harms_nothing(files: Files) -> None:
    code = """
import os, pathlib, signal, sys
from tsic.deploy.export.engines import open_exported
models = [open_exported(pathlib.Path(sys.argv[1])) for _ in range(3)]
while models:
    del models[0]
signal.signal(signal.SIGUSR1, lambda *_: print("caught"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    path = files(Layout(batch=None))["openvino"]
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "caught\n")


@pytest.mark.parametrize("name", ["no.onnx", "no.xml", "no.pt2"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        open_exported(tmp_path / name)


def test_openvino_file_without_its_weights_is_named(files: Files, tmp_path: Path) -> None:
    source = files(Layout(batch=None))["openvino"]
    (tmp_path / "student.xml").write_bytes(source.read_bytes())
    with pytest.raises(CheckpointError, match=r"student\.bin is missing"):
        open_exported(tmp_path / "student.xml")


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_damaged_file_is_refused_in_one_sentence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"student{suffix}"
    path.write_bytes(b"not a graph")
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read") as raised:
        open_exported(path)
    assert "\n" not in str(raised.value)


def test_a_cut_torch_file_prints_nothing_else(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = files(Layout(batch=None))["torch"].read_bytes()
    (tmp_path / "cut.pt2").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pt2' cannot be read \(no whole archive\)"):
        open_exported(tmp_path / "cut.pt2")
    assert not caplog.records


def foreign(tmp_path: Path, text: str | None) -> Path:
    """An ONNX file of somebody else's, with some metadata."""
    sides = [1, 3, 4, 4]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["image"], ["scores"])],
        "relu",
        [value("image", onnx.TensorProto.FLOAT, sides)],
        [value("scores", onnx.TensorProto.FLOAT, sides)],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    if text is not None:
        model.metadata_props.add(key="tsic", value=text)
    onnx.save(model, tmp_path / "foreign.onnx")
    return tmp_path / "foreign.onnx"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no metadata of tsic"),
        ("{", "damaged metadata"),
        ("[]", "damaged metadata"),
        ("{}", "damaged metadata"),
        ('{"format": 1}', "damaged metadata"),
        ('{"format": 9}', "newer than this tsic reads"),
    ],
)
def test_file_without_usable_metadata_is_refused(
    tmp_path: Path, text: str | None, said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        open_exported(foreign(tmp_path, text))


def test_unknown_ending_and_wrong_threads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean '\.onnx'"):
        open_exported(tmp_path / "student.onx")
    with pytest.raises(ConfigError, match="threads must be at least 1"):
        open_exported(tmp_path / "student.onnx", threads=0)


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [("onnx", "onnxruntime", "onnx"), ("openvino", "openvino", "openvino")],
)
def test_missing_package_names_the_extra(
    files: Files, monkeypatch: pytest.MonkeyPatch, kind: str, package: str, extra: str
) -> None:
    path = files(Layout(batch=None))[kind]
    missing: dict[str, Any] = {package: None}
    for name, module in missing.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(ConfigError, match=rf"{package} is not.* pip install -e '\.\[{extra}\]'"):
        open_exported(path)


def test_a_file_of_one_size_that_gives_labels_takes_no_other(files: Files) -> None:
    model = open_exported(files(Layout(size=(64, 96), output="labels"))["onnx"], threads=1)
    assert label_images(model, torch.zeros(1, 3, 64, 96, dtype=torch.uint8)).shape == (1, 64, 96)
    with pytest.raises(ConfigError, match="bring the images to that size"):
        label_images(model, torch.zeros(1, 3, 90, 60, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="answers with labels, which cannot be averaged"):
        require_view(model, View(crop=(64, 96)))
