"""What importing the package costs on top of AnyIO and asyncio, which it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from benchmarks.progress import Progress
from benchmarks.results import Figure, Spread

CASE = "import"
_BACKEND = "no loop"
_PROGRAM = """
from time import perf_counter
times = [perf_counter()]
import asyncio, anyio, anyio.abc, anyio.lowlevel, anyio.streams.tls
times.append(perf_counter())
import anyconnpool
times.append(perf_counter())
print([times[1] - times[0], times[2] - times[1]])
"""


def measure_imports(rounds: int) -> list[Figure]:
    """Import both in as many new processes, one after the other.

    :param rounds: how many processes
    """
    progress = Progress(_BACKEND, CASE)
    needed: list[float] = []
    ours: list[float] = []
    with tempfile.TemporaryDirectory() as cache:
        # The first one compiles.
        _import_both(cache)
        for _ in range(rounds):
            for times, seconds in zip((needed, ours), _import_both(cache), strict=True):
                times.append(seconds)
            progress.round_done()
    progress.case_done()
    return [
        Figure(CASE, CASE, name, Spread.of(times), rounds=rounds, backend=_BACKEND)
        for name, times in (("ours, after those", ours), ("asyncio and anyio", needed))
    ]


def _import_both(cache: str) -> list[float]:
    settings = {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        check=True,
    )
    times: list[float] = json.loads(ended.stdout)
    return times
