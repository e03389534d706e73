"""Changing ``max_size`` and retiring connections while the pool is in use."""

from __future__ import annotations

import math

import anyio
import pytest

from anyconnpool import AcquireTimeout, ConnectionPool, PoolClosed, PooledConnection, PoolFull

from .network import MemoryNetwork, check_books, delayed, settle


async def hold(pool: ConnectionPool, seconds: float = 1) -> None:
    async with pool.acquire():
        await anyio.sleep(seconds)


async def give_back(*connections: PooledConnection) -> None:
    for connection in connections:
        await connection.aclose()
    await settle()


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


async def test_retiring_outside_the_block_is_refused() -> None:
    """There is nothing to retire, and the text says so."""
    pool = ConnectionPool(MemoryNetwork())
    with pytest.raises(PoolClosed, match="has not been entered"):
        pool.retire()
    async with pool:
        pool.retire()
    with pytest.raises(PoolClosed, match="has been left"):
        pool.retire()
