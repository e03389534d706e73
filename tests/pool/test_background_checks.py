"""``check_every``: connections are checked in the background, before anybody asks for them."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from anyconnpool import ConnectionPool, PooledConnection, PoolFull

from .hooks import count, hang, refuse
from .network import MemoryNetwork, check_books, fill, number_of, settle


async def ping(connection: PooledConnection) -> None:
    """Ask whether the peer still answers."""
    assert await connection.send_receive_line(b"PING") == b"PING"


async def take_notes(at: list[float], connection: PooledConnection) -> None:
    """Ask, and take down when."""
    at.append(anyio.current_time())
    await ping(connection)


async def test_what_has_been_idle_for_so_long_is_checked() -> None:
    """Again and again, to the moment; the idle time goes on all the while."""
    at = list[float]()
    async with ConnectionPool(
        MemoryNetwork(), check=partial(take_notes, at), check_every=7, max_idle_time=30
    ) as pool:
        await anyio.sleep(1)
        await fill(pool, 1)
        await anyio.sleep(29.9)
        assert at == pytest.approx([8, 15, 22, 29], abs=0.1)
        assert pool.statistics().idle == 1
        await anyio.sleep(0.2)
        assert pool.statistics().closed == {"max_idle_time": 1}


async def test_it_may_be_more_often_than_the_sweep() -> None:
    """To the moment, too."""
    at = list[float]()
    async with ConnectionPool(
        MemoryNetwork(), check=partial(take_notes, at), check_every=1
    ) as pool:
        await anyio.sleep(0.5)
        await fill(pool, 1)
        await anyio.sleep(3.2)
        assert at == pytest.approx([1.5, 2.5, 3.5], abs=0.1)


async def test_a_use_begins_the_time_anew() -> None:
    """Only what nobody has used for so long is checked."""
    at = list[float]()
    async with ConnectionPool(
        MemoryNetwork(), check=partial(take_notes, at), check_every=7
    ) as pool:
        for _ in range(5):
            await fill(pool, 1)
            await anyio.sleep(6)
        await anyio.sleep(2)
        assert at == pytest.approx([31], abs=0.1)


async def test_it_satisfies_check_after() -> None:
    """Whoever comes then gets the connection at once, and nobody has to ask again."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping, check_after=10, check_every=20) as pool:
        await fill(pool, 1)
        await anyio.sleep(25)
        assert count(network, b"PING") == 1
        pool.acquire_nowait().discard()
        assert count(network, b"PING") == 1


async def test_a_check_at_lending_satisfies_it_too() -> None:
    """It is asked whenever nobody has heard of it for so long."""
    at = list[float]()
    async with ConnectionPool(
        MemoryNetwork(), check=partial(take_notes, at), check_after=5, check_every=20
    ) as pool:
        await fill(pool, 1)
        await anyio.sleep(15)
        with pytest.raises(PoolFull):
            pool.acquire_nowait()
        await settle()
        assert at == pytest.approx([15], abs=0.1)
        await anyio.sleep(19.5)
        assert at == pytest.approx([15], abs=0.1)
        await anyio.sleep(1)
        assert at == pytest.approx([15, 35], abs=0.1)


async def test_the_dead_are_gone_before_anybody_asks() -> None:
    """They are replaced where some are to be ready."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=refuse, check_every=5, min_idle=1) as pool:
        await fill(pool, 1)
        await anyio.sleep(5.5)
        assert pool.statistics().closed == {"check_failed": 1}
        assert pool.statistics().idle == 1
        assert network.opened == 2
        await check_books(pool, network)


async def test_four_are_checked_at_a_time() -> None:
    """The next one begins when one has ended."""
    running, most = 0, 0

    async def slow(connection: PooledConnection) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1

    network = MemoryNetwork()
    async with ConnectionPool(network, check=slow, check_every=10) as pool:
        await fill(pool, 10)
        await anyio.sleep(12.9)
        assert most == 4
        assert pool.statistics().connecting == 2
        await anyio.sleep(0.2)
        assert pool.statistics().idle == 10
        await check_books(pool, network)


async def test_one_that_hangs_costs_nobody_his_time() -> None:
    """A tenth of a second, where every connection is being checked; nothing where one is not."""
    for size, most in ((4, 0.11), (5, 0)):
        network = MemoryNetwork()
        async with ConnectionPool(network, check=hang, check_every=10, max_size=size) as pool:
            await fill(pool, size)
            await anyio.sleep(10.01)
            assert pool.statistics().connecting == 4
            began = anyio.current_time()
            async with pool.acquire() as connection:
                assert anyio.current_time() - began <= most
                assert number_of(connection) == 5
            await anyio.sleep(5)
            await settle()
            assert pool.statistics().closed == {"check_failed": 4}
            await check_books(pool, network)


async def test_one_that_hangs_is_given_up_after_check_timeout() -> None:
    """And not after the limit for connecting."""
    async with ConnectionPool(MemoryNetwork(), check=hang, check_every=10, check_timeout=3) as pool:
        await fill(pool, 1)
        await anyio.sleep(12.9)
        assert pool.statistics().connecting == 1
        await anyio.sleep(0.2)
        assert pool.statistics().closed == {"check_failed": 1}


async def test_what_was_never_used_is_not_checked() -> None:
    """A greeting may be on its way, which is for the first borrower and answers no check."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping, check_every=5, min_idle=1) as pool:
        await anyio.sleep(60)
        assert pool.statistics().idle == 1
        assert count(network, b"PING") == 0


async def test_leaving_the_block_interrupts_it() -> None:
    """Nothing waits for it."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=hang, check_every=5) as pool:
        await fill(pool, 2)
        await anyio.sleep(5.5)
    assert anyio.current_time() == 5.5
    assert network.open_now == 0
