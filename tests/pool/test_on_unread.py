"""The hook ``on_unread``: what arrives on an idle connection is read, and maybe answered."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anyconnpool import ConnectionPool, PooledConnection

from .hooks import (
    SPOILERS,
    Hook,
    answer_ping,
    await_cancelled,
    count,
    hang,
    leave_reply_unread,
    meet_the_end,
    reset,
    slow,
)
from .network import MemoryNetwork, check_books, fill, number_of, peer_of, settle


def quiet() -> MemoryNetwork:
    """Make a network whose server answers nothing but requests."""
    return MemoryNetwork(answer=lambda data: b"" if data in (b"PONG\n", b"PING\n") else data)


async def test_what_the_sweep_finds_is_answered() -> None:
    """The connection stays, at its place, and its idle time goes on."""
    network = quiet()
    async with ConnectionPool(network, on_unread=answer_ping, max_idle_time=60) as pool:
        await fill(pool, 2)
        network.peers[0].push(b"PING\n")
        await anyio.sleep(6)
        assert bytes(network.peers[0].received) == b"PONG\n"
        statistics = pool.statistics()
        assert (statistics.idle, statistics.acquired, statistics.closed) == (2, 2, {})
        async with pool.acquire() as connection:
            assert number_of(connection) == 2, "the one that came back last"
            assert connection.reused
        await anyio.sleep(54)
        await settle()
        assert pool.statistics().closed == {"max_idle_time": 1}
        await check_books(pool, network)


async def test_what_is_found_at_the_moment_of_lending_is_answered() -> None:
    """Whoever asked gets another idle connection at once."""
    network = quiet()
    async with ConnectionPool(network, on_unread=slow(answer_ping, 1), max_size=2) as pool:
        await fill(pool, 2)
        network.peers[1].push(b"PING\n")
        connection = pool.acquire_nowait()
        assert number_of(connection) == 1
        assert pool.statistics().connecting == 1
        await connection.aclose()
        await anyio.sleep(1.1)
        assert pool.statistics().idle == 2
        assert bytes(network.peers[1].received) == b"PONG\n"


async def test_who_waits_is_served_by_what_is_ready_first() -> None:
    """By the answered one if that is quick, else by a new one after a tenth of a second."""
    for seconds, expected, at in ((0.05, 1, 0.05), (2, 2, 0.1)):
        network = quiet()
        async with ConnectionPool(network, on_unread=slow(answer_ping, seconds)) as pool:
            await fill(pool, 1)
            network.peers[0].push(b"PING\n")
            began = anyio.current_time()
            async with pool.acquire() as connection:
                assert number_of(connection) == expected
                assert anyio.current_time() - began == pytest.approx(at)


async def test_what_arrives_before_it_is_given_back_is_answered() -> None:
    """It makes no difference in which moment a notice comes that no borrower has read."""
    network = quiet()
    async with (
        ConnectionPool(network, on_unread=answer_ping, on_release=reset, max_size=1) as pool,
        anyio.create_task_group() as tasks,
    ):
        connection = await pool.acquire()
        tasks.start_soon(pool.send_receive_line, b"a")
        await settle()
        network.peers[0].push(b"PING\n")
        await connection.aclose()
        await settle()
        assert bytes(network.peers[0].received) == b"PONG\nRESET\na\nRESET\n"
        assert network.attempts == 1


async def test_what_arrives_while_it_runs_is_answered_too() -> None:
    """It is run again, once it has read something and sent nothing."""
    network, read = quiet(), list[bytes]()

    async def note(connection: PooledConnection) -> None:
        read.append(await connection.receive())
        if len(read) < 3:
            network.peers[0].push(b"more")

    async with ConnectionPool(network, on_unread=note) as pool:
        await fill(pool, 1)
        network.peers[0].push(b"one")
        await anyio.sleep(6)
        assert read == [b"one", b"more", b"more"]
        assert pool.statistics().idle == 1


@pytest.mark.parametrize("one_way", [False, True])
async def test_what_arrives_behind_its_answer_is_no_reply_in_a_pool_without_replies(
    one_way: bool,
) -> None:
    """There it is run again, as often as it takes; elsewhere, the connection is closed."""
    network, read = quiet(), list[bytes]()

    async def answer(connection: PooledConnection) -> None:
        read.append(await connection.receive())
        await connection.send(b"PONG\n")
        if len(read) < 3:
            network.peers[0].push(b"PING\n")

    async with ConnectionPool(network, on_unread=answer, one_way=one_way) as pool:
        await fill(pool, 1)
        network.peers[0].push(b"PING\n")
        await anyio.sleep(6)
        assert len(read) == (3 if one_way else 1)
        assert pool.statistics().closed == ({} if one_way else {"unread_data": 1})
        await check_books(pool, network)


async def read_nothing(connection: PooledConnection) -> None:
    """Leave all that has arrived."""


async def leave_its_own_reply(connection: PooledConnection) -> None:
    await connection.receive()
    await connection.send(b"question")


async def leave_half_in_buffer(connection: PooledConnection) -> None:
    await connection.receive_exactly(2)


@pytest.mark.parametrize(
    "spoil",
    [
        *(hook for hook in SPOILERS if hook is not meet_the_end),
        await_cancelled,
        read_nothing,
        leave_its_own_reply,
        leave_half_in_buffer,
    ],
)
async def test_one_that_fails_is_closed(spoil: Hook) -> None:
    """By an error, by taking longer than ``check_timeout``, or by being left with something."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_unread=spoil, check_timeout=2) as pool:
        await fill(pool, 1)
        if spoil is leave_reply_unread:
            network.peers[0].push(b"one of six bytes")
        network.peers[0].push(b"more")
        await anyio.sleep(6.9)
        assert pool.statistics().closed == ({} if spoil is hang else {"unread_data": 1})
        await anyio.sleep(0.2)
        await settle()
        assert pool.statistics().closed == {"unread_data": 1}
        assert network.forced == 1
        await check_books(pool, network)


async def test_without_it_the_connection_is_closed() -> None:
    """As ever."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        await fill(pool, 1)
        network.peers[0].push(b"PING\n")
        await anyio.sleep(6)
        assert pool.statistics().closed == {"unread_data": 1}


async def test_a_greeting_is_for_the_first_borrower_as_ever() -> None:
    """It has not been asked for either, but it belongs to somebody."""
    network = quiet()
    async with ConnectionPool(network, on_unread=answer_ping, min_idle=1) as pool:
        await pool.wait_ready()
        network.peers[0].push(b"hello\n")
        await anyio.sleep(6)
        async with pool.acquire() as connection:
            assert await connection.receive_line() == b"hello"


async def test_what_a_login_has_left_for_the_first_borrower_is_not_read() -> None:
    """The hook would find it in front of what has arrived."""
    network = MemoryNetwork(answer=lambda data: data + b"welcome\n")

    async def log_in(connection: PooledConnection) -> None:
        await connection.send_receive_line(b"user")

    called = list[PooledConnection]()

    async def note(connection: PooledConnection) -> None:
        called.append(connection)

    async with ConnectionPool(network, on_unread=note, on_connect=log_in, min_idle=1) as pool:
        await pool.wait_ready()
        network.peers[0].push(b"PING\n")
        await anyio.sleep(5.5)
        assert pool.statistics().closed == {"unread_data": 1}
        assert not called


async def test_what_comes_after_the_answer_to_a_hook_is_not_read_by_this_one() -> None:
    """It may belong to that answer: the connection is closed."""
    called = list[PooledConnection]()

    async def note(connection: PooledConnection) -> None:
        called.append(connection)
        await connection.receive()

    async def spoil(connection: PooledConnection) -> None:
        await reset(connection)
        peer_of(connection).push(b"more")

    hooks: dict[str, dict[str, Any]] = {
        "unread_data": {"check": spoil, "check_every": 5},
        "release_failed": {"on_release": spoil},
    }
    for reason, settings in hooks.items():
        async with ConnectionPool(MemoryNetwork(), on_unread=note, **settings) as pool:
            await fill(pool, 1)
            await anyio.sleep(5.5)
            assert pool.statistics().closed == {reason: 1}
            assert not called


async def test_what_comes_while_a_hook_says_nothing_is_answered() -> None:
    """A reset that had nothing to reset has asked nothing."""
    network = quiet()

    async def see_a_push(connection: PooledConnection) -> None:
        peer_of(connection).push(b"PING\n")

    async with ConnectionPool(network, on_unread=answer_ping, on_release=see_a_push) as pool:
        await fill(pool, 1)
        await settle()
        assert count(network, b"PONG") == 1
        assert pool.statistics().idle == 1


async def test_a_hang_up_is_not_answered() -> None:
    """Nor is what is too old: it is closed for that."""
    network = quiet()
    async with ConnectionPool(network, on_unread=answer_ping, max_lifetime=30) as pool:
        await fill(pool, 2)
        network.peers[0].push(b"PING\n")
        network.peers[0].hang_up()
        await anyio.sleep(6)
        assert pool.statistics().closed == {"peer_closed": 1}
        await anyio.sleep(23)
        network.peers[1].push(b"PING\n")
        await anyio.sleep(2)
        assert count(network, b"PONG") == 0
        assert pool.statistics().closed == {"peer_closed": 1, "max_lifetime": 1}


async def test_leaving_the_block_interrupts_it() -> None:
    """Nothing waits for it, and its connection is closed."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_unread=hang) as pool:
        await fill(pool, 1)
        network.peers[0].push(b"PING\n")
        await anyio.sleep(5.5)
        assert pool.statistics().connecting == 1
    assert anyio.current_time() == 5.5
    assert network.open_now == 0
    assert pool.statistics().closed == {"pool_closed": 1}
