"""Depthwise convolutions, which a CPU computes in float32."""

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from tsic.config import OptimConfig
from tsic.cycle import Cycle
from tsic.networks.depthwise import widen_depthwise
from tsic.student import build_student
from tsic.training.module import CycleModule


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 16, 3, padding=2, dilation=2, groups=8),
        Conv2dSame(8, 8, 5, stride=2, groups=8),
    ],
)
def test_they_are_rounded_once_where_autocast_would_round_maps_and_weights(conv: nn.Conv2d) -> None:
    torch.manual_seed(0)
    conv = copy.deepcopy(conv)
    usual, maps = copy.deepcopy(conv), torch.randn(2, 8, 9, 12).bfloat16()
    exact = usual(maps.float())
    widen_depthwise(conv)
    widen_depthwise(conv)
    with torch.autocast("cpu", torch.bfloat16):
        found, coarse = copy.deepcopy(conv)(maps), usual(maps)
    assert torch.equal(found, exact.bfloat16())
    assert not torch.equal(found, coarse)
    assert torch.equal(conv(maps.float()), exact)
    assert conv.state_dict().keys() == usual.state_dict().keys()
    with torch.autocast("cpu", torch.bfloat16):
        conv(maps).float().square().sum().backward()
    usual(maps.float()).bfloat16().float().square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, usual.weight.grad)


def test_all_others_stay_as_autocast_has_them() -> None:
    others = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 5, groups=2), nn.Conv2d(1, 1, 5)
    )
    widen_depthwise(others)
    assert {type(conv) for conv in others} == {nn.Conv2d}


def test_a_training_widens_its_students() -> None:
    student = build_student("deeplabv3plus", num_classes=3, encoder="tf_efficientnet_lite0")
    module = CycleModule(
        Cycle(student, None),
        OptimConfig(),
        class_names=("a", "b", "c"),
        max_steps=1,
        warmup_steps=0,
        seed=0,
    )
    names = {type(conv).__name__ for conv in module.student.modules()}
    assert {"DepthwiseConv2d", "DepthwiseConv2dSame"} & names
