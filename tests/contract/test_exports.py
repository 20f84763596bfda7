"""Every built-in student architecture can be exported, and answers as it did."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tsic.checkpoint import TrainedStudent
from tsic.data.classes import ClassTable
from tsic.deploy.export.engines import open_exported
from tsic.deploy.export.graph import DeployGraph, Layout, describe
from tsic.deploy.export.writers import SUFFIXES, Format, capture, write
from tsic.networks.smp import SMP_NAMES
from tsic.student import build_student

CLASSES = ClassTable.from_names(("a", "b", "c", "d", "e"))
pytestmark = pytest.mark.usefixtures("onnx_operators")
SMALL = "test_resnet"  # timm's 0.4 M parameter ResNet
SIZE = (70, 97)
"""Height and width that no architecture takes without padding."""

SEGFORMER = {
    "model_type": "segformer",
    "num_encoder_blocks": 2,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "num_attention_heads": [1, 1],
    "decoder_hidden_size": 16,
}
STUDENTS: dict[str, dict[str, Any]] = {
    # Each kind of block is there; the default repeats the last one.
    "compact": {"name": "compact", "options": {"width": 0.25, "dilations": [1, 2]}},
    "hugging-face": {"name": "owner/segformer", "options": {"config": SEGFORMER}},
    **{name: {"name": name, "encoder": SMALL} for name in SMP_NAMES},
}


def student_of(case: str) -> TrainedStudent:
    torch.manual_seed(0)
    student = build_student(num_classes=5, **STUDENTS[case])
    for name, weight in student.named_parameters():
        if weight.ndim == 1:  # no branch is silent, and no layer norm sees nothing but zeros
            torch.nn.init.uniform_(
                weight, *((0.5, 1.5) if name.endswith("weight") else (-0.1, 0.1))
            )
    return TrainedStudent(student, CLASSES, {}).eval()


def assert_answers_alike(
    trained: TrainedStudent,
    layout: Layout,
    kinds: Sequence[Format],
    folder: Path,
    *sizes: tuple[int, int],
) -> None:
    """Export in some formats; scores differ by less than a ten-thousandth of the largest."""
    graph = DeployGraph(trained, layout)
    program = capture(graph, "it")  # once for all formats
    for kind in kinds:
        path = folder / f"student{SUFFIXES[kind]}"
        write(program, kind, layout, describe(trained, graph), path, "it")
        exported = open_exported(path, threads=1)
        for size in sizes:
            images = torch.rand(layout.batch or 2, 3, *size)
            with torch.inference_mode():
                expected = trained(images)
            answer = exported(images)
            assert answer.shape == expected.shape, kind
            assert (answer - expected).abs().max() < 1e-4 * expected.abs().max(), kind


@pytest.mark.parametrize("case", STUDENTS)
def test_every_student_is_exported(case: str, tmp_path: Path) -> None:
    kinds: list[Format] = ["onnx", "openvino", "torch"]
    assert_answers_alike(student_of(case), Layout(size=SIZE), kinds, tmp_path, SIZE)


FREE = [(64, 160), (70, 97), (161, 130)]


@pytest.mark.parametrize(
    ("case", "kinds"), [("compact", ["onnx", "openvino"]), ("hugging-face", ["openvino"])]
)
def test_free_size_holds_at_sizes_that_are_no_multiples(
    case: str, kinds: list[Format], tmp_path: Path
) -> None:
    assert_answers_alike(student_of(case), Layout(batch=None), kinds, tmp_path, *FREE)
