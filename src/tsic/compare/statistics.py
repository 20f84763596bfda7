"""Means, spreads and paired differences of runs, with confidence intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # quantiles of Student's t

from tsic.errors import CheckpointError, ConfigError
from tsic.evaluation.confusions import Confusions
from tsic.training.folder import RunFolder

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
    way_out = f"remove '{files.evaluation}' and compare again: the run is then scored anew"
    try:
        outcome = Outcome(
            json.loads(files.evaluation.read_text()), Confusions.load(files.confusions)
        )
        for key in ("miou", "teacher", "per_class_iou", "training_seconds", "peak_memory_mib"):
            outcome.evaluation[key]
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {way_out}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"'{files.evaluation}' is damaged ({error}); {way_out}") from error
    return outcome


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
    pairs: Sequence[tuple[Outcome, Outcome]], *, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % interval of the mean difference of mean IoU in percent.

    It covers the luck of a training, by Student's t over the seeds, and that of the validation
    images, by a percentile bootstrap that draws them anew for all runs at once; the two are
    independent, so their squares add. One seed leaves only the images.

    Seeds are not resampled as well: of two or three of them a bootstrap makes "95 %" intervals
    that hold the truth three times in four at best.

    Args:
        pairs: A run and its rival, per seed, on the same images.
        resamples: How many.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 12 and 13.
    """
    rng = np.random.default_rng(0)
    is_labelled = pairs[0][0].confusions.labels.sum(1) > 0
    images = int(is_labelled.sum())
    drawn = rng.multinomial(images, is_labelled / images, size=resamples).astype(float)
    low, high = np.percentile(_gains(pairs, drawn).mean(0), (2.5, 97.5))
    gains = _gains(pairs, np.ones((1, is_labelled.size)))
    mean, of_seeds = float(gains.mean()), 0.0
    if len(pairs) > 1:
        of_seeds = stdtrit(len(pairs) - 1, 0.975) * gains.std(ddof=1) / len(pairs) ** 0.5
    return mean - hypot(of_seeds, mean - low), mean + hypot(of_seeds, high - mean)


def _gains(pairs: Sequence[tuple[Outcome, Outcome]], times: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Differences of mean IoU in percent ``(pairs, R)``, images counted as ``times`` says."""
    return np.stack(
        [one.confusions.miou(times) - other.confusions.miou(times) for one, other in pairs]
    )


def _per_class(pairs: Sequence[tuple[Outcome, Outcome]]) -> dict[str, float | None]:
    """Mean difference of each class's IoU over the pairs in which both have one."""
    names = pairs[0][0].evaluation["per_class_iou"]
    found: dict[str, float | None] = {}
    for name in names:
        ious = [tuple(run.evaluation["per_class_iou"][name] for run in pair) for pair in pairs]
        gains = [one - other for one, other in ious if one is not None and other is not None]
        found[name] = float(np.mean(gains)) if gains else None
    return found
