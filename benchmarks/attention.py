"""Time attention forward and backward: PyTorch's fused kernel and `attend`, side by side on a CPU.

.venv/bin/python benchmarks/attention.py
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tsic.teacher.attend import attend

# Batch, heads, queries, keys, channels at 360x480, batch 2.
SHAPES = {
    "mask decoder, image to tokens": (16, 8, 720, 7, 16),
    "mask decoder, tokens to image": (16, 8, 7, 720, 16),
    "SAM 2.1 tiny, windows of stage 1": (360, 1, 64, 64, 96),
    "SAM 2.1 tiny, pooled queries": (360, 4, 4, 16, 96),
    "SAM 2.1 tiny, windows of stage 3": (12, 4, 196, 196, 96),
    "SAM 2.1 tiny, whole image": (2, 4, 720, 720, 96),
    "SAM ViT-B, windows": (12, 12, 196, 196, 96),
    "SAM ViT-B, whole image": (2, 12, 690, 690, 128),
}


def ours(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """`attend` with operands that are there already."""
    return attend(lambda *three: three, scale, query, key, value)


def fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """PyTorch's kernel."""
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


def milliseconds(attention: Callable[..., Tensor], inputs: list[Tensor]) -> float:
    """Forward and backward, the fastest of five."""
    taken = []
    for _ in range(6):
        start = time.perf_counter()
        torch.autograd.grad(attention(*inputs, 0.1).sum(), inputs)
        taken.append(time.perf_counter() - start)
    return 1e3 * min(taken[1:])


def main() -> None:
    """Print a table."""
    print(f"{'':34}  precision  fused ms  attend ms  faster")
    for name, (batch, heads, queries, keys, channels) in SHAPES.items():
        for precision in (torch.bfloat16, torch.float32):
            inputs = [
                torch.randn(batch, length, heads, channels, dtype=precision)
                .transpose(1, 2)
                .requires_grad_()
                for length in (queries, keys, keys)
            ]
            plain, own = (milliseconds(way, inputs) for way in (fused, ours))
            kind = str(precision).removeprefix("torch.")
            print(f"{name:34}  {kind:9}  {plain:8.1f}  {own:9.1f}  {plain / own:5.1f}x")


if __name__ == "__main__":
    main()
