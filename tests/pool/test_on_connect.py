"""``on_connect``: each new connection is logged in before anybody borrows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from anyconnpool import ConnectionPool, PooledConnection, Retry
from tests.cases import table

from .network import MemoryNetwork, check_books, delayed, fill, number_of, peer_of, settle

Hook = Callable[[PooledConnection], Awaitable[None]]


async def log_in(connection: PooledConnection) -> None:
    """Say who we are and wait for the answer."""
    assert await connection.send_receive_line(b"user") == b"user"


async def hang(connection: PooledConnection) -> None:
    await anyio.sleep_forever()


def raising(error: Exception) -> Hook:
    """Make a hook that fails after an exchange."""

    async def hook(connection: PooledConnection) -> None:
        await log_in(connection)
        raise error

    return hook


async def test_hooks_are_no_use() -> None:
    """What ``max_uses`` counts are borrows, neither logging in nor checking."""
    network = MemoryNetwork()
    async with ConnectionPool(
        network, on_connect=log_in, check=log_in, check_after=0, max_uses=2
    ) as pool:
        for reused in (False, True, False):
            async with pool.acquire() as connection:
                assert connection.reused is reused
                await log_in(connection)
        assert bytes(network.peers[0].received) == b"user\n" * 4
        assert pool.statistics().closed == {"max_uses": 1}


async def test_it_runs_once_on_each_new_connection_before_anybody_borrows_it() -> None:
    """With all the framed methods, and not again when the connection is reused."""
    network, seen = MemoryNetwork(), list[int]()

    async def hook(connection: PooledConnection) -> None:
        seen.append(number_of(connection))
        assert (connection.reused, connection.age) == (False, 0)
        await log_in(connection)
        assert await connection.send_receive_package(b"secret") == b"secret"
        assert await connection.send_receive(b"ok", 2) == b"ok"

    async with ConnectionPool(network, on_connect=hook) as pool:
        for _ in range(2):
            async with pool.acquire() as first, pool.acquire() as second:
                assert sorted(seen) == [1, 2]
                assert bytes(peer_of(first).received) == b"user\n\0\6secretok"
                assert (first.reused, first.has_sent, first.bytes_received) == (
                    second.reused,
                    second.has_sent,
                    second.bytes_received,
                )
            assert pool.statistics().idle == 2
        assert sum(peer.received.count(b"user") for peer in network.peers) == 2
        await check_books(pool, network)


async def test_a_connection_logged_in_is_new_to_its_first_borrower() -> None:
    """The hook's use is none of the borrower's: neither a reuse nor anything sent."""
    async with ConnectionPool(MemoryNetwork(), on_connect=log_in) as pool:
        async with pool.acquire() as connection:
            assert not connection.reused
            assert not connection.has_sent
            assert connection.bytes_received == 0
        assert (pool.statistics().idle, pool.statistics().acquired) == (1, 1)


async def test_what_is_opened_in_advance_is_logged_in_too() -> None:
    """``min_idle`` connections are ready once their hook is done."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_connect=log_in, min_idle=2) as pool:
        await pool.wait_ready()
        assert [bytes(peer.received) for peer in network.peers] == [b"user\n"] * 2
        assert pool.statistics().idle == 2


@table(
    "error",
    [
        ValueError("wrong password"),
        OSError("reset"),
        anyio.EndOfStream("hung up"),
        TimeoutError("the hook's own"),
        anyio.ConnectionFailed("go away"),
    ],
)
async def test_its_error_reaches_the_caller_unchanged(error: Exception) -> None:
    """It is the same object, and the connection is closed."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_connect=raising(error)) as pool:
        for count in (1, 2):
            with pytest.raises(type(error)) as caught:
                await pool.acquire()
            assert caught.value is error
            assert network.open_now == pool.statistics().size == 0
            assert pool.statistics().open_failed == count
        with pytest.raises(type(error)) as caught:
            await pool.send_receive_line(b"a")
        assert caught.value is error


async def test_its_error_reaches_who_waits_for_the_pool_to_be_ready() -> None:
    """The refill tells why it can't be done."""
    error = ValueError("wrong password")
    async with ConnectionPool(MemoryNetwork(), on_connect=raising(error), min_idle=2) as pool:
        with pytest.raises(ValueError, match="wrong password") as caught:
            await pool.wait_ready()
        assert caught.value is error


async def test_connecting_and_logging_in_share_one_limit() -> None:
    """``connect_timeout`` ends both together, and the connection is closed."""
    network = MemoryNetwork(delayed(20))
    async with ConnectionPool(network, on_connect=hang) as pool:
        with pytest.raises(anyio.ConnectionFailed, match="longer than connect_timeout, 30 s"):
            await pool.acquire()
        assert anyio.current_time() == pytest.approx(30)
        assert network.opened == 1
        assert network.open_now == pool.statistics().size == 0


async def test_what_it_leaves_unread_belongs_to_the_first_borrower() -> None:
    """A greeting that came with the answer to the login is not lost, nor seen twice."""
    network = MemoryNetwork(answer=lambda data: data + b"welcome\n")
    async with ConnectionPool(network, on_connect=log_in) as pool:
        async with pool.acquire() as connection:
            assert connection.buffer == b"welcome\n"
            assert await connection.receive_line() == b"welcome"
        async with pool.acquire() as connection:
            assert connection.reused
            assert connection.buffer == b""
        await check_books(pool, network)


async def test_a_first_borrower_who_leaves_the_greeting_unread_ends_the_connection() -> None:
    """It is not for the second one."""
    network = MemoryNetwork(answer=lambda data: data + b"welcome\n")
    async with ConnectionPool(network, on_connect=log_in) as pool:
        async with pool.acquire():
            pass
        await settle()
        assert pool.statistics().closed == {"unread_data": 1}


async def test_it_may_send_without_waiting_for_an_answer() -> None:
    """A preamble has none, and what is sent back is for the first borrower."""

    async def introduce(connection: PooledConnection) -> None:
        await connection.send_line(b"PROXY UNKNOWN")

    network = MemoryNetwork(answer=lambda data: b"")
    async with ConnectionPool(network, on_connect=introduce) as pool:
        async with pool.acquire() as connection:
            assert bytes(peer_of(connection).received) == b"PROXY UNKNOWN\n"
        assert pool.statistics().idle == 1


async def give_back(connection: PooledConnection) -> None:
    await connection.aclose()


async def give_back_by_block(connection: PooledConnection) -> None:
    async with connection:
        await log_in(connection)


async def discard(connection: PooledConnection) -> None:
    connection.discard()


async def detach(connection: PooledConnection) -> None:
    connection.detach()


async def time_out(connection: PooledConnection) -> None:
    with anyio.move_on_after(1):
        await connection.receive_line()


async def half_close(connection: PooledConnection) -> None:
    await connection.send_eof()


async def fail(connection: PooledConnection) -> None:
    peer_of(connection).hang_up()
    with suppress(anyio.EndOfStream):
        await connection.receive_line()


@table(
    "hook, text",
    [
        (give_back, "gave the connection away"),
        (give_back_by_block, "gave the connection away"),
        (discard, "gave the connection away"),
        (detach, "gave the connection away"),
        (time_out, "left the connection unfit: unclean"),
        (half_close, "left the connection unfit: unclean"),
        (fail, "left the connection unfit: unclean"),
    ],
)
async def test_a_hook_that_spoils_the_connection_is_told_so(hook: Hook, text: str) -> None:
    """Nobody borrows a connection that was given away, or on which something had failed."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_connect=hook) as pool:
        with pytest.raises(Exception, match=text):
            await pool.acquire()
        assert network.opened == pool.statistics().open_failed == 1
        assert network.open_now == pool.statistics().size == 0


async def test_its_connection_cannot_be_used_afterwards() -> None:
    """What the hook kept is no way around the pool."""
    network, kept = MemoryNetwork(), list[PooledConnection]()

    async def keep(connection: PooledConnection) -> None:
        kept.append(connection)

    async with ConnectionPool(network, on_connect=keep) as pool, pool.acquire() as connection:
        with pytest.raises(anyio.ClosedResourceError):
            await kept[0].send(b"foreign")
        with pytest.raises(anyio.ClosedResourceError):
            await kept[0].receive()
        with pytest.raises(anyio.ClosedResourceError):
            kept[0].discard()
        with pytest.raises(anyio.ClosedResourceError):
            kept[0].detach()
        await kept[0].aclose()
        await log_in(connection)
        assert pool.statistics().in_use == 1


async def test_a_login_goes_on_when_its_caller_has_gone() -> None:
    """The connection serves the next one."""
    network = MemoryNetwork()

    async def slow(connection: PooledConnection) -> None:
        await anyio.sleep(2)
        await log_in(connection)

    async with ConnectionPool(network, on_connect=slow, max_size=1) as pool:
        with anyio.move_on_after(1):
            await pool.acquire()
        async with pool.acquire():
            assert anyio.current_time() == pytest.approx(2)
        assert network.attempts == 1
        await check_books(pool, network)


async def test_leaving_the_block_interrupts_a_login() -> None:
    """Nothing waits for it, and its connection is closed."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_connect=hang, min_idle=2):
        await settle()
        assert network.opened == 2
    assert anyio.current_time() == 0
    assert network.open_now == 0


@pytest.mark.parametrize("by", ["connect_retry", "exchange"])
async def test_a_login_that_meets_a_hang_up_can_be_repeated(by: str) -> None:
    """On a new connection, by the schedule of ``connect_retry`` or of the exchange."""
    network, logins = MemoryNetwork(), list[float]()
    retry = Retry(2, interval=1, jitter=0)

    async def flaky(connection: PooledConnection) -> None:
        logins.append(anyio.current_time())
        if len(logins) < 3:
            peer_of(connection).hang_up()
        await connection.receive_available() if len(logins) < 3 else await log_in(connection)

    settings: dict[str, Any] = {"connect_retry": retry} if by == "connect_retry" else {}
    async with ConnectionPool(network, on_connect=flaky, **settings) as pool:
        if by == "connect_retry":
            await fill(pool, 1)
        else:
            assert await pool.send_receive_line(b"a", retry=retry) == b"a"
        assert logins == pytest.approx([0, 1, 3])
        assert network.open_now == pool.statistics().idle == 1
