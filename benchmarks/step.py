"""Time one training step of each recipe, side by side in one run.

    .venv/bin/python benchmarks/step.py --teacher tiny-sam --height 144 --width 192 --classes 12

Recipes take turns, so that a machine whose speed drifts slows them alike; the smallest time of each
counts. Ratios travel between machines, seconds do not.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from tsic.cycle import Cycle
from tsic.recipes import RECIPES, objective_of
from tsic.student import build_student
from tsic.teacher import build_teacher


def build(recipe: str, options: argparse.Namespace) -> Cycle:
    """The cycle of one recipe, or the student alone."""
    torch.manual_seed(0)
    student = build_student(options.student, num_classes=options.classes)
    if recipe == "alone":
        return Cycle(student, None)
    chosen: dict[str, Any] = dict(RECIPES[recipe].get("teacher", {}))
    chosen.pop("warmup_steps", None)
    teacher = build_teacher(options.teacher, num_classes=options.classes, **chosen)
    return Cycle(student, teacher, objective_of(recipe))


def main() -> None:
    """Measure and print a table; with ``--json`` also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--student", default="compact")
    parser.add_argument("--teacher", default="tiny-sam")
    parser.add_argument("--height", type=int, default=144)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    images = torch.rand(options.batch, 3, options.height, options.width)
    labels = torch.randint(options.classes, (options.batch, options.height, options.width))
    cycles = {name: build(name, options) for name in ("alone", *RECIPES)}
    seconds = dict.fromkeys(cycles, float("inf"))
    for turn in range(options.rounds + 1):  # the first turn warms up
        for name, cycle in cycles.items():
            start = time.perf_counter()
            cycle(images, labels).total.backward()
            cycle.zero_grad()
            if turn:
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    rows = [
        {
            "recipe": name,
            "seconds_per_image": best / options.batch,
            "over_alone": best / seconds["alone"],
            "over_release": best / seconds["release"],
        }
        for name, best in seconds.items()
    ]
    for row in rows:
        print(
            f"{row['recipe']:8} {row['seconds_per_image']:.4f} s/image, "
            f"{row['over_alone']:.2f} x alone, {row['over_release']:.2f} x release"
        )
    if options.json:
        machine = (
            f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        )
        asked = {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(json.dumps({"machine": machine, **asked, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
