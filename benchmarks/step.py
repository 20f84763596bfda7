"""Time whole training steps of the recipes, side by side in one run.

    .venv/bin/python benchmarks/step.py --json step.json            # every size and sweep: GPU
    .venv/bin/python benchmarks/step.py --quick --json step.json    # one size, small: CPU
    .venv/bin/python benchmarks/step.py --sizes --json sizes.json   # the larger sizes: CPU
    .venv/bin/python benchmarks/step.py --sweeps --json sweeps.json # K, resolution, prompts: CPU

A step is forward, losses, backward and AdamW. Rows of one size take turns, so that a machine whose
speed drifts slows them alike; the median of each counts. Memory is the most that tensors of
networks, optimiser and steps of one row take at a time, as PyTorch counts it on a GPU; beside it
stands what they add to a process of their own, in which a CPU's allocator keeps more. Foundation
models have random weights, students are DeepLabV3-ResNet18. Ratios travel between machines, seconds
do not.
"""

import argparse
import copy
import gc
import itertools
import json
import multiprocessing
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

import tsic
from traces import Traffic, copy_peak, trace
from tsic.config import OptimConfig, TrainerConfig
from tsic.cycle import Cycle
from tsic.machine import peak_resident_mib
from tsic.recipes import network_of, objective_of
from tsic.student import build_student
from tsic.teacher import Teacher, build_teacher, hold_frozen
from tsic.teacher.canvas import Canvas
from tsic.training.fusion import Fusion
from tsic.training.graph import StepGraph
from tsic.training.optim import build_optimizer
from tsic.training.precision import resolve_precision

SIZES = ((360, 480, 11), (512, 512, 21), (512, 512, 150), (512, 1024, 19))
MODELS = {
    "sam-vit-base": lambda: transformers.SamModel(transformers.SamConfig()),
    "sam2.1-hiera-tiny": lambda: transformers.Sam2Model(transformers.Sam2Config()),
}
PARTS = ("student", "encoder", "prompt", "mask decoder", "mapping decoder")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Row:
    """One thing that is measured.

    Attributes:
        recipe: A recipe, ``alone``, or the cycle with a ``frozen`` encoder or one whose insides
            are ``recomputed`` in the backward pass.
        teacher: Foundation model, empty for the student alone.
        height: Of the crop.
        width: Of the crop.
        classes: ``K``.
        batch: Images of a step.
        prompts: Class prompts per image.
        graph: Whether the step is launched as a CUDA graph.
        compiled: Whether students and decoders are compiled.
    """

    recipe: str
    teacher: str
    height: int
    width: int
    classes: int
    batch: int
    prompts: int = 8
    graph: bool = False
    compiled: bool = False


class Step:
    """A training step of one row.

    Args:
        row: Which.
        folder: Where the foundation models are.
        precision: ``bf16-mixed`` or ``32-true``.
    """

    def __init__(self, row: Row, folder: Path, precision: str) -> None:
        torch.manual_seed(0)
        self.row = row
        recipe = row.recipe if row.recipe in ("release", "paper") else "cycle"
        teacher = None
        with torch.device(DEVICE):
            student = build_student(
                "deeplabv3", num_classes=row.classes, output_stride=8, auxiliary=True
            )
            if row.teacher:
                chosen = network_of(recipe)
                if recipe == "cycle":
                    chosen["max_classes"] = row.prompts
                    chosen["lora_rank"] = 0 if row.recipe == "frozen" else 4
                    chosen["recompute_encoder"] = row.recipe == "recomputed"
                name = str(folder / row.teacher)
                teacher = build_teacher(name, num_classes=row.classes, **chosen).to(DEVICE)
                if precision == "bf16-mixed":
                    hold_frozen(teacher.foundation, torch.bfloat16)
        self.cycle = Cycle(student, teacher, objective_of(recipe)).to(DEVICE)
        self.cycle.to(memory_format=torch.channels_last)
        self.optimizer, _ = build_optimizer(self.cycle, OptimConfig(), max_steps=1000)
        self.mixed = precision == "bf16-mixed"
        self.graph: StepGraph | None = None
        self.fusion: AbstractContextManager[None] = nullcontext()
        shape = (row.batch, row.height, row.width)
        self.images = torch.rand(row.batch, 3, row.height, row.width, device=DEVICE)
        self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(row.classes, shape, device=DEVICE)
        # Labels of whole regions: pixels of noise would all be hard.
        self.labels = self.labels[:, ::64, ::64].repeat_interleave(64, 1).repeat_interleave(64, 2)
        self.labels = self.labels[:, : row.height, : row.width].contiguous()

    def as_graph(self) -> "Step":
        """The same networks, whose step is launched as a CUDA graph."""
        twin = copy.copy(self)
        twin.row = replace(self.row, graph=True)
        twin.graph = StepGraph(self.cycle, torch.bfloat16 if self.mixed else None)
        return twin

    def compiled(self) -> "Step":
        """The same networks, whose small operations are fused."""
        twin = copy.copy(self)
        twin.row = replace(self.row, compiled=True)
        twin.fusion = Fusion(self.cycle)
        return twin

    def autocast(self) -> torch.autocast:
        """The precision that Lightning would train in."""
        return torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=self.mixed)

    def run(self) -> float:
        """Do one step and tell its seconds."""
        synchronise()
        start = time.perf_counter()
        with self.fusion:
            self.compute_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        synchronise()
        return time.perf_counter() - start

    def compute_gradients(self) -> None:
        """Forward and backward pass."""
        if self.graph is not None:
            answer = self.graph(self.images, self.labels, with_teacher=True, teaching=1.0)
            for parameter, gradient in zip(self.graph.parameters, answer.gradients, strict=True):
                parameter.grad = gradient
            return
        with self.autocast():
            total = self.cycle(self.images, self.labels).total
        total.backward()

    @torch.no_grad()
    def multiply_adds(self) -> dict[str, int]:
        """Forward multiply-adds of one image, part by part."""
        found = dict.fromkeys(PARTS, 0)
        per_image = 2 * len(self.images)
        with counting() as count:
            logits = self.cycle.student(self.images).logits
        found["student"] = count() // per_image
        teacher = self.cycle.teacher
        if not isinstance(teacher, Teacher):
            return found
        foundation = teacher.foundation
        canvas = Canvas(*self.images.shape[-2:], foundation.multiple)
        padded = canvas.pad(self.images)
        prompting = []
        mask_embed = foundation.model.prompt_encoder.mask_embed
        with counting() as count:
            before = mask_embed.register_forward_pre_hook(lambda *_: prompting.append(-count()))
            after = mask_embed.register_forward_hook(lambda *_: prompting.append(count()))
            embedding = teacher.embed(padded)
            found["encoder"] = count() // per_image
            masks = teacher.decode_masks(embedding, logits, canvas)
            decoded = count() // per_image
            teacher.mapping(padded, embedding, masks)
        before.remove()
        after.remove()
        found["prompt"] = sum(prompting) // per_image
        found["mask decoder"] = decoded - found["encoder"] - found["prompt"]
        found["mapping decoder"] = count() // per_image - decoded
        return found


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """Count the operations of matrix products and convolutions."""
    counter = FlopCounterMode(display=False)
    with counter:
        yield counter.get_total_flops


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def built(row: Row, folder: Path, precision: str) -> tuple[Step, float, float]:
    """A row's step with MiB of its tensors, and MiB that a process grows by.

    On a CPU each is counted in a process of its own, since to count tensors takes memory itself. On
    a GPU they are what PyTorch counts as allocated and as reserved.
    """
    if DEVICE == "cuda":
        return _built_on_cuda(row, folder, precision)
    found = []
    for count in (_tensors_mib, _process_mib):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(count, (row, folder, precision)))
    tensors, process = found
    return Step(row, folder, precision), tensors, process


def _built_on_cuda(row: Row, folder: Path, precision: str) -> tuple[Step, float, float]:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    step = _two_steps(row, folder, precision)
    most = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return step, *((now - then) / 2**20 for now, then in zip(most, before, strict=True))


def _process_mib(row: Row, folder: Path, precision: str) -> float:
    torch.ones(1, device=DEVICE)
    before = peak_resident_mib() or 0.0
    _two_steps(row, folder, precision)
    return (peak_resident_mib() or 0.0) - before


def _tensors_mib(row: Row, folder: Path, precision: str) -> float:
    with torch.profiler.profile(profile_memory=True) as profiler:
        _two_steps(row, folder, precision)
    assert profiler.profiler is not None
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    return max(itertools.accumulate(size for _, size in sorted(changes))) / 2**20


def _two_steps(row: Row, folder: Path, precision: str) -> Step:
    step = Step(row, folder, precision)
    for _ in range(2):  # AdamW makes its state in the first
        step.run()
    return step


def matrix_peak(precision: str) -> float:
    """Operations per second of the fastest of some large matrix products."""
    side = 8192 if DEVICE == "cuda" else 2048
    kind = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    left, right = (torch.rand(side, side, device=DEVICE).to(kind) for _ in range(2))
    seconds = []
    for _ in range(10):
        synchronise()
        start = time.perf_counter()
        left @ right
        synchronise()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def processor() -> str:
    """Name of the CPU."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def rows_of(options: argparse.Namespace) -> list[list[Row]]:
    """What is measured, in groups that take turns."""
    height, width, classes = SIZES[0]
    base = Row("cycle", "sam-vit-base", height, width, classes, options.batch)
    if options.quick:
        return [
            [
                *recipes(base),
                replace(base, classes=150),
                replace(base, recipe="alone", teacher="", classes=150),
            ]
        ]
    few = [replace(base, recipe=name) for name in ("release", "cycle", "recomputed", "frozen")]
    few += [replace(base, teacher="sam2.1-hiera-tiny"), replace(base, recipe="alone", teacher="")]
    if options.batches:
        return [[replace(row, batch=batch) for row in few] for batch in options.batches]
    if options.sizes:
        return [
            [replace(row, height=height, width=width, classes=classes) for row in few]
            for height, width, classes in SIZES[1:]
        ]
    sweeps = [
        [replace(base, classes=classes) for classes in (2, 11, 21, 50, 150)],
        [replace(base, height=32 * n, width=32 * n) for n in (8, 12, 16, 24)],
        [replace(base, classes=21, prompts=n) for n in (1, 2, 4, 8, 16)],
    ]
    if options.sweeps:
        return sweeps
    sizes = [
        recipes(replace(base, height=height, width=width, classes=classes))
        for height, width, classes in SIZES
    ]
    return sizes + sweeps


def recipes(base: Row) -> list[Row]:
    """Every recipe with every foundation model at one size."""
    alone = replace(base, recipe="alone", teacher="")
    return [alone] + [
        replace(base, recipe=recipe, teacher=teacher)
        for teacher in MODELS
        for recipe in ("release", "paper", "cycle", "recomputed", "frozen")
    ]


def encoder_seconds(rows: dict[Row, Step], turns: int) -> dict[str, float]:
    """Seconds of a forward pass of each encoder alone, per image."""
    found = {}
    for row, step in rows.items():
        teacher = step.cycle.teacher
        if row.recipe != "frozen" or not isinstance(teacher, Teacher):
            continue
        canvas = Canvas(row.height, row.width, teacher.foundation.multiple)
        padded = canvas.pad(step.images)
        seconds = []
        for _ in range(turns):
            synchronise()
            start = time.perf_counter()
            with torch.no_grad(), step.autocast():
                teacher.embed(padded)
            synchronise()
            seconds.append(time.perf_counter() - start)
        found[row.teacher] = statistics.median(seconds) / row.batch
    return found


def measure(
    group: list[Row], folder: Path, options: argparse.Namespace, peaks: Sequence[float]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Measure rows that take turns; also compiled, and on a GPU as CUDA graphs, if they can be."""
    steps, memory = {}, {}
    for row in group:
        steps[row], *memory[row] = built(row, folder, options.precision)
    work = {}
    for row, step in steps.items():
        with counting() as count, Traffic() as traffic:
            step.run()
        work[row] = count(), traffic.bytes.total()
    encoders = encoder_seconds(steps, options.turns)
    if options.compile:
        steps |= {twin.row: twin for twin in [step.compiled() for step in steps.values()]}
    if DEVICE == "cuda":
        recorded = [step.as_graph() for step in steps.values() if step.cycle.is_static]
        steps |= {twin.row: twin for twin in recorded}
    for step in steps.values():
        for _ in range(1 if step.graph is None else 5):
            step.run()  # warms up
    seconds: dict[Row, list[float]] = {row: [] for row in steps}
    for _ in range(options.turns):
        for row, step in steps.items():
            seconds[row].append(step.run())
    found = []
    for row, step in steps.items():
        typical = statistics.median(seconds[row])
        plain = replace(row, graph=False, compiled=False)
        operations, moved = work[plain]
        # A graph holds its memory beside that of the others.
        tensors, process = memory[plain] if row == plain else (None, None)
        found.append(
            {
                **asdict(row),
                "seconds_per_image": typical / row.batch,
                "spread": (max(seconds[row]) - min(seconds[row])) / typical,
                "peak_memory_mib": tensors,
                "process_memory_mib": process,
                "multiply_adds": step.multiply_adds(),
                "matrix_peak_share": operations / typical / peaks[0],
                "copy_peak_share": moved / typical / peaks[1],
                **(trace(step) if options.traces_now else {}),
            }
        )
    return found, encoders


def table(rows: list[dict[str, Any]]) -> str:
    """Lay rows of one group out; ratios are to `release` of the same foundation model ViT-B."""
    base = next((row for row in rows if row["recipe"] == "release"), rows[0])
    lines = [
        "recipe     teacher            size      K   N  B               s/image  faster  MiB     "
        "memory  process  G MAC (student, encoder, prompt, masks, mapping)  share of peaks"
    ]
    for row in rows:
        macs = " ".join(f"{count / 1e9:6.1f}" for count in row["multiply_adds"].values())
        lines.append(
            f"{row['recipe']:10} {row['teacher']:18} {row['height']}x{row['width']:<4} "
            f"{row['classes']:3} {row['prompts']:3} {row['batch']:2} "
            f"{'graph' * row['graph']:5} {'compiled' * row['compiled']:8} "
            f"{row['seconds_per_image']:8.5f} "
            f"{base['seconds_per_image'] / row['seconds_per_image']:6.2f}x "
            f"{row['peak_memory_mib'] or float('nan'):7.0f} "
            f"{_times(row, base, 'peak_memory_mib'):6.2f}x "
            f"{_times(row, base, 'process_memory_mib'):7.2f}x {macs}  "
            f"{row['matrix_peak_share']:.0%} {row['copy_peak_share']:.0%}"
        )
    return "\n".join(lines)


def _times(row: dict[str, Any], base: dict[str, Any], key: str) -> float:
    return row[key] / base[key] if row[key] else float("nan")


def main() -> None:
    """Measure, print tables; with ``--json`` also write all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one size and K = 150, for a CPU")
    parser.add_argument("--sizes", action="store_true", help="the larger sizes, for a CPU")
    parser.add_argument("--sweeps", action="store_true", help="K, resolution and prompts alone")
    parser.add_argument("--batches", type=int, nargs="+", help="one size with so many images")
    parser.add_argument("--batch", type=int, help="images of a step (2 on a CPU, else 4)")
    parser.add_argument("--turns", type=int, help="timed steps of each row (3 on a CPU, else 10)")
    parser.add_argument("--precision", default="auto", help="auto, bf16-mixed or 32-true")
    parser.add_argument("--recipes", nargs="+", help="of the rows, those of these recipes alone")
    parser.add_argument("--compile", action="store_true", help="rows compiled, too: minutes each")
    parser.add_argument("--trace", action="store_true", help="trace the last rows (GPU)")
    parser.add_argument("--json", type=Path, help="file for everything")
    options = parser.parse_args()
    if min([options.batch or 2, *(options.batches or [])]) < 2:
        parser.error("batch normalisation of pooled features needs 2 images a step at least")
    options.precision = resolve_precision(TrainerConfig(options.precision))
    options.batch = options.batch or (2 if DEVICE == "cpu" else 4)
    options.trace = options.trace and DEVICE == "cuda"
    options.turns = options.turns or (3 if DEVICE == "cpu" else 10)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": torch.cuda.get_device_name() if DEVICE == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "precision": options.precision,
        "versions": {
            package.__name__: package.__version__ for package in (tsic, torch, transformers)
        },
        "command": shlex.join(["python", "benchmarks/step.py", *sys.argv[1:]]),
        "rows": [],
        "encoder_seconds_per_image": [],
    }
    with tempfile.TemporaryDirectory() as name:
        for model, make in MODELS.items():
            torch.manual_seed(0)
            make().save_pretrained(Path(name) / model)
        groups = rows_of(options)
        if options.recipes:
            groups = [[row for row in group if row.recipe in options.recipes] for group in groups]
            groups = [group for group in groups if group]
        for group in groups:
            options.traces_now = options.trace and group is groups[-1]
            # Anew for each group: a machine's speed drifts.
            peaks = matrix_peak(options.precision), copy_peak()
            rows, encoders = measure(group, Path(name), options, peaks)
            report["rows"] += rows
            report["encoder_seconds_per_image"].append(encoders)
            print(table(rows), f"encoders alone, s/image: {encoders}", sep="\n", flush=True)
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
