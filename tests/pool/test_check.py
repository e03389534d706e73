"""``check``: a connection that rested for long is asked whether it still works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection
from tests.cases import table

from .network import MemoryNetwork, check_books, fill, number_of, peer_of, settle

Hook = Callable[[PooledConnection], Awaitable[object]]


async def ping(connection: PooledConnection) -> None:
    """Ask whether the peer still answers."""
    assert await connection.send_receive_line(b"PING") == b"PING"


def pings(network: MemoryNetwork) -> int:
    return sum(peer.received.count(b"PING") for peer in network.peers)


async def test_only_what_rested_long_enough_is_checked() -> None:
    """``check_after`` seconds of idleness are long enough, less are not; new ones are not."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping, check_after=10) as pool:
        for rest, expected in ((0, 0), (9.9, 0), (10.1, 1), (5, 1), (60, 2), (0, 2)):
            await anyio.sleep(rest)
            async with pool.acquire() as connection:
                assert number_of(connection) == 1
                assert not connection.has_sent
            assert pings(network) == expected
        assert (pool.statistics().acquired, pool.statistics().reused) == (6, 5)
        await check_books(pool, network)


async def test_the_default_is_half_a_minute() -> None:
    """And without a check, nothing is ever asked."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping) as pool:
        await fill(pool, 1)
        await anyio.sleep(29.9)
        await fill(pool, 1)
        assert pings(network) == 0
        await anyio.sleep(30)
        await fill(pool, 1)
        assert pings(network) == 1
    async with ConnectionPool(network, check_after=0) as pool:
        await fill(pool, 1)
        async with pool.acquire() as connection:
            assert connection.reused


async def test_with_no_rest_at_all_every_reuse_is_checked() -> None:
    """``check_after=0`` is the careful choice."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping, check_after=0) as pool:
        for _ in range(4):
            await pool.send_receive_line(b"a")
        assert pings(network) == 3


async def test_a_connection_that_was_never_borrowed_is_checked_too() -> None:
    """What ``min_idle`` opened may have rested for hours."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping, min_idle=1, max_size=1) as pool:
        await anyio.sleep(31)
        async with pool.acquire() as connection:
            assert number_of(connection) == 1
            assert not connection.reused
        assert pings(network) == 1


async def fail(connection: PooledConnection) -> None:
    raise RuntimeError("no PONG")


async def hang(connection: PooledConnection) -> None:
    await anyio.sleep_forever()


async def leave_reply_unread(connection: PooledConnection) -> None:
    await connection.send(b"PING")
    await connection.receive(2)


async def leave_reply_to_come(connection: PooledConnection) -> None:
    await connection.send(b"PING")


async def give_up_reading(connection: PooledConnection) -> None:
    with anyio.move_on_after(1):
        await connection.receive_line()


async def give_back(connection: PooledConnection) -> None:
    await connection.aclose()


async def discard(connection: PooledConnection) -> None:
    connection.discard()


async def detach(connection: PooledConnection) -> None:
    connection.detach()


async def meet_the_end(connection: PooledConnection) -> None:
    peer_of(connection).hang_up()
    await connection.receive_line()


async def end_afterwards(connection: PooledConnection) -> None:
    await ping(connection)
    peer_of(connection).hang_up()


async def send_more_afterwards(connection: PooledConnection) -> None:
    await ping(connection)
    peer_of(connection).push(b"more")


SPOILERS: list[Hook] = [
    fail,
    hang,
    leave_reply_unread,
    leave_reply_to_come,
    give_up_reading,
    give_back,
    discard,
    detach,
    meet_the_end,
    end_afterwards,
    send_more_afterwards,
]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda hook: hook.__name__)
@pytest.mark.parametrize("borrowed", [True, False], ids=["borrowed", "never borrowed"])
async def test_what_fails_its_check_is_closed_and_another_one_lent(
    spoil: Hook, borrowed: bool
) -> None:
    """By an error, by taking longer than ``connect_timeout``, or by being left unclean."""
    if spoil is send_more_afterwards and not borrowed:
        pytest.skip("what comes before the first borrow is a greeting")
    network = MemoryNetwork()
    settings: dict[str, Any] = {} if borrowed else {"min_idle": 1, "max_size": 1}
    async with ConnectionPool(network, check=spoil, connect_timeout=4, **settings) as pool:
        if borrowed:
            await fill(pool, 1)
        await anyio.sleep(40)
        async with pool.acquire() as connection:
            assert number_of(connection) == 2
            assert anyio.current_time() <= 44.1
            assert connection.buffer == b""
            assert await connection.send_receive_line(b"a") == b"a"
        await settle()
        assert sum(pool.statistics().closed.values()) == network.closed == 1
        assert network.forced == 1
        assert pool.statistics().open_failed == 0
        await check_books(pool, network)


async def test_the_statistics_tell_of_failed_checks() -> None:
    """They have a reason of their own."""
    async with ConnectionPool(MemoryNetwork(), check=fail) as pool:
        await fill(pool, 2)
        await anyio.sleep(31)
        await fill(pool, 1)
        await anyio.sleep(1)
        assert pool.statistics().closed == {"check_failed": 2}


async def test_a_dead_connection_is_not_even_asked() -> None:
    """What the probe knows needs no check."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping) as pool:
        await fill(pool, 1)
        network.peers[0].hang_up()
        network.on_look = bool
        await anyio.sleep(31)
        await fill(pool, 1)
        assert pings(network) == 0
        assert pool.statistics().closed == {"peer_closed": 1}


async def test_a_hanging_check_uses_up_the_time_of_the_acquire() -> None:
    """One deadline covers it; and what passes later is not lost."""
    network, gate = MemoryNetwork(), anyio.Event()

    async def wait(connection: PooledConnection) -> None:
        await gate.wait()

    async with ConnectionPool(network, check=wait, max_size=1) as pool:
        await fill(pool, 1)
        await anyio.sleep(40)
        with pytest.raises(AcquireTimeout, match="1 connecting"):
            await pool.acquire(timeout=2)
        assert anyio.current_time() == pytest.approx(42)
        with pytest.raises(AcquireTimeout):
            await pool.send_receive_line(b"a", timeout=2)
        assert anyio.current_time() == pytest.approx(44)
        gate.set()
        await settle()
        assert pool.statistics().idle == network.attempts == 1
        await check_books(pool, network)


@table("passes", [True, False])
async def test_the_order_of_those_who_wait_is_kept(passes: bool) -> None:
    """Whoever comes while the first one's check goes on is served after it."""
    network, served = MemoryNetwork(), list[int]()

    async def slow(connection: PooledConnection) -> None:
        await anyio.sleep(2)
        if not passes:
            raise RuntimeError("no PONG")

    async def ask(number: int) -> None:
        async with pool.acquire():
            served.append(number)
            await anyio.sleep(0.1)

    async with ConnectionPool(network, check=slow, max_size=1) as pool:
        await fill(pool, 1)
        await anyio.sleep(31)
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(ask, number)
                await anyio.sleep(0.01)
        assert served == [0, 1, 2, 3, 4]
        assert network.attempts == (1 if passes else 2)


async def test_a_connection_that_comes_back_is_lent_before_the_check_is_done() -> None:
    """Nobody waits for a check longer than needed, and what passes it serves the next."""
    network = MemoryNetwork()

    async def slow(connection: PooledConnection) -> None:
        await anyio.sleep(2)

    async with ConnectionPool(network, check=slow, max_size=2) as pool:
        await fill(pool, 2)
        async with pool.acquire():
            await anyio.sleep(31)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.send_receive_line, b"a")
                await anyio.sleep(2.5)
        assert network.attempts == 2
        await check_books(pool, network)


async def test_leaving_the_block_interrupts_a_check() -> None:
    """Nothing waits for it, and its connection is closed."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=hang) as pool:
        await fill(pool, 1)
        await anyio.sleep(31)
        with anyio.move_on_after(1):
            await pool.acquire()
    assert anyio.current_time() == pytest.approx(32)
    assert network.open_now == 0


async def test_its_connection_cannot_be_used_afterwards() -> None:
    """What the hook kept is no way around the pool."""
    kept: list[PooledConnection] = []

    async def keep(connection: PooledConnection) -> None:
        kept.append(connection)

    async with ConnectionPool(MemoryNetwork(), check=keep, check_after=0) as pool:
        await fill(pool, 1)
        async with pool.acquire() as connection:
            with pytest.raises(anyio.ClosedResourceError):
                await kept[0].send(b"foreign")
            await kept[0].aclose()
            assert await connection.send_receive_line(b"a") == b"a"
        assert pool.statistics().idle == 1
