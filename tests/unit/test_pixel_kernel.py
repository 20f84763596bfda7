"""The kernel of cross-entropy, without a GPU: interpreted, and compiled for some."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tsic import pixel_loss

triton = pytest.importorskip("triton")

INTERPRETED = """
import torch
import torch.nn.functional as F
from tsic import pixel_kernel, pixel_loss

pixel_loss._has_kernel = lambda device: True
pixel_loss._in_strips = None  # not asked
pixel_loss._AT_ONCE["cpu"] = 2 * 3 * 6 * 32  # some images at a time
for classes, grid, size in (
    (3, (6, 8), (24, 32)),
    (2, (5, 7), (18, 27)),
    (3, (4, 9), (4, 20)),
    (5, (3, 9), (7, 9)),
    (3, (24, 32), (6, 8)),
    (3, (13, 17), (4, 5)),
    (11, (1, 1), (3, 170)),
    (150, (3, 4), (11, 18)),
):
    logits = (5 * torch.randn(3, classes, *grid)).to(memory_format=torch.channels_last)
    logits.requires_grad_()
    labels, weights = torch.randint(classes, (3, *size)), torch.rand(3, *size)
    weights[0, 1:3] = 0
    resized = F.interpolate(logits.double(), size, mode="bilinear", align_corners=False)
    plain = (F.cross_entropy(resized, labels, reduction="none") * weights).sum().float()
    losses = pixel_loss.weighted_cross_entropy(logits, labels, weights), plain
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(3 * loss, logits)[0] for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
pixel_kernel.require_right(torch.device("cpu"))
"""


def test_the_kernel_equals_the_plain_formula() -> None:
    run = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_for_gpus(capability: int) -> None:
    from triton.backends.compiler import GPUTarget

    from tsic.pixel_kernel import _compare

    pointers = {"labels": "*i64", "firsts": "*i32"}
    constants = {"CLASSES": 256, "COLUMNS": 16}
    counts = ("classes", "cells", "width", "height")
    kinds = {
        name: "constexpr" if name in constants else "i32" if name in counts else "*fp32"
        for name in _compare.arg_names
    }
    source = triton.compiler.ASTSource(_compare, kinds | pointers, constants)
    options = {"num_warps": 8, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert made.asm["cubin"]


@pytest.mark.parametrize("factor", [0.0, 1.1])
def test_a_kernel_that_fails_is_told_of_and_left_out(
    factor: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tsic import pixel_kernel

    def wrong(wide: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        if not factor:
            raise RuntimeError("Failed to find C compiler")
        return wide.sum(), factor * wide

    monkeypatch.setattr(pixel_kernel, "cross_entropy_of_rows", wrong)
    assert not pixel_loss._kernel_is_right.__wrapped__(torch.device("cpu"))
    told = capsys.readouterr().err
    assert "losses of pixels take longer" in told
    assert ("differ" if factor else "C compiler") in told


@pytest.mark.gpu
@pytest.mark.parametrize("classes", [2, 11, 150])
def test_the_kernel_on_a_gpu_equals_the_plain_formula(classes: int) -> None:
    assert pixel_loss._has_kernel(torch.device("cuda:0"))
    logits = 5 * torch.randn(2, classes, 45, 60, device="cuda:0")
    logits.requires_grad_()
    labels = torch.randint(classes, (2, 360, 480), device="cuda:0")
    weights = torch.rand(2, 360, 480, device="cuda:0")
    resized = F.interpolate(logits.double(), (360, 480), mode="bilinear", align_corners=False)
    plain = (F.cross_entropy(resized, labels, reduction="none") * weights).sum().float()
    losses = pixel_loss.weighted_cross_entropy(logits, labels, weights), plain
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
