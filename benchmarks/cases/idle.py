"""Thousands of idle connections: how long looking at them holds up the loop, and their memory."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from anyio import current_time, sleep
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from benchmarks.bench import Bench
from benchmarks.borrowers import warm_up
from benchmarks.descriptors import allow_sockets
from benchmarks.goals import LONGEST_STRETCH, OVER_BARE, goal_of
from benchmarks.progress import Progress
from benchmarks.remotes import Kind
from benchmarks.results import Figure, Spread
from benchmarks.rounds import collector_at_rest


@dataclass(frozen=True)
class _Extent:
    """How much there is to look over, and how often.

    :param connections: how many are idle
    :param max_idle_time: setting of the pool, in seconds
    :param interval: in which it looks at each of them once, following from that setting
    :param windows: how many times to wait for the longest stretch; the machine may add to one
    """

    connections: int
    max_idle_time: float
    interval: float
    windows: int


_A_CONNECTION = "idle connection"
_FULL = _Extent(connections=10_000, max_idle_time=600, interval=5, windows=3)
_QUICK = _Extent(connections=1_000, max_idle_time=8, interval=2, windows=2)


async def sweep(bench: Bench) -> list[Figure]:
    """Look over thousands of sockets: by processor time, so that other programs don't count."""
    progress = Progress(bench.backend, "sweep")
    extent = _QUICK if bench.quick else _FULL
    count = allow_sockets(extent.connections)
    longest: list[float] = []
    remote = bench.remotes.connectable("unix")
    async with ConnectionPool(remote, max_size=count, max_idle_time=extent.max_idle_time) as pool:
        await warm_up(pool, count)
        gc.collect()
        with collector_at_rest():
            spent = await _processor_time(extent.interval)
            for _ in range(extent.windows):
                progress.round_done()
                # A little longer: between two sweeps, there is also the time of one.
                longest.append(await _longest_stretch(1.1 * extent.interval))
    progress.round_done()
    progress.case_done()
    per = f"sweep of {count} idle"
    return [
        Figure(
            "sweep",
            per,
            LONGEST_STRETCH,
            Spread.of(longest),
            goal=goal_of("sweep", LONGEST_STRETCH, bench.backend),
            rounds=extent.windows,
        ),
        Figure("sweep", per, "processor time", _exactly(spent), "s/s"),
    ]


async def memory(bench: Bench) -> list[Figure]:
    """Allocate connections, bare and in a pool; what Python allocates is counted, not the kernel's.

    The difference of the two is the pool's share.
    """
    progress = Progress(bench.backend, "memory")
    count = 200 if bench.quick else 1_000
    figures: list[Figure] = []
    kinds: tuple[Kind, ...] = ("tcp", "unix")
    for kind in kinds:
        bare = await _allocated(partial(_hold_bare, bench, kind, count)) / count
        pooled = await _allocated(partial(_hold_pooled, bench, kind, count)) / count
        progress.round_done()
        over, goal = OVER_BARE[kind], goal_of("memory", OVER_BARE[kind], bench.backend)
        figures += [
            Figure("memory", _A_CONNECTION, over, _exactly(pooled - bare), "B", goal=goal),
            Figure("memory", _A_CONNECTION, f"{kind.upper()}: ours", _exactly(pooled), "B"),
            Figure("memory", _A_CONNECTION, f"{kind.upper()}: a bare stream", _exactly(bare), "B"),
        ]
    progress.case_done()
    return figures


def _exactly(value: float) -> Spread:
    return Spread.of([value])


async def _processor_time(seconds: float) -> float:
    """Return how much processor time a second takes in which nobody wants anything."""
    begun = time.process_time()
    await sleep(seconds)
    return (time.process_time() - begun) / seconds


async def _longest_stretch(seconds: float) -> float:
    """Return the longest processor time between two turns of a task that always wants its turn."""
    longest = 0.0
    end = current_time() + seconds
    before = time.thread_time()
    while current_time() < end:
        await checkpoint()
        now = time.thread_time()
        longest = max(longest, now - before)
        before = now
    return longest


async def _allocated(hold_while: Callable[[Callable[[], None]], Awaitable[None]]) -> float:
    """Return how many bytes are allocated more while something is held than before."""
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        held = 0

        def look() -> None:
            nonlocal held
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()

        await hold_while(look)
        return held - before
    finally:
        tracemalloc.stop()


async def _hold_bare(bench: Bench, kind: Kind, count: int, look: Callable[[], None]) -> None:
    streams = [await bench.remotes.connect(kind) for _ in range(count)]
    look()
    for stream in streams:
        await stream.aclose()


async def _hold_pooled(bench: Bench, kind: Kind, count: int, look: Callable[[], None]) -> None:
    async with ConnectionPool(bench.remotes.connectable(kind), max_size=count) as pool:
        await warm_up(pool, count)
        look()
