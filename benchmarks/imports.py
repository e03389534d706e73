"""What importing the package costs on top of AnyIO, which it needs."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.progress import Progress
from benchmarks.results import Figure, Spread

CASE = "import"
_BACKEND = "no loop"
_PROGRAM = """
from time import perf_counter
times = [perf_counter()]
import anyio
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
    anyios: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        command = [sys.executable, "-c", _PROGRAM]
        ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        anyio, anyconnpool = json.loads(ended.stdout)
        anyios.append(anyio)
        ours.append(anyconnpool)
        progress.round_done()
    progress.case_done()
    ratio = Spread.of(mine / other for mine, other in zip(ours, anyios, strict=True))
    return [
        Figure(
            CASE,
            "import",
            name,
            Spread.of(times),
            ratio=their_ratio,
            rounds=rounds,
            backend=_BACKEND,
        )
        for name, times, their_ratio in (
            ("ours, after anyio", ours, None),
            ("anyio", anyios, ratio),
        )
    ]
