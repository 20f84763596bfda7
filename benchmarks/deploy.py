"""Speed of four students in every engine, on random weights.

    .venv/bin/python benchmarks/deploy.py

Writes `benchmarks/results/DATE_deploy.json` and `.md`. Each student is measured as `tsic benchmark`
does: engines take turns, each in a process of its own. Run it on an idle machine; the report tells
the load when each began. It takes about nine minutes on two cores, `--quick` about four, most of
it exporting, quantising and compiling. `--students` and `--engines` choose less.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tsic.checkpoint import save_student
from tsic.data.classes import ClassTable
from tsic.deploy.benchmark.plan import Plan, run_plan
from tsic.deploy.benchmark.report import BenchmarkReport
from tsic.errors import TsicError
from tsic.files import write_json, write_text
from tsic.machine import usable_cores
from tsic.progress import OnProgress
from tsic.student import build_student

CLASSES = 19
STUDENTS: dict[str, dict[str, Any]] = {
    "compact": {"name": "compact"},
    "deeplabv3-resnet18": {"name": "deeplabv3", "encoder": "resnet18"},
    "deeplabv3plus-mobilenet_v2": {"name": "deeplabv3plus", "encoder": "mobilenet_v2"},
    "segformer-b0": {"name": "segformer", "encoder": "mit_b0"},
}
ENGINES = ("eager", "compile", "onnxruntime", "openvino")


@contextmanager
def show(label: str) -> Iterator[OnProgress]:
    """Print what begins, and how long it took."""
    start = time.monotonic()
    print(f"  {label} ...", end="", flush=True)
    yield lambda done, total: print(f" {done}/{total}", end="", flush=True)
    print(f" {time.monotonic() - start:.0f} s", flush=True)


def save_random(name: str, folder: Path) -> None:
    """Save a student as it is built; its speed does not depend on what it learnt."""
    torch.manual_seed(0)
    student = build_student(num_classes=CLASSES, **STUDENTS[name]).eval()
    classes = ClassTable.from_names([f"class {number}" for number in range(CLASSES)])
    save_student(folder, student, classes, {})


def measure(name: str, options: argparse.Namespace) -> BenchmarkReport:
    """Measure one student."""
    with tempfile.TemporaryDirectory() as folder:
        save_random(name, Path(folder))
        plan = Plan(
            model=folder,
            files=(),
            sizes=((options.height, options.width),),
            threads=tuple(options.threads),
            batches=(1,),
            engines=tuple(options.engines),
            precisions=("fp32", "bf16", "int8"),
            rounds=options.rounds,
            seconds=options.seconds,
            calibration_images=options.calibration_images,
            command=shlex.join(["python", *sys.argv]),
        )
        return run_plan(plan, show)


def main() -> None:
    """Measure the students one after the other; a failing one does not stop the rest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--threads", type=int, nargs="+", default=[usable_cores()])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.8, help="length of a turn")
    parser.add_argument("--calibration-images", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="256x512, 2 rounds of 0.5 s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.quick:
        options.height, options.width, options.rounds, options.seconds = 256, 512, 2, 0.5
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"{datetime.now(UTC):%Y-%m-%d}_deploy"
    found: dict[str, Any] = {}
    text = "# Speed of exported students\n"
    for name in options.students:
        print(name, flush=True)
        try:
            report = measure(name, options)
        except TsicError as error:
            found[name] = {"failure": str(error)}
            text += f"\n## {name}\n\nnot measured: {error}\n"
        else:
            found[name] = report.to_dict()
            text += f"\n{report.to_markdown()}"
        # Written after each, so that an interrupted run leaves what it has.
        write_json(stem.with_suffix(".json"), found)
        write_text(stem.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
