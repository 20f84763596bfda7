"""The cycle on drawn street scenes: a student alone, the same student in the cycle, compared."""

import math
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from tsic.config import DataConfig, OptimConfig, RunConfig, TeacherConfig, TrainerConfig
from tsic.config_file import load_config
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers import open_dataset
from tsic.data.sampling import spread
from tsic.data.scenes import SCENE_CLASSES, write_scenes
from tsic.errors import ConfigError
from tsic.files import write_json
from tsic.options import Objective
from tsic.pictures import panel, save_png
from tsic.report import write_report
from tsic.training.build import load_run
from tsic.training.callbacks import tiles
from tsic.training.folder import RunFolder
from tsic.training.precision import resolve_precision
from tsic.training.report import RunResult, curves
from tsic.training.run import train

_VAL_SCENES = 60
_HEIGHT, _WIDTH = 128, 176
_DIFFICULTY = 0.0
_TEACHER = "embedded"
_PICTURES = 6


def demo_config(data: Path, *, steps: int, seed: int, teacher: str) -> RunConfig:
    """The demo's configuration; ``teacher`` is ``none`` for the student alone."""
    return RunConfig(
        seed=seed,
        max_steps=steps,
        data=DataConfig(
            root=str(data),
            crop=(_HEIGHT, _WIDTH),
            scale=(0.9, 1.25),  # so few steps learn faster from scenes as they are
            photometric=False,
            batch_size=4,
            workers=0,  # reading takes a few ms, and both cores compute
        ),
        teacher=TeacherConfig(
            name=teacher,
            # So small an encoder learns more whole than through adapters (docs/results.md).
            trains_encoder=True,
            lora_rank=0,
            channels=64,
            warmup_steps=steps // 4,
        ),
        objective=Objective(class_balance=0.5, feature_weight=0.0),
        optim=OptimConfig(lr=5e-3, lr_warmup_steps=steps // 20, clip=5.0),
        trainer=TrainerConfig(val_every=math.ceil(steps / 3), save_every=math.ceil(steps / 3)),
    )


def run_demo(out: Path, *, steps: int, scenes: int, seed: int) -> str:
    """Draw the scenes, train both students, write ``metrics.json`` and ``report.html``.

    Both runs have the same seed: the same initial student and the same batches.

    Args:
        out: The demo's folder; what an earlier demo trained there is replaced.
        steps: Optimiser steps of each run.
        scenes: Training scenes.
        seed: Of scenes, weights and batches.

    Returns:
        What to print: both students' and the teacher's mIoU and the gain.
    """
    start = time.monotonic()
    for name in ("alone", "cycle"):
        _clear(out, name)
    data = out / "data" / f"seed{seed}_{scenes}"
    write_scenes(
        data,
        train=scenes,
        val=_VAL_SCENES,
        height=_HEIGHT,
        width=_WIDTH,
        seed=seed,
        difficulty=_DIFFICULTY,
    )
    precision = resolve_precision(TrainerConfig())
    results: dict[str, RunResult] = {}
    for name, teacher in (("alone", "none"), ("cycle", _TEACHER)):
        config = demo_config(data, steps=steps, seed=seed, teacher=teacher)
        config = replace(config, trainer=replace(config.trainer, precision=precision))
        results[name] = train(config, out / name, label=f"student {name}")
    alone, cycle = results["alone"], results["cycle"]
    assert cycle.teacher is not None
    scores = {
        "student_alone_miou": alone.student.miou,
        "cycle_student_miou": cycle.student.miou,
        "teacher_miou": cycle.teacher.miou,
    }
    seconds = time.monotonic() - start
    metrics = {**scores, "steps": steps, "seed": seed, "seconds": seconds}
    write_json(out / "metrics.json", metrics)
    pictures = _draw_panel(out, open_dataset("folder", data, "val"))
    _write_report(out, results, scores, pictures, seconds)
    gain = scores["cycle_student_miou"] - scores["student_alone_miou"]
    return (
        f"\nmIoU on {_VAL_SCENES} scenes that neither student saw, {steps} steps, seed {seed}:"
        f"\n  student alone     {scores['student_alone_miou']:6.2f}"
        f"\n  student in cycle  {scores['cycle_student_miou']:6.2f}  ({gain:+.2f})"
        f"\n  its teacher       {scores['teacher_miou']:6.2f}"
        f"\n{seconds:.0f} s; look at {out / 'report.html'}\n"
    )


def _clear(out: Path, name: str) -> None:
    """Remove what an earlier demo trained; a run of the user's stops the demo."""
    held = RunFolder(out / name).config
    if held.is_file() and not _is_of_a_demo(held):
        raise ConfigError(f"'{out / name}' holds a run that is none of a demo's; change --out")
    shutil.rmtree(out / name, ignore_errors=True)


def _is_of_a_demo(config: Path) -> bool:
    """Whether a run saw a demo's scenes."""
    try:
        scenes = Path(load_config(config).data.root)
    except ConfigError:
        return False
    return scenes.parent.name == "data" and bool(re.fullmatch(r"seed\d+_\d+", scenes.name))


def _draw_panel(out: Path, dataset: SegmentationDataset) -> Image.Image:
    """Image | label | student alone | cycle student | prompted masks | teacher."""
    alone, _ = load_run(out / "alone")
    cycle, _ = load_run(out / "cycle")
    rows = []
    for index in spread(len(dataset), _PICTURES):
        image, labels = dataset.read(index)
        by_alone = tiles(alone, image, labels, dataset.classes, with_teacher=False)
        by_cycle = tiles(cycle, image, labels, dataset.classes, with_teacher=True)
        rows.append([*by_alone.values(), *[*by_cycle.values()][2:]])
    titles = ["image", "label", "student alone", "cycle student", "prompted masks", "teacher"]
    picture = panel(rows, titles, legend=dataset.classes)
    save_png(picture, out / "samples" / "panel.png")
    return picture


def _write_report(
    out: Path,
    results: Mapping[str, RunResult],
    scores: Mapping[str, float],
    pictures: Image.Image,
    seconds: float,
) -> None:
    alone, cycle = results["alone"], results["cycle"]
    assert cycle.teacher is not None
    gain = scores["cycle_student_miou"] - scores["student_alone_miou"]
    scored = {
        "student alone": alone.student,
        "cycle student": cycle.student,
        "teacher": cycle.teacher,
    }
    write_report(
        out / "report.html",
        title="The Teacher-Student Interactive Cycle on drawn street scenes",
        intro=(
            "The same small student was trained twice from the same weights on the same batches: "
            "alone, and in the cycle with a prompted teacher that learned beside it."
        ),
        summary=[
            ("student alone, mIoU", f"{scores['student_alone_miou']:.2f}"),
            ("student in the cycle, mIoU", f"{scores['cycle_student_miou']:.2f}"),
            ("gain", f"{gain:+.2f}"),
            ("teacher, mIoU", f"{scores['teacher_miou']:.2f}"),
            ("training, alone / cycle", f"{alone.seconds:.0f} s / {cycle.seconds:.0f} s"),
            ("everything", f"{seconds:.0f} s"),
        ],
        curves=curves({name: result.folder for name, result in results.items()}),
        scores=scored,
        classes=SCENE_CLASSES,
        pictures=[("Scenes that neither student saw", pictures)],
    )
