"""How many may wait, and what there is without waiting."""

from __future__ import annotations

import anyio
import pytest

from anyconnpool import ConnectionPool, PoolFull

from .network import MemoryNetwork, check_books, delayed, fill, number_of, settle


async def hold(pool: ConnectionPool, seconds: float = 1) -> None:
    async with pool.acquire():
        await anyio.sleep(seconds)


async def test_max_waiting_0_connects_where_there_is_room_and_never_waits_for_a_slot() -> None:
    """Opening a connection is no waiting; needing somebody else's is."""
    network = MemoryNetwork(delayed(1))
    async with ConnectionPool(network, max_size=2, max_waiting=0, name="echo") as pool:
        async with pool.acquire(), pool.acquire():
            now = anyio.current_time()
            with pytest.raises(PoolFull, match="as many tasks as max_waiting") as caught:
                await pool.acquire()
            assert anyio.current_time() == now == pytest.approx(2)
            assert caught.value.statistics.in_use == 2
            assert "pool 'echo'" in str(caught.value)
            assert isinstance(caught.value, anyio.WouldBlock)
        async with pool.acquire():
            pass
        await check_books(pool, network)


async def test_max_waiting_0_waits_for_its_own_dead_connection_to_close() -> None:
    """A connection that is being replaced needs a moment to close: that is no waiting in line."""
    network = MemoryNetwork(on_close=delayed(0.5))
    async with ConnectionPool(network, max_size=1, max_waiting=0) as pool:
        for end in ("the peer hangs up", "it is retired", "its borrower discards it"):
            connection = await pool.acquire()
            number = number_of(connection)
            if end == "its borrower discards it":
                connection.discard()
            else:
                await connection.aclose()
            if end == "the peer hangs up":
                network.peers[number - 1].hang_up()
            if end == "it is retired":
                pool.retire()
            async with pool.acquire(timeout=1) as connection:
                assert number_of(connection) == number + 1
    assert network.most_open == 1


async def test_acquire_nowait_lends_what_is_idle_and_opens_nothing() -> None:
    """An idle connection at once, else PoolFull, also where there would be room."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=2) as pool:
        with pytest.raises(PoolFull, match="no idle connection"):
            pool.acquire_nowait()
        await settle()
        assert network.attempts == 0
        await fill(pool, 1)
        connection = pool.acquire_nowait()
        assert (number_of(connection), connection.reused) == (1, True)
        with pytest.raises(PoolFull):
            pool.acquire_nowait()
        await connection.aclose()
        await check_books(pool, network)


async def test_acquire_nowait_skips_what_is_dead_or_in_doubt() -> None:
    """It takes the newest connection that is good, the others are closed or checked."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=4) as pool:
        await fill(pool, 4)
        network.peers[3].hang_up()
        network.peers[2].push(b"?")
        network.peers[1].doubts = 1
        connection = pool.acquire_nowait()
        assert number_of(connection) == 1
        await connection.aclose()
        await anyio.sleep(1)
        statistics = pool.statistics()
        assert statistics.closed == {"peer_closed": 1, "unread_data": 1}
        assert statistics.idle == 2
        await check_books(pool, network)
