"""Who gets which connection when, on sockets whose handshake takes as long as the test wants."""

from __future__ import annotations

import pytest
from anyio import CancelScope, Event, create_task_group, fail_after

from anyconnpool import ConnectionPool

from .checks import LIMIT, ask, ask_next, eventually
from .conftest import Serve
from .servers import only_tls

pytestmark = pytest.mark.usefixtures("no_socket_left")


@only_tls
async def test_a_waiter_takes_what_comes_back_before_its_own_connect_is_done(serve: Serve) -> None:
    """And the connection that was being opened for it serves the next caller."""
    server = serve()
    async with server.pool(max_size=2) as pool, create_task_group() as task_group:

        async def wait() -> None:
            async with pool.acquire() as connection:
                assert connection.reused
                served.set()
                await go_on.wait()
                await ask(connection)

        served, go_on = Event(), Event()
        first = await pool.acquire()
        await ask(first)
        server.hold = True
        task_group.start_soon(wait)
        await eventually(lambda: len(server.peers) == 2)
        await first.aclose()
        with fail_after(LIMIT):
            await served.wait()
        assert pool.statistics().connecting == 1
        server.admit()
        assert not await ask_next(pool)
        assert pool.statistics().opened == 2
        assert len(server.peers) == 2
        go_on.set()


@only_tls
async def test_the_connect_of_a_cancelled_caller_serves_the_next(serve: Serve) -> None:
    """A handshake that is under way is not thrown away."""
    server = serve()
    async with server.pool(max_size=1) as pool:
        server.hold = True
        with CancelScope() as scope:
            async with create_task_group() as task_group:
                task_group.start_soon(pool.connect)
                await eventually(lambda: len(server.peers) == 1)
                scope.cancel()
        assert pool.statistics().connecting == 1
        assert pool.statistics().tasks_waiting == 0
        server.admit()
        await eventually(lambda: pool.statistics().idle == 1)
        async with pool.acquire() as connection:
            assert not connection.reused
            await ask(connection)
        assert pool.statistics().opened == 1
        assert len(server.peers) == 1


async def test_sixty_tasks_share_three_connections(serve: Serve) -> None:
    """Everybody gets a reply of its own, and three connections are enough."""
    server = serve()
    replies = 0

    async def work(pool: ConnectionPool, number: int) -> None:
        nonlocal replies
        for turn in range(5):
            async with pool.acquire() as connection:
                await ask(connection, b"%d %d" % (number, turn))
                replies += 1

    async with server.pool(max_size=3) as pool:
        async with create_task_group() as task_group:
            for number in range(60):
                task_group.start_soon(work, pool, number)
        assert pool.statistics().opened <= 3
    assert replies == 300
    assert server.most <= 3
