"""The hook ``on_close``: a farewell on a good connection, before it is closed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from anyconnpool import ConnectionPool, PooledConnection, PoolManager
from tests.cases import in_case

from .hooks import SPOILERS, Hook, await_cancelled, count, hang, reset, say_bye, slow
from .network import MemoryNetwork, delayed, fill, number_of, settle

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

Story = Callable[[ConnectionPool, MemoryNetwork], Awaitable[object]]


async def idle_for_long(pool: ConnectionPool, network: MemoryNetwork) -> None:
    await fill(pool, 1)
    await anyio.sleep(61)


async def too_old(pool: ConnectionPool, network: MemoryNetwork) -> None:
    async with pool.acquire():
        await anyio.sleep(101)


async def used_up(pool: ConnectionPool, network: MemoryNetwork) -> None:
    for _ in range(3):
        await fill(pool, 1)


async def retired(pool: ConnectionPool, network: MemoryNetwork) -> None:
    await fill(pool, 1)
    pool.retire()


async def retired_in_use(pool: ConnectionPool, network: MemoryNetwork) -> None:
    async with pool.acquire():
        pool.retire()


async def surplus(pool: ConnectionPool, network: MemoryNetwork) -> None:
    await fill(pool, 3)
    pool.max_size = 2


STORIES: dict[str, Story] = {
    "max_idle_time": idle_for_long,
    "max_lifetime": too_old,
    "max_uses": used_up,
    "retired": retired,
    "retired, in use": retired_in_use,
    "surplus": surplus,
}


@pytest.mark.parametrize("name", STORIES)
async def test_it_runs_before_an_orderly_close(name: str) -> None:
    """On the connection that is closed, once, and only on that."""
    network = MemoryNetwork()
    async with ConnectionPool(
        network, on_close=say_bye, max_idle_time=60, max_lifetime=100, max_uses=3, max_size=3
    ) as pool:
        await STORIES[name](pool, network)
        await settle()
        assert pool.statistics().closed == {name.partition(",")[0]: 1}
        assert count(network, b"QUIT") == 1
        assert network.forced == 0


async def test_it_runs_when_the_block_ends() -> None:
    """All farewells side by side."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_close=slow(say_bye, 2), max_size=4) as pool:
        await fill(pool, 4)
    assert count(network, b"QUIT") == 4
    assert anyio.current_time() == pytest.approx(2)
    assert pool.statistics().closed == {"pool_closed": 4}


async def test_it_runs_where_a_connection_gives_way_if_nobody_waits_for_its_slot() -> None:
    """In a manager that is never the case: somebody needs the room."""
    one, other = MemoryNetwork(), MemoryNetwork()
    async with PoolManager(max_total=1, on_close=say_bye) as manager:
        await manager.send_receive_line(one, b"a")
        await manager.send_receive_line(other, b"a")
        assert (count(one, b"QUIT"), one.forced) == (0, 1)
    assert count(other, b"QUIT") == 1


async def test_there_is_none_on_what_is_closed_for_a_fault() -> None:
    """Discarded, unclean, seized, dead, with unread bytes, or refused by a check."""
    network = MemoryNetwork()

    async def fail(connection: PooledConnection) -> None:
        raise RuntimeError

    async with ConnectionPool(network, on_close=say_bye, check=fail, close_timeout=1) as pool:
        (await pool.acquire()).discard()
        connection = await pool.acquire()
        await connection.send(b"a")
        await connection.aclose()
        await fill(pool, 3)
        network.peers[2].hang_up()
        network.peers[3].push(b"notice")
        await anyio.sleep(40)
        await pool.acquire()
        await settle()
        assert pool.statistics().closed == {
            "discarded": 1,
            "unclean": 1,
            "peer_closed": 1,
            "unread_data": 1,
            "check_failed": 1,
        }
    assert pool.statistics().closed["seized"] == 1
    assert count(network, b"QUIT") == 0


@pytest.mark.parametrize("what", ["dead", "dirty"])
async def test_one_that_is_dead_or_dirty_gets_none_and_its_reason_stays(what: str) -> None:
    """It is looked at first."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_close=say_bye) as pool:
        await fill(pool, 1)
        if what == "dead":
            network.peers[0].hang_up()
        else:
            network.peers[0].push(b"x")
        pool.retire()
        await settle()
        assert pool.statistics().closed == {"retired": 1}
        assert count(network, b"QUIT") == 0


async def test_one_that_was_never_used_gets_one_too_unless_something_waits_on_it() -> None:
    """A greeting that nobody has read would be taken for the reply."""
    for greeting, expected in ((b"", 1), (b"hello\n", 0)):
        network = MemoryNetwork()
        async with ConnectionPool(network, on_close=say_bye, min_idle=1) as pool:
            await pool.wait_ready()
            network.peers[0].push(greeting)
        assert count(network, b"QUIT") == expected


async def test_one_with_something_left_for_its_first_borrower_gets_none() -> None:
    """What its login has received, and left."""
    network = MemoryNetwork(answer=lambda data: data + b"welcome\n")

    async def log_in(connection: PooledConnection) -> None:
        await connection.send_receive_line(b"user")

    async with ConnectionPool(network, on_connect=log_in, on_close=say_bye, min_idle=1) as pool:
        await pool.wait_ready()
    assert count(network, b"QUIT") == 0


@pytest.mark.parametrize("passes", [False, True])
async def test_one_that_is_being_checked_gets_none(passes: bool) -> None:
    """Whether it is interrupted or retired meanwhile."""
    network = MemoryNetwork()

    async def check(connection: PooledConnection) -> None:
        await anyio.sleep(1)

    async with ConnectionPool(network, check=check, check_after=0, on_close=say_bye) as pool:
        await fill(pool, 1)
        with anyio.move_on_after(0.05):
            await pool.acquire()
        pool.retire()
        if passes:
            await anyio.sleep(1)
    assert count(network, b"QUIT") == 0


async def test_one_that_was_reset_gets_one() -> None:
    """Retired in its hook, it is closed as a good one; so is one whose hook had not begun."""
    for seconds in (1, 0):
        network = MemoryNetwork()
        async with ConnectionPool(
            network, on_release=slow(reset, seconds), on_close=say_bye
        ) as pool:
            await fill(pool, 1)
            if seconds:
                pool.retire()
                await anyio.sleep(1.1)
        assert count(network, b"QUIT") == 1


async def leave_without_a_reply(connection: PooledConnection) -> None:
    """Say goodbye without waiting for an answer."""
    await connection.send_line(b"QUIT")


@pytest.mark.parametrize("spoil", [*SPOILERS, await_cancelled, leave_without_a_reply])
async def test_whatever_goes_wrong_in_it_changes_nothing(
    spoil: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is closed all the same, for the same reason, and the pool goes on."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_close=spoil, close_timeout=3, name="mem") as pool:
        await fill(pool, 1)
        pool.retire()
        await anyio.sleep(3.1)
        assert pool.statistics().closed == {"retired": 1}
        assert network.open_now == 0
        assert await pool.send_receive_line(b"a") == b"a"
    assert not caplog.records, "nothing above DEBUG"


async def test_an_error_of_its_is_logged_at_debug(
    caplog: pytest.LogCaptureFixture, anyio_backend_name: str
) -> None:
    """By its type only: the text may quote what was received."""
    caplog.set_level(logging.DEBUG, "anyconnpool.pool")

    async def fail(connection: PooledConnection) -> None:
        raise ValueError("secret")

    hooks = {"ValueError": fail, "TimeoutError": hang, "PoolError": await_cancelled}
    if anyio_backend_name == "trio":
        # It knows no such cancellation.
        del hooks["PoolError"]
    for said, hook in hooks.items():
        caplog.clear()
        async with ConnectionPool(
            MemoryNetwork(), on_close=hook, close_timeout=1, name="mem"
        ) as pool:
            await fill(pool, 1)
        lines = [record for record in caplog.records if "on_close" in record.getMessage()]
        assert [line.getMessage() for line in lines] == [
            f"pool mem: the on_close hook failed: {said}"
        ]
        assert lines[0].levelno == logging.DEBUG


async def test_a_farewell_needs_no_reply(caplog: pytest.LogCaptureFixture) -> None:
    """To read none is nothing that has gone wrong."""
    caplog.set_level(logging.DEBUG, "anyconnpool.pool")
    async with ConnectionPool(MemoryNetwork(), on_close=leave_without_a_reply) as pool:
        await fill(pool, 1)
    assert not [record for record in caplog.records if "on_close" in record.getMessage()]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_what_ends_the_program_ends_the_block(kind: type[BaseException]) -> None:
    """And the socket is closed all the same."""
    network = MemoryNetwork()

    async def leave(connection: PooledConnection) -> None:
        # asyncio takes one that stands alone out of the loop at once.
        raise BaseExceptionGroup("stop", [kind()])

    with pytest.raises(BaseExceptionGroup) as caught:
        async with ConnectionPool(network, on_close=leave) as pool:
            await fill(pool, 2)
            pool.retire()
            await anyio.sleep(60)
    assert anyio.current_time() < 1
    assert caught.group_contains(kind)
    assert network.open_now == 0


async def test_farewell_and_closing_handshake_share_one_time() -> None:
    """``close_timeout`` for both together; then it is closed by force."""
    for farewell, handshake, forced, at in ((2, 2, 0, 4), (3, 3, 1, 5), (9, 0, 1, 5)):
        with in_case((farewell, handshake)):
            network = MemoryNetwork(on_close=delayed(handshake))
            began = anyio.current_time()
            async with ConnectionPool(network, on_close=slow(say_bye, farewell)) as pool:
                await fill(pool, 1)
            assert network.forced == forced
            assert anyio.current_time() - began == pytest.approx(at)


@pytest.mark.parametrize("settings", [{"close_timeout": 0}])
async def test_without_any_time_for_it_there_is_none(settings: dict[str, Any]) -> None:
    """The connection is closed at once."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_close=say_bye, **settings) as pool:
        await fill(pool, 1)
    assert count(network, b"QUIT") == 0
    assert network.forced == 1


async def test_leaving_is_bounded() -> None:
    """By one ``close_timeout``, and another one for a borrower who comes back at the end of it."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_close=hang, close_timeout=5) as pool:
        await fill(pool, 3)
    assert anyio.current_time() == pytest.approx(5)
    async with anyio.create_task_group() as tasks:

        async def come_late() -> None:
            async with pool.acquire():
                await anyio.sleep(4.9)

        async with pool:
            tasks.start_soon(come_late)
            await settle()
        assert anyio.current_time() == pytest.approx(5 + 9.9)
    assert network.open_now == 0


async def test_a_block_that_is_cancelled_says_no_goodbye() -> None:
    """It hurries."""
    network = MemoryNetwork()
    with anyio.move_on_after(1):
        async with ConnectionPool(network, on_close=hang) as pool:
            await fill(pool, 2)
            await anyio.sleep(60)
    assert anyio.current_time() == pytest.approx(1)
    assert network.open_now == 0


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_there_is_none_while_somebody_waits_for_the_slot(when: str) -> None:
    """Neither a farewell nor a closing handshake; one under way is cut short."""
    network, begun = MemoryNetwork(on_close=delayed(4)), list[int]()

    async def hook(connection: PooledConnection) -> None:
        begun.append(number_of(connection))
        await anyio.sleep(4)

    async with ConnectionPool(network, on_close=hook, max_size=1) as pool:
        if when == "meanwhile":
            await fill(pool, 1)
            pool.retire()
            await anyio.sleep(1)
            async with pool.acquire() as connection:
                assert number_of(connection) == 2
                assert anyio.current_time() == pytest.approx(1)
        else:
            async with pool.acquire() as connection, anyio.create_task_group() as tasks:
                tasks.start_soon(pool.send_receive_line, b"a")
                await settle()
                pool.retire()
                await connection.aclose()
            assert anyio.current_time() == 0
        assert begun == ([1] if when == "meanwhile" else [])
        assert network.forced == 1


async def test_one_is_enough_where_one_waits() -> None:
    """The others take their time."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_close=slow(say_bye, 2), max_size=2) as pool:
        await fill(pool, 2)
        pool.retire()
        await anyio.sleep(1)
        async with pool.acquire():
            assert anyio.current_time() == pytest.approx(1)
        await anyio.sleep(2)
        assert count(network, b"QUIT") == 1
