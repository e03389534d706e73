"""What a pool tells of itself, and what a borrower has no more right to."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

from anyconnpool import (
    AcquireTimeout,
    ConnectionPool,
    LineFormat,
    PooledConnection,
    PoolFull,
    PoolStatistics,
)
from tests.cases import table

from .network import MemoryNetwork, check_books, delayed, failing, fill, hang, settle


def facts(statistics: PoolStatistics) -> dict[str, object]:
    """Return what isn't zero, without the name and the limit."""
    values = {name: getattr(statistics, name) for name in PoolStatistics.__dataclass_fields__}
    return {
        name: value for name, value in values.items() if value and name not in ("name", "max_size")
    }


async def test_every_counter_is_exact() -> None:
    """Each event counts once, in its own counter."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, max_size=2, max_waiting=1, name="echo")
    peaks: dict[str, object] = {"peak_in_use": 1, "peak_waiting": 1}
    assert (pool.statistics().name, pool.statistics().max_size) == ("echo", 2)
    assert facts(pool.statistics()) == {}
    async with pool, anyio.create_task_group() as tasks:
        assert facts(pool.statistics()) == {}
        first = await pool.acquire()
        expected = peaks | {"size": 1, "in_use": 1, "acquired": 1, "opened": 1}
        assert facts(pool.statistics()) == expected
        await first.aclose()
        await first.aclose()
        expected = peaks | {"size": 1, "idle": 1, "acquired": 1, "opened": 1}
        assert facts(pool.statistics()) == expected
        first = await pool.acquire()
        expected = peaks | {"size": 1, "in_use": 1, "acquired": 2, "reused": 1, "opened": 1}
        assert facts(pool.statistics()) == expected

        network.on_connect = failing(OSError("down"))
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        expected["open_failed"] = 1
        assert facts(pool.statistics()) == expected

        network.on_connect = hang
        with pytest.raises(AcquireTimeout):
            await pool.acquire(timeout=1)
        expected |= {"size": 2, "connecting": 1, "timed_out": 1, "failing_for": 1}
        assert facts(pool.statistics()) == expected

        with anyio.move_on_after(1):
            await pool.acquire()
        expected |= {"cancelled": 1, "failing_for": 2}
        assert facts(pool.statistics()) == expected

        with anyio.CancelScope() as scope:
            scope.cancel()
            await pool.acquire()
        with pytest.raises(PoolFull):
            pool.acquire_nowait()
        assert facts(pool.statistics()) == expected

        tasks.start_soon(hold, pool)
        await settle()
        expected["tasks_waiting"] = 1
        assert facts(pool.statistics()) == expected
        with pytest.raises(PoolFull):
            await pool.acquire()
        expected["refused"] = 1
        assert facts(pool.statistics()) == expected
        await first.aclose()
        await settle()
        expected |= {"tasks_waiting": 0, "acquired": 3, "reused": 2}
        assert facts(pool.statistics()) == {
            name: count for name, count in expected.items() if count
        }

        network.on_close = delayed(1)
        await anyio.sleep(2)
        pool.retire()
        await settle()
        statistics = pool.statistics()
        assert (statistics.idle, statistics.closing, statistics.connecting) == (0, 1, 1)
        assert not statistics.closed
        await anyio.sleep(1.1)
        assert pool.statistics().closed == {"retired": 1}
    assert facts(pool.statistics()) == peaks | {
        "acquired": 3,
        "reused": 2,
        "opened": 1,
        "open_failed": 1,
        "closed": {"retired": 1},
        "timed_out": 1,
        "cancelled": 1,
        "refused": 1,
    }


async def test_peaks_are_seen_between_two_looks_and_begin_anew_on_demand() -> None:
    """They only rise, however often they are read, until they are reset or the pool is entered."""
    pool = ConnectionPool(MemoryNetwork(), max_size=3)

    def peaks() -> tuple[int, int]:
        return pool.statistics().peak_in_use, pool.statistics().peak_waiting

    pool.reset_peaks()  # does nothing, outside the block
    for _ in range(2):
        async with pool:
            assert peaks() == (0, 0)
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(hold, pool)
            await fill(pool, 2)
            assert peaks() == (3, 5)
            async with pool.acquire():
                pool.reset_peaks()
                assert peaks() == (1, 0)
                async with pool.acquire():
                    pass
            async with pool.acquire():
                pass
            assert peaks() == (2, 0)
        assert peaks() == (2, 0)


async def hold(pool: ConnectionPool) -> None:
    async with pool.acquire():
        await anyio.sleep(1)


async def test_closes_count_by_reason() -> None:
    """Each end of a connection is told apart."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=3, max_idle_time=100) as pool:
        async with pool.acquire() as connection:
            connection.discard()
        with pytest.raises(LookupError):
            async with pool.acquire():
                raise LookupError
        async with pool.acquire() as connection:
            await connection.send(b"no reply read")
        async with pool.acquire() as connection:
            await connection.send(b"ab")
            assert await connection.receive(1) == b"a"
        async with pool.acquire() as connection:
            stream = connection.detach()
        await stream.aclose()
        await settle()
        assert pool.statistics().closed == {
            "discarded": 1,
            "unclean": 2,
            "unread_data": 1,
            "detached": 1,
        }
        await check_books(pool, network)
        with pytest.raises(TypeError):
            pool.statistics().closed["x"] = 1  # type: ignore[index]


async def test_statistics_can_be_read_from_any_thread() -> None:
    """Before, during and after the block, from a thread without an event loop."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, max_size=2)
    seen: list[PoolStatistics] = []

    def read() -> None:
        thread = threading.Thread(target=lambda: seen.append(pool.statistics()))
        thread.start()
        thread.join()

    read()
    async with pool:
        async with pool.acquire():
            read()
        read()
    read()
    assert [statistics.in_use for statistics in seen] == [0, 1, 0, 0]
    assert [statistics.idle for statistics in seen] == [0, 0, 1, 0]
    assert [statistics.opened for statistics in seen] == [0, 1, 1, 1]


async def test_statistics_are_a_value() -> None:
    """What was read once doesn't change any more, and can't be changed."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        before = pool.statistics()
        await fill(pool, 2)
        assert (before.idle, pool.statistics().idle) == (0, 2)
        with pytest.raises(AttributeError):
            before.idle = 5  # type: ignore[misc]


@table("form", ["async with", "await"])
async def test_a_loop_of_hot_acquires_lets_others_run_and_can_be_cancelled(form: str) -> None:
    """Though an idle connection is lent without waiting, nobody starves."""
    network = MemoryNetwork()
    turns = 0
    rounds = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async def borrow() -> None:
        nonlocal rounds
        rounds += 1
        if form == "async with":
            async with pool.acquire():
                pass
        else:
            connection = await pool.acquire()
            await connection.aclose()

    async with ConnectionPool(network) as pool, anyio.create_task_group() as tasks:
        await fill(pool, 1)
        tasks.start_soon(count_turns)
        await settle()
        turns = 0
        for _ in range(1000):
            await borrow()
        assert 10 <= turns <= 100
        tasks.cancel_scope.cancel()
    with anyio.CancelScope() as scope:
        async with pool:
            await fill(pool, 1)
            rounds = 0
            while True:
                await borrow()
                if rounds >= 100:
                    scope.cancel()
    assert rounds == 101
    assert network.open_now == 0


# How each public method is called; what is left out has no arguments.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "feed_data": (b"x",),
    "receive_exactly": (1,),
    "receive_frame": (LineFormat(),),
    "receive_until": (b"\n", 10),
    "send": (b"x",),
    "send_frame": (b"x", LineFormat()),
    "send_line": (b"x",),
    "send_package": (b"x",),
    "send_receive": (b"x",),
    "send_receive_frame": (b"x", LineFormat()),
    "send_receive_line": (b"x",),
    "send_receive_package": (b"x",),
    "extra": (SocketAttribute.remote_port,),
}
# What can be done and known after the end as well.
HARMLESS = {"aclose", "age", "buffer", "local_address", "remote_address", "reused"}
METHODS = sorted(
    name
    for name in dir(PooledConnection)
    if not name.startswith("_") and inspect.isroutine(getattr(PooledConnection, name, None))
)


def test_every_public_method_is_known_here() -> None:
    """None of the methods that need arguments is forgotten."""
    for name in METHODS:
        parameters = list(inspect.signature(getattr(PooledConnection, name)).parameters.values())
        needed = [one for one in parameters[1:] if one.default is one.empty]
        needed = [one for one in needed if one.kind is not one.KEYWORD_ONLY]
        assert len(needed) == len(ARGUMENTS.get(name, ())), name


@table("method", [name for name in METHODS if name not in HARMLESS])
@table("end", ["aclose", "discard", "detach", "block"])
async def test_after_release_every_call_is_refused(method: str, end: str) -> None:
    """An old reference can't touch the next borrower's connection."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        async with pool.acquire() as connection:
            if end == "aclose":
                await connection.aclose()
            elif end == "discard":
                connection.discard()
            elif end == "detach":
                await connection.detach().aclose()
        async with pool.acquire() as other:
            with pytest.raises(anyio.ClosedResourceError):
                result = getattr(connection, method)(*ARGUMENTS.get(method, ()))
                if inspect.isawaitable(result):
                    await result
            await connection.aclose()
            assert bytes(network.peers[-1].received) == b""
            await other.send_line(b"mine")
            assert await other.receive_line() == b"mine"
        await check_books(pool, network)
