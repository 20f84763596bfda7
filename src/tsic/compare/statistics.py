"""Means, spreads and paired differences of runs, with bootstrap confidence intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tsic.confusions import Confusions
from tsic.errors import CheckpointError, ConfigError
from tsic.folder import RunFolder

RESAMPLES = 2000


@dataclass(frozen=True)
class Outcome:
    """What one finished run says.

    Attributes:
        evaluation: Its ``evaluation.json``.
        confusions: Its student's pixel counts on every validation image.
    """

    evaluation: Mapping[str, Any]
    confusions: Confusions

    @property
    def miou(self) -> float:
        """The student's mean IoU in percent."""
        return float(self.evaluation["miou"])

    @property
    def teacher_miou(self) -> float | None:
        """Its teacher's, if it had one."""
        teacher = self.evaluation["teacher"]
        return None if teacher is None else float(teacher["miou"])


def read_outcome(folder: Path) -> Outcome:
    """Read a finished run.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    files = RunFolder(folder)
    try:
        evaluation = json.loads(files.evaluation.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{files.evaluation}' cannot be read ({error})") from error
    return Outcome(evaluation, Confusions.load(files.confusions))


@dataclass(frozen=True)
class Summary:
    """One method over its seeds.

    Attributes:
        miou: Mean of the student's mean IoU in percent.
        std: Standard deviation over seeds (``n - 1``); ``None`` for one seed.
        delta: Mean paired difference to the student alone; ``None`` for that itself.
        delta_ci95: Its 95 % interval; see ``paired_interval``.
        seeds: Mean IoU of each seed.
        teacher_miou: Mean over seeds, if there was a teacher.
        train_seconds: Mean seconds of training.
        peak_memory_mib: Most memory of any run.
        per_class_delta: Mean paired difference of each class's IoU, ``None`` where one has none.
    """

    miou: float
    std: float | None
    delta: float | None
    delta_ci95: tuple[float, float] | None
    seeds: Mapping[int, float]
    teacher_miou: float | None
    train_seconds: float
    peak_memory_mib: float
    per_class_delta: Mapping[str, float | None] | None


def summarise(runs: Mapping[int, Outcome], alone: Mapping[int, Outcome] | None) -> Summary:
    """Sum one method up.

    Args:
        runs: Its finished runs by seed.
        alone: Those of the student alone; ``None`` for that itself. Seeds that both have are
            paired: the same initial weights and the same batches.
    """
    scores = [run.miou for run in runs.values()]
    teachers = [run.teacher_miou for run in runs.values() if run.teacher_miou is not None]
    pairs = [(runs[seed], alone[seed]) for seed in runs if seed in alone] if alone else []
    return Summary(
        miou=float(np.mean(scores)),
        std=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        delta=float(np.mean([one.miou - other.miou for one, other in pairs])) if pairs else None,
        delta_ci95=paired_interval(pairs) if pairs else None,
        seeds={seed: run.miou for seed, run in runs.items()},
        teacher_miou=float(np.mean(teachers)) if teachers else None,
        train_seconds=float(np.mean([run.evaluation["training_seconds"] for run in runs.values()])),
        peak_memory_mib=max(float(run.evaluation["peak_memory_mib"]) for run in runs.values()),
        per_class_delta=_per_class(pairs) if pairs else None,
    )


def require_same_images(name: str, run: Outcome, alone: Outcome) -> None:
    """Refuse to pair runs that were scored on other images, as their labelled pixels tell.

    Raises:
        ConfigError: Naming the run.
    """
    if not np.array_equal(run.confusions.labels, alone.confusions.labels):
        raise ConfigError(
            f"the run {name} was scored on other images than the student alone; remove its folder "
            "or that of the student alone and compare again"
        )


def paired_interval(
    pairs: Sequence[tuple[Outcome, Outcome]], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean difference of mean IoU in percent.

    Each resample draws seeds with replacement, and once for all its runs the validation images,
    so it covers both the luck of a training and that of the images; few seeds make it too narrow,
    one seed leaves only the images.

    Args:
        pairs: A run and its rival, per seed, on the same images.
        resamples: How many.
        seed: Of the draws.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    rng = np.random.default_rng(seed)
    images = pairs[0][0].confusions.images
    differences = []
    for _ in range(resamples):
        times = np.bincount(rng.integers(images, size=images), minlength=images).astype(float)
        drawn = np.bincount(rng.integers(len(pairs), size=len(pairs)), minlength=len(pairs))
        gains = [
            count * (one.confusions.miou(times) - other.confusions.miou(times))
            for count, (one, other) in zip(drawn, pairs, strict=True)
            if count
        ]
        differences.append(sum(gains) / len(pairs))
    low, high = np.percentile(differences, (2.5, 97.5))
    return float(low), float(high)


def _per_class(pairs: Sequence[tuple[Outcome, Outcome]]) -> dict[str, float | None]:
    """Mean difference of each class's IoU over the pairs in which both have one."""
    names = pairs[0][0].evaluation["per_class_iou"]
    found: dict[str, float | None] = {}
    for name in names:
        ious = [tuple(run.evaluation["per_class_iou"][name] for run in pair) for pair in pairs]
        gains = [one - other for one, other in ious if one is not None and other is not None]
        found[name] = float(np.mean(gains)) if gains else None
    return found
