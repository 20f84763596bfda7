"""Peak memory of `tsic predict` on one large image, in a fresh process.

    .venv/bin/python benchmarks/predict_memory.py --json benchmarks/results/predict_memory.json

A street scene is drawn small, enlarged and written as JPEG (or PNG); a compact student with random
weights labels it, with an overlay and COCO's JSON. The peak is the process's largest resident set,
PyTorch included (Linux).
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from tsic.checkpoint import save_student
from tsic.data.scenes import SCENE_CLASSES, draw_scene
from tsic.student import build_student

CHILD = """
import resource, sys
from tsic.cli import main
code = main(sys.argv[1:])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def draw(file: Path, height: int, width: int) -> None:
    """Draw a scene and enlarge it."""
    image, _ = draw_scene(0, height // 20, width // 20)
    Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC).save(file)


def measure(student: Path, image: Path, out: Path, threads: int, options: list[str]) -> int:
    """Largest resident set of a process that predicts, in KiB."""
    words = ["predict", str(student), str(image), "--out", str(out), "--threads", str(threads)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words, *options], capture_output=True, text=True, check=True
    )
    code, peak = done.stdout.splitlines()[-1].split()
    if code != "0":
        raise SystemExit(done.stderr)
    return int(peak)


def main() -> None:
    """Measure and print; with ``--json`` also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, nargs=2, default=(9000, 12000), metavar=("H", "W"))
    parser.add_argument("--formats", nargs="+", default=["jpg", "png"], help="of the image")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = build_student("compact", num_classes=SCENE_CLASSES.num_classes)
        student = save_student(folder, network, SCENE_CLASSES, {}).weights
        for ending in options.formats:
            image = folder / f"large.{ending}"
            draw(image, *options.size)
            start = time.perf_counter()
            out = folder / ending
            extras = ["--overlay", "--coco", str(folder / f"{ending}.json")]
            peak = measure(student, image, out, options.threads, extras)
            seconds = time.perf_counter() - start
            rows.append({"image": ending, "peak_mib": peak / 1024, "seconds": seconds})
            print(f"{ending}: {peak / 1024:.0f} MiB at its peak, {seconds:.0f} s")
    if options.json:
        machine = f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}"
        written = {"machine": machine, "size": list(options.size), "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
