"""What a machine tells of its cores and memory."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from tsic import machine
from tsic.machine import available_mib, peak_resident_mib, total_mib, usable_cores


def test_copies_of_files_count_as_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "meminfo"
    told.write_text("MemTotal:  16384 kB\nMemFree:  1024 kB\nMemAvailable:  8192 kB\n")
    monkeypatch.setattr(machine, "_MEMINFO", told)
    assert available_mib() == 8


@pytest.mark.skipif(
    "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", {}), reason="this system tells no pages"
)
def test_pages_are_counted_where_no_file_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "absent")
    pages = {"SC_PAGE_SIZE": 2**20, "SC_AVPHYS_PAGES": 3, "SC_PHYS_PAGES": 5}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert (available_mib(), total_mib()) == (3, 5)
    monkeypatch.setattr(os, "sysconf_names", {})
    assert available_mib() is total_mib() is None


def test_cores_of_others_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 8


def test_a_large_parent_is_not_counted() -> None:
    held = torch.ones(2**30, dtype=torch.uint8)  # a GiB
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        child = pool.apply(peak_resident_mib)
    own = peak_resident_mib()
    assert held[-1] == 1  # held to here
    assert own
    assert child
    assert child < own - 600
