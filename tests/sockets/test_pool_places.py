"""Where and when a pool may be used, by which names it finds its server, and on eager tasks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest
from anyio import create_task_group, from_thread, to_thread

from anyconnpool import ConnectionPool, PoolClosed, PooledConnection, PoolError
from tests.cases import table
from tests.certificates import client_context

from .checks import ask, ask_next, client_sockets, eventually
from .conftest import Serve
from .servers import every_kind

pytestmark = pytest.mark.usefixtures("no_socket_left")

Use = Callable[[ConnectionPool], Awaitable[object]]


async def use_acquire(pool: ConnectionPool) -> object:
    return await pool.acquire()


async def use_acquire_block(pool: ConnectionPool) -> None:
    async with pool.acquire():
        raise AssertionError("borrowed")


async def use_connect(pool: ConnectionPool) -> object:
    return await pool.connect()


async def use_nowait(pool: ConnectionPool) -> object:
    return pool.acquire_nowait()


async def use_wait_ready(pool: ConnectionPool) -> None:
    await pool.wait_ready()


async def use_retire(pool: ConnectionPool) -> None:
    pool.retire()


USES = [use_acquire, use_acquire_block, use_connect, use_nowait, use_wait_ready, use_retire]
each_use = table("use", USES)


@each_use
async def test_use_before_entering_is_refused(serve: Serve, use: Use) -> None:
    """The text says that the pool has not been entered, and nothing is opened."""
    server = serve()
    with pytest.raises(PoolClosed, match="has not been entered"):
        await use(server.pool())
    assert server.peers == []


@each_use
async def test_use_after_leaving_is_refused(serve: Serve, use: Use) -> None:
    """The text says that the pool's block has ended."""
    server = serve()
    async with server.pool() as pool:
        await ask_next(pool)
    with pytest.raises(PoolClosed, match="has ended"):
        await use(pool)
    assert len(server.peers) == 1


@each_use
@pytest.mark.parametrize("elsewhere", ["asyncio", "trio"])
async def test_use_in_another_event_loop_is_refused(serve: Serve, use: Use, elsewhere: str) -> None:
    """The text says where the pool may be used, and the pool goes on working there."""
    pytest.importorskip(elsewhere)
    server = serve()
    async with server.pool() as pool:
        await ask_next(pool)

        def run_elsewhere() -> None:
            anyio.run(use, pool, backend=elsewhere)

        with pytest.raises(PoolError, match="another event loop or thread"):
            await to_thread.run_sync(run_elsewhere)
        assert await ask_next(pool)
        assert pool.statistics().opened == 1


async def test_use_in_a_thread_without_a_loop_is_refused(serve: Serve) -> None:
    """The synchronous methods notice it as well; only the statistics may be read there."""
    async with serve().pool() as pool:
        await ask_next(pool)
        for function in (pool.acquire_nowait, pool.retire):
            with pytest.raises(PoolError, match="another event loop or thread"):
                await to_thread.run_sync(function)
        with pytest.raises(PoolError, match="another event loop or thread"):
            await to_thread.run_sync(setattr, pool, "max_size", 3)
        statistics = await to_thread.run_sync(pool.statistics)
        assert statistics.idle == 1


async def give_back(connection: PooledConnection) -> None:
    await connection.aclose()


async def leave_block(connection: PooledConnection) -> None:
    await connection.__aexit__(None, None, None)


async def discard(connection: PooledConnection) -> None:
    connection.discard()


async def detach(connection: PooledConnection) -> None:
    connection.detach()


async def send(connection: PooledConnection) -> None:
    await connection.send_line(b"from elsewhere")


async def receive(connection: PooledConnection) -> None:
    await connection.receive_line()


async def read_what_is_buffered(connection: PooledConnection) -> None:
    connection.feed_data(bytes(256))
    try:
        for _ in range(256):
            await connection.receive(1)
    finally:
        await connection.receive_exactly(len(connection.buffer))


async def end_sending(connection: PooledConnection) -> None:
    await connection.send_eof()


def run_without_loop(
    use: Callable[[PooledConnection], Coroutine[Any, Any, None]], connection: PooledConnection
) -> None:
    coroutine = use(connection)
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


CONNECTION_USES = [
    send,
    receive,
    read_what_is_buffered,
    end_sending,
    give_back,
    leave_block,
    discard,
    detach,
]


@table("use", CONNECTION_USES)
@pytest.mark.parametrize("elsewhere", ["asyncio", "trio", ""])
@table("foreign_code", [False, True])
async def test_a_connection_is_used_and_given_up_in_its_own_event_loop_only(
    serve: Serve,
    use: Callable[[PooledConnection], Coroutine[Any, Any, None]],
    elsewhere: str,
    foreign_code: bool,
) -> None:
    """In another one, or without one, it is refused before anything changes."""
    if elsewhere:
        pytest.importorskip(elsewhere)
    async with serve().pool(max_size=1) as pool:
        connection = await (pool.connect() if foreign_code else pool.acquire())
        await ask(connection)

        def run_elsewhere() -> None:
            if elsewhere:
                anyio.run(use, connection, backend=elsewhere)
            else:
                run_without_loop(use, connection)

        with pytest.raises(PoolError, match="another event loop or thread"):
            await to_thread.run_sync(run_elsewhere)
        assert pool.statistics().in_use == 1
        await ask(connection)
        await connection.aclose()
        assert await ask_next(pool) is not foreign_code


async def test_an_acquire_that_is_left_elsewhere_can_be_left_at_home(serve: Serve) -> None:
    """What was refused in another event loop has changed nothing."""
    async with serve().pool(max_size=1) as pool:
        context = pool.acquire()
        await ask(await context.__aenter__())

        async def leave() -> None:
            await context.__aexit__(None, None, None)

        with pytest.raises(PoolError, match="another event loop or thread"):
            await to_thread.run_sync(anyio.run, leave)
        await leave()
        assert await ask_next(pool)


async def test_a_thread_can_use_the_pool_by_way_of_the_loop(serve: Serve) -> None:
    """What the error advises works."""
    async with serve().pool() as pool:

        def work() -> bool:
            return from_thread.run(ask_next, pool)

        assert not await to_thread.run_sync(work)
        assert await to_thread.run_sync(work)


@every_kind
async def test_a_url_names_a_living_server(serve: Serve) -> None:
    """Each of the three schemes leads to the server, and to the pool's name."""
    server = serve()
    settings: dict[str, Any] = {"max_size": 2}
    if server.kind == "unix":
        url = f"unix://{server.remote}"
    elif server.kind == "tcp":
        url = f"tcp://127.0.0.1:{server.remote[1]}"
    else:
        url = f"tls://127.0.0.1:{server.remote[1]}"
        settings["ssl_context"] = client_context()
    async with ConnectionPool.from_url(url, **settings) as pool:
        assert pool.name == url
        assert not await ask_next(pool)
        assert await ask_next(pool)
    assert client_sockets(server) == 0


async def test_a_host_name_is_looked_up(serve: Serve) -> None:
    """A name with several addresses, not all of which are served, leads to the server."""
    server = serve()
    async with ConnectionPool(("localhost", server.remote[1])) as pool:
        assert not await ask_next(pool)
        assert await ask_next(pool)
    assert client_sockets(server) == 0


async def test_two_pools_of_one_server_share_nothing(serve: Serve) -> None:
    """Each counts and lends its own connections only."""
    server = serve()
    async with server.pool(max_size=1) as one, server.pool(max_size=1) as other:
        async with one.acquire() as first, other.acquire() as second:
            await ask(first)
            await ask(second)
            assert one.statistics().size == other.statistics().size == 1
        await one.acquire_nowait().aclose()
        one.retire()
        assert await ask_next(other)
    assert client_sockets(server) == 0


# Nothing to test before: the task factory that this is about isn't there.
@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has eager tasks since Python 3.12")
def test_eager_tasks_change_nothing(serve: Serve) -> None:
    """Tasks that begin to run when they are created keep the pool's order and count."""
    server = serve()

    def eager_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009
        return loop

    async def main() -> None:
        async with server.pool(max_size=3, min_idle=1) as pool:
            await pool.wait_ready()
            async with create_task_group() as task_group:
                for number in range(30):
                    task_group.start_soon(ask_next, pool, b"%d" % number)
            tasks = [asyncio.create_task(ask_next(pool, b"%d" % number)) for number in range(30)]
            for task in tasks[::3]:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() or task.exception() is None for task in tasks)
            await eventually(lambda: pool.statistics().size == pool.statistics().idle)
            pool.retire()
            await ask_next(pool)
        assert pool.statistics().size == 0

    anyio.run(main, backend_options={"loop_factory": eager_loop})
    assert server.most <= 3
    assert client_sockets(server) == 0
