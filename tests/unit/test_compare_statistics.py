"""Means, spreads and intervals of runs, against numbers computed by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tsic.compare.statistics import Outcome, paired_interval, read_outcome, summarise
from tsic.errors import CheckpointError
from tsic.evaluation.confusions import Confusions
from tsic.evaluation.metrics import mean_iou
from tsic.training.folder import RunFolder

NAMES = ("a", "b")


def outcome(
    right: list[int], *, of: int = 10, seconds: float = 1.0, teacher: float | None = None
) -> Outcome:
    """A run that labels ``right[i]`` of so many pixels of each class of image i rightly."""
    confusions = Confusions(2)
    for count in right:
        wrong = of - count
        confusions.add(torch.tensor([[count, wrong], [wrong, count]]))
    iou = confusions.miou(np.ones((1, len(right)))).item()
    evaluation: dict[str, Any] = {
        "miou": iou,
        "teacher": None if teacher is None else {"miou": teacher},
        "per_class_iou": dict.fromkeys(NAMES, iou),
        "training_seconds": seconds,
        "peak_memory_mib": 100.0 * seconds,
    }
    return Outcome(evaluation, confusions)


def iou(right: int, of: int) -> float:
    return 100 * right / (2 * of - right)


def test_confusions_sum_images_and_survive_a_file(tmp_path: Any) -> None:
    confusions = outcome([10, 5]).confusions
    times = np.array([[1.0, 1.0], [0.0, 3.0]])
    assert confusions.miou(times) == pytest.approx([iou(15, 20), iou(5, 10)])
    confusions.save(tmp_path / "c.npz")
    again = Confusions.load(tmp_path / "c.npz")
    assert again.images == 2
    np.testing.assert_array_equal(again.rows, confusions.rows)


def test_confusions_score_as_the_dataset_is_scored(tmp_path: Path) -> None:
    """Of three classes the first image holds two, nothing the third; large images are many."""
    confusions = Confusions(3)
    cells = torch.tensor([[100_000, 40_000, 0], [30_000, 70_000, 0], [0, 0, 0]])
    for one in (cells, cells.T):
        confusions.add(one)
    confusions.save(tmp_path / "c.npz")
    again = Confusions.load(tmp_path / "c.npz")
    for times, whole in (([1.0, 1.0], cells + cells.T), ([2.0, 0.0], cells)):
        assert again.miou(np.array([times])) == pytest.approx([mean_iou(whole)])
    assert again.labels.tolist() == [[140_000, 100_000, 0], [130_000, 110_000, 0]]


def test_summary_is_what_a_hand_would_compute() -> None:
    alone = {0: outcome([5, 5]), 1: outcome([6, 6])}
    ours = {0: outcome([7, 7], seconds=2, teacher=80), 1: outcome([6, 6], seconds=4, teacher=90)}
    summary = summarise(ours, alone)
    first, second = iou(14, 20), iou(12, 20)
    assert summary.miou == pytest.approx((first + second) / 2)
    assert summary.std == pytest.approx(abs(first - second) / 2**0.5)
    assert summary.delta == pytest.approx((first - iou(10, 20)) / 2)
    assert summary.per_class_delta is not None
    assert list(summary.per_class_delta) == list(NAMES)
    assert list(summary.per_class_delta.values()) == pytest.approx([summary.delta] * 2)
    assert summary.teacher_miou == 85
    assert (summary.train_seconds, summary.peak_memory_mib) == (3, 400)


def test_runs_are_paired_by_their_seed_whatever_their_order() -> None:
    alone = {0: outcome([5]), 1: outcome([6]), 2: outcome([4])}
    summary = summarise({2: outcome([7]), 1: outcome([7]), 3: outcome([9])}, alone)
    gains = [iou(7, 10) - iou(4, 10), iou(7, 10) - iou(6, 10)]  # seed 3 has no rival
    assert summary.delta == pytest.approx(np.mean(gains))
    assert list(summary.seeds) == [2, 1, 3]


def test_a_class_that_one_of_a_pair_lacks_has_no_gain_there() -> None:
    runs = {seed: outcome([5 + seed]) for seed in range(2)}
    alone = {seed: outcome([5]) for seed in range(2)}
    for held, name in ((runs[0], "a"), (alone[0], "b"), (alone[1], "b")):
        held.evaluation["per_class_iou"][name] = None
    found = summarise(runs, alone).per_class_delta
    assert found == {"a": pytest.approx(iou(6, 10) - iou(5, 10)), "b": None}


def test_one_seed_has_no_spread_and_the_student_alone_no_gain() -> None:
    summary = summarise({0: outcome([5])}, None)
    assert (summary.std, summary.delta, summary.delta_ci95) == (None, None, None)
    assert summary.teacher_miou is None


def test_interval_of_what_nothing_varies_is_closed() -> None:
    same = [(outcome([7, 7, 7]), outcome([5, 5, 5]))] * 3
    gain = iou(7, 10) - iou(5, 10)
    assert paired_interval(same) == pytest.approx((gain, gain))


def test_interval_adds_the_luck_of_trainings_to_that_of_images() -> None:
    alone = outcome([5, 5])
    gains = [iou(5 + i, 10) - iou(5, 10) for i in range(3)]
    mean, of_seeds = np.mean(gains), 4.302653 * np.std(gains, ddof=1) / 3**0.5
    low, high = paired_interval([(outcome([5 + i] * 2), alone) for i in range(3)])
    assert (low, high) == pytest.approx((mean - of_seeds, mean + of_seeds))

    one = (outcome([9, 5]), alone)
    low, high = paired_interval([one])  # of images alone, and not of equal halves
    assert low == pytest.approx(0)
    assert high == pytest.approx(iou(9, 10) - iou(5, 10))
    assert paired_interval([one] * 2) == pytest.approx((low, high)), "seeds that agree"
    gains = [iou(14, 20) - iou(10, 20), iou(13, 20) - iou(10, 20)]
    low, high = paired_interval([one, (outcome([8, 5]), alone)])
    of_images = (iou(9, 10) + iou(8, 10)) / 2 - iou(5, 10) - np.mean(gains)
    of_seeds = 12.706205 * np.std(gains, ddof=1) / 2**0.5
    assert high - np.mean(gains) == pytest.approx(np.hypot(of_seeds, of_images))


def test_interval_of_the_images_leaves_one_in_forty_out_on_either_side() -> None:
    """The one of three images that gains is drawn three times in 1/27, not at all in 8/27."""
    pair = (outcome([9, 5, 5]), outcome([5, 5, 5]))
    low, high = paired_interval([pair])
    assert low == pytest.approx(0)
    assert high == pytest.approx(iou(9, 10) - iou(5, 10))
    mixed = [(outcome([9, 4, 6, 8, 5, 7]), outcome([5, 6, 5, 7, 3, 6]))]
    assert paired_interval(mixed) == paired_interval(mixed), "the same each time"


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of three trainings with luck of their own; resampled seeds would hold it in 75 %."""
    rng = np.random.default_rng(0)
    alone, truth = outcome([50], of=100), iou(60, 100) - iou(50, 100)
    held = 0
    for _ in range(200):
        rights = np.rint(rng.normal(60, 8, size=3)).astype(int).tolist()
        pairs = [(outcome([right], of=100), alone) for right in rights]
        low, high = paired_interval(pairs, resamples=2)
        held += low <= truth <= high
    assert held > 180


def test_pairs_share_the_drawn_images() -> None:
    """Two runs that differ by nothing but noise common to both have no gain at all."""
    hard = outcome([1, 9, 5, 2])
    assert paired_interval([(hard, outcome([1, 9, 5, 2]))]) == (0.0, 0.0)


def test_images_without_labels_have_no_part_in_the_luck() -> None:
    def half(right: int) -> Outcome:
        run = outcome([right])
        for _ in range(4):
            run.confusions.add(torch.zeros(2, 2, dtype=torch.int64))
        return run

    gain = iou(7, 10) - iou(5, 10)
    assert paired_interval([(half(7), half(5))]) == pytest.approx((gain, gain))


def test_a_damaged_run_is_told_with_the_way_out(tmp_path: Path) -> None:
    run = outcome([5])
    files = RunFolder(tmp_path)
    whole = json.dumps(run.evaluation)
    files.evaluation.write_text(whole)
    run.confusions.save(files.confusions)
    assert read_outcome(tmp_path).miou == pytest.approx(run.miou)
    held = files.confusions.read_bytes()
    for damaged in (held[:100], held[:60] + bytes(60) + held[120:], b""):
        files.confusions.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"is missing or damaged .*; remove '"):
            read_outcome(tmp_path)
    files.confusions.write_bytes(held)
    for text in ("{}", "[]", whole.replace("training_seconds", "seconds"), "{"):
        files.evaluation.write_text(text)
        with pytest.raises(CheckpointError, match=r"is damaged .*compare again: the run is then"):
            read_outcome(tmp_path)
