"""What every student promises, whichever library it comes from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tsic.errors import ShapeError
from tsic.student import Student, StudentOutput, StudentSpec, build_student

CLASSES = 5
SMALL = "test_resnet"  # timm's 0.4 M parameter ResNet
STUDENTS: dict[str, dict[str, Any]] = {
    "compact": {"name": "compact", "options": {"width": 0.5}},
    "deeplabv3": {"name": "deeplabv3", "encoder": "resnet18", "options": {"decoder_channels": 32}},
    "deeplabv3plus": {"name": "deeplabv3plus", "options": {"decoder_channels": 32}},
    "deeplabv3plus-8": {"name": "deeplabv3plus", "output_stride": 8},
    "pspnet": {"name": "pspnet", "options": {"psp_out_channels": 32}},
    "upernet": {"name": "upernet", "options": {"decoder_channels": 16}},
    "upernet-8": {"name": "upernet", "output_stride": 8, "options": {"decoder_channels": 16}},
    "segformer": {"name": "segformer", "encoder": "mit_b0"},
    "segformer-16": {"name": "segformer", "output_stride": 16},
    "fpn": {"name": "fpn", "encoder": "mobilenetv3_small_050"},
    "unet": {"name": "unet"},
    "unetplusplus": {"name": "unetplusplus"},
    "linknet": {"name": "linknet"},
    "manet": {"name": "manet"},
    "pan": {"name": "pan"},
    "hugging-face": {"name": "folder"},
}
STRIDES = {
    "compact": 4,
    "deeplabv3": 8,
    "deeplabv3plus": 4,
    "deeplabv3plus-8": 4,
    "pspnet": 8,
    "upernet": 4,
    "upernet-8": 4,
    "segformer": 4,
    "segformer-16": 4,
    "fpn": 4,
    "unet": 1,
    "unetplusplus": 1,
    "linknet": 1,
    "manet": 1,
    "pan": 4,
    "hugging-face": 4,
}


@pytest.fixture(scope="module", params=list(STUDENTS))
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def student(case: str, segformer: Path) -> Student:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"encoder": SMALL, "num_classes": CLASSES, "auxiliary": True}
    arguments |= STUDENTS[case]
    if arguments["name"] == "folder":
        arguments["name"] = str(segformer)
    return build_student(**arguments)


@pytest.mark.parametrize("size", [(90, 120), (65, 97), (32, 160)])
def test_any_size_gives_maps_that_cover_the_image(
    student: Student, case: str, size: tuple[int, int]
) -> None:
    student.eval()
    with torch.no_grad():
        output = student(torch.rand(1, 3, *size))

    def grid(stride: int) -> tuple[int, int]:
        return -(-size[0] // stride), -(-size[1] // stride)

    assert isinstance(output, StudentOutput)
    assert student.logits_stride == STRIDES[case]
    assert output.logits.shape == (1, CLASSES, *grid(STRIDES[case]))
    assert output.logits.dtype == torch.float32
    assert output.auxiliary is None
    assert len(output.features) >= 2
    for feature, stride, channels in zip(
        output.features, student.feature_strides, student.feature_channels, strict=True
    ):
        assert feature.shape == (1, channels, *grid(stride))
    strides = student.feature_strides
    assert list(strides) == sorted(strides)


def test_output_equals_that_of_the_image_padded_by_hand(student: Student) -> None:
    """72 rows and 96 columns need no resampling up to stride 8."""
    student.eval()
    images = torch.rand(1, 3, 72, 96)
    side = student._padded(72), student._padded(96)
    normalised = (images - student.mean) / student.std
    by_hand = torch.zeros(1, 3, *side)
    by_hand[:, :, :72, :96] = normalised
    with torch.no_grad():
        output = student(images)
        logits, features = student.network(by_hand)
    stride = student.logits_stride
    torch.testing.assert_close(output.logits, logits[:, :, : 72 // stride, : 96 // stride])
    for ours, whole, stride in zip(output.features, features, student.feature_strides, strict=True):
        if 72 % stride == 0:
            torch.testing.assert_close(ours, whole[:, :, : 72 // stride, : 96 // stride])


def test_image_of_fitting_size_is_passed_through(student: Student) -> None:
    student.eval()
    side = student._padded(64)
    images = torch.rand(1, 3, side, side)
    with torch.no_grad():
        output = student(images)
        logits, features = student.network((images - student.mean) / student.std)
    assert torch.equal(output.logits, logits)
    assert all(torch.equal(*pair) for pair in zip(output.features, features, strict=True))


def test_features_come_from_the_forward_that_made_the_logits(student: Student) -> None:
    student.eval()
    calls: list[int] = []
    handle = student.network.register_forward_hook(lambda *_: calls.append(1))
    images = torch.rand(1, 3, student._padded(64), student._padded(64))
    output = student(images)
    handle.remove()
    assert len(calls) == 1
    coarse = output.features[-1]
    (gradient,) = torch.autograd.grad(output.logits.square().sum(), coarse)
    assert gradient.abs().sum() > 0


def test_every_weight_gets_a_gradient(student: Student) -> None:
    student.train()
    assert student.idle_weights() == []
    assert student.training
    student.zero_grad()
    side = student._padded(64)
    output = student(torch.rand(2, 3, side, side))
    assert output.auxiliary is not None
    assert output.auxiliary.shape[:2] == (2, CLASSES)
    loss = output.logits.square().sum() + output.auxiliary.square().sum()
    loss.backward()
    silent = [name for name, weight in student.named_parameters() if weight.grad is None]
    student.zero_grad()
    assert silent == []


def test_deployed_student_is_rebuilt_from_json_and_answers_alike(student: Student) -> None:
    spec = StudentSpec.from_dict(json.loads(json.dumps(student.spec.deployed().to_dict())))
    weights = student.deploy_state_dict()
    assert not any(key.startswith("auxiliary_head") for key in weights)
    assert any(key.startswith("auxiliary_head") for key in student.state_dict())
    rebuilt = build_student(**spec.to_dict())
    assert rebuilt.spec == spec
    rebuilt.load_state_dict(weights)
    images = torch.rand(1, 3, 65, 97)
    student.eval()
    rebuilt.eval()
    with torch.no_grad():
        assert torch.equal(student(images).logits, rebuilt(images).logits)


def test_wrong_images_are_refused(student: Student) -> None:
    with pytest.raises(ShapeError, match=r"float RGB \(B, 3, H, W\) in \[0, 1\], got float32 \(1,"):
        student(torch.zeros(1, 4, 64, 64))
    with pytest.raises(ShapeError, match="got uint8"):
        student(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_training_on_one_image_works_or_says_why(student: Student, case: str) -> None:
    student.train()
    images = torch.rand(1, 3, student._padded(64), student._padded(64))
    pools_before_norm = {"deeplabv3", "deeplabv3plus", "upernet", "pan"}
    if case.split("-")[0] in pools_before_norm:
        with pytest.raises(ShapeError, match="train with at least 2 images per device"):
            student(images)
    else:
        assert student(images).logits.isfinite().all()


def test_building_leaves_batch_statistics_fresh(student: Student) -> None:
    rebuilt = build_student(**student.spec.deployed().to_dict())
    assert rebuilt.training
    norms = [m for m in rebuilt.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(int(norm.num_batches_tracked or 0) == 0 for norm in norms)
