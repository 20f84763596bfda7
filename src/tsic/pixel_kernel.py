"""Losses of every pixel in one pass on a GPU: no resized score is ever in memory."""

from functools import cache

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_SCORES = 2048
"""Scores of a program at a time: sixteen of each thread."""


@triton.jit  # type: ignore[untyped-decorator]
def _compare(
    wide: tl.tensor,
    truth: tl.tensor,
    weights: tl.tensor,
    firsts: tl.tensor,
    shares: tl.tensor,
    losses: tl.tensor,
    to_upper: tl.tensor,
    to_lower: tl.tensor,
    sharpness: tl.tensor,
    classes: tl.tensor,
    cells: tl.tensor,
    width: tl.tensor,
    height: tl.tensor,
    IS_LABEL: tl.constexpr,  # noqa: N803 # Triton's constants are written large
    CLASSES: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
) -> None:
    """Pixels between two rows of cells, in some columns: their loss and gradient for both."""
    image, cell, block = tl.program_id(2), tl.program_id(1), tl.program_id(0)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    kind = tl.arange(0, CLASSES)[:, None]
    is_inside = column < width
    is_score = (kind < classes) & is_inside[None, :]
    place = (image * classes + kind) * cells * width + column[None, :]
    above = place + cell * width
    upper = sharpness * tl.load(wide + above, is_score, 0.0)
    below = place + tl.minimum(cell + 1, cells - 1) * width
    lower = sharpness * tl.load(wide + below, is_score, 0.0)
    loss = tl.zeros([COLUMNS], tl.float32)
    upper_change = tl.zeros([CLASSES, COLUMNS], tl.float32)
    lower_change = tl.zeros([CLASSES, COLUMNS], tl.float32)
    for row in range(tl.load(firsts + cell), tl.load(firsts + cell + 1)):
        share = tl.load(shares + row)
        pixel = (image * height + row) * width + column
        weight = tl.load(weights + pixel, is_inside, 0.0)
        said = _log_shares(upper + share * (lower - upper), kind < classes)
        if IS_LABEL:
            is_true = kind == tl.load(truth + pixel, is_inside, 0)[None, :]
            true = is_true.to(tl.float32)
            apart = tl.where(is_true, -said, 0.0)
            # A label of no class must not pass for one.
            loss += tl.where(tl.sum(true, 0) > 0, 0.0, float("inf"))
        else:
            at = ((image * classes + kind) * height + row) * width + column[None, :]
            meant = _log_shares(sharpness * tl.load(truth + at, is_score, 0.0), kind < classes)
            true = tl.exp(meant)
            apart = tl.where(kind < classes, true * (meant - said), 0.0)
        loss += weight * tl.sum(apart, 0)
        change = sharpness * weight[None, :] * (tl.exp(said) - true)
        upper_change += (1 - share) * change
        lower_change += share * change
    tl.store(losses + (image * cells + cell) * tl.num_programs(0) + block, tl.sum(loss, 0))
    tl.store(to_upper + above, upper_change, is_score)
    tl.store(to_lower + above, lower_change, is_score)


@triton.jit  # type: ignore[untyped-decorator]
def _log_shares(scores: tl.tensor, counts: tl.tensor) -> tl.tensor:
    scores = tl.where(counts, scores, float("-inf"))
    scores -= tl.max(scores, 0)[None, :]
    return scores - tl.log(tl.sum(tl.exp(scores), 0))[None, :]


@torch.library.custom_op("tsic::compare_rows", mutates_args=())
def _of_rows(
    wide: Tensor,
    truth: Tensor,
    weights: Tensor,
    firsts: Tensor,
    shares: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of programs, and what the pixels below each row of cells ask of it and of the next."""
    _, classes, cells, width = wide.shape
    rounded, columns = _block(wide)
    losses, to_upper, to_lower = _made(wide)
    grid = losses.shape[::-1]
    with torch.cuda.device_of(wide):
        _compare[grid](
            wide,
            truth,
            weights,
            firsts,
            shares,
            losses,
            to_upper,
            to_lower,
            1 / temperature,
            classes,
            cells,
            width,
            weights.shape[1],
            not truth.is_floating_point(),
            rounded,
            columns,
            num_warps=max(4, rounded * columns // 512),
            enable_fp_fusion=True,
        )
    return losses, to_upper, to_lower


def _block(wide: Tensor) -> tuple[int, int]:
    """Classes and columns of a program."""
    classes: int = triton.next_power_of_2(wide.shape[1])
    return classes, max(16, _SCORES // classes)


def _made(wide: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What programs write: the loss of each, and gradients for the cells above and below them."""
    images, _, cells, width = wide.shape
    blocks = -(-width // _block(wide)[1])
    losses = wide.new_empty(images, cells, blocks)
    return losses, torch.empty_like(wide), torch.empty_like(wide)


_of_rows.register_fake(lambda wide, *_: _made(wide))


def compare_rows(
    wide: Tensor, truth: Tensor, weights: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Sum over pixels of weight times what is lost there, with rows resized linearly to the truth.

    That is the cross-entropy with labels, or ``KL(truth || prediction)`` with scores.

    Args:
        wide: Prediction, unnormalised, float32 ``(B, K, h, W)``.
        truth: Class ids in ``[0, K)``, int64 ``(B, H, W)``, or scores, float32 ``(B, K, H, W)``.
        weights: Of each pixel, float32 ``(B, H, W)``.
        temperature: What all scores are divided by.

    Returns:
        The sum ``()``, in nats, and its gradient for ``wide``.
    """
    firsts, shares = _rows(wide.shape[2], weights.shape[1], wide.device)
    laid_out = (one.contiguous() for one in (wide, truth, weights))
    losses, change, lower = _of_rows(*laid_out, firsts, shares, temperature)
    change[:, :, 1:].add_(lower[:, :, :-1])
    change[:, :, -1].add_(lower[:, :, -1])
    return losses.sum(), change


@cache
@torch.inference_mode(mode=False)
def _rows(cells: int, height: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first of ``height`` rows below each row of cells, and how near each is to the next one.

    Kept for ever, as is all that CUDA graphs read where it lies.
    """
    pixels = torch.arange(height, dtype=torch.float64, device="cpu")
    places = ((pixels + 0.5) * (cells / height) - 0.5).clamp(0, cells - 1)
    firsts = torch.searchsorted(places.floor(), torch.arange(cells + 1).to(places))
    return firsts.int().to(device), (places - places.floor()).float().to(device)


def require_right(device: torch.device) -> None:
    """Compare some losses on a device with the plain formulas.

    Raises:
        ArithmeticError: If they differ.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        made = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        return made.to(device)

    weights = draw(2, 13, 24).abs()
    for classes, temperature in ((5, 1.0), (150, 1.0), (5, 2.0)):
        wide, target = draw(2, classes, 4, 24), draw(2, classes, 13, 24)
        truth = target if temperature > 1 else target.argmax(1)
        with torch.enable_grad():
            asked = wide.clone().requires_grad_()
            resized = F.interpolate(asked, size=(13, 24), mode="bilinear", align_corners=False)
            said = (resized / temperature).log_softmax(1)
            if truth is target:
                meant = (target / temperature).softmax(1)
                apart = F.kl_div(said, meant, reduction="none").sum(1)
            else:
                apart = F.nll_loss(said, truth, reduction="none")
            plain = (apart * weights).sum()
            (expected,) = torch.autograd.grad(plain, asked)
        loss, change = compare_rows(wide, truth, weights, temperature)
        if not (loss.allclose(plain, rtol=1e-4) and change.allclose(expected, atol=1e-4)):
            raise ArithmeticError("losses differ from those of the plain formula")
