"""What a pool tells its observers, and that they can't hurt it."""

from __future__ import annotations

import gc
import logging
import sys
import warnings
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection, PoolManager, Retry
from anyconnpool._engine.connection import entry_of
from anyconnpool._engine.leasing import Leasing
from anyconnpool.events import (
    AcquireTimedOut,
    CloseReason,
    ConnectionAcquired,
    ConnectionClosed,
    ConnectionOpened,
    ConnectionReleased,
    ExchangeReplayed,
    FailFastBegan,
    FailFastEnded,
    HookEnded,
    OpenFailed,
    PoolEnded,
    PoolEvent,
    PoolObserver,
    PoolStarted,
)
from tests.cases import in_case, table

from .network import MemoryNetwork, delayed, failing, fill, hang, peer_of, settle

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


def story(events: list[PoolEvent]) -> list[PoolEvent]:
    """Return the events but for the start and the end of the pool."""
    return [event for event in events if not isinstance(event, (PoolStarted, PoolEnded))]


async def test_a_connection_is_told_from_connect_to_close() -> None:
    """Durations are those of the attempt, of the whole acquire, of the use and of the life."""
    events: list[PoolEvent] = []

    async def borrow_for_four(pool: ConnectionPool) -> None:
        async with pool.acquire():
            await anyio.sleep(4)

    async with ConnectionPool(
        MemoryNetwork(delayed(2)), name="told", max_size=1, observers=[events.append]
    ) as pool:
        async with pool.acquire():
            await anyio.sleep(3)
        async with anyio.create_task_group() as tasks, pool.acquire():
            tasks.start_soon(borrow_for_four, pool)
            await anyio.sleep(1)
        pool.acquire_nowait().discard()
        await settle()
    assert story(events) == [
        ConnectionOpened("told", connect_time=2),
        ConnectionAcquired("told", wait_time=2, reused=False),
        ConnectionReleased("told", use_time=3),
        ConnectionAcquired("told", wait_time=0, reused=True),
        ConnectionReleased("told", use_time=1),
        ConnectionAcquired("told", wait_time=1, reused=True),
        ConnectionReleased("told", use_time=4),
        ConnectionAcquired("told", wait_time=0, reused=True),
        ConnectionReleased("told", use_time=0),
        ConnectionClosed("told", reason=CloseReason.DISCARDED, age=8),
    ]


async def test_what_fails_is_told() -> None:
    """Each attempt that fails, each acquire that runs out of time, each exchange repeated."""
    events: list[PoolEvent] = []
    down = OSError("down")
    network = MemoryNetwork()
    async with ConnectionPool(network, name="told", observers=[events.append]) as pool:
        await fill(pool, 1)
        network.peers[0].hang_up()
        events.clear()
        network.on_connect = failing(down)
        with pytest.raises(anyio.ConnectionFailed):
            await pool.send_receive_line(b"x", retry=Retry(1, interval=1, jitter=0))
        network.on_connect = hang
        with pytest.raises(AcquireTimeout):
            await pool.acquire(timeout=5)
        await settle()
    # Which of the tasks comes first that close the dead one and open another, nobody can know.
    closed = ConnectionClosed("told", CloseReason.PEER_CLOSED, age=0)
    events.remove(closed)
    first, replayed, second, timed_out = story(events)
    for event in (first, second):
        assert isinstance(event, OpenFailed)
        assert event.error.__cause__ is down
    assert isinstance(replayed, ExchangeReplayed)
    assert isinstance(replayed.error, anyio.ConnectionFailed)
    assert timed_out == AcquireTimedOut("told", wait_time=5)


async def test_what_is_detached_or_seized_is_told_as_released_and_closed() -> None:
    """Also a borrower that keeps its connection beyond the pool's end has its end told, once."""
    events: list[PoolEvent] = []
    async with ConnectionPool(
        MemoryNetwork(), name="told", observers=[events.append], close_timeout=2
    ) as pool:
        detached = (await pool.acquire()).detach()
        kept, late = await pool.acquire(), await pool.acquire()
        events.clear()
    await kept.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        late.detach()
    await detached.aclose()
    released = ConnectionReleased("told", use_time=2)
    closed = ConnectionClosed("told", CloseReason.SEIZED, age=2)
    assert story(events) == [released, released, closed, closed]


async def test_what_is_seized_on_its_way_to_the_borrower_was_never_borrowed() -> None:
    """Whether the borrower is cancelled in that moment, or gets what can't be used any more."""
    for cancelled in (True, False):
        events: list[PoolEvent] = []
        pool = ConnectionPool(MemoryNetwork(), max_size=1, observers=[events.append])
        async with pool, anyio.create_task_group() as tasks:
            holder = await pool.acquire()
            scope = anyio.CancelScope()

            async def borrow(scope: anyio.CancelScope, pool: ConnectionPool) -> None:
                with scope:
                    async with pool.acquire():
                        await checkpoint()

            tasks.start_soon(borrow, scope, pool)
            await settle()
            entry, leasing = entry_of(holder), pool._leasing  # pyright: ignore[reportPrivateUsage]
            assert leasing is not None
            await holder.aclose()
            leasing.seize(entry)
            if cancelled:
                scope.cancel()
        kinds = [type(event) for event in story(events)]
        expected = [ConnectionOpened, ConnectionAcquired, ConnectionReleased, ConnectionClosed]
        assert kinds == expected, cancelled


async def test_start_and_end_frame_everything_and_give_the_statistics() -> None:
    """A start tells where the figures are to be had; after the end, nothing is open."""
    events: list[PoolEvent] = []
    pool = ConnectionPool(MemoryNetwork(), name="told", min_idle=2, observers=[events.append])
    async with pool:
        await pool.wait_ready()
        start = events[0]
        assert isinstance(start, PoolStarted)
        assert (start.pool, start.min_idle, start.statistics().idle) == ("told", 2, 2)
    assert events[-1] == PoolEnded("told", start.statistics)
    assert start.statistics().size == 0


async def test_a_failing_observer_is_logged_and_hurts_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The pool and the other observers go on; one traceback, then a line at 10, 100, 1000."""
    events: list[PoolEvent] = []

    def fail(event: PoolEvent) -> None:
        raise ValueError("observers fail, too")

    async with ConnectionPool(
        MemoryNetwork(), name="told", observers=[fail, events.append]
    ) as pool:
        await pool.send_receive_line(b"x")
        assert pool.statistics().idle == 1
        for _ in range(500):
            await fill(pool, 1)
    assert len(events) > 1000
    start = f"pool told: the observer {fail.__qualname__} failed"
    end = "its failures are counted, and next logged at"
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"{start} at PoolStarted; {end} 10",
        f"{start} 10 times by now, most recently at ConnectionReleased; {end} 100",
        f"{start} 100 times by now, most recently at ConnectionReleased; {end} 1000",
        f"{start} 1000 times by now, most recently at ConnectionReleased; {end} 10000",
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [True, False, False, False]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


async def test_an_async_observer_is_refused_or_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody would await it: refused where that shows, logged once where not."""

    async def observe(event: object) -> None:
        raise AssertionError("nobody awaits")

    class Asynchronous:
        async def __call__(self, event: object) -> None:
            await observe(event)

    class OneMethod(PoolObserver):
        async def acquired(self, event: object) -> None:  # type: ignore[override]
            await observe(event)

    wrong: list[Any] = [observe, partial(observe), Asynchronous(), OneMethod()]
    for observer in wrong:
        with in_case(observer), pytest.raises(TypeError, match="must be a plain function"):
            ConnectionPool(MemoryNetwork(), observers=[observer])
    network = MemoryNetwork()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with ConnectionPool(network, name="told", observers=[lambda e: observe(e)]) as pool:
            await fill(pool, 1)
            await fill(pool, 1)
        gc.collect()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "returned a coroutine, which nobody awaits, at PoolStarted" in message


@table("nowait", [False, True])
async def test_an_observer_that_ends_the_program_loses_no_connection(nowait: bool) -> None:
    """The caller of acquire doesn't get the connection, so that it is closed."""

    def leave(event: PoolEvent) -> None:
        if isinstance(event, ConnectionAcquired) and event.reused:
            raise SystemExit

    async with ConnectionPool(MemoryNetwork(), observers=[leave]) as pool:
        await fill(pool, 1)
        with pytest.raises(SystemExit):
            _ = pool.acquire_nowait() if nowait else await pool.acquire()
        await settle()
        assert pool.statistics().closed == {"discarded": 1}


async def test_each_event_goes_to_the_method_of_its_kind() -> None:
    """A subclass overrides what it wants to know; unknown kinds are passed over."""
    called: list[str] = []

    class Recorder(PoolObserver):
        def __getattribute__(self, name: str) -> Any:
            called.append(name)
            return super().__getattribute__(name)

    recorder = Recorder()
    for event, method in (
        (PoolStarted("p", ConnectionPool(MemoryNetwork()).statistics, 0), "started"),
        (PoolEnded("p", ConnectionPool(MemoryNetwork()).statistics), "ended"),
        (ConnectionOpened("p", 1), "opened"),
        (OpenFailed("p", 1, OSError()), "open_failed"),
        (ConnectionAcquired("p", 1, True), "acquired"),
        (ConnectionReleased("p", 1), "released"),
        (ConnectionClosed("p", CloseReason.RETIRED, 1), "closed"),
        (AcquireTimedOut("p", 1), "timed_out"),
        (ExchangeReplayed("p", OSError()), "replayed"),
        (FailFastBegan("p", 1, OSError()), "fail_fast_began"),
        (FailFastEnded("p", 1), "fail_fast_ended"),
        (HookEnded("p", "check", 1, None), "hook_ended"),
    ):
        recorder(event)
        assert called.pop() == method
    called.clear()
    recorder(PoolEvent("p"))
    assert not called


@table("failing", [False, True])
async def test_each_hook_on_an_open_connection_is_told_with_its_time(failing: bool) -> None:
    """And why it failed, out of time included; what the pool's end cuts off is not told."""
    error = LookupError("no answer")

    async def answer(connection: PooledConnection) -> None:
        await anyio.sleep(2)
        await connection.receive() if peer_of(connection).client.unread else None
        if failing:
            raise error

    def told() -> list[HookEnded]:
        return [event for event in events if isinstance(event, HookEnded)]

    events: list[PoolEvent] = []
    network, expected = MemoryNetwork(), error if failing else None
    async with ConnectionPool(
        network,
        name="p",
        observers=[events.append],
        on_close=answer,
        on_unread=answer,
        close_timeout=9,
    ) as pool:
        await fill(pool, 1)
        network.peers[0].push(b"x")
        await anyio.sleep(10)
        assert told() == [HookEnded("p", "on_unread", 2, expected)]
        await fill(pool, 1)
        pool.retire()
        await anyio.sleep(3)
        assert told()[1:] == [HookEnded("p", "on_close", 2, expected)]
    events.clear()
    hooks: dict[str, Any] = {"check": answer, "on_release": answer, "check_after": 5}
    async with ConnectionPool(
        network, name="p", observers=[events.append], check_timeout=1, **hooks
    ) as pool:
        await fill(pool, 1)
        await anyio.sleep(2)
        (event,) = told()
        assert (event.hook, event.duration, type(event.error)) == ("on_release", 1, TimeoutError)
    events.clear()
    async with ConnectionPool(network, name="p", observers=[events.append], **hooks) as pool:
        await fill(pool, 1)
        await anyio.sleep(0.5)
        assert pool.statistics().in_hook == 1
    assert told() == []


async def test_an_observer_that_ends_the_program_at_a_hook_loses_nothing() -> None:
    """Its connection is closed, by force if it was in a farewell."""

    def leave(event: PoolEvent) -> None:
        if isinstance(event, HookEnded):
            # asyncio takes one that stands alone out of the loop at once.
            raise BaseExceptionGroup("stop", [SystemExit()])

    async def do_nothing(connection: PooledConnection) -> None:
        await checkpoint()

    for hook in ("on_release", "on_close"):
        network = MemoryNetwork()
        options: dict[str, Any] = {hook: do_nothing}
        with pytest.raises(BaseExceptionGroup):
            async with ConnectionPool(network, observers=[leave], **options) as pool:
                await fill(pool, 1)
                pool.retire()
                await anyio.sleep(60)
        assert network.open_now == 0


async def test_the_pools_of_a_manager_share_its_observers() -> None:
    """All of them, also if the observers were given as an iterator, and until they are dropped."""
    events: list[PoolEvent] = []
    async with PoolManager(observers=iter([events.append]), max_idle_time=1) as manager:
        for remote in (MemoryNetwork(), MemoryNetwork()):
            await manager.send_receive_line(remote, b"x")
        await anyio.sleep(10)
        kinds = [type(event) for event in events]
        for kind in (PoolStarted, ConnectionAcquired, ConnectionClosed, PoolEnded):
            assert kinds.count(kind) == 2
    assert len(events) == len(kinds)


async def test_nobody_to_tell_costs_nothing() -> None:
    """Borrows of a pool without observers go through no code for them."""
    async with ConnectionPool(MemoryNetwork()) as pool:
        assert type(pool._leasing) is Leasing  # pyright: ignore[reportPrivateUsage]
