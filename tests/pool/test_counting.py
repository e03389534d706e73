"""What a pool tells of itself, and what a borrower has no more right to."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import (
    AcquireTimeout,
    ConnectionPool,
    PoolClosed,
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
    assert (pool.statistics().name, pool.statistics().max_size) == ("echo", 2)
    assert facts(pool.statistics()) == {}
    async with pool, anyio.create_task_group() as tasks:
        assert facts(pool.statistics()) == {}
        first = await pool.acquire()
        assert facts(pool.statistics()) == {"size": 1, "in_use": 1, "acquired": 1, "opened": 1}
        await first.aclose()
        await first.aclose()
        expected: dict[str, object] = {"size": 1, "idle": 1, "acquired": 1, "opened": 1}
        assert facts(pool.statistics()) == expected
        first = await pool.acquire()
        expected = {"size": 1, "in_use": 1, "acquired": 2, "reused": 1, "opened": 1}
        assert facts(pool.statistics()) == expected

        network.on_connect = failing(OSError("down"))
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        expected["open_failed"] = 1
        assert facts(pool.statistics()) == expected

        network.on_connect = hang
        with pytest.raises(AcquireTimeout):
            await pool.acquire(timeout=1)
        expected |= {"size": 2, "connecting": 1, "timed_out": 1}
        assert facts(pool.statistics()) == expected

        with anyio.move_on_after(1):
            await pool.acquire()
        expected["cancelled"] = 1
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
    assert facts(pool.statistics()) == {
        "acquired": 3,
        "reused": 2,
        "opened": 1,
        "open_failed": 1,
        "closed": {"retired": 1},
        "timed_out": 1,
        "cancelled": 1,
    }


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


METHODS: dict[str, Callable[[PooledConnection], Awaitable[object]]] = {
    "send": lambda connection: connection.send(b"x"),
    "send_line": lambda connection: connection.send_line(b"x"),
    "send_package": lambda connection: connection.send_package(b"x"),
    "send_eof": lambda connection: connection.send_eof(),
    "receive": lambda connection: connection.receive(),
    "receive_exactly": lambda connection: connection.receive_exactly(1),
    "receive_until": lambda connection: connection.receive_until(b"x", 5),
    "receive_line": lambda connection: connection.receive_line(),
    "receive_package": lambda connection: connection.receive_package(),
    "receive_available": lambda connection: connection.receive_available(),
    "drain": lambda connection: connection.drain(),
}


@table("method", METHODS)
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
                await METHODS[method](connection)
            with pytest.raises(anyio.ClosedResourceError):
                connection.discard()
            with pytest.raises(anyio.ClosedResourceError):
                connection.detach()
            await connection.aclose()
            assert bytes(network.peers[-1].received) == b""
            await other.send_line(b"mine")
            assert await other.receive_line() == b"mine"
        await check_books(pool, network)


async def test_use_before_entering_is_refused() -> None:
    """The text says that the pool has not been entered, and nothing is opened."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, name="echo")
    with pytest.raises(PoolClosed, match="pool 'echo' has not been entered: use it inside"):
        await pool.acquire()
    with pytest.raises(PoolClosed, match="has not been entered"):
        pool.acquire_nowait()
    with pytest.raises(PoolClosed, match="has not been entered"):
        await pool.wait_ready()
    assert network.attempts == 0


async def test_an_acquisition_is_entered_once() -> None:
    """One acquire() is one borrow."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        context = pool.acquire()
        async with context:
            with pytest.raises(RuntimeError, match="entered already"):
                await context.__aenter__()
        assert pool.statistics().idle == 1
        await check_books(pool, network)
