"""Latency of a model in several engines that take turns, and what the machine would allow."""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tsic.deploy.benchmark.machine import MATRIX_SIDE
from tsic.deploy.benchmark.worker import (
    Failure,
    Task,
    Turn,
    serve,
)
from tsic.grid import Size
from tsic.progress import OnProgress

_PATIENCE_S = 300  # torch.compile of a large network takes minutes
_FAREWELL_S = 2


@dataclass(frozen=True)
class Spread:
    """How long a run took, in milliseconds.

    Attributes:
        median: Half of the runs were faster.
        p10: A tenth of the runs were faster.
        p90: Nine tenths of the runs were faster.
        fastest: The fastest run.
        runs: How many there were.
    """

    median: float
    p10: float
    p90: float
    fastest: float
    runs: int


@dataclass(frozen=True)
class Measured:
    """What one task's process found.

    Attributes:
        network: Float images in, class scores out.
        processed: Image bytes in, labels at the images' own size out; ``None`` if not measured.
        peak_memory_mib: Most memory above that of the imports; ``None`` where unknown.
    """

    network: Spread
    processed: Spread | None
    peak_memory_mib: float | None


def spread(latencies: Sequence[float]) -> Spread:
    """Summarise latencies.

    Args:
        latencies: Seconds of each run, at least one.

    Returns:
        Median and percentiles, linear between neighbours, in milliseconds.

    Example:
        >>> spread([0.001 * n for n in range(11)])
        Spread(median=5.0, p10=1.0, p90=9.0, fastest=0.0, runs=11)
    """
    p10, median, p90 = (
        round(float(value), 6)
        for value in np.percentile([1000 * s for s in latencies], (10, 50, 90))
    )
    return Spread(median, p10, p90, round(1000 * min(latencies), 6), len(latencies))


@torch.no_grad()
def multiply_adds(model: nn.Module, size: Size) -> int:
    """Count the multiply-adds of one image's way through a network.

    PyTorch counts the floating point operations of convolutions, matrix products and attention,
    two for each multiply-add; normalisation, activations and resizing count nothing.

    Args:
        model: Network in evaluation mode, on the CPU.
        size: Height and width of the image, in pixels.

    Returns:
        See `multiply_adds_of`.

    Example:
        >>> multiply_adds(nn.Conv2d(3, 8, 3, padding=1), (4, 5))  # 4 * 5 * 8 * 3 * 9
        4320
    """
    return multiply_adds_of(lambda: model(torch.zeros(1, 3, *size)))


@torch.no_grad()
def multiply_adds_of(run: Callable[[], object]) -> int:
    """Half of the operations that `torch.utils.flop_counter` counts while something runs."""
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return counter.get_total_flops() // 2


def products_per_second(product: Measured) -> float:
    """Multiply-adds per second of the fastest matrix product."""
    return MATRIX_SIDE**3 / (product.network.fastest / 1000)


def take_turns(
    tasks: Sequence[Task], *, rounds: int, seconds: float, on_progress: OnProgress
) -> dict[Task, Measured | Failure]:
    """Measure some tasks side by side, so that a machine whose speed drifts slows them alike.

    Each task has a process of its own, which lives through all rounds. One works at a time.

    Args:
        tasks: What to measure.
        rounds: How often each has its turn.
        seconds: Length of a turn.
        on_progress: Told after each loading and each turn.

    Returns:
        What was found, by task; a `Failure` where an engine could not load or run.
    """
    failed: dict[Task, Failure] = {}
    turns: dict[Task, list[Turn]] = {task: [] for task in tasks}
    workers = {task: _Worker(task) for task in tasks}
    done = 0
    try:
        for number in range(rounds + 1):
            for task, worker in workers.items():
                if task not in failed:
                    answer = worker.load() if number == 0 else worker.take_turn(seconds)
                    if isinstance(answer, Failure):
                        failed[task] = answer
                    elif answer is not None:
                        turns[task].append(answer)
                done += 1
                on_progress(done, len(tasks) * (rounds + 1))
    finally:
        for worker in workers.values():
            worker.stop()
    return {task: failed.get(task) or _summed(own) for task, own in turns.items()}


def _summed(turns: Sequence[Turn]) -> Measured:
    """What all turns of one task found."""
    network = [seconds for turn in turns for seconds in turn.network]
    processed = [seconds for turn in turns for seconds in turn.processed]
    memory = turns[-1].peak_memory_mib  # of the process so far: the last is the most
    return Measured(spread(network), spread(processed) if processed else None, memory)


@dataclass
class _Worker:
    """The parent's end of one task's process."""

    task: Task
    process: SpawnProcess | None = None
    connection: Connection | None = None

    def load(self) -> Failure | None:
        """Start the process; loading is over before the next one starts."""
        context = multiprocessing.get_context("spawn")  # a fork would inherit torch's memory
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.task), daemon=True)
        self.process.start()
        theirs.close()
        return self._receive()

    def take_turn(self, seconds: float) -> Turn | Failure:
        """Let it measure for a while."""
        assert self.connection is not None
        try:
            self.connection.send(seconds)
        except OSError:
            return self._death()
        return self._receive()

    def stop(self) -> None:
        """End the process."""
        if self.process is not None and self.connection is not None:
            self.connection.close()
            self.process.join(_FAREWELL_S)
            self.process.terminate()
            self.process.join()

    def _receive(self) -> Any:
        assert self.connection is not None
        try:
            if not self.connection.poll(_PATIENCE_S):
                return Failure(f"it did not answer for {_PATIENCE_S} s")
            return self.connection.recv()
        except (EOFError, OSError):
            return self._death()

    def _death(self) -> Failure:
        assert self.process is not None
        self.process.join(5)
        return Failure(f"its process died (exit code {self.process.exitcode})")
