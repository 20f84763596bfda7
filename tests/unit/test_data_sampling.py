from itertools import islice
from typing import Any

import pytest

from tsic.data.sampling import StepBatches, position_seed, sample_order, spread

Batches = list[list[tuple[int, int]]]


def _take(count: int, *args: Any, **options: Any) -> Batches:
    return list(islice(StepBatches(*args, **options), count))


def test_sample_order_is_a_permutation_of_its_own_per_epoch_and_seed() -> None:
    orders = [sample_order(seed, epoch, 50) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == sample_order(0, 0, 50)


def test_spread_reaches_over_all_items() -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 9) == [0, 1, 2]
    assert spread(9, 0) == []


def test_position_seed_is_fixed_for_ever() -> None:
    """A run started with one version must resume in the next."""
    assert position_seed(0, 0) == 9057313237302359593
    assert 0 <= position_seed(-3, 10**12) < 2**64
    assert len({position_seed(seed, p) for seed in range(10) for p in range(1000)}) == 10_000


def test_positions_count_and_indices_follow_the_order() -> None:
    batches = _take(4, 5, 2, 9)
    assert [p for batch in batches for p, _ in batch] == list(range(8))
    order = sample_order(9, 0, 5) + sample_order(9, 1, 5)
    assert [i for batch in batches for _, i in batch] == order[:8]


def test_every_epoch_shows_every_sample_once() -> None:
    indices = [i for batch in _take(7, 7, 3, 0) for _, i in batch]
    for epoch in range(3):
        assert sorted(indices[7 * epoch : 7 * epoch + 7]) == list(range(7))


def test_a_batch_may_exceed_the_dataset() -> None:
    indices = [i for _, i in _take(1, 2, 5, 0)[0]]
    assert indices == (sample_order(0, 0, 2) + sample_order(0, 1, 2) + sample_order(0, 2, 2))[:5]


def test_start_in_the_middle_continues() -> None:
    whole = _take(10, 7, 3, 4)
    assert _take(6, 7, 3, 4, start=4) == whole[4:]


@pytest.mark.parametrize("start", [0, 5])
def test_ranks_split_one_global_batch(start: int) -> None:
    one = _take(6, 7, 4, 1, start=start)
    two = [_take(6, 7, 2, 1, rank=rank, world_size=2, start=start) for rank in (0, 1)]
    assert [a + b for a, b in zip(*two, strict=True)] == one


def test_iterating_again_begins_again() -> None:
    batches = StepBatches(5, 2, 0, start=3)
    assert list(islice(batches, 3)) == list(islice(batches, 3))


def test_has_no_length() -> None:
    with pytest.raises(TypeError, match="has no len"):
        len(StepBatches(5, 2, 0))  # type: ignore[arg-type]
