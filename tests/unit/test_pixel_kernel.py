"""The kernel of losses, without a GPU: interpreted, and compiled for some."""

import os
import subprocess
import sys
from pathlib import Path
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

pixel_loss._has_kernel = lambda logits, size: True
pixel_loss._in_strips = lambda *_: None  # not asked
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

    target = 5 * torch.randn(3, classes, *size)
    resized = F.interpolate(logits.double(), size, mode="bilinear", align_corners=False)
    said, meant = ((one / 3).log_softmax(1) for one in (resized, target.double()))
    apart = F.kl_div(said, meant, reduction="none", log_target=True).sum(1)
    losses = pixel_loss.weighted_kl(logits, target, weights, 3.0), (apart * weights).sum().float()
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(3 * loss, logits)[0] for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    rows = pixel_kernel._rows(grid[0], size[0], logits.device)
    wide = torch.randn(3, classes, grid[0], size[1])
    asked = wide, labels, weights, *rows, 1.0
    torch.library.opcheck(pixel_kernel._of_rows, asked, test_utils="test_faketensor")

sure = torch.zeros(1, 3, 2, 4)
sure[:, 1] = 16
labels, weights = torch.ones(1, 5, 4, dtype=torch.int64), torch.ones(1, 5, 4)
for added in (0, 100):
    loss, _ = pixel_kernel.compare_rows(sure + added, labels, weights)
    torch.testing.assert_close(loss / 20, F.cross_entropy(sure, labels[:, :2])[()])
for label in (-1, 3, 254):
    loss, _ = pixel_kernel.compare_rows(sure, torch.full_like(labels, label), weights)
    assert loss.isinf(), label
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
@pytest.mark.parametrize("truth", ["*i64", "*fp32"])
def test_the_kernel_compiles_for_gpus(
    truth: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.backends.compiler import GPUTarget

    from tsic.pixel_kernel import _compare

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"IS_LABEL": truth == "*i64", "CLASSES": 256, "COLUMNS": 16}
    kinds = dict.fromkeys(_compare.arg_names, "*fp32") | dict.fromkeys(constants, "constexpr")
    kinds |= dict.fromkeys(("classes", "cells", "width", "height"), "i32")
    kinds |= {"truth": truth, "firsts": "*i32", "sharpness": "fp32"}
    source = triton.compiler.ASTSource(_compare, kinds, constants)
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

    monkeypatch.setattr(pixel_kernel, "compare_rows", wrong)
    assert not pixel_loss._kernel_is_right.__wrapped__(torch.device("cpu"))
    told = capsys.readouterr().err
    assert "losses of pixels take longer" in told
    assert ("differ" if factor else "C compiler") in told


@pytest.mark.gpu
@pytest.mark.parametrize("classes", [2, 11, 150])
def test_the_kernel_on_a_gpu_equals_the_plain_formula(classes: int) -> None:
    assert pixel_loss._kernel_is_right(torch.device("cuda:0"))
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
