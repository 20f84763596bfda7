"""LiteRT and ExecuTorch files against eager PyTorch, where their packages are installed."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsic.checkpoint import TrainedStudent
from tsic.data.classes import ClassTable
from tsic.deploy.export.export import export
from tsic.deploy.export.graph import DeployGraph, Layout, describe
from tsic.deploy.export.mobile import (
    ExecuTorchModel,
    LiteRtModel,
    export_executorch,
    export_litert,
)
from tsic.deploy.export.proof import drawn_images
from tsic.deploy.export.writers import Format, require_format
from tsic.deploy.opening import open_model
from tsic.errors import CheckpointError, ConfigError
from tsic.student import build_student

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of their own torch

LAYOUTS = {
    "plain": Layout(size=(64, 96)),
    "padded": Layout(size=(50, 70), batch=2),
    "resized": Layout(size=(48, 80), resize=(64, 96)),
    "labels": Layout(size=(64, 96), input="uint8", output="labels"),
}


@pytest.fixture
def trained() -> TrainedStudent:
    """A student whose every layer speaks: the compact one starts with silent branches."""
    student = build_student("compact", num_classes=3, options={"width": 0.25})
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
        for _ in range(8):
            student(torch.rand(4, 3, 64, 96))
        # No class wins everywhere: each has the same mean score.
        scores = student.eval()(torch.rand(4, 3, 64, 96)).logits
        last = [one for one in student.modules() if isinstance(one, nn.Conv2d)][-1]
        assert last.bias is not None
        last.bias -= scores.mean((0, 2, 3))
    classes = ClassTable.from_names(("ground", "square", "disc"))
    return TrainedStudent(student, classes, {}).eval()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kind", ["litert", "executorch"])
def test_mobile_files_answer_as_the_student(
    trained: TrainedStudent, tmp_path: Path, layout: Layout, kind: str
) -> None:
    if kind == "litert" and layout.resize:
        pytest.skip("LiteRT cannot resize so")
    pytest.importorskip({"litert": "litert_torch", "executorch": "executorch"}[kind])
    graph = DeployGraph(trained, layout)
    path = tmp_path / {"litert": "student.tflite", "executorch": "student.pte"}[kind]
    write = export_litert if kind == "litert" else export_executorch
    write(graph.capture(), path, describe(trained, graph))
    model = (LiteRtModel if kind == "litert" else ExecuTorchModel)(path)
    assert model.classes.names == ("ground", "square", "disc")
    for _ in range(2):
        images = torch.randint(0, 256, (layout.batch or 1, 3, *(layout.size or (0, 0)))) / 255
        with torch.no_grad():
            shown = (images * 255).round().to(torch.uint8) if layout.input == "uint8" else images
            expected = graph(shown)
        answer = model(images)
        assert answer.shape == expected.shape
        if layout.output == "labels":
            assert (answer == expected).float().mean() > 0.999
            assert len(expected.unique()) > 1
        else:
            torch.testing.assert_close(answer, expected, rtol=1e-3, atol=1e-4 * expected.std())


def traced(module: nn.Module) -> torch.export.ExportedProgram:
    """A graph of images of 8x8 pixels."""
    return torch.export.export(module, (torch.zeros(1, 3, 8, 8),))


class Resize(nn.Module):
    """What a student does that was trained on resized images."""

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(images, size=(4, 4), mode="bilinear", antialias=True)


def test_a_free_size_is_refused() -> None:
    for layout in (Layout(), Layout(size=(64, 96), batch=None)):
        for kind in ("litert", "executorch"):
            with pytest.raises(ConfigError, match=f"{kind} files take one size and number of imag"):
                require_format(kind, layout)


def test_what_litert_cannot_resize_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="LiteRT has no antialiased resize; say the size"):
        export_litert(traced(Resize()), tmp_path / "file", "{}")


@pytest.mark.parametrize("kind", ["litert", "executorch"])
def test_a_missing_package_is_named(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("litert_torch", "executorch", "executorch.exir"):
        monkeypatch.setitem(sys.modules, name, None)
    write = export_litert if kind == "litert" else export_executorch
    with pytest.raises(ConfigError, match=rf"not installed; .*-m pip install -e '\.\[{kind}\]'"):
        write(traced(nn.Conv2d(3, 3, 1)), tmp_path / "file", "{}")


def test_metadata_lies_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "student.pte").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"student\.pte\.json is missing"):
        open_model(tmp_path / "student.pte")


@pytest.mark.parametrize("kind", ["litert", "executorch"])
def test_export_proves_and_keeps_both_files(
    trained: TrainedStudent, tmp_path: Path, kind: Format
) -> None:
    pytest.importorskip({"litert": "litert_torch", "executorch": "executorch"}[kind])
    images = drawn_images((64, 96), 2)
    (made,) = export(trained, tmp_path, [kind], Layout(size=(64, 96)), images)
    name = {"litert": "student.tflite", "executorch": "student.pte"}[kind]
    assert made.facts["label_agreement"] > 0.999
    folder = tmp_path / kind
    assert {file.name for file in folder.iterdir()} == {name, f"{name}.json", "export.json"}
    assert open_model(folder / name).classes.names == ("ground", "square", "disc")
