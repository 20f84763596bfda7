"""The page that a run leaves: scores, curves and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tsic.config import RunConfig
from tsic.data.classes import ClassTable
from tsic.evaluation.scores import Report
from tsic.files import public_name
from tsic.report import Curves, write_report
from tsic.training.callbacks import read_metrics
from tsic.training.folder import RunFolder

_OWN = ("train/student_ce", "train/total")


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves.

    Attributes:
        folder: The run's files.
        student: Scores of the student that ships, on the validation split.
        teacher: Scores of its teacher; ``None`` without one.
        seconds: Wall time of this part of the run.
    """

    folder: RunFolder
    student: Report
    teacher: Report | None
    seconds: float


def write_run_report(config: RunConfig, result: RunResult, classes: ClassTable, label: str) -> None:
    """Write ``report.html`` into a finished run's folder.

    Args:
        config: What was trained.
        result: What came out.
        classes: Names and colours.
        label: Heading.
    """
    scored = {"student": result.student}
    if result.teacher is not None:
        scored["teacher"] = result.teacher
    panels = sorted(result.folder.samples.glob("step_*.png"))
    write_report(
        result.folder.report,
        title=label,
        intro=(
            f"The student {config.student.name}, trained {_manner(config)}. Scores are those of "
            f"the best checkpoint on the split {config.data.val_split}, which also chose it."
        ),
        summary=[
            *((f"{role}, mIoU", f"{report.miou:.2f}") for role, report in scored.items()),
            ("student, pixel accuracy", f"{result.student.pixel_accuracy:.2f}"),
            ("steps", f"{config.max_steps}"),
            ("seed", f"{config.seed}"),
            ("seconds", f"{result.seconds:.0f}"),
        ],
        curves=curves({"": result.folder}),
        scores=scored,
        classes=classes,
        pictures=[("After the last step", path) for path in panels[-1:]],
    )


def _manner(config: RunConfig) -> str:
    """How a student was trained, in a few words."""
    if config.distill.method != "none":
        teacher = config.distill.teacher
        return f"by {config.distill.method}" + (f" from {public_name(teacher)}" if teacher else "")
    if config.teacher.name == "none":
        return "alone"
    kind = "with hints of" if config.teacher.hints_only else "in the cycle with"
    return f"{kind} {config.teacher.name}"


def curves(runs: Mapping[str, RunFolder]) -> Curves:
    """What runs logged, as plots: validation scores, the student's loss, the cycle's losses.

    Args:
        runs: Prefix of the lines' names -> folder.

    Returns:
        Title -> name of a line -> points; what no run logged is left out.
    """
    logged = {name: read_metrics(folder.metrics) for name, folder in runs.items()}

    def lines(names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
        found = {
            f"{run} {_short(name)}".strip(): [(s, v) for s, key, v in rows if key == name]
            for run, rows in logged.items()
            for name in names
        }
        return {name: points for name, points in found.items() if points}

    rest = {key: None for rows in logged.values() for _, key, _ in rows if key.startswith("train/")}
    plots = {
        "validation mIoU, %": lines(["val/student_miou", "val/teacher_miou"]),
        "pixels where one alone is right, %": lines(
            ["val/only_student_right", "val/only_teacher_right"]
        ),
        "what the prompt does to the teacher": lines(
            ["val/prompt_sensitivity", "val/prompt_gain", "val/oracle_gap"]
        ),
        "student's cross-entropy on training crops": lines(["train/student_ce"]),
        "other losses": lines([key for key in rest if key not in _OWN]),
    }
    return {title: found for title, found in plots.items() if found}


def _short(name: str) -> str:
    return name.split("/")[1].removesuffix("_miou")
