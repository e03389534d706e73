"""``min_idle``: connections that stand ready before anybody asks for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from anyconnpool import ConnectionPool, PoolClosed
from tests.cases import table

from .network import (
    MemoryNetwork,
    check_books,
    delayed,
    failing,
    hang,
    number_of,
    settle,
)


async def test_a_pool_fills_itself_in_the_background() -> None:
    """Nothing opens before the block; then ``min_idle`` connections do, and are kept ready."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, min_idle=3, max_size=5)
    assert network.attempts == 0
    async with pool:
        await settle()
        assert pool.statistics().idle == 3
        async with pool.acquire(), pool.acquire():
            await settle()
            assert (pool.statistics().idle, pool.statistics().size) == (3, 5)
            async with pool.acquire():
                await settle()
                assert (pool.statistics().idle, pool.statistics().size) == (2, 5)
        await check_books(pool, network)
    assert network.open_now == 0
    assert network.most_open == 5


async def test_what_is_lost_is_refilled() -> None:
    """Discarded, dead, retired and expired connections are replaced without anybody asking."""
    network = MemoryNetwork()
    async with ConnectionPool(network, min_idle=2, max_size=3, max_idle_time=60) as pool:
        await settle()
        async with pool.acquire() as connection:
            connection.discard()
        network.peers[0].hang_up()
        await anyio.sleep(5.1)
        assert pool.statistics().idle == 2
        pool.retire()
        await settle()
        assert pool.statistics().idle == 2
        opened = network.opened
        await anyio.sleep(300)
        assert pool.statistics().idle == 2
        assert opened + 6 <= network.opened <= opened + 12
        await check_books(pool, network)


async def test_failing_refills_are_repeated_at_a_bounded_rate() -> None:
    """A remote that is down is tried again every few seconds, and is not hammered."""
    network = MemoryNetwork(failing(ConnectionRefusedError("down")))
    async with ConnectionPool(network, min_idle=3) as pool:
        await anyio.sleep(100)
        assert 10 <= network.attempts <= 3 * 21
        network.on_connect = None
        await anyio.sleep(5.1)
        assert pool.statistics().idle == 3
        assert pool.statistics().open_failed == network.attempts - 3
        await check_books(pool, network)


async def test_wait_ready_returns_when_enough_are_idle() -> None:
    """It waits for ``min_idle`` idle connections, not for fewer."""
    network = MemoryNetwork(delayed(1, 2, 3))
    async with ConnectionPool(network, min_idle=3, max_size=3) as pool:
        await pool.wait_ready()
        assert anyio.current_time() == pytest.approx(3)
        assert pool.statistics().idle == 3
        await pool.wait_ready()
        async with pool.acquire():
            with anyio.move_on_after(1) as scope:
                await pool.wait_ready()
            assert scope.cancelled_caught
        with anyio.fail_after(1):
            await pool.wait_ready()
        await check_books(pool, network)


async def test_wait_ready_has_nothing_to_wait_for_without_min_idle() -> None:
    """With ``min_idle`` 0 it returns at once and opens nothing."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        await pool.wait_ready()
        assert network.attempts == 0


async def test_wait_ready_raises_the_connect_error() -> None:
    """If the remote can't be reached it says so, each time it is called, without a delay."""
    refused = anyio.ConnectionFailed("down")
    network = MemoryNetwork(failing(refused))
    async with ConnectionPool(network, min_idle=2) as pool:
        for _ in range(3):
            with pytest.raises(anyio.ConnectionFailed) as caught:
                await pool.wait_ready()
            assert caught.value is refused
        assert anyio.current_time() == 0
        network.on_connect = delayed(1)
        await pool.wait_ready()
        assert pool.statistics().idle == 2


async def test_all_who_wait_for_readiness_are_told() -> None:
    """Several tasks that wait_ready() return, or raise, together."""
    network = MemoryNetwork(delayed(1))
    done: list[float] = []

    async def wait() -> None:
        await pool.wait_ready()
        done.append(anyio.current_time())

    async with ConnectionPool(network, min_idle=2) as pool, anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(wait)
    assert done == [pytest.approx(1)] * 4


@table("what", ["wait_ready", "acquire"])
async def test_a_pool_that_is_left_tells_those_who_wait(what: str) -> None:
    """Whoever waits when the block ends gets PoolClosed, and so does everybody after that."""
    network = MemoryNetwork(hang)
    pool = ConnectionPool(network, min_idle=1, name="echo")
    methods: dict[str, Callable[[], Awaitable[object]]] = {
        "wait_ready": pool.wait_ready,
        "acquire": pool.connect,
    }
    told: list[str] = []

    async def wait() -> None:
        try:
            await methods[what]()
        except PoolClosed as error:
            told.append(str(error))

    async with anyio.create_task_group() as tasks:
        async with pool:
            for _ in range(3):
                tasks.start_soon(wait)
            await settle()
        assert anyio.current_time() == 0
    assert told == ["pool 'echo' has been left: its async with block has ended"] * 3
    with pytest.raises(PoolClosed, match="has been left"):
        await methods[what]()
    assert network.open_now == 0


async def test_a_cancelled_wait_ready_leaves_nothing_behind() -> None:
    """The refill goes on, and the pool works."""
    network = MemoryNetwork(delayed(2))
    async with ConnectionPool(network, min_idle=1) as pool:
        with anyio.move_on_after(1) as scope:
            await pool.wait_ready()
        assert scope.cancelled_caught
        await anyio.sleep(1.5)
        async with pool.acquire(timeout=0) as connection:
            assert number_of(connection) == 1
        await settle()
        await check_books(pool, network)
