"""Milliseconds to change an image's colours, by our functions and by kornia's.

.venv/bin/python -m pip install kornia; .venv/bin/python benchmarks/colours.py
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import kornia.enhance
import torch
from torch import Tensor

from tsic.data.colours import distort_colours, draw_colours


def batched(images: Tensor, strengths: Tensor) -> Tensor:
    """The same kinds of change for a whole batch, each image with strengths ``(4, B)``."""
    brightness, contrast, saturation, hue = strengths
    images = kornia.enhance.adjust_brightness(images, brightness)
    images = kornia.enhance.adjust_contrast(images, contrast)
    images = kornia.enhance.adjust_saturation(images, saturation)
    return kornia.enhance.adjust_hue(images, hue)


def main() -> None:
    """Measure in turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    images = torch.rand(options.batch, 3, *options.size, device=options.device)
    strengths = torch.rand(4, options.batch, device=options.device) * 0.1 + 0.9
    drawn = [
        torch.stack([draw_colours() for _ in range(options.batch)]).to(options.device)
        for _ in range(options.rounds)
    ]
    ways: dict[str, Callable[[int], Tensor]] = {
        "ours": lambda turn: distort_colours(images, drawn[turn]),
        "kornia": lambda _: batched(images, strengths),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds):
        for name, change in ways.items():
            start = time.perf_counter()
            change(turn)[0, 0, 0, 0].item()  # waits for the device
            seconds[name].append((time.perf_counter() - start) / options.batch)
    print(platform.processor() or platform.machine(), torch.__version__, options.device)
    for name, measured in seconds.items():
        print(f"{name:12} {1000 * statistics.median(measured):7.2f} ms an image")


if __name__ == "__main__":
    main()
