"""``python -m tsic.compare.child`` is ``tsic`` for as long as the process that started it lives."""

import ctypes
import signal
import sys

from tsic.cli import main

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if sys.platform == "linux":  # elsewhere a comparison that is killed cannot end its runs
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    sys.exit(main())
