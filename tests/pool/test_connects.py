"""Promise 6: nobody waits longer than needed; and what becomes of connects that fail."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import AcquireTimeout, ConnectionPool
from tests.cases import table

from .network import (
    MemoryNetwork,
    check_books,
    delayed,
    failing,
    gated,
    hang,
    number_of,
    settle,
)


async def borrow(pool: ConnectionPool, numbers: list[int], hold: float = 0) -> None:
    async with pool.acquire() as connection:
        numbers.append(number_of(connection))
        await anyio.sleep(hold)


async def test_a_waiter_takes_what_comes_back_before_its_own_connect_is_done() -> None:
    """A connection that comes back first is lent at once, and the connect serves the next."""
    gate, numbers = anyio.Event(), list[int]()
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=2) as pool, anyio.create_task_group() as tasks:
        first = await pool.acquire()
        network.on_connect = gated(gate, gate)
        tasks.start_soon(borrow, pool, numbers, 5)
        await settle()
        await first.aclose()
        await settle()
        assert numbers == [1]
        tasks.start_soon(borrow, pool, numbers, 5)
        await settle()
        assert numbers == [1]
        gate.set()
        await settle()
        assert numbers == [1, 2]
        assert network.attempts == 2
        assert anyio.current_time() == 0


async def test_a_connect_that_nobody_waits_for_any_more_becomes_idle() -> None:
    """If its waiter was served otherwise, the new connection stands ready."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=2) as pool, anyio.create_task_group() as tasks:
        first = await pool.acquire()
        network.on_connect = delayed(1)
        tasks.start_soon(borrow, pool, list[int]())
        await settle()
        await first.aclose()
        await anyio.sleep(2)
        assert pool.statistics().idle == 2
        await check_books(pool, network)


@pytest.mark.parametrize("ended_by", ["scope", "timeout"])
@pytest.mark.parametrize("next_waits", [False, True])
async def test_the_connect_of_a_waiter_that_gave_up_is_not_thrown_away(
    ended_by: str, next_waits: bool
) -> None:
    """It serves the next waiter, or becomes idle."""
    network = MemoryNetwork(delayed(2))
    numbers: list[int] = []
    async with ConnectionPool(network, max_size=1) as pool, anyio.create_task_group() as tasks:
        if ended_by == "scope":
            with anyio.move_on_after(1):
                await pool.acquire()
        else:
            with pytest.raises(AcquireTimeout):
                await pool.acquire(timeout=1)
        if next_waits:
            tasks.start_soon(borrow, pool, numbers)
        await anyio.sleep(1.5)
        assert anyio.current_time() == pytest.approx(2.5)
        assert numbers == ([1] if next_waits else [])
        assert pool.statistics().idle == network.attempts == 1
        await check_books(pool, network)


async def test_there_are_no_more_connects_than_waiters() -> None:
    """A burst opens one connection for each that needs one, and never more than ``max_size``."""
    network = MemoryNetwork(delayed(1))
    async with ConnectionPool(network, max_size=5) as pool, anyio.create_task_group() as tasks:
        for count in (3, 50):
            for _ in range(count):
                tasks.start_soon(borrow, pool, list[int]())
            await settle()
            assert network.open_now == min(count, 5)
    assert network.most_open == network.attempts == 5


async def test_a_connect_error_goes_to_the_oldest_waiter_only() -> None:
    """The next one gets a new attempt."""
    network = MemoryNetwork(failing(ConnectionRefusedError("no"), only=lambda number: number == 1))
    outcomes: list[str] = []

    async def ask(name: str) -> None:
        try:
            async with pool.acquire():
                outcomes.append(name)
        except anyio.ConnectionFailed:
            outcomes.append(f"{name} failed")

    async with ConnectionPool(network, max_size=1) as pool, anyio.create_task_group() as tasks:
        for name in ("first", "second", "third"):
            tasks.start_soon(ask, name)
            await checkpoint()
        await settle(100)
        assert outcomes == ["first failed", "second", "third"]
        assert network.attempts == 2


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
