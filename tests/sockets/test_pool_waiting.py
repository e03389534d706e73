"""Who gets which connection when, on sockets whose handshake takes as long as the test wants."""

from __future__ import annotations

import pytest
from anyio import CancelScope, Event, create_task_group, fail_after, wait_all_tasks_blocked

from anyconnpool import ConnectionPool, PoolFull

from .checks import ask, ask_next, eventually, until_count
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
        with fail_after(5):
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


@only_tls
async def test_the_connect_of_a_caller_that_ran_out_of_time_serves_the_next(serve: Serve) -> None:
    """A timeout is a cancellation like any other."""
    server = serve()
    async with server.pool(max_size=1) as pool:
        server.hold = True
        with pytest.raises(TimeoutError):
            await pool.acquire(timeout=0.02)
        assert pool.statistics().connecting == 1
        assert pool.statistics().timed_out == 1
        server.admit()
        assert not await ask_next(pool)
        assert pool.statistics().opened == 1


@only_tls
async def test_the_first_connect_done_serves_the_first_in_line(serve: Serve) -> None:
    """Handshakes that end in the wrong order don't change the order of the callers."""
    server = serve(None)
    order: list[int] = []

    async def borrow(pool: ConnectionPool, number: int) -> None:
        async with pool.acquire():
            order.append(number)
            await all_served.wait()

    all_served = Event()
    async with server.pool(max_size=3) as pool, create_task_group() as task_group:
        server.hold = True
        for number in range(3):
            task_group.start_soon(borrow, pool, number)
            await until_count(server.peers, number + 1)
        for number, peer in enumerate(reversed(server.peers)):
            peer.gate.set()
            await until_count(order, number + 1)
        all_served.set()
    assert order == [0, 1, 2]


async def test_waiters_are_served_in_order_against_a_tight_loop(serve: Serve) -> None:
    """A task that gives back and borrows again at once does not overtake those who wait."""
    order: list[int] = []

    async def borrow(pool: ConnectionPool, number: int) -> None:
        async with pool.acquire() as connection:
            order.append(number)
            await ask(connection)

    async with serve().pool(max_size=1) as pool, create_task_group() as task_group:
        connection = await pool.acquire()
        for number in range(5):
            task_group.start_soon(borrow, pool, number)
            await wait_all_tasks_blocked()
        await ask(connection)
        await connection.aclose()
        await ask_next(pool)
        assert order == [0, 1, 2, 3, 4]
        for _ in range(50):
            await ask_next(pool)


async def test_a_full_pool_refuses_at_once_when_nobody_may_wait(serve: Serve) -> None:
    """With ``max_waiting=0`` opening where there is room is no waiting, anything else is."""
    async with serve().pool(max_size=2, max_waiting=0) as pool:
        async with pool.acquire() as first, pool.acquire() as second:
            await ask(first)
            await ask(second)
            with pytest.raises(PoolFull):
                await pool.acquire()
            with pytest.raises(PoolFull):
                pool.acquire_nowait()
        assert await ask_next(pool)


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
