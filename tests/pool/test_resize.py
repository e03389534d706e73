"""Changing ``max_size`` and retiring connections while the pool is in use."""

from __future__ import annotations

import math

import anyio
import pytest

from anyconnpool import AcquireTimeout, ConnectionPool, PoolClosed, PooledConnection, PoolFull

from .network import MemoryNetwork, check_books, delayed, fill, number_of, settle


async def hold(pool: ConnectionPool, seconds: float = 1) -> None:
    async with pool.acquire():
        await anyio.sleep(seconds)


async def give_back(*connections: PooledConnection) -> None:
    for connection in connections:
        await connection.aclose()
    await settle()


async def test_raised_it_lets_waiters_through_at_once() -> None:
    """As many waiters as there is new room get a connection, in order."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1) as pool, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(hold, pool)
            await settle()
        assert pool.statistics().tasks_waiting == 4
        pool.max_size = 3
        await settle()
        statistics = pool.statistics()
        assert (statistics.in_use, statistics.tasks_waiting, statistics.max_size) == (3, 2, 3)
        await check_books(pool, network)
        pool.max_size = math.inf
        await settle()
        assert pool.statistics().in_use == 5
        await check_books(pool, network)
    assert network.most_open == 5


async def test_lowered_it_closes_idle_surplus_at_once() -> None:
    """Idle connections beyond the new limit are closed now, those that stood longest first."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=5) as pool:
        await fill(pool, 5)
        pool.max_size = 2
        await settle()
        assert pool.statistics().closed == {"surplus": 3}
        assert [peer.client.closed for peer in network.peers] == [True] * 3 + [False] * 2
        await check_books(pool, network)


async def test_lowered_it_closes_borrowed_surplus_at_return() -> None:
    """Nobody loses a connection that is in use; it is closed when it comes back."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=4) as pool:
        held = [await pool.acquire() for _ in range(4)]
        pool.max_size = 2
        await settle()
        assert pool.statistics().size == 4
        await check_books(pool, network)
        await give_back(*held[:2])
        assert (pool.statistics().size, network.open_now) == (2, 2)
        await check_books(pool, network)
        await give_back(*held[2:])
        assert pool.statistics().idle == 2
        assert pool.statistics().closed == {"surplus": 2}
        await check_books(pool, network)


async def test_lowered_it_never_deadlocks_those_who_wait() -> None:
    """Waiters are served with fewer connections, in the end by the only one left."""
    network = MemoryNetwork(on_close=delayed(0.1))
    async with ConnectionPool(network, max_size=5) as pool:
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(hold, pool)
            for size in (3, 1, 4, 1, 2, 1):
                await anyio.sleep(0.7)
                pool.max_size = size
                await settle()
                await check_books(pool, network)
        assert pool.statistics().acquired == 30
        await anyio.sleep(1)
        assert pool.statistics().size == 1
        await check_books(pool, network)


async def test_lowered_while_connecting_the_surplus_is_closed_when_it_is_open() -> None:
    """A connect that has become too much ends in a close, or serves whoever waits."""
    network = MemoryNetwork(delayed(1))
    async with ConnectionPool(network, max_size=3) as pool:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(hold, pool)
            await anyio.sleep(0.5)
            pool.max_size = 1
            await check_books(pool, network)
            assert pool.statistics().connecting == 3
        assert pool.statistics().acquired == 3
        await settle()
        assert pool.statistics().size == 1
        await check_books(pool, network)


async def test_slots_are_exact_after_changes() -> None:
    """After any change exactly ``max_size`` connections can be borrowed, not one more."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=3) as pool:
        for size in (5, 2, 7, 1, 4):
            pool.max_size = size
            await settle()
            held = [await pool.acquire(timeout=1) for _ in range(size)]
            with pytest.raises(PoolFull):
                pool.acquire_nowait()
            with anyio.move_on_after(1) as scope:
                await pool.acquire()
            assert scope.cancelled_caught
            await check_books(pool, network)
            await give_back(*held)
            await check_books(pool, network)


async def test_it_can_be_changed_outside_the_block_and_is_kept() -> None:
    """Changed before entering or after leaving, it holds for the next block."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, max_size=3)
    pool.max_size = 1
    for size in (1, 2):
        async with pool:
            held = [await pool.acquire(timeout=1) for _ in range(size)]
            with pytest.raises(AcquireTimeout):
                await pool.acquire(timeout=1)
            await give_back(*held)
        pool.max_size = size + 1
        assert pool.max_size == size + 1
    for wrong in (0, -1, math.nan):
        with pytest.raises((ValueError, TypeError)):
            pool.max_size = wrong
    assert pool.max_size == 3


async def test_retire_replaces_every_present_connection() -> None:
    """Idle ones are closed now, borrowed ones at return, and those being opened are not kept."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=4) as pool, anyio.create_task_group() as tasks:
        borrowed = await pool.acquire()
        await fill(pool, 2)
        network.on_connect = delayed(1)
        extra = [pool.acquire_nowait(), pool.acquire_nowait()]
        tasks.start_soon(hold, pool, 0)
        await settle()
        await give_back(*extra)
        pool.retire()
        await settle()
        assert [peer.client.closed for peer in network.peers] == [False, True, True]
        await borrowed.send_line(b"still mine")
        assert await borrowed.receive_line() == b"still mine"
        await give_back(borrowed)
        assert network.peers[0].client.closed
        await anyio.sleep(2)
        assert network.open_now == 0
        assert pool.statistics().closed == {"retired": 4}
        async with pool.acquire() as connection:
            assert number_of(connection) == 5
        assert pool.statistics().idle == 1
        await check_books(pool, network)


async def test_a_waiter_whose_connect_was_retired_gets_a_new_one() -> None:
    """Whoever waits during a retirement is served by a connection opened after it."""
    network = MemoryNetwork(delayed(1))
    async with ConnectionPool(network, max_size=1) as pool, anyio.create_task_group() as tasks:

        async def retire_meanwhile() -> None:
            await anyio.sleep(0.5)
            pool.retire()

        tasks.start_soon(retire_meanwhile)
        async with pool.acquire() as connection:
            assert number_of(connection) == 2
            assert anyio.current_time() == pytest.approx(2)


async def test_retiring_outside_the_block_is_refused() -> None:
    """There is nothing to retire, and the text says so."""
    pool = ConnectionPool(MemoryNetwork())
    with pytest.raises(PoolClosed, match="has not been entered"):
        pool.retire()
    async with pool:
        pool.retire()
    with pytest.raises(PoolClosed, match="has been left"):
        pool.retire()
