"""How much memory this process holds, as its system tells."""

import sys
from pathlib import Path


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
    """A line of Linux's ``/proc/self/status``, which is in KiB."""
    file = Path("/proc/self/status")
    if not file.is_file():
        return None
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 2**10
    return None
