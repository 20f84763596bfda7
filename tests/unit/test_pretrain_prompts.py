"""Simulated prompts: which masks are asked for, and what is wrong with what is said of them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tsic.pretrain.leaves import draw_leaves
from tsic.pretrain.prompts import (
    BOTTOM_RIGHT,
    NO_POINT,
    POSITIVE,
    TOP_LEFT,
    choose_targets,
    drop,
    merge,
    point_in,
    prompted_sample,
    shift,
    student_logits,
    swell,
)
from tsic.pretrain.regions import Regions


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def square() -> tuple[Tensor, Tensor]:
    """A mask of 32x32 in 96x96, and something else beside it."""
    mask, other = torch.zeros(96, 96), torch.zeros(96, 96)
    mask[32:64, 32:64] = 1
    other[10:50, 70:90] = 1
    return mask, other


def test_swell_grows_to_all_sides_or_shrinks_from_all() -> None:
    mask, other = square()
    signs = set()
    for seed in range(20):
        grown = swell(rng(seed), mask, other)
        rows, columns = grown.any(1).nonzero(), grown.any(0).nonzero()
        reach = 32 - int(rows.min())
        assert 1 <= abs(reach) <= 4  # a 24th of the side
        assert (int(rows.min()), int(rows.max())) == (32 - reach, 63 + reach)
        assert (int(columns.min()), int(columns.max())) == (32 - reach, 63 + reach)
        signs.add(reach > 0)
    assert signs == {True, False}


def test_shift_moves_but_keeps_the_size() -> None:
    mask, other = square()
    moved = [shift(rng(seed), mask, other) for seed in range(20)]
    for one in moved:
        assert one.sum().item() == pytest.approx(mask.sum().item(), rel=0.25)
    assert np.mean([(one - mask).abs().sum().item() for one in moved]) > 60


def test_drop_misses_a_part_and_adds_nothing() -> None:
    mask, other = square()
    for seed in range(20):
        kept = drop(rng(seed), mask, other)
        assert 0.05 * mask.sum() < kept.sum() < mask.sum()
        assert (kept <= mask).all()


def test_merge_takes_in_something_of_the_other_and_loses_nothing() -> None:
    mask, other = square()
    for seed in range(20):
        merged = merge(rng(seed), mask, other)
        assert mask.sum() < merged.sum() <= mask.sum() + other.sum()
        assert (merged >= mask).all()
        assert (merged <= torch.maximum(mask, other)).all()


@pytest.mark.parametrize("fault", [swell, shift, drop, merge])
def test_faults_leave_an_empty_mask_empty(fault: type) -> None:
    assert not fault(rng(), torch.zeros(96, 96), torch.zeros(96, 96)).any()


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_student_logits_tell_the_mask_at_the_stride(stride: int) -> None:
    mask, _ = square()
    logits = student_logits(rng(1), mask, stride)
    assert logits.shape == (24, 24)
    inside, outside = logits[10:14, 10:14], torch.cat([logits[:4], logits[-4:]])
    assert inside.mean() > 1
    assert outside.mean() < -1


def test_targets_are_regions_or_whole_kinds() -> None:
    ids = np.zeros((32, 32), np.int32)
    ids[:, :8], ids[:, 8:16], ids[:, 16:24] = 1, 2, 3  # the rest is not known
    kinds = np.array([0, 5, 5, 6], np.int32)
    regions = Regions(np.zeros((32, 32, 3), np.uint8), ids, kinds)
    targets, others = choose_targets(rng(), regions, [True] * 40)
    assert {int(t.sum()) for t in targets} == {256}
    assert len({tuple(t[0].tolist()) for t in targets}) == 3
    targets, _ = choose_targets(rng(), regions, [False] * 40)
    assert {int(t.sum()) for t in targets} == {256, 512}
    assert not (others & choose_targets(rng(), regions, [True] * 40)[0]).any()


def test_large_regions_are_chosen_more_often() -> None:
    """As often as the root of their size: of 64 and 576 pixels one in four is the small one."""
    ids = np.zeros((64, 64), np.int32)
    ids[:8, :8], ids[20:44, 20:44] = 1, 2
    regions = Regions(np.zeros((64, 64, 3), np.uint8), ids, np.zeros(3, np.int32))
    targets, _ = choose_targets(rng(), regions, [True] * 400)
    assert 80 <= sum(int(t.sum()) == 64 for t in targets) <= 120


def test_kinds_are_regions_where_there_are_none() -> None:
    ids = np.ones((32, 32), np.int32)
    ids[:10] = 2
    regions = Regions(np.zeros((32, 32, 3), np.uint8), ids, np.zeros(3, np.int32))
    targets, _ = choose_targets(rng(), regions, [False] * 10)
    assert {int(t.sum()) for t in targets} == {320, 704}


def test_tiny_regions_and_all_of_the_image_are_no_targets() -> None:
    ids = np.ones((32, 32), np.int32)
    ids[0, :4] = 2
    regions = Regions(np.zeros((32, 32, 3), np.uint8), ids, np.zeros(3, np.int32))
    sample = prompted_sample(rng(), regions, 6)
    assert not sample.targets.any()
    assert (sample.point_labels == NO_POINT).all()


def test_point_lies_in_the_mask() -> None:
    mask, _ = square()
    for seed in range(20):
        x, y = (point_in(rng(seed), mask > 0) * 96).tolist()
        assert mask[int(y), int(x)] == 1


def test_sample_prompts_in_every_way_and_each_tells_of_its_target() -> None:
    seen = set()
    for seed in range(12):
        sample = prompted_sample(rng(seed), draw_leaves(rng(seed), 64, 96), 8)
        assert sample.image.shape == (3, 64, 96)
        assert sample.masks.shape == (8, 16, 24)
        for target, mask, has_mask, points, labels in zip(
            sample.targets,
            sample.masks,
            sample.has_mask.tolist(),
            sample.points,
            sample.point_labels.tolist(),
            strict=True,
        ):
            seen.add((has_mask, tuple(labels)))
            assert mask.any() == has_mask
            if labels[0] == POSITIVE:
                x, y = (points[0] * torch.tensor([96, 64])).tolist()
                assert target[int(y), int(x)]
            if labels == [TOP_LEFT, BOTTOM_RIGHT]:
                rows, columns = target.any(1).nonzero(), target.any(0).nonzero()
                truth = torch.tensor(
                    [
                        [columns.min() / 96, rows.min() / 64],
                        [(columns.max() + 1) / 96, (rows.max() + 1) / 64],
                    ]
                )
                reach = 0.1 * (truth[1] - truth[0]) + 1e-5
                assert ((points - truth).abs() <= reach).all()
    assert seen == {
        (True, (NO_POINT, NO_POINT)),
        (True, (POSITIVE, NO_POINT)),
        (False, (POSITIVE, NO_POINT)),
        (False, (TOP_LEFT, BOTTOM_RIGHT)),
    }


def test_same_seed_gives_the_same_sample() -> None:
    one, again = (prompted_sample(rng(5), draw_leaves(rng(1), 64, 64), 4) for _ in range(2))
    for name in ("image", "targets", "masks", "has_mask", "points", "point_labels"):
        assert torch.equal(getattr(one, name), getattr(again, name))
