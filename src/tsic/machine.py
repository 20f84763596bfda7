"""Cores and memory, as the system tells."""

import os
import sys
from pathlib import Path

_STATUS, _MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_mib() -> float | None:
    """Memory of the machine; ``None`` where the system does not tell."""
    return _pages_mib("SC_PHYS_PAGES")


def available_mib() -> float | None:
    """Memory that can still be taken; ``None`` where the system does not tell."""
    told = _line_mib(_MEMINFO, "MemAvailable")
    # Pages that hold copies of files are given back when needed, yet count as taken here.
    return _pages_mib("SC_AVPHYS_PAGES") if told is None else told


def peak_resident_mib() -> float | None:
    """Largest resident memory of this process so far; ``None`` where the system does not tell."""
    told = status_mib("VmHWM")
    if told is not None:
        return told  # getrusage would count what the parent held when it started this process
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def status_mib(name: str) -> float | None:
    """A line of Linux's ``/proc/self/status``."""
    return _line_mib(_STATUS, name)


def _line_mib(file: Path, name: str) -> float | None:
    """A line of one of Linux's files, which are in KiB."""
    if not file.is_file():
        return None
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 2**10
    return None


def _pages_mib(name: str) -> float | None:
    """A number of pages that POSIX systems tell."""
    if not {"SC_PAGE_SIZE", name} <= set(getattr(os, "sysconf_names", {})):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf(name) / 2**20
