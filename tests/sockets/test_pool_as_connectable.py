"""The pool as AnyIO's connectable: who connects by it hangs up whenever it likes."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
from anyio import create_task_group, move_on_after
from anyio.abc import ByteStream, ByteStreamConnectable
from anyio.streams.buffered import BufferedConnectable
from anyio.streams.tls import TLSConnectable

from anyconnpool import ConnectionPool, FramedStream
from tests.certificates import client_context

from .checks import ask, client_sockets, eventually
from .conftest import Serve
from .servers import Peer

pytestmark = pytest.mark.usefixtures("no_socket_left")


def two_parts(peer: Peer) -> None:
    """Answer each line in two parts, the second one at once."""
    while True:
        line = peer.receive_line()
        peer.send(b"> " + line + b"\n")
        peer.send(b"rest of " + line + b"\n")


async def hang_up(stream: ByteStream, how: str) -> None:
    if how == "block":
        async with stream:
            pass
    elif how == "cancelled":
        with move_on_after(0):
            await stream.aclose()
    else:
        await stream.aclose()


async def test_who_hangs_up_in_the_middle_of_a_reply_leaves_it_to_nobody(serve: Serve) -> None:
    """What was connected by the pool is closed for good, however that is done."""
    server = serve(two_parts)
    async with server.pool(max_size=1) as pool:
        for how in ("aclose", "block", "cancelled"):
            for number in range(3):
                stream = await pool.connect()
                await stream.send(b"%d\n" % number)
                assert await stream.receive(4) == b"> %d\n" % number
                await hang_up(stream, how)
                await eventually(lambda: not pool.statistics().size)
        assert pool.statistics().reused == 0
        assert client_sockets(server) == 0


@pytest.mark.parametrize("kind", ["tls12", "tls13"])
async def test_tls_over_a_pool_begins_anew_each_time(serve: Serve) -> None:
    """Neither the rest of a reply nor the closing handshake is the next one's to read."""
    server = serve(two_parts)
    async with ConnectionPool(server.remote, max_size=1) as pool:
        secured = TLSConnectable(pool, hostname="127.0.0.1", ssl_context=client_context())
        for number in range(6):
            # AnyIO's TLS complains of the rest of the reply.
            with suppress(ssl.SSLError):
                async with await secured.connect() as stream:
                    await stream.send(b"%d\n" % number)
                    assert await stream.receive(2) == b"> "
            assert pool.statistics().acquired == number + 1
        await eventually(lambda: not pool.statistics().size)
        assert pool.statistics().reused == 0


class Framed(ByteStreamConnectable):
    """A connectable of the user's over a pool of ours."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def connect(self) -> ByteStream:
        return FramedStream(await self._pool.connect())


def over(inner: ConnectionPool, tls: bool) -> list[ByteStreamConnectable]:
    """Return ways in which a pool can stand below another one."""
    if tls:
        return [TLSConnectable(inner, hostname="127.0.0.1", ssl_context=client_context())]
    return [BufferedConnectable(inner), Framed(inner)]


async def test_a_pool_over_a_pool_lends_nothing_twice(serve: Serve) -> None:
    """What the outer one closes the inner one doesn't lend, and the outer one sees a notice."""
    server = serve(None)
    async with ConnectionPool(server.remote, max_size=1) as inner:
        for remote in over(inner, server.tls):
            begin = len(server.peers)
            async with ConnectionPool(remote, max_size=1, close_timeout=0.05) as outer:

                async def answer(number: int) -> None:
                    peer = await server.peer(number)
                    line = await peer.next_line()
                    peer.send(b"> " + line + b"\n")

                async def ask_here(number: int) -> bool:
                    async with create_task_group() as group, outer.acquire() as connection:
                        group.start_soon(answer, number)
                        await ask(connection)
                    return connection.reused

                assert not await ask_here(begin)
                assert await ask_here(begin)
                # A notice while it is idle, which only the outer pool can find.
                server.peers[begin].send(b"notice\n")
                assert not await ask_here(begin + 1)
                async with outer.acquire() as connection:
                    connection.discard()
                assert not await ask_here(begin + 2)
                # A borrow that leaves something behind.
                async with outer.acquire() as connection:
                    server.peers[begin + 2].send(b"left\nbehind\n")
                    assert await connection.receive_line() == b"left"
                assert not await ask_here(begin + 3)
            await eventually(lambda: not inner.statistics().size)
        assert inner.statistics().reused == 0
