"""The end of a pool's block: every socket closed, in time, and the body's exception untouched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import pytest
from anyio import CancelScope, ClosedResourceError, Event, create_task_group, fail_after

from anyconnpool import ConnectionPool, PoolClosed
from tests.cases import table

from .checks import LIMIT, ask, ask_next, client_sockets, error_group, eventually
from .conftest import Serve
from .servers import Peer, every_kind

pytestmark = pytest.mark.usefixtures("no_socket_left")


@every_kind
async def test_after_the_block_no_socket_is_open(serve: Serve) -> None:
    """Idle and borrowed ones are closed when the block has ended, and the server sees it."""
    server = serve()
    async with server.pool() as pool:
        async with pool.acquire() as first, pool.acquire() as second:
            await ask(first)
            await ask(second)
        assert client_sockets(server) == 2
    assert client_sockets(server) == 0
    await eventually(lambda: server.open == 0)
    assert pool.statistics().size == 0
    assert pool.statistics().closed == {"pool_closed": 2}


@every_kind
async def test_a_peer_is_told_that_its_connection_ends(serve: Serve) -> None:
    """An idle connection gets an orderly end: the server reads an end of stream, no error."""
    ends: list[bytes] = []

    def read_to_the_end(peer: Peer) -> None:
        peer.send(b"> " + peer.receive_line() + b"\n")
        ends.append(peer.socket.recv(1))

    async with serve(read_to_the_end).pool() as pool:
        await ask_next(pool)
    await eventually(lambda: ends == [b""])


@table("borrowed", [False, True])
@table("make_error", [ValueError, KeyError, StopAsyncIteration, KeyboardInterrupt, error_group])
async def test_the_exception_of_the_body_leaves_as_the_same_object(
    serve: Serve, make_error: Callable[[], BaseException], borrowed: bool
) -> None:
    """It is neither wrapped in a group nor replaced, with a connection out as well as without."""
    server = serve()
    error = make_error()
    caught: BaseException | None = None
    try:
        async with server.pool(close_timeout=0.05) as pool:
            await ask_next(pool)
            if borrowed:
                await ask(await pool.acquire())
            raise error
    except BaseException as exc:
        caught = exc
    assert caught is error
    assert caught.__cause__ is None
    assert client_sockets(server) == 0


async def test_a_cancellation_in_the_grace_does_not_replace_the_exception(serve: Serve) -> None:
    """What the body raised comes out even if the wait for borrowers is cut short."""
    server = serve()
    error = KeyError("mine")

    async def cancel_in_the_grace() -> None:
        with pytest.raises(PoolClosed):
            await pool.acquire(timeout=60)
        scope.cancel()

    caught: list[BaseException] = []
    with fail_after(LIMIT), CancelScope() as scope:
        async with create_task_group() as task_group:
            try:
                async with server.pool(max_size=1, close_timeout=60) as pool:
                    await ask(await pool.acquire())
                    task_group.start_soon(cancel_in_the_grace)
                    await eventually(lambda: pool.statistics().tasks_waiting == 1)
                    raise error
            except KeyError as exc:
                caught.append(exc)
    assert caught == [error]
    assert client_sockets(server) == 0


@every_kind
@table("borrowed", [False, True])
async def test_a_cancelled_scope_ends_the_block_at_once(serve: Serve, borrowed: bool) -> None:
    """The scope catches its cancellation, borrowers get no grace, everything is closed."""
    server = serve()
    with fail_after(LIMIT):
        with CancelScope() as scope:
            async with server.pool(close_timeout=60) as pool:
                await ask_next(pool)
                if borrowed:
                    await ask(await pool.acquire())
                scope.cancel()
                await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert client_sockets(server) == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio", "asyncio+uvloop"], indirect=True)
@table("borrowed", [False, True])
async def test_a_native_cancellation_ends_the_block(serve: Serve, borrowed: bool) -> None:
    """A task of asyncio that is cancelled in the body leaves nothing open."""
    server = serve()
    inside = Event()

    async def run() -> None:
        async with server.pool(close_timeout=0.05) as pool:
            await ask_next(pool)
            if borrowed:
                await ask(await pool.acquire())
            inside.set()
            await anyio.sleep_forever()

    task = asyncio.create_task(run())
    await inside.wait()
    task.cancel()
    with fail_after(LIMIT), pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert client_sockets(server) == 0


async def test_a_connection_that_the_body_keeps_is_closed_under_its_hands(serve: Serve) -> None:
    """A borrow that was forgotten neither holds up the end nor survives it."""
    server = serve()
    with fail_after(LIMIT):
        async with server.pool(close_timeout=0.05) as pool:
            connection = await pool.acquire()
            await ask(connection)
    assert client_sockets(server) == 0
    assert pool.statistics().closed == {"seized": 1}
    with pytest.raises((ClosedResourceError, anyio.BrokenResourceError)):
        await connection.receive_line()
    await connection.aclose()


@every_kind
async def test_a_task_that_never_gives_back_does_not_hold_up_the_end(serve: Serve) -> None:
    """Its read ends with an error when the grace is over."""
    server = serve()
    ended = Event()

    async def hold(pool: ConnectionPool) -> None:
        connection = await pool.acquire()
        with pytest.raises((ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream)):
            await connection.receive_line()
        ended.set()

    async with create_task_group() as task_group:
        with fail_after(LIMIT):
            async with server.pool(close_timeout=0.05) as pool:
                task_group.start_soon(hold, pool)
                await eventually(lambda: pool.statistics().in_use == 1)
        assert client_sockets(server) == 0
        with fail_after(LIMIT):
            await ended.wait()


@every_kind
async def test_what_was_sent_one_way_arrives_before_the_end(serve: Serve) -> None:
    """Without replies to wait for, the end of the block still loses nothing that was sent."""
    total = 0

    def count(peer: Peer) -> None:
        nonlocal total
        while chunk := peer.socket.recv(65536):
            total += len(chunk)

    server = serve(count)
    async with server.pool(one_way=True, max_size=1) as pool:
        for _ in range(20):
            async with pool.acquire() as connection:
                await connection.send(bytes(100_000))
        assert pool.statistics().opened == 1
    await eventually(lambda: total == 2_000_000)
    await eventually(lambda: server.open == 0)
