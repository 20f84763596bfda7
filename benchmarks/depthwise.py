"""Time depthwise convolutions forward and backward on a CPU, float32 and bfloat16 side by side.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/depthwise.py
"""

import time

import torch
from torch import nn

# Channels, kernel, stride, dilation, height, width: EfficientNet-Lite0's on 180x240 pixels.
SHAPES = [
    (144, 3, 1, 1, 48, 60),
    (480, 3, 1, 1, 12, 15),
    (96, 3, 2, 1, 96, 120),
    (144, 5, 2, 1, 48, 60),
    (240, 3, 2, 1, 24, 30),
    (672, 5, 1, 1, 12, 15),
    (1152, 5, 1, 2, 12, 15),
]
BATCH = 6


def milliseconds(shape: tuple[int, ...], dtype: torch.dtype) -> float:
    """Forward and backward, the fastest of five."""
    channels, kernel, stride, dilation, height, width = shape
    layout = torch.channels_last
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels)
    conv.to(dtype, memory_format=layout)
    maps = torch.randn(BATCH, channels, height, width).to(dtype, memory_format=layout)
    maps.requires_grad_()
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        conv(maps).sum().backward()
        taken.append(1000 * (time.perf_counter() - start))
    return min(taken)


def main() -> None:
    """Print a table."""
    torch.manual_seed(0)
    print("| channels | taps | stride | dilation | map | float32, ms | bfloat16, ms |")
    print("|---:|---|---:|---:|---|---:|---:|")
    for shape in SHAPES:
        channels, kernel, stride, dilation, height, width = shape
        wide, narrow = (milliseconds(shape, one) for one in (torch.float32, torch.bfloat16))
        print(
            f"| {channels} | {kernel}x{kernel} | {stride} | {dilation} | {height}x{width} "
            f"| {wide:.1f} | {narrow:.1f} |"
        )


if __name__ == "__main__":
    main()
