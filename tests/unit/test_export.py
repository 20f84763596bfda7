"""The graph, the comparison with eager PyTorch, and what becomes of a file that fails it."""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tsic.checkpoint import TrainedStudent, load_student, save_student
from tsic.data.classes import ClassTable
from tsic.data.readers import open_dataset
from tsic.deploy.export import writers
from tsic.deploy.export.engines import ENGINES, TorchModel, open_exported
from tsic.deploy.export.export import Limits, export
from tsic.deploy.export.exported import Array, ExportedModel, metadata_beside
from tsic.deploy.export.graph import DeployGraph, Layout, describe
from tsic.deploy.export.proof import (
    Agreement,
    CalibrationBatches,
    Images,
    compare,
    drawn_images,
    images_in,
    labelled_images,
)
from tsic.deploy.export.writers import capture, write
from tsic.deploy.inference import WHOLE, fitting_view, label_images
from tsic.deploy.opening import open_model
from tsic.errors import CheckpointError, ConfigError, DataError
from tsic.evaluation.metrics import to_labels
from tsic.networks import Network
from tsic.student import Student, StudentSpec, build_student

CLASSES = ClassTable.from_names(("ground", "square", "disc"))
pytestmark = pytest.mark.usefixtures("onnx_operators")


def student_of(layers: nn.Module, *, multiple: int = 8) -> TrainedStudent:
    network = Network(layers, lambda model, images: (model(images), ()), size_multiple=multiple)
    return TrainedStudent(Student(network, StudentSpec("tiny", 3)), CLASSES, {}).eval()


@pytest.fixture
def trained() -> TrainedStudent:
    return student_of(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    )


class Copy(ExportedModel):
    """A graph that was not written anywhere, with something done to its answers."""

    def __init__(
        self, trained: TrainedStudent, layout: Layout, change: Callable[[Tensor], Tensor]
    ) -> None:
        self._graph = DeployGraph(trained, layout)
        self._change = change
        super().__init__(Path("copy"), describe(trained, self._graph))

    def run(self, array: Array) -> Array:
        with torch.no_grad():
            answer: Array = self._change(self._graph(torch.from_numpy(array))).numpy()
        return answer


def one_image(label: Tensor | None = None, size: tuple[int, int] = (40, 56)) -> Images:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    return Images("one image", 1, lambda index: (image, label))


@pytest.mark.parametrize(
    ("kind", "convert"),
    [
        ("float", lambda pixels, student: pixels / 255),
        ("uint8", lambda pixels, student: pixels),
        ("normalised", lambda pixels, student: (pixels / 255 - student.mean) / student.std),
    ],
)
def test_graph_answers_as_the_student_for_every_input(
    trained: TrainedStudent, kind: Any, convert: Callable[[Tensor, Student], Tensor]
) -> None:
    """70 and 101 are no multiples of 8, nor of the logits' stride."""
    pixels = torch.randint(0, 256, (1, 3, 70, 101), dtype=torch.uint8)
    graph = DeployGraph(trained, Layout(size=(70, 101), input=kind))
    with torch.no_grad():
        answer = graph(convert(pixels, trained.student))
        torch.testing.assert_close(answer, trained(pixels / 255), rtol=1e-5, atol=1e-5)


def test_graph_resizes_as_the_training_did(trained: TrainedStudent) -> None:
    trained.resize = (24, 40)
    images = torch.rand(1, 3, 70, 101)
    for size in (None, (70, 101)):
        graph = DeployGraph(trained, Layout(size=size))
        assert (graph.resize, graph.multiple, graph.minimum) == ((24, 40), 1, 1)
        with torch.no_grad():
            torch.testing.assert_close(graph(images), trained(images))
    same = DeployGraph(trained, Layout(size=(24, 40)))
    assert same.resize == (24, 40)
    with torch.no_grad():
        torch.testing.assert_close(same(images[..., :24, :40]), trained(images[..., :24, :40]))
    assert DeployGraph(trained, Layout(resize=(16, 16))).resize == (16, 16)


@pytest.mark.parametrize("size", [(24, 40), (71, 103)])
def test_a_student_of_resized_images_sees_them_whole_at_a_fixed_size(
    trained: TrainedStudent, size: tuple[int, int]
) -> None:
    trained.resize = (24, 40)
    noise = torch.randint(0, 256, (3, 9, 13), dtype=torch.uint8)
    image = noise.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :71, :103]
    expected = trained.predict(image)
    for output in ("scores", "labels"):
        exported = Copy(trained, Layout(size=size, output=output), lambda answer: answer)
        assert fitting_view(exported, None, (71, 103)) is WHOLE
        least = 1 if output == "scores" else 0.9  # labels are resized from 24x40
        assert (label_images(exported, image[None])[0] == expected).float().mean() >= least


def test_labels_are_those_of_the_scores_at_the_images_size(trained: TrainedStudent) -> None:
    images = torch.rand(2, 3, 70, 101)
    graph = DeployGraph(trained, Layout(size=(70, 101), batch=2, output="labels"))
    with torch.no_grad():
        labels, scores = graph(images), trained(images)
    assert (labels.dtype, labels.shape) == (torch.uint8, (2, 70, 101))
    expected = torch.stack([to_labels(one, (70, 101)) for one in scores])
    assert (labels == expected).float().mean() > 0.999


def test_free_sides_are_whole_multiples_and_at_least_the_minimum() -> None:
    graph = DeployGraph(student_of(nn.Conv2d(3, 3, 1), multiple=8), Layout())
    assert (graph.multiple, graph.minimum) == (8, 8)
    graph.network.minimum_px = 20
    student = student_of(nn.Conv2d(3, 3, 1), multiple=8)
    student.student.network.minimum_px = 20
    assert DeployGraph(student, Layout()).minimum == 24


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": (0, 64)}, "size must be two numbers"),
        ({"resize": (64,)}, "resize must be two numbers"),
        ({"batch": 0}, "batch must be at least 1, or free"),
        ({"input": "unit8"}, "did you mean 'uint8'"),
        ({"output": "label"}, "did you mean 'labels'"),
    ],
)
def test_layout_that_cannot_be_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Layout(**arguments)


def test_metadata_tells_all_that_a_program_needs(tmp_path: Path) -> None:
    student = build_student("compact", num_classes=3, options={"width": 0.25, "dilations": [1]})
    files = save_student(tmp_path, student, CLASSES, {"resize": [48, 64]})
    trained = load_student(tmp_path)
    layout = Layout(size=(96, 128), batch=4, input="uint8", output="labels")
    told = json.loads(describe(trained, DeployGraph(trained, layout)))
    assert told["classes"] == ["ground", "square", "disc"]
    assert told["palette"] == [list(colour) for colour in CLASSES.palette]
    assert told["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert told["std"] == pytest.approx([0.229, 0.224, 0.225])
    assert (told["size"], told["resize"], told["batch"]) == ([96, 128], [48, 64], 4)
    assert (told["input"], told["output"], told["precision"]) == ("uint8", "labels", "fp32")
    assert (told["format"], told["multiple"], told["minimum"]) == (1, 1, 1)
    assert told["spec"]["name"] == "compact"
    assert told["weights_sha256"] == hashlib.sha256(files.weights.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["float", "uint8", "normalised"])
def test_comparison_of_an_exact_copy_finds_no_difference(
    trained: TrainedStudent, kind: Any
) -> None:
    exported = Copy(trained, Layout(input=kind), lambda scores: scores)
    found = compare(trained, exported, one_image())
    assert found.max_abs_diff == pytest.approx(0, abs=1e-6)
    assert found.label_agreement == 1
    assert found.miou_eager is None
    assert set(found.to_dict()) == {"max_abs_diff", "largest_score", "label_agreement"}


def test_comparison_measures_what_was_changed(trained: TrainedStudent) -> None:
    """Scores of the first class are raised in the top half so far that it wins there."""

    def raise_first(scores: Tensor) -> Tensor:
        changed = scores.clone()
        changed[:, 0, : scores.shape[2] // 2] += 100
        return changed

    label = torch.randint(0, 3, (40, 56), dtype=torch.uint8)
    label[:, :7] = 255
    images = one_image(label)
    exported = Copy(trained, Layout(size=(40, 56)), raise_first)
    found = compare(trained, exported, images)
    with torch.no_grad():
        scores = trained(images.read(0)[0][None] / 255)
    ours, theirs = (to_labels(one[0], (40, 56)).numpy() for one in (scores, raise_first(scores)))
    assert found.max_abs_diff == pytest.approx(100, rel=1e-5)
    assert found.largest_score == pytest.approx(float(scores.abs().max()), rel=1e-5)
    assert found.label_agreement == pytest.approx((ours == theirs).mean())
    counted = label.numpy() != 255
    for said, labels in ((found.miou_eager, ours), (found.miou_exported, theirs)):
        ious = []
        for k in range(3):
            of_class, of_label = labels == k, label.numpy() == k
            union = ((of_class | of_label) & counted).sum()
            ious.append((of_class & of_label & counted).sum() / union)
        assert said == pytest.approx(100 * np.mean(ious))
    assert found.drop == pytest.approx((found.miou_eager or 0) - (found.miou_exported or 0))


def test_comparison_of_a_free_size_tries_another_size(trained: TrainedStudent) -> None:
    """As if the graph had kept the size that it was traced at."""
    exported = Copy(trained, Layout(), lambda scores: scores + (scores.shape[2:] != (10, 14)))
    assert compare(trained, exported, one_image()).max_abs_diff == pytest.approx(1, rel=1e-5)


def test_file_that_does_not_run_is_no_stack_trace(
    trained: TrainedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(scores: Tensor) -> Tensor:
        raise RuntimeError("invalid index\nat node 7")

    broken = Copy(trained, Layout(), fail)
    monkeypatch.setattr("tsic.deploy.export.export.open_exported", lambda path: broken)
    with pytest.raises(ConfigError) as raised:
        export(trained, tmp_path, ["torch"], Layout(), one_image())
    assert str(raised.value) == (
        "student 'tiny' as torch does not run on one image (invalid index); fix the size with "
        "--size H W, or choose another format"
    )
    assert list(tmp_path.rglob("*")) == []


def test_comparison_at_a_fixed_size_shows_both_the_resized_image(trained: TrainedStudent) -> None:
    label = torch.randint(0, 3, (40, 56), dtype=torch.uint8)
    exported = Copy(trained, Layout(size=(30, 50), batch=2, input="uint8"), lambda scores: scores)
    found = compare(trained, exported, one_image(label))
    assert found.max_abs_diff == pytest.approx(0, abs=1e-5)
    assert found.miou_eager == pytest.approx(found.miou_exported)


def test_comparison_of_labels_cuts_to_sides_that_need_no_padding(trained: TrainedStudent) -> None:
    label = torch.randint(0, 3, (45, 59), dtype=torch.uint8)
    exported = Copy(trained, Layout(input="uint8", output="labels"), lambda labels: labels)
    found = compare(trained, exported, one_image(label, (45, 59)))
    assert found.max_abs_diff is None
    assert found.label_agreement > 0.999
    assert found.miou_eager == pytest.approx(found.miou_exported, abs=0.2)


def test_scores_that_are_no_numbers_never_agree(trained: TrainedStudent) -> None:
    broken = Copy(trained, Layout(), lambda scores: scores * math.nan)
    found = compare(trained, broken, one_image())
    assert not found.within(1.0, 0.0)


@pytest.mark.parametrize(
    ("difference", "agreement", "expected"),
    [(0.019, 0.999, True), (0.021, 1.0, False), (0.0, 0.998, False), (None, 0.999, True)],
)
def test_tolerance_is_a_share_of_the_largest_score(
    difference: float | None, agreement: float, expected: bool
) -> None:
    assert Agreement(difference, 20.0, agreement, None, None).within(1e-3, 0.999) is expected


def test_drop_without_labels_is_the_pixels_that_changed() -> None:
    assert Agreement(0.5, 9.0, 0.98, None, None).drop == pytest.approx(2)


def test_images_are_spread_over_a_folder_and_a_split(tmp_path: Path, folder_dataset: Path) -> None:
    for i in range(10):
        place = tmp_path / "photos" / str(i % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (i, 0, 0)).save(place / f"{i}.png")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / ".thumbs").mkdir()
    (tmp_path / "photos" / ".thumbs" / "0.png").write_bytes(b"")
    found = images_in(tmp_path / "photos", 5)
    assert [int(image[0, 0, 0]) for image, _ in found] == [0, 4, 8, 3, 7]
    assert all(label is None for _, label in found)
    dataset = open_dataset("folder", folder_dataset, "train")
    chosen = labelled_images(dataset, 3)
    for ours, index in zip(chosen, (0, 2, 4), strict=True):
        for one, other in zip(ours, dataset.read(index), strict=True):
            assert one is not None
            assert torch.equal(one, other)
    with pytest.raises(DataError, match="holds no image"):
        images_in(folder_dataset / "train" / "nothing", 5)


def test_drawn_images_have_the_size_that_is_asked_for() -> None:
    found = [image for image, _ in drawn_images((64, 96), 2)]
    assert [(image.dtype, image.shape) for image in found] == [(torch.uint8, (3, 64, 96))] * 2
    assert not torch.equal(*found)


def test_calibration_batches_are_the_graphs_own_input(trained: TrainedStudent) -> None:
    images = one_image(size=(45, 59))
    pixels = images.read(0)[0]
    free = CalibrationBatches(Copy(trained, Layout(input="uint8"), lambda scores: scores), images)
    assert len(free) == 1
    assert free[0].dtype == np.uint8
    assert np.array_equal(free[0][0], pixels[:, :40, :56].numpy())
    fixed = CalibrationBatches(
        Copy(trained, Layout(size=(30, 40), batch=2), lambda scores: scores), images
    )
    resized = F.interpolate(
        pixels[None] / 255, size=(30, 40), mode="bilinear", antialias=True
    ).numpy()
    assert fixed[0].shape == (2, 3, 30, 40)
    np.testing.assert_allclose(fixed[-1][1], resized[0], atol=0.5 / 255 + 1e-6)
    with pytest.raises(IndexError):
        free[1]
    assert [len(part) for part in (free[:], free[1:])] == [1, 0]


class Doubles(nn.Module):
    """A layer that ONNX and OpenVINO do not know."""

    def forward(self, cells: Tensor) -> Tensor:
        """Apply a Bessel function."""
        return torch.special.bessel_j0(cells)


class Branches(nn.Module):
    """A layer whose way depends on its values."""

    def forward(self, cells: Tensor) -> Tensor:
        """Turn the sign of dark images."""
        return cells if cells.mean() > 0 else -cells


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_unknown_operator_is_named_with_its_layer(tmp_path: Path, kind: Any) -> None:
    trained = student_of(nn.Sequential(nn.Conv2d(3, 3, 1), Doubles()))
    program = capture(DeployGraph(trained, Layout()), "tiny")
    with pytest.raises(ConfigError) as raised:
        write(program, kind, Layout(), "{}", tmp_path / "student", "tiny")
    said = str(raised.value)
    assert f"student 'tiny' cannot be exported as {kind}" in said
    assert "layer 'model.1' uses the operator aten.special_bessel_j0" in said
    assert "fix the size with --size H W, choose" in said
    assert "another format, of which torch knows most" in said
    assert "\n" not in said


def test_layer_that_cannot_be_traced_is_named() -> None:
    trained = student_of(nn.Sequential(nn.Conv2d(3, 3, 1), Branches()))
    with pytest.raises(ConfigError, match=r"cannot be traced in layer 'model\.1'") as raised:
        capture(DeployGraph(trained, Layout(size=(16, 16))), "tiny")
    assert "choose another student" in str(raised.value)
    assert "\n" not in str(raised.value)


class Pools(nn.Module):
    """Pools to a grid, as PSPNet does: ONNX cannot do that for a map of any size."""

    def forward(self, image: Tensor) -> Tensor:
        return F.interpolate(F.adaptive_avg_pool2d(image, 3), image.shape[-2:])


def test_pooling_to_a_fixed_grid_needs_a_fixed_size_and_says_so(tmp_path: Path) -> None:
    images = drawn_images((96, 160), 1)
    with pytest.raises(ConfigError, match=r"does not run on .* fix the size with --size H W"):
        export(student_of(Pools()), tmp_path, ["onnx"], Layout(), images)
    assert list(tmp_path.rglob("*.*")) == []


def test_every_file_is_proven_and_described(trained: TrainedStudent, tmp_path: Path) -> None:
    label = torch.randint(0, 3, (45, 59), dtype=torch.uint8)
    done: list[tuple[int, int]] = []
    written = export(
        trained,
        tmp_path / "out",
        ["torch", "onnx"],
        Layout(),
        one_image(label, (45, 59)),
        on_progress=lambda count, total: done.append((count, total)),
    )
    assert [one.path for one in written] == [
        tmp_path / "out" / "torch" / "student.pt2",
        tmp_path / "out" / "onnx" / "student.onnx",
    ]
    assert done == [(1, 2), (2, 2)]
    for one in written:
        told = json.loads((one.path.parent / "export.json").read_text())
        assert told == one.facts
        assert (told["format"], told["precision"]) == (one.path.parent.name, "fp32")
        assert told["max_abs_diff"] < 1e-5
        assert told["label_agreement"] == 1
        assert told["miou_eager"] == pytest.approx(told["miou_exported"])
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == sorted(
        ["torch", "student.pt2", "export.json", "onnx", "student.onnx", "export.json"]
    )


def test_format_with_its_metadata_beside_it_is_kept_with_it(
    trained: TrainedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteRT's package is replaced: the file is one of torch.export, the rest is as it is."""

    def write_torch(program: torch.export.ExportedProgram, target: Path, text: str) -> None:
        torch.export.save(program, target, extra_files={"tsic.json": text})
        metadata_beside(target).write_text(text)

    monkeypatch.setattr("tsic.deploy.export.writers.export_litert", write_torch)
    monkeypatch.setitem(writers._PACKAGES, "litert", ())
    monkeypatch.setitem(ENGINES, ".tflite", TorchModel)
    layout = Layout(size=(45, 59))
    images = one_image()
    written = export(trained, tmp_path, ["litert"], layout, images)
    assert [one.facts["format"] for one in written] == ["litert"]
    kept = {"student.tflite", "student.tflite.json", "export.json"}
    assert {file.name for file in (tmp_path / "litert").iterdir()} == kept
    with pytest.raises(ConfigError, match="int8 is for onnx and openvino"):
        export(trained, tmp_path, ["litert"], layout, images, calibration=images)
    (tmp_path / "litert" / "student.tflite.json").unlink()
    with pytest.raises(CheckpointError, match=r"student\.tflite\.json is missing"):
        open_exported(tmp_path / "litert" / "student.tflite")


def test_file_beyond_tolerance_is_deleted_with_the_numbers(
    trained: TrainedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Copy(trained, Layout(), lambda scores: scores + 0.5)
    monkeypatch.setattr("tsic.deploy.export.export.open_exported", lambda path: other)
    with pytest.raises(ConfigError) as raised:
        export(trained, tmp_path, ["torch"], Layout(), one_image(), limits=Limits(1e-3))
    assert "torch differs from PyTorch on one image" in str(raised.value)
    assert "largest difference 0.5 of scores up to" in str(raised.value)
    assert "labels equal on 100.000% of pixels" in str(raised.value)
    assert list(tmp_path.rglob("*")) == []


def test_file_whose_labels_differ_is_deleted(
    trained: TrainedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 rows one: there are no scores to compare."""

    def spoil(labels: Tensor) -> Tensor:
        changed = labels.clone()
        changed[:, 0] = (changed[:, 0] + 1) % 3
        return changed

    layout = Layout(size=(40, 56), output="labels")
    other = Copy(trained, layout, spoil)
    monkeypatch.setattr("tsic.deploy.export.export.open_exported", lambda path: other)
    with pytest.raises(
        ConfigError, match=r"on more than 0\.1% of the labels: labels equal on 97\.5"
    ):
        export(trained, tmp_path, ["torch"], layout, one_image())
    assert list(tmp_path.rglob("*")) == []


def test_format_that_is_unknown_or_has_no_int8_is_refused(
    trained: TrainedStudent, tmp_path: Path
) -> None:
    wrong: Any = ["onx"]
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        export(trained, tmp_path, wrong, Layout(), one_image())
    with pytest.raises(ConfigError, match="int8 is for onnx and openvino"):
        export(trained, tmp_path, ["torch"], Layout(), one_image(), calibration=one_image())


def with_bias(source: Path, target: Path, change: float) -> None:
    """Copy an ONNX file; the scores of its first class are raised."""
    model = onnx.load(source)
    (bias,) = (one for one in model.graph.initializer if list(one.dims) == [3])
    values = onnx.numpy_helper.to_array(bias) + np.array([change, 0, 0], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, target)


@pytest.mark.parametrize("change", [0.0, 100.0])
def test_int8_file_is_kept_if_it_loses_little(
    trained: TrainedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: float
) -> None:
    """The quantiser is replaced by one that raises the scores of the first class."""
    seen: dict[str, Any] = {}

    def quantise(
        source: Path,
        target: Path,
        batches: Sequence[Array],
        *,
        score: Callable[[Path], float],
        max_drop: float,
    ) -> list[str]:
        with_bias(source, target, 0.0)
        seen.update(score=score(target), max_drop=max_drop, shape=batches[0].shape)
        with_bias(source, target, change)
        return ["the last layer"]

    int8 = SimpleNamespace(quantise=quantise)
    monkeypatch.setitem(sys.modules, "tsic.deploy.export.int8", int8)
    images = one_image(size=(48, 56))
    arguments: Any = (trained, tmp_path, ["onnx"], Layout(), images)
    limits = Limits(max_drop=2.5)
    if change:
        with pytest.raises(ConfigError, match=r"onnx in int8 loses .* more than --max-drop 2\.5"):
            export(*arguments, calibration=one_image(size=(40, 32)), limits=limits)
        assert sorted(path.name for path in tmp_path.rglob("*")) == [
            "export.json",
            "onnx",
            "student.onnx",
        ]
        return
    _, written = export(*arguments, calibration=one_image(size=(40, 32)), limits=limits)
    assert seen == {"score": 100.0, "max_drop": 2.5, "shape": (1, 3, 40, 32)}
    assert written.path == tmp_path / "onnx-int8" / "student.int8.onnx"
    told = json.loads((written.path.parent / "export.json").read_text())
    assert (told["format"], told["precision"]) == ("onnx", "int8")
    assert told["left_in_float"] == ["the last layer"]
    assert told["calibration"] == "one image"


def test_an_exported_file_runs_nowhere_but_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="exported files run on the CPU, not on 'cuda'"):
        open_model("student.onnx", device="cuda")
    with pytest.raises(CheckpointError, match="no exported file at"):
        open_model("student.onnx", device="cpu")
    asked: list[int | None] = []
    engines = "tsic.deploy.export.engines.open_exported"
    monkeypatch.setattr(engines, lambda path, *, threads: asked.append(threads))
    open_model("student.onnx", device="cpu", threads=3)
    assert asked == [3]


def test_paths_are_opened_first(trained: TrainedStudent, tmp_path: Path) -> None:
    path: Any = "runs/a"
    with pytest.raises(ConfigError, match=r"'runs/a' is a path; open it with tsic.load_student"):
        export(path, tmp_path, ["torch"], Layout(), one_image())
    with pytest.raises(ConfigError, match="'runs/a' is a path; open it with images_in"):
        export(trained, tmp_path, ["torch"], Layout(), path)
    with pytest.raises(ConfigError, match="'runs/a' is a path; open it with images_in"):
        export(trained, tmp_path, ["torch"], Layout(), one_image(), calibration=path)
    (done,) = export(trained, tmp_path, "torch", Layout(), one_image())
    assert done.path == tmp_path / "torch" / "student.pt2"
