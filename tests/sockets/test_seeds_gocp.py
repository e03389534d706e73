"""gocp and goperconn, a pool of lasting connections: one test per row, over real sockets.

Each docstring says what gocp does, and then what holds here.
"""

from __future__ import annotations

import logging
from contextlib import suppress

import anyio
import pytest
from anyio import ClosedResourceError, create_task_group

from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection, Retry

from .checks import ask, ask_next, eventually, expect_closed
from .conftest import Serve

pytestmark = pytest.mark.usefixtures("no_socket_left")


async def test_gocp_new(serve: Serve) -> None:
    """gocp needs an address and nothing else; the same here."""
    async with ConnectionPool(serve().remote) as pool:
        assert not await ask_next(pool)
        assert await ask_next(pool)


async def test_gocp_size(serve: Serve) -> None:
    """gocp's Size is 5 and must be positive; here it is 10, and a bad value a clear error."""
    server = serve()
    for size in (0, -1, 2.5, "5"):
        with pytest.raises((TypeError, ValueError), match="max_size"):
            server.pool(max_size=size)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with server.pool(max_size=5) as pool, create_task_group() as task_group:
        for _ in range(20):
            task_group.start_soon(ask_next, pool)
    assert server.most <= 5
    assert ConnectionPool(server.remote).max_size == 10


async def test_gocp_get_and_put(serve: Serve) -> None:
    """gocp's Get blocks without end when all are out; here a timeout tells the pool's state."""
    async with serve().pool(max_size=1) as pool:
        connection = await pool.acquire()
        with pytest.raises(AcquireTimeout, match="1 in use"):
            await pool.acquire(timeout=0.02)
        await ask(connection)
        await connection.aclose()
        assert await ask_next(pool)


async def test_gocp_reconnect(serve: Serve) -> None:
    """gocp's request waits while the server is down, with backoff from 1 s; so can one here.

    It is asked for with ``connect_retry``, and a timeout ends the wait where gocp's goes on.
    """
    server = serve()
    retry = Retry(1000, interval=0.01, max_interval=0.05)
    async with server.pool(connect_retry=retry) as pool, create_task_group() as task_group:
        await ask_next(pool)
        server.stop()
        task_group.start_soon(ask_next, pool)
        await eventually(lambda: pool.statistics().open_failed > 3)
        with pytest.raises(AcquireTimeout, match="last connect error: ConnectionFailed"):
            await pool.send_receive_line(b"too early", timeout=0.05)
        assert pool.statistics().tasks_waiting == 1
        server.start()
    assert pool.statistics().timed_out == 1


async def test_gocp_restart(serve: Serve) -> None:
    """gocp's idle connections each fail once after a restart and the next waits; here none does."""
    server = serve()
    async with server.pool(max_size=5) as pool:
        async with create_task_group() as task_group:
            for _ in range(5):
                task_group.start_soon(ask_next, pool)
        idle = pool.statistics().idle
        server.restart()
        for _ in range(5):
            await ask_next(pool)
        assert pool.statistics().open_failed == 0
        await expect_closed(pool, peer_closed=idle)


@pytest.mark.parametrize("kind", ["tls13"])
async def test_gocp_dial_timeout(serve: Serve) -> None:
    """gocp's DialTimeout limits connecting; here ``connect_timeout`` does, the handshake included.

    The error names the limit.
    """
    server = serve()
    server.hold = True
    async with server.pool(connect_timeout=0.05) as pool:
        with pytest.raises(anyio.ConnectionFailed, match=r"connect_timeout, 0\.05 s"):
            await pool.acquire()
        server.admit()
        # A busy machine may not get a handshake done in so little time at once.
        with anyio.fail_after(20):
            while not pool.statistics().acquired:
                with suppress(anyio.ConnectionFailed):
                    await ask_next(pool)


async def test_gocp_logger(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """gocp's Logger is told of dial errors, which the caller gets too; here logging is.

    A failure is a WARNING with the pool's name, openings and closings are DEBUG, the end of an
    outage is INFO.
    """
    caplog.set_level(logging.DEBUG, "anyconnpool")
    server = serve()
    async with server.pool(name="backend") as pool:
        await ask_next(pool)
        server.stop()
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        server.start()
        await ask_next(pool)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == ["DEBUG", "DEBUG", "WARNING", "INFO", "DEBUG", "DEBUG"]
    assert all(message.startswith("pool backend: ") for _, message in told)
    assert "closing" in told[1][1]
    assert told[1][1].endswith("peer_closed")
    assert "ConnectionFailed" in told[2][1]


async def test_gocp_close(serve: Serve) -> None:
    """gocp's Close leaves acquired connections open until they are put back; here for a grace.

    A borrower that never gives back doesn't hold up the end of the block.
    """
    server = serve()
    in_use, leaving = anyio.Event(), anyio.Event()
    kept: list[PooledConnection] = []

    async def finish_in_time() -> None:
        async with pool.acquire() as connection:
            in_use.set()
            await leaving.wait()
            await ask(connection)

    pool = server.pool(close_timeout=1)
    async with create_task_group() as task_group, pool:
        task_group.start_soon(finish_in_time)
        await in_use.wait()
        kept.append(await pool.acquire())
        await ask_next(pool)
        leaving.set()
    assert pool.statistics().closed == {"pool_closed": 2, "seized": 1}
    with pytest.raises(ClosedResourceError):
        await kept[0].receive()
    await eventually(lambda: server.open == 0)


async def test_gocp_local_addr(serve: Serve) -> None:
    """gocp's LocalAddr panics before the first use; here a borrowed connection has its addresses.

    Before anything was sent, and after it was given back as well.
    """
    server = serve()
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            assert connection.remote_address == server.remote
            local = connection.local_address
        assert connection.local_address == local
