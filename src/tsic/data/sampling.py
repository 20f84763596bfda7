"""Which sample a step sees and with which random numbers: a pure function of seed and position."""

from collections.abc import Iterator
from hashlib import blake2b

import torch
from torch.utils.data import Sampler


def sample_order(seed: int, epoch: int, n: int) -> list[int]:
    """Shuffle the samples of one epoch.

    Args:
        seed: The run's seed.
        epoch: Number of the pass over the samples, from 0.
        n: How many samples.

    Returns:
        A permutation of ``range(n)``.
    """
    generator = torch.Generator().manual_seed(position_seed(seed, epoch, "order"))
    return torch.randperm(n, generator=generator).tolist()


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` indices, evenly over ``length`` items."""
    count = min(count, length)
    return [i * length // count for i in range(count)]


def position_seed(seed: int, position: int, purpose: str = "augment") -> int:
    """Give the seed of what is drawn at a position.

    Args:
        seed: The run's seed.
        position: Which one of its kind; of samples the count since step 0 over all ranks.
        purpose: What is drawn; purposes share nothing.

    Returns:
        64 well mixed bits, so that neighbouring positions share nothing.
    """
    return int.from_bytes(blake2b(f"{purpose} {seed} {position}".encode(), digest_size=8).digest())


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Endless batches of ``(position, index)``, the same however a run is cut into pieces.

    A position counts samples since step 0. Micro-batch ``g`` of all ranks together holds the
    positions ``[g * G, (g + 1) * G)`` with ``G = batch_size * world_size``, of which each rank
    takes its part in order; position ``p`` shows sample ``sample_order(seed, p // n, n)[p % n]``.
    So ranks times batch size can be split differently, and a batch may reach into the next epoch.
    There is no length on purpose: a loader without one never starts a new epoch.

    Args:
        n: Number of samples in the dataset.
        batch_size: Samples per micro-batch on one rank.
        seed: The run's seed.
        rank: This process.
        world_size: How many processes.
        start: Micro-batch to begin with.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> None:
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, []
        first = (self.start * self.world_size + self.rank) * self.batch_size
        while True:
            batch = []
            for position in range(first, first + self.batch_size):
                if position // self.n != epoch:
                    epoch = position // self.n
                    order = sample_order(self.seed, epoch, self.n)
                batch.append((position, order[position % self.n]))
            yield batch
            first += self.batch_size * self.world_size
