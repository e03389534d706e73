"""When requests are due: one after the other, or at a rate whatever becomes of them."""

from __future__ import annotations

import math
from time import perf_counter

import pytest
from anyio import create_task_group, sleep
from anyio.lowlevel import checkpoint

from anyconnpool.command._measure import Answer, Meter, ask_from_many
from anyconnpool.command._pace import Extent


async def test_requests_at_a_rate_are_due_at_regular_intervals() -> None:
    """Each is due at its time, none is begun earlier, and all in time if there are tasks."""
    pace = Extent(math.inf, 20, 200.0).pace()
    dues: list[float] = []

    async def begin() -> None:
        while (due := await pace.next()) is not None:
            assert perf_counter() >= due
            dues.append(due)

    async with create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(begin)
    assert dues == [pytest.approx(pace.begun_at + number / 200) for number in range(20)]


async def test_a_duration_bounds_a_rate() -> None:
    """As many requests are due as the rate has in the duration."""
    pace = Extent(0.1, rate=100.0).pace()
    while await pace.first() is not None:
        pass
    # A machine so busy that the time is over before some were begun has missed them.
    assert pace.begun + pace.missed() == 10


async def test_what_a_stalled_server_delays_counts_from_when_it_was_due() -> None:
    """The requests that would have been made during a stall have its latency, not only one."""
    meter = Meter(Extent(math.inf, 20, 100.0))
    stalled = False

    async def stall_once() -> Answer:
        nonlocal stalled
        if not stalled:
            stalled = True
            await sleep(0.2)
        return Answer(perf_counter(), perf_counter(), 0, 0)

    await ask_from_many(meter, stall_once, 1)
    point = meter.point(None)
    assert point.answered == 20
    # They were due every 10 ms of those 200 ms: half of them waited for 100 ms and more, though
    # none but the first one took any time.
    assert point.latency["p50"] >= 0.1 * 0.9
    assert point.waiting > 0.9


async def test_requests_that_were_never_begun_are_missed() -> None:
    """What is due and not begun when the time is over is counted."""
    meter = Meter(Extent(0.1, rate=1000.0))

    async def outlast() -> Answer:
        while meter.progress < 1:
            await checkpoint()
        return Answer(perf_counter(), perf_counter(), 0, 0)

    await ask_from_many(meter, outlast, 3)
    point = meter.point(None)
    assert point.answered <= 3
    assert point.answered + point.missed == 100
    assert point.fell_behind


async def test_a_rate_goes_on_after_failures() -> None:
    """Failures are not paused after: the rate says when the next request is due."""
    meter = Meter(Extent(math.inf, 200, 1_000_000.0))

    async def fail() -> Answer:
        await checkpoint()
        raise OSError(24, "too many open files")

    await ask_from_many(meter, fail, 1)
    assert meter.errors == {"too many open files": 200}
    # With a pause of 50 ms after each it would take 10 s.
    assert meter.elapsed < 9


async def test_the_end_of_a_rate_is_the_end_of_its_duration() -> None:
    """The time is the whole duration, also if the last request was over some time before."""
    meter = Meter(Extent(1.0, rate=4.0))

    async def answer() -> Answer:
        await checkpoint()
        return Answer(perf_counter(), perf_counter(), 0, 0)

    await ask_from_many(meter, answer, 1)
    assert meter.point(None).elapsed == 1
