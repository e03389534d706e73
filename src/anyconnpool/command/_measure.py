"""Ask a server again and again from many tasks for some time, and note how that went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

# Not the event loop's clock: that of uvloop goes in steps of 1 ms.
from time import perf_counter  # noqa: TID251
from typing import TypeAlias

from anyio import Event, create_task_group, fail_after, sleep
from anyio.abc import ByteStreamConnectable

from anyconnpool import ConnectionPool, FramedStream, PoolStatistics
from anyconnpool.command._framing import MAX_LINE_BYTES, Framing
from anyconnpool.command._latency import Latencies
from anyconnpool.command._reasons import EXCHANGE_ERRORS, reason
from anyconnpool.command._results import Point

# A server that refuses everything is asked again after this time, in seconds.
_PAUSE_AFTER_FAILURE = 0.05
# Clocks may stand still for a moment.
_TICK = 1e-6

#: makes one request, and returns when it had a connection and when it had the reply
Ask: TypeAlias = Callable[[], Awaitable[tuple[float, float]]]


class Meter:
    """What became of the requests of one measurement.

    :param duration: for how long requests are begun, in seconds
    """

    def __init__(self, duration: float) -> None:
        self.duration = duration
        self._begun_at = perf_counter()
        self.latencies = Latencies()
        self.errors: Counter[str] = Counter()
        self._in_time = 0
        self._waited = 0.0

    @property
    def elapsed(self) -> float:
        """For how long requests have been begun, in seconds."""
        return min(max(perf_counter() - self._begun_at, _TICK), self.duration)

    @property
    def throughput(self) -> float:
        """Requests answered so far, per second."""
        return self._in_time / self.elapsed

    async def keep_asking(self, ask: Ask) -> None:
        """Make one request, then more until the time is over; the last one is finished."""
        end = self._begun_at + self.duration
        asked_at = perf_counter()
        while True:
            try:
                connected_at, replied_at = await ask()
            except EXCHANGE_ERRORS as error:
                self.errors[reason(error)] += 1
                await sleep(_PAUSE_AFTER_FAILURE)
            else:
                self.latencies.add(replied_at - asked_at)
                self._waited += connected_at - asked_at
                self._in_time += replied_at <= end
            asked_at = perf_counter()
            if asked_at >= end:
                return

    def point(self, max_size: int | None, opened: int, reused: float) -> Point:
        """Return what has been measured, whether it is complete or not."""
        latencies = self.latencies
        elapsed = self.elapsed
        return Point(
            max_size=max_size,
            elapsed=elapsed,
            answered=latencies.count,
            throughput=self._in_time / elapsed,
            p50=latencies.percentile(50),
            p90=latencies.percentile(90),
            p99=latencies.percentile(99),
            longest=latencies.longest,
            waiting=self._waited / latencies.total if latencies.total else 0.0,
            opened=opened,
            reused=reused,
            errors=dict(self.errors),
        )


class Requests:
    """One and the same request, with a pool or without.

    :param framing: how it is sent
    :param payload: what is sent
    :param timeout: limit for one request, connecting included, in seconds
    """

    def __init__(self, framing: Framing, payload: bytes, timeout: float) -> None:
        self._framing = framing
        self._payload = payload
        self._timeout = timeout

    def through(self, pool: ConnectionPool) -> Ask:
        """Return what asks over a connection of a pool."""

        async def ask() -> tuple[float, float]:
            return await pool.run(self._exchange, timeout=self._timeout)

        return ask

    def without_pool(self, connectable: ByteStreamConnectable) -> Ask:
        """Return what connects, asks and closes."""

        async def ask() -> tuple[float, float]:
            with fail_after(self._timeout):
                stream = await connectable.connect()
                async with FramedStream(stream, max_line_bytes=MAX_LINE_BYTES) as framed:
                    return await self._exchange(framed)

        return ask

    async def _exchange(self, stream: FramedStream) -> tuple[float, float]:
        connected_at = perf_counter()
        await self._framing.exchange(stream, self._payload)
        return connected_at, perf_counter()


async def ask_from_many(meter: Meter, ask: Ask, tasks: int) -> None:
    """Ask from a number of tasks until the meter's time is over."""
    async with create_task_group() as asking:
        for _ in range(tasks):
            asking.start_soon(meter.keep_asking, ask)


async def open_beforehand(pool: ConnectionPool, count: int, timeout: float) -> None:
    """Let a pool open connections, so that they are there when the measurement begins.

    What fails here fails again, and is counted, when it is measured.

    :param timeout: how long to wait at most, in seconds
    """
    missing = count
    all_there = Event()

    def arrive() -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            all_there.set()

    async def borrow() -> None:
        try:
            async with pool.acquire(timeout=timeout):
                arrive()
                await all_there.wait()
        except EXCHANGE_ERRORS:
            arrive()

    async with create_task_group() as borrowers:
        for _ in range(count):
            borrowers.start_soon(borrow)


def reuse_since(before: PoolStatistics, now: PoolStatistics) -> float:
    """Return which share of the borrows since a moment got a connection that was open already."""
    acquired = now.acquired - before.acquired
    return (now.reused - before.reused) / acquired if acquired else 0.0
