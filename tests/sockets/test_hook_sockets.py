"""The hooks for open connections, on real sockets: where kinds of streams and loops differ."""

from __future__ import annotations

from functools import partial

import pytest
from anyio import connect_tcp, fail_after
from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool import ConnectionPool, PooledConnection

from .checks import LIMIT, ask, eventually, expect_closed
from .conftest import Serve
from .servers import Server, every_kind
from .test_unasked_bytes import TURNS, Talker, turns

pytestmark = pytest.mark.usefixtures("no_socket_left")


class Foreign(ByteStreamConnectable):
    """A connectable of somebody's own, of whose streams less is known."""

    def __init__(self, server: Server) -> None:
        self._remote = server.remote

    async def connect(self) -> ByteStream:
        return await connect_tcp(*self._remote)


async def answer(heard: list[bytes], connection: PooledConnection) -> None:
    """Answer the server's question, and take it down."""
    heard.append(await connection.receive_line())
    await ask(connection, b"answer")


@every_kind
async def test_what_arrives_on_an_idle_connection_is_answered(serve: Serve) -> None:
    """However many turns before the next borrow; the connection goes on."""
    talker, heard = Talker(), list[bytes]()
    server = serve(talker)
    with fail_after(LIMIT):
        async with server.pool(max_size=1, on_unread=partial(answer, heard)) as pool:
            assert await pool.send_receive_line(b"first") == b"> first"
            for count in TURNS:
                await talker.push(server, b"question\n")
                await turns(count)
                assert await pool.send_receive_line(b"next") == b"> next"
            assert heard == [b"question"] * len(TURNS)
            assert pool.statistics().opened == 1
            assert pool.statistics().closed == {}


async def test_a_stream_of_somebody_elses_is_answered_too(serve: Serve) -> None:
    """When it is wanted."""
    talker, heard = Talker(), list[bytes]()
    server = serve(talker)
    with fail_after(LIMIT):
        async with ConnectionPool(
            Foreign(server), max_size=1, on_unread=partial(answer, heard)
        ) as pool:
            assert await pool.send_receive_line(b"first") == b"> first"
            await talker.push(server, b"question\n")
            await turns(3)
            assert await pool.send_receive_line(b"next") == b"> next"
            assert (heard, pool.statistics().closed) == ([b"question"], {})


async def test_nobody_has_to_ask_for_it(serve: Serve) -> None:
    """An event of the stream tells the pool, or its sweep finds it."""
    talker, heard = Talker(), list[bytes]()
    server = serve(talker)
    with fail_after(LIMIT):
        # The sweep comes four times in that time.
        async with server.pool(on_unread=partial(answer, heard), max_lifetime=8) as pool:
            assert await pool.send_receive_line(b"first") == b"> first"
            await talker.push(server, b"question\n")
            await eventually(lambda: heard)
            await eventually(lambda: pool.statistics().idle)
            assert pool.statistics().acquired == 1


@every_kind
async def test_a_connection_is_reset_and_parted_from(serve: Serve) -> None:
    """Each kind of stream can be read and written by hooks, and closes in order after them."""
    said = list[bytes]()

    async def hook(line: bytes, connection: PooledConnection) -> None:
        await ask(connection, line)
        said.append(line)

    server = serve()
    async with server.pool(
        max_size=1, on_release=partial(hook, b"reset"), on_close=partial(hook, b"quit")
    ) as pool:
        for line in (b"one", b"two"):
            assert await pool.send_receive_line(line) == b"> " + line
        await eventually(lambda: pool.statistics().idle)
        pool.retire()
        await eventually(lambda: pool.statistics().closed)
        await expect_closed(pool, retired=1)
    assert said == [b"reset", b"reset", b"quit"]


async def test_hooks_meet_a_server_that_hangs_up(serve: Serve) -> None:
    """In the reset, or in the farewell, which changes nothing."""

    async def hook(connection: PooledConnection) -> None:
        await connection.send_line(b"bye")
        server.peers[-1].hang_up()
        await connection.receive_line()

    server = serve()
    async with server.pool(on_release=hook) as pool:
        assert await pool.send_receive_line(b"a") == b"> a"
        await eventually(lambda: pool.statistics().closed)
        await expect_closed(pool, release_failed=1)
    async with server.pool(on_close=hook) as pool:
        assert await pool.send_receive_line(b"a") == b"> a"
        pool.retire()
        await expect_closed(pool, retired=1)
