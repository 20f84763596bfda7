"""Peak memory of labelling one image: whole and in windows, with few and many classes.

    .venv/bin/python benchmarks/evaluate_memory.py --json benchmarks/results/evaluate_memory.json

Each case runs in a fresh process, whose largest resident size counts (`ru_maxrss`), beside what it
held before the image came. The network is the compact student with random weights: memory does not
depend on what was learnt. `plain` resizes all class scores to the image at once, as a first
implementation does. With `--huge` an image of 12,000x9,000 pixels is labelled in windows instead;
`--width 0.25` makes the network quick enough for that.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from tsic.checkpoint import TrainedStudent
from tsic.data.classes import ClassTable
from tsic.deploy.inference import View, label_image
from tsic.student import build_student

CASES: dict[str, View | None] = {
    "plain": None,
    "whole": View(),
    "whole, 3 scales, flip": View(scales=(0.5, 1.0, 1.5), flip=True),
    "windows": View(crop=(512, 512)),
}


def peak_mib() -> float:
    """Largest resident size of this process so far; Linux counts in KiB, macOS in bytes."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(case: str, classes: int, size: tuple[int, int], width: float) -> dict[str, Any]:
    """Label one image in this process."""
    torch.manual_seed(0)
    student = build_student("compact", num_classes=classes, options={"width": width})
    table = ClassTable.from_names([f"class {i}" for i in range(classes)])
    model = TrainedStudent(student, table, {}).eval()
    label_image(model, torch.zeros(3, 64, 64, dtype=torch.uint8))  # libraries are loaded
    before = peak_mib()
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    start = time.perf_counter()
    view = CASES[case]
    if view is not None:
        label_image(model, image, view)
    else:
        with torch.inference_mode():
            scores = model(image[None].float() / 255)
            F.interpolate(scores, size, mode="bilinear", align_corners=False).argmax(1)
    seconds = time.perf_counter() - start
    return {
        "case": case,
        "classes": classes,
        "size": list(size),
        "width": width,
        "before_mib": round(before),
        "peak_mib": round(peak_mib()),
        "seconds": round(seconds, 1),
    }


def measure_apart(case: str, classes: int, size: tuple[int, int], width: float) -> dict[str, Any]:
    """Label one image in a fresh process, and print a row of the table."""
    words = ["--case", case, "--classes", classes, "--size", *size, "--width", width]
    told = subprocess.run(
        [sys.executable, __file__, *map(str, words)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    row: dict[str, Any] = json.loads(told.stdout)
    shown = f"{row['size'][1]}x{row['size'][0]} | {row['classes']} | {row['case']}"
    print(f"| {shown} | {row['before_mib']} | {row['peak_mib']} | {row['seconds']} |", flush=True)
    return row


def main() -> None:
    """Measure all cases and print a table; or one, of which a line of JSON tells."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--huge", action="store_true", help="12,000x9,000 pixels in windows alone")
    parser.add_argument("--width", type=float, default=1.0, help="of the compact student's layers")
    parser.add_argument("--case", choices=CASES, help="this one alone, in this process")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    options = parser.parse_args()
    if options.case:
        size = (options.size[0], options.size[1])
        print(json.dumps(measure(options.case, options.classes, size, options.width)))
        return
    print("| image | classes | shown | before, MiB | peak, MiB | seconds |")
    print("|---|--:|---|--:|--:|--:|", flush=True)
    cases = [(case, classes, (1024, 2048)) for classes in (19, 150) for case in CASES]
    if options.huge:
        cases = [("windows", 19, (9000, 12000))]
    rows = [measure_apart(*case, options.width) for case in cases]
    if options.json:
        machine = {"machine": platform.machine(), "torch": torch.__version__}
        options.json.write_text(json.dumps({**machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
