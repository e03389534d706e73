"""Run the benchmarks: as ``python -m benchmarks`` or ``python benchmarks``."""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import main

sys.exit(main())
