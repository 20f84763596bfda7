"""What a process says of its memory."""

import multiprocessing

import torch

from tsic.cost import peak_mib

CPU = torch.device("cpu")


def _peak() -> float:
    return peak_mib(CPU)


def test_a_large_parent_is_not_counted() -> None:
    held = torch.ones(2**30, dtype=torch.uint8)  # a GiB
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        child = pool.apply(_peak)
    assert held.sum() == 2**30
    assert child < peak_mib(CPU) - 600
