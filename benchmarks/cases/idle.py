"""Thousands of idle connections: how long looking at them holds up the loop, and their memory."""

from __future__ import annotations

import gc
import resource
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from functools import partial

from anyio import CapacityLimiter, create_task_group, current_time, sleep
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from benchmarks.bench import Bench
from benchmarks.borrowers import OurPool, hold
from benchmarks.progress import Progress
from benchmarks.results import Figure, Spread
from benchmarks.rounds import collector_at_rest

#: the pool looks at every idle connection once in this time, in seconds, unless it is told of
#: shorter lives
_SWEEP_INTERVAL = 5.0
_MANY, _MANY_QUICK = 10_000, 1_000
#: descriptors that are left for other things
_SPARE = 200


async def sweep(bench: Bench) -> list[Figure]:
    """Look over thousands of sockets: by processor time, so that other programs don't count."""
    progress = Progress(bench.backend, "sweep")
    count = _raise_descriptor_limit(_MANY_QUICK if bench.quick else _MANY)
    interval = _SWEEP_INTERVAL / 2 if bench.quick else _SWEEP_INTERVAL
    remote = bench.remotes.connectable("unix")
    async with ConnectionPool(remote, max_size=count, max_idle_time=4 * interval) as pool:
        await _fill(pool, count)
        gc.collect()
        with collector_at_rest():
            spent = await _processor_time(interval)
            progress.round_done()
            longest = await _longest_stretch(interval)
            progress.round_done()
    progress.case_done()
    per = f"sweep of {count} idle"
    return [
        Figure("sweep", per, "longest stretch of the loop", _exactly(longest), goal=0.002),
        Figure("sweep", per, "processor time", _exactly(spent), "s/s", goal=0.02),
    ]


async def memory(bench: Bench) -> list[Figure]:
    """Allocate connections, bare and in a pool; what Python allocates is counted, not the kernel's.

    The difference of the two is the pool's share.
    """
    progress = Progress(bench.backend, "memory")
    count = 200 if bench.quick else 1_000
    bare = await _allocated(partial(_hold_bare, bench, count)) / count
    progress.round_done()
    pooled = await _allocated(partial(_hold_pooled, bench, count)) / count
    progress.round_done()
    progress.case_done()
    per = "idle connection"
    return [
        Figure("memory", per, "ours over the bare stream", _exactly(pooled - bare), "B", goal=2048),
        Figure("memory", per, "bare SocketStream", _exactly(bare), "B"),
    ]


def _exactly(value: float) -> Spread:
    return Spread.of([value])


def _raise_descriptor_limit(wanted: int) -> int:
    """Allow as many connections as are wanted, and return how many there can be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    limit = wanted + _SPARE if unlimited else min(wanted + _SPARE, hard)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    return min(wanted, max(soft, limit) - _SPARE)


async def _fill(pool: ConnectionPool, count: int) -> None:
    await hold(OurPool(pool), count, checkpoint)
    while pool.statistics().idle < count:
        await sleep(0.01)


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


async def _hold_bare(bench: Bench, count: int, look: Callable[[], None]) -> None:
    streams: list[ByteStream] = []
    few = CapacityLimiter(100)

    async def open_one() -> None:
        async with few:
            streams.append(await bench.remotes.connect("unix"))

    async with create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(open_one)
    look()
    for stream in streams:
        await stream.aclose()


async def _hold_pooled(bench: Bench, count: int, look: Callable[[], None]) -> None:
    async with ConnectionPool(bench.remotes.connectable("unix"), max_size=count) as pool:
        await _fill(pool, count)
        look()
