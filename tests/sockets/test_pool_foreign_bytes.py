"""The ways in which other pools hand one borrower's bytes to the next, none of which works here.

Six were seen with gtcp: a timeout and another use, or a good send; a send and no receive; a part of
a reply, or one segment of two; a second close.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest
from anyio import create_task_group, fail_after, move_on_after, wait_all_tasks_blocked

from anyconnpool import PooledConnection
from tests.cases import table

from .checks import ask, ask_next, eventually, expect_closed
from .conftest import Serve
from .servers import Peer, Server, echo_when_told, every_kind

pytestmark = pytest.mark.usefixtures("no_socket_left")

_SHORT = 0.02


async def test_a_request_that_timed_out_outside_leaves_its_reply_to_nobody(serve: Serve) -> None:
    """A timeout around the whole borrow closes the connection: its late reply reaches no one."""
    gate = threading.Event()
    async with serve(echo_when_told(gate)).pool() as pool:
        with pytest.raises(TimeoutError), fail_after(None) as scope:
            async with pool.acquire() as connection:
                await connection.send_line(b"slow")
                scope.deadline = anyio.current_time() + _SHORT
                await connection.receive_line()
        gate.set()
        assert not await ask_next(pool)
        await expect_closed(pool, unclean=1)


@every_kind
@table("caught_by", ["move_on_after", "fail_after"])
async def test_a_timeout_caught_inside_the_body_closes_the_connection(
    serve: Serve, caught_by: str
) -> None:
    """The body ends well, but the pool knows that a read on the connection did not."""
    gate = threading.Event()
    async with serve(echo_when_told(gate)).pool() as pool:
        async with pool.acquire() as connection:
            await connection.send_line(b"slow")
            if caught_by == "move_on_after":
                with move_on_after(_SHORT) as scope:
                    await connection.receive_line()
                assert scope.cancelled_caught
            else:
                with suppress(TimeoutError), fail_after(_SHORT):
                    await connection.receive_line()
            gate.set()
        assert not await ask_next(pool)
        await expect_closed(pool, unclean=1)


async def send_another(connection: PooledConnection) -> None:
    await connection.send_line(b"another")


async def ask_another(connection: PooledConnection) -> None:
    await connection.send_line(b"another")
    assert await connection.receive_line() == b"> slow"


@table("go_on", [send_another, ask_another])
async def test_a_timeout_and_then_a_success_closes_the_connection(
    serve: Serve, go_on: Callable[[PooledConnection], Awaitable[None]]
) -> None:
    """What succeeds after a timeout doesn't make up for it, not even if it read the late reply."""
    gate = threading.Event()
    async with serve(echo_when_told(gate)).pool() as pool:
        async with pool.acquire() as connection:
            await connection.send_line(b"slow")
            with move_on_after(_SHORT):
                await connection.receive_line()
            gate.set()
            await go_on(connection)
        assert not await ask_next(pool)
        await expect_closed(pool, unclean=1)


@every_kind
async def test_a_read_under_way_in_another_task_closes_the_connection(serve: Serve) -> None:
    """Given back while a read waits on it, a connection is closed, and the read ends."""
    async with serve().pool() as pool, create_task_group() as task_group:

        async def read() -> None:
            with pytest.raises((anyio.ClosedResourceError, anyio.BrokenResourceError)):
                await connection.receive_line()

        connection = await pool.acquire()
        task_group.start_soon(read)
        await wait_all_tasks_blocked()
        await connection.aclose()
        assert not await ask_next(pool)
        await expect_closed(pool, unclean=1)


@table("before", [False, True])
async def test_a_send_without_a_receive_closes_the_connection(serve: Serve, before: bool) -> None:
    """A reply that is owed is not left to the next borrower, whatever was read before."""
    async with serve().pool() as pool:
        async with pool.acquire() as connection:
            if before:
                await ask(connection)
            await connection.send_line(b"never mind the answer")
        assert not await ask_next(pool)
        await expect_closed(pool, unclean=1)


@every_kind
async def test_the_rest_of_a_reply_that_is_buffered_closes_the_connection(serve: Serve) -> None:
    """A part of the reply was read, the rest had arrived with it."""
    async with serve().pool() as pool:
        async with pool.acquire() as connection:
            await connection.send_line(b"a long reply")
            assert await connection.receive_exactly(4) == b"> a "
        assert not await ask_next(pool)
        await expect_closed(pool, unread_data=1)


@every_kind
async def test_the_rest_of_a_raw_receive_closes_the_connection(serve: Serve) -> None:
    """A receive that took less than there was leaves the rest where the pool sees it."""
    async with serve().pool() as pool:
        async with pool.acquire() as connection:
            await connection.send_line(b"a long reply")
            assert len(await connection.receive(4)) <= 4
        assert not await ask_next(pool)
        await expect_closed(pool, unread_data=1)


@every_kind
async def test_the_second_segment_of_a_reply_is_dropped_with_its_connection(serve: Serve) -> None:
    """It comes when the connection is idle: the next checkout sees it and takes a new one."""
    server = serve(None)
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            await connection.send_line(b"request")
            peer = await server.peer(0)
            assert await peer.next_line() == b"request"
            peer.send(b"first ")
            assert await connection.receive() == b"first "
        peer.send(b"and second\n")
        async with pool.acquire() as connection:
            assert not connection.reused
            (await server.peer(1)).send(b"reply\n")
            assert await connection.receive_line() == b"reply"
        await expect_closed(pool, unread_data=1)


@every_kind
async def test_a_line_of_which_a_segment_came_closes_the_connection(serve: Serve) -> None:
    """A frame that was waited for and never got whole leaves the connection unfit."""
    server = serve(None)
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            (await server.peer(0)).send(b"first ")
            with move_on_after(_SHORT):
                await connection.receive_line()
        async with pool.acquire() as connection:
            assert not connection.reused
            assert connection.buffer == b""
        await expect_closed(pool, unclean=1)


async def test_a_second_close_does_not_touch_the_next_borrower(serve: Serve) -> None:
    """The old reference is dead: neither its close nor its reads reach the connection."""
    async with serve().pool(max_size=1) as pool:
        first = await pool.acquire()
        await ask(first)
        await first.aclose()
        second = await pool.acquire()
        assert second.reused
        await second.send_line(b"mine")
        await first.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await first.receive_line()
        with pytest.raises(anyio.ClosedResourceError):
            await first.send(b"spoilt\n")
        assert await second.receive_line() == b"> mine"
        assert pool.statistics().in_use == 1
        await second.aclose()
        assert pool.statistics().idle == 1


async def answer(server: Server, index: int, connection: PooledConnection) -> Peer:
    """Make one exchange with a server that has no script, and return its end."""
    await connection.send_line(b"request")
    peer = await server.peer(index)
    assert await peer.next_line() == b"request"
    peer.send(b"reply\n")
    assert await connection.receive_line() == b"reply"
    return peer


@every_kind
async def test_unread_bytes_on_an_idle_connection_are_dropped(serve: Serve) -> None:
    """What a server sends to nobody is seen at the next checkout."""
    server = serve(None)
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            peer = await answer(server, 0, connection)
        peer.send(b"by the way\n")
        async with pool.acquire() as connection:
            assert not connection.reused
            await answer(server, 1, connection)
        await expect_closed(pool, unread_data=1)


@every_kind
async def test_a_waiter_is_not_handed_a_connection_with_unread_bytes(serve: Serve) -> None:
    """The direct way from one borrower to a waiting one is watched as well."""
    server = serve(None)
    async with server.pool(max_size=1) as pool, create_task_group() as task_group:

        async def wait() -> None:
            async with pool.acquire() as connection:
                assert not connection.reused
                await answer(server, 1, connection)

        async with pool.acquire() as connection:
            peer = await answer(server, 0, connection)
            task_group.start_soon(wait)
            await eventually(lambda: pool.statistics().tasks_waiting == 1)
            peer.send(b"by the way\n")


@every_kind
async def test_a_half_closed_connection_is_not_reused(serve: Serve) -> None:
    """After ``send_eof`` nothing can be sent any more."""
    async with serve().pool() as pool:
        async with pool.acquire() as connection:
            await ask(connection)
            with suppress(NotImplementedError):  # TLS has no half-close
                await connection.send_eof()
        assert not await ask_next(pool)
        await expect_closed(pool, unclean=1)


@every_kind
async def test_a_greeting_reaches_the_first_borrower(serve: Serve) -> None:
    """What a server says before it is asked belongs to who borrows first, also from the reserve."""
    server = serve(None)
    async with server.pool(min_idle=1, max_size=1) as pool:
        peer = await server.peer(0)
        await pool.wait_ready()
        peer.send(b"welcome\n")
        async with pool.acquire() as connection:
            assert not connection.reused
            assert await connection.receive_line() == b"welcome"
        async with pool.acquire() as connection:
            assert connection.reused
            assert connection.buffer == b""
        assert pool.statistics().opened == 1
