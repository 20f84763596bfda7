"""``python -m tsic`` is ``tsic``."""

import sys

from tsic.cli import main

sys.exit(main())
