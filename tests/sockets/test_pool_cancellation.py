"""Borrows on real sockets, cancelled at every tick: nothing leaks and nobody gets foreign bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest
from anyio import CancelScope, create_task_group, fail_after
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from tests.cases import table

from .checks import ask, ask_next, client_sockets, eventually
from .conftest import Serve
from .servers import Server

pytestmark = pytest.mark.usefixtures("no_socket_left")

# Enough ticks for a TCP connection, its TLS handshake and the first exchanges.
TICKS = [*range(18), 22, 30, 45, 70, 120]


async def exchange_for_ever(pool: ConnectionPool, name: bytes) -> None:
    """Borrow, ask and give back, again and again, in both forms of acquire."""
    for number in range(1_000_000):
        async with pool.acquire() as connection:
            await ask(connection, name + b" %d" % number)
        connection = await pool.acquire()
        try:
            await ask(connection, name + b" again %d" % number)
        finally:
            await connection.aclose()


async def tick(count: int) -> None:
    for _ in range(count):
        await checkpoint()


async def cancel_scope_after(pool: ConnectionPool, name: bytes, ticks: int) -> None:
    """Cancel an exchanging task by its scope."""
    with CancelScope() as scope:
        async with create_task_group() as task_group:
            task_group.start_soon(exchange_for_ever, pool, name)
            await tick(ticks)
            scope.cancel()


async def cancel_task_after(pool: ConnectionPool, name: bytes, ticks: int) -> None:
    """Cancel an exchanging task natively."""
    task = asyncio.create_task(exchange_for_ever(pool, name))
    await tick(ticks)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def cancel_task_twice(pool: ConnectionPool, name: bytes, ticks: int) -> None:
    """Cancel an exchanging task natively, and once more while it unwinds."""
    task = asyncio.create_task(exchange_for_ever(pool, name))
    await tick(ticks)
    task.cancel()
    await tick(1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


NATIVE = [cancel_task_after, cancel_task_twice]


async def check_clean(server: Server, pool: ConnectionPool, name: bytes) -> None:
    """See that nobody holds anything and that the next exchange gets its own reply."""
    statistics = pool.statistics()
    assert statistics.in_use == statistics.tasks_waiting == 0
    await eventually(lambda: pool.statistics().size == pool.statistics().idle)
    assert client_sockets(server) == pool.statistics().idle <= pool.max_size
    await ask_next(pool, b"after " + name)


@pytest.mark.parametrize("kind", ["tcp", "tls13"])
@table("max_size", [1, 2])
@table("warm", [False, True])
@table("cancel", [cancel_scope_after, *NATIVE])
async def test_cancelled_at_any_tick_nothing_leaks(
    serve: Serve,
    anyio_backend_name: str,
    cancel: Callable[[ConnectionPool, bytes, int], object],
    warm: bool,
    max_size: int,
) -> None:
    """Slots, sockets and replies are where they belong, wherever the cancellation struck."""
    if cancel in NATIVE and anyio_backend_name != "asyncio":
        return
    server = serve()
    for ticks in TICKS:
        name = b"tick %d" % ticks
        async with server.pool(max_size=max_size) as pool:
            if warm:
                await ask_next(pool)
            with fail_after(10):
                await cancel(pool, name, ticks)  # type: ignore[misc]
            await check_clean(server, pool, name)
        assert client_sockets(server) == 0
        assert pool.statistics().size == 0


@pytest.mark.parametrize("native", [False, True], ids=["scope", "native"])
async def test_waiters_cancelled_at_any_tick_leave_the_line_in_order(
    serve: Serve, anyio_backend_name: str, native: bool
) -> None:
    """The others in line are served, each with its own reply, by the connections there are."""
    if native and anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has a native task.cancel()")
    cancel = cancel_task_after if native else cancel_scope_after
    server = serve()
    async with server.pool(max_size=2) as pool:
        for ticks in TICKS:
            async with create_task_group() as task_group:
                for number in range(4):
                    task_group.start_soon(ask_next, pool, b"%d" % number)
                await cancel(pool, b"victim %d" % ticks, ticks)
                for number in range(4):
                    task_group.start_soon(ask_next, pool, b"%d" % number)
            await check_clean(server, pool, b"tick %d" % ticks)
    assert client_sockets(server) == 0
    assert server.most <= 2


@pytest.mark.parametrize("native", [False, True], ids=["scope", "native"])
async def test_a_pool_block_cancelled_at_any_tick_leaves_no_socket(
    serve: Serve, anyio_backend_name: str, native: bool
) -> None:
    """Cancelled while it is entered, used or left, the block closes all it has opened."""
    if native and anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has a native task.cancel()")
    server = serve()

    async def run(pool: ConnectionPool) -> None:
        async with pool, create_task_group() as task_group:
            for number in range(3):
                task_group.start_soon(ask_next, pool, b"%d" % number)
            await ask_next(pool)

    for ticks in TICKS:
        pool = server.pool(max_size=2, min_idle=1)
        with fail_after(10):
            if native:
                task = asyncio.create_task(run(pool))
                await tick(ticks)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() or task.exception() is None
            else:
                with CancelScope() as scope:
                    async with create_task_group() as task_group:
                        task_group.start_soon(run, pool)
                        await tick(ticks)
                        scope.cancel()
        assert pool.statistics().size == 0
        await eventually(lambda: client_sockets(server) == 0)


async def test_a_timeout_at_any_moment_never_mixes_up_replies(serve: Serve) -> None:
    """Many tasks whose exchanges run out of time still get their own replies only."""
    server = serve()

    async def hurry(pool: ConnectionPool, number: int) -> None:
        for turn in range(10):
            with suppress(TimeoutError), fail_after(0.0005 * (1 + (number + turn) % 8)):
                async with pool.acquire() as connection:
                    await ask(connection, b"%d/%d" % (number, turn))

    async with server.pool(max_size=4) as pool:
        async with create_task_group() as task_group:
            for number in range(20):
                task_group.start_soon(hurry, pool, number)
        await check_clean(server, pool, b"the rush")
    assert client_sockets(server) == 0
