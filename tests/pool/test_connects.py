"""Promise 6: nobody waits longer than needed; and what becomes of connects that fail."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from tests.cases import table

from .network import (
    MemoryNetwork,
    check_books,
    failing,
    hang,
    number_of,
    settle,
)


async def borrow(pool: ConnectionPool, numbers: list[int], hold: float = 0) -> None:
    async with pool.acquire() as connection:
        numbers.append(number_of(connection))
        await anyio.sleep(hold)


@table("every", [1, 2, 3])
@table("max_size", [1, 10, 50])
async def test_nobody_hangs_when_connects_fail(every: int, max_size: int) -> None:
    """Fifty waiters are all served or told, whatever share of the connects fails."""
    refused = ConnectionRefusedError("no")
    network = MemoryNetwork(failing(refused, only=lambda number: number % every == 0))
    served = failed = 0

    async def ask() -> None:
        nonlocal served, failed
        try:
            async with pool.acquire() as connection:
                served += 1
                await checkpoint()
                connection.discard()
        except anyio.ConnectionFailed:
            failed += 1

    async with ConnectionPool(network, max_size=max_size) as pool:
        with anyio.fail_after(1):
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(ask)
        assert served + failed == 50
        assert failed == pool.statistics().open_failed >= 50 // every - every
        await settle()
        await check_books(pool, network)
    assert network.open_now == 0
    assert network.most_open <= max_size


async def test_errors_of_connecting_stay_themselves() -> None:
    """What AnyIO or the connectable raises reaches the caller as it is, or as its cause."""
    network = MemoryNetwork()
    async with ConnectionPool(network, name="echo") as pool:
        for error in (anyio.ConnectionFailed("down"), RuntimeError("a bug of the connectable")):
            network.on_connect = failing(error)
            with pytest.raises(type(error)) as caught:
                await pool.acquire()
            assert caught.value is error
        reset = ConnectionResetError("reset")
        network.on_connect = failing(reset)
        with pytest.raises(anyio.ConnectionFailed, match="connecting to echo: reset") as caught_os:
            await pool.acquire()
        assert caught_os.value.__cause__ is reset
        assert pool.statistics().open_failed == 3
        await check_books(pool, network)


async def test_a_connect_has_a_time_limit() -> None:
    """An attempt that takes longer than ``connect_timeout`` fails with a text that names it."""
    network = MemoryNetwork(hang)
    async with ConnectionPool(network, name="echo") as pool:
        with pytest.raises(anyio.ConnectionFailed, match="longer than connect_timeout, 30 s"):
            await pool.acquire()
        assert anyio.current_time() == pytest.approx(30)
        await check_books(pool, network)


async def test_what_failed_is_not_held_against_the_remote() -> None:
    """After a failure the next acquire connects at once."""
    network = MemoryNetwork(failing(OSError("down")))
    async with ConnectionPool(network, max_size=1) as pool:
        for _ in range(3):
            with pytest.raises(anyio.ConnectionFailed):
                await pool.acquire()
        network.on_connect = None
        async with pool.acquire(timeout=0.5):
            assert anyio.current_time() == 0
