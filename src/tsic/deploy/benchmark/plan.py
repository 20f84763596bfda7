"""A whole benchmark: export what is missing, measure every setting, report."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from tsic.checkpoint import TrainedStudent, find_student, load_student
from tsic.deploy.benchmark.files import Files, export_files
from tsic.deploy.benchmark.machine import describe_machine, has_bf16, package_versions
from tsic.deploy.benchmark.report import BenchmarkReport
from tsic.deploy.benchmark.turns import multiply_adds, take_turns
from tsic.deploy.benchmark.worker import (
    MATRIX_PRODUCT,
    Failure,
    Task,
)
from tsic.deploy.consent import require_safe
from tsic.deploy.export.engines import open_exported
from tsic.deploy.export.exported import ExportedModel, parts_of
from tsic.deploy.export.graph import Layout
from tsic.deploy.export.proof import drawn_images, images_in
from tsic.deploy.model import is_exported
from tsic.errors import ConfigError, TsicError
from tsic.grid import Size
from tsic.networks.smp import SMP_NAMES
from tsic.progress import OnProgress, progress
from tsic.student import StudentSpec, build_student

CANDIDATES = (
    ("eager", "fp32"),
    ("compile", "fp32"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
"""Every engine with its precisions, in the order of the table."""

USUAL_SIZE: Size = (512, 1024)
"""Height and width where none are said: half of Cityscapes."""

_CALIBRATION_IMAGES = 16

Show = Callable[[str], AbstractContextManager[OnProgress]]

_METHOD = (
    "Engines take turns, {rounds} rounds of {seconds:g} s each, after a warm-up; the tables show "
    "the median and the 10th and 90th percentile."
)


@dataclass(frozen=True)
class Plan:
    """What is measured, and how long.

    Args:
        model: A student (folder, file, ``zoo:name`` or ``hf:owner/name``), or an exported file.
        files: Exported files that are measured beside it.
        sizes: Heights and widths of the images, in pixels; none for the exported files', or
            `USUAL_SIZE`.
        threads: Numbers of threads.
        batches: Numbers of images at a time; none for the exported files', or 1.
        engines: Which of the `CANDIDATES`' engines.
        precisions: Which of their precisions.
        rounds: How often each engine has its turn.
        seconds: Length of a turn.
        calibration: Folder of images that int8 is calibrated on; ``None`` draws scenes.
        allow_code: As of `tsic.checkpoint.load_student`.
        command: The words that measure it again.
    """

    model: str
    files: tuple[Path, ...]
    sizes: tuple[Size, ...]
    threads: tuple[int, ...]
    batches: tuple[int, ...]
    engines: tuple[str, ...]
    precisions: tuple[str, ...]
    rounds: int
    seconds: float
    calibration: Path | None = None
    allow_code: bool = False
    command: str = ""


def run_plan(plan: Plan, show: Show = progress) -> BenchmarkReport:
    """Measure what was planned.

    Args:
        plan: What to measure.
        show: Given what begins now; a context in which somebody is told how far it is.

    Returns:
        The report. An engine that is missing or fails is among its failures.

    Raises:
        TsicError: If the model or a file cannot be opened, or does not take a size.
    """
    if not is_exported(plan.model) and not _wanted(plan):
        engines, precisions = (", ".join(words) for words in (plan.engines, plan.precisions))
        raise ConfigError(f"no engine of {engines} computes in {precisions}; see tsic benchmark -h")
    trained, exported = _open(plan)
    plan = _with_defaults(plan, exported)
    report = BenchmarkReport(
        machine=describe_machine(),
        versions=package_versions(),
        command=plan.command,
        model=_describe(plan, trained),
        notes=_notes(plan),
    )
    for size, batch in product(plan.sizes, plan.batches):
        with tempfile.TemporaryDirectory() as folder:
            files = _files(plan, trained, size, batch, Path(folder), show)
            for threads in plan.threads:
                tasks, failed = _tasks(files, exported, size, threads, batch)
                tasks = [replace(task, allow_code=plan.allow_code) for task in tasks]
                with show(_heading(size, threads, batch)) as on_progress:
                    found = take_turns(
                        [*tasks, *_products(tasks)],
                        rounds=plan.rounds,
                        seconds=plan.seconds,
                        on_progress=on_progress,
                    )
                count = multiply_adds(trained, size) if trained else None
                report.add(failed | found, count, {task.path: _file_mib(task) for task in tasks})
    return report


def _open(plan: Plan) -> tuple[TrainedStudent | None, list[ExportedModel]]:
    """The student, and the exported files that are measured as they are."""
    if is_exported(plan.model):
        exported = [open_exported(path) for path in (Path(plan.model), *plan.files)]
        return _rebuilt(exported[0]), exported
    trained = load_student(plan.model, allow_code=plan.allow_code)
    return trained, [open_exported(path) for path in plan.files]


def _with_defaults(plan: Plan, exported: Sequence[ExportedModel]) -> Plan:
    """Sizes and batches that were not said are those of the exported files."""
    sizes = plan.sizes or tuple(one.size for one in exported if one.size)[:1]
    batches = plan.batches or tuple(one.only_batch for one in exported if one.only_batch)[:1]
    plan = replace(plan, sizes=sizes or (USUAL_SIZE,), batches=batches or (1,))
    for one, size, batch in product(exported, plan.sizes, plan.batches):
        if one.size not in (None, size) or one.only_batch not in (None, batch):
            taken = "x".join(map(str, one.size)) if one.size else "any size"
            raise ConfigError(
                f"'{one.path}' takes {one.only_batch or 'any number of'} images of {taken} at a "
                f"time, not {batch} of {size[0]}x{size[1]}; change --size or --batch"
            )
    return plan


def _rebuilt(model: ExportedModel) -> TrainedStudent | None:
    """An exported file's network with random weights, to be counted; none of foreign code."""
    try:
        spec = StudentSpec.from_dict(model.metadata["spec"])
        require_safe(spec, model.path.parent, is_local=False, allow_code=False)
        student = build_student(**spec.deployed().to_dict())
    except TsicError:
        return None
    return TrainedStudent(student, model.classes, {"resize": model.metadata["resize"]}).eval()


def _describe(plan: Plan, trained: TrainedStudent | None) -> dict[str, Any]:
    """Name and size of what is measured."""
    if trained is None:
        return {"name": plan.model, "encoder": None, "classes": None, "parameters": None}
    spec = trained.student.spec
    return {
        "name": spec.name,
        "encoder": spec.encoder if spec.name in SMP_NAMES else None,
        "classes": len(trained.classes.names),
        "parameters": sum(value.numel() for value in trained.parameters()),
    }


def _notes(plan: Plan) -> list[str]:
    """How it was measured."""
    notes = [_METHOD.format(rounds=plan.rounds, seconds=plan.seconds)]
    if any(precision == "int8" for _, precision in _wanted(plan)) and not is_exported(plan.model):
        source = f"images of {plan.calibration}" if plan.calibration else "drawn street scenes"
        notes.append(f"int8 made here was calibrated on {source}.")
    return notes


def _files(
    plan: Plan, trained: TrainedStudent | None, size: Size, batch: int, folder: Path, show: Show
) -> Files:
    """Where each engine finds the student: itself, or an export at this size."""
    if trained is None or is_exported(plan.model):
        return {}
    wanted = _wanted(plan)
    exports = [one for one in wanted if one[0] not in ("eager", "compile")]
    layout = Layout(size=size, batch=batch)
    images = drawn_images(size, _CALIBRATION_IMAGES)  # on which an int8 model is as fast
    if plan.calibration:
        images = images_in(plan.calibration, _CALIBRATION_IMAGES)
    with show("export") as on_progress:
        files = export_files(trained, layout, exports, folder, images, on_progress)
    if not has_bf16():  # OpenVINO would compute in float32 and not say so
        lacking = Failure("this CPU has no bfloat16 instructions")
        files |= {one: lacking for one in exports if one[1] == "bf16"}
    own = str(find_student(plan.model).weights)  # one from the hub lies in its cache by now
    return {one: files.get(one, own) for one in wanted}


def _wanted(plan: Plan) -> list[tuple[str, str]]:
    """Engines with precisions that the student is measured in."""
    return [one for one in CANDIDATES if one[0] in plan.engines and one[1] in plan.precisions]


def _tasks(
    files: Files, own_files: Sequence[ExportedModel], size: Size, threads: int, batch: int
) -> tuple[list[Task], dict[Task, Failure]]:
    """What can be measured at a setting, and what cannot."""
    tasks, failed = [], {}
    for (engine, precision), path in files.items():
        if isinstance(path, Failure):
            failed[Task(engine, precision, "", size, threads, batch)] = path
        else:
            tasks.append(Task(engine, precision, path, size, threads, batch))
    for one in own_files:
        precision = one.metadata["precision"]
        path = str(one.path)
        tasks.append(Task(one.engine, precision, path, size, threads, batch, file=path))
    return tasks, failed


def _products(tasks: Sequence[Task]) -> Iterator[Task]:
    """A matrix product for every precision that is measured."""
    for precision in dict.fromkeys(task.precision for task in tasks):
        yield replace(tasks[0], engine=MATRIX_PRODUCT, precision=precision, path="", file=None)


def _heading(size: Size, threads: int, batch: int) -> str:
    return f"{size[0]}x{size[1]}, threads {threads}, batch {batch}"


def _file_mib(task: Task) -> float:
    """What has to be put on a device."""
    if task.engine in ("eager", "compile"):
        return find_student(task.path).weights.stat().st_size / 2**20
    return sum(part.stat().st_size for part in parts_of(Path(task.path))) / 2**20
