"""Borrowers that outlive the pool's block and its grace: whatever they do, it is PoolClosed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from anyio import Event, connect_tcp, connect_unix, create_task_group, fail_after
from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool import ConnectionPool, LineFormat, PoolClosed, PooledConnection
from tests.cases import in_case
from tests.certificates import client_context

from .checks import LIMIT, eventually
from .conftest import Serve
from .servers import Peer, Server

pytestmark = pytest.mark.usefixtures("no_socket_left")


every_stream = pytest.mark.parametrize(
    ("kind", "foreign"),
    [
        *[(kind, False) for kind in ("tcp", "tls12", "tls13", "unix")],
        *[(kind, True) for kind in ("tcp", "tls13", "unix")],
    ],
)


def answer(peer: Peer) -> None:
    """Answer some lines in some ways, and others not at all."""
    while True:
        line = peer.receive_line()
        if line == b"two":
            peer.send(b"one\ntwo\n")
        elif line == b"part":
            peer.send(b"par")
        elif line == b"one":
            peer.send(b"one\n")
        elif line == b"jam":
            peer.receive_line()


class Foreign(ByteStreamConnectable):
    """A connectable of the user's, whose streams are AnyIO's."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def connect(self) -> ByteStream:
        if self._server.kind == "unix":
            return await connect_unix(self._server.remote)
        if self._server.tls:
            return await connect_tcp(*self._server.remote, ssl_context=client_context())
        return await connect_tcp(*self._server.remote)


async def receive_part(connection: PooledConnection) -> object:
    await connection.send_line(b"part")
    return await connection.receive_line()


async def receive_much(connection: PooledConnection) -> object:
    await connection.send_line(b"part")
    return await connection.receive_exactly(1000)


async def send_much(connection: PooledConnection) -> None:
    await connection.send_line(b"jam")
    await connection.send(bytes(32_000_000))


UNDER_WAY: list[Callable[[PooledConnection], Awaitable[object]]] = [
    lambda connection: connection.receive(),
    lambda connection: connection.receive_package(),
    lambda connection: connection.drain(quiet=100),
    lambda connection: connection.send_receive_line(b"silence", timeout=100),
    receive_part,
    receive_much,
    send_much,
]

AFTERWARDS: list[Callable[[PooledConnection], Any]] = [
    lambda connection: connection.send(b"x"),
    lambda connection: connection.send_eof(),
    lambda connection: connection.send_line(b"x"),
    lambda connection: connection.send_package(b"x"),
    lambda connection: connection.send_frame(b"x", LineFormat()),
    lambda connection: connection.receive(),
    lambda connection: connection.receive_exactly(1),
    lambda connection: connection.receive_exactly(0),
    lambda connection: connection.receive_until(b"\n", 9),
    lambda connection: connection.receive_line(),
    lambda connection: connection.receive_package(),
    lambda connection: connection.receive_frame(LineFormat()),
    lambda connection: connection.receive_available(),
    lambda connection: connection.drain(),
    lambda connection: connection.send_receive(b"x"),
    lambda connection: connection.send_receive_line(b"x"),
    lambda connection: connection.send_receive_package(b"x"),
    lambda connection: connection.send_receive_frame(b"x", LineFormat()),
    lambda connection: connection.feed_data(b"x"),
    lambda connection: connection.extra_attributes,
    lambda connection: connection.discard(),
    lambda connection: connection.detach(),
]


async def expect_closed(call: Callable[[], Any]) -> None:
    with pytest.raises(PoolClosed, match=r"has been left.*this connection was closed") as caught:
        found = call()
        if isinstance(found, Awaitable):
            await found
    assert caught.type is PoolClosed


@every_stream
@pytest.mark.usefixtures("no_unix_noise")
async def test_what_a_borrower_does_after_the_grace_raises_pool_closed(
    serve: Serve, foreign: bool
) -> None:
    """What is under way, what follows, whatever is buffered; to close it does no harm."""
    server = serve(answer)
    pool = server.pool(close_timeout=0.1)
    if foreign:
        pool = ConnectionPool(Foreign(server), close_timeout=0.1)
    ended: list[int] = []
    answered = Event()

    async def exchange(pool: ConnectionPool) -> None:
        # Of an idle connection it has no object that stands for the borrow.
        assert await pool.send_receive_line(b"one") == b"one"
        answered.set()
        await expect_closed(lambda: pool.send_receive_line(b"silence"))
        ended.append(-1)

    async def run(number: int, connection: PooledConnection) -> None:
        with in_case("under way", number):
            await expect_closed(lambda: UNDER_WAY[number](connection))
        ended.append(number)

    idle = buffered = None
    busy: list[PooledConnection] = []
    with fail_after(LIMIT):
        async with create_task_group() as tasks, pool:
            idle, buffered = await pool.acquire(), await pool.acquire()
            assert await buffered.send_receive_line(b"two") == b"one"
            await eventually(partial(getattr, buffered, "buffer"))
            busy += [await pool.acquire() for _ in UNDER_WAY]
            for number, connection in enumerate(busy):
                tasks.start_soon(run, number, connection)
            tasks.start_soon(exchange, pool)
            await answered.wait()
            await eventually(lambda: pool.statistics().in_use == len(busy) + 3)
        assert sorted(ended) == [-1, *range(len(busy))]
        assert idle is not None
        assert buffered is not None
        for connection in (idle, buffered, *busy):
            assert connection.buffer == b""
            for number, call in enumerate(AFTERWARDS):
                with in_case("afterwards", number):
                    await expect_closed(partial(call, connection))
            await connection.aclose()
    assert pool.statistics().closed == {"seized": len(busy) + 3}


async def test_each_call_on_a_seized_connection_raises_an_error_of_its_own(serve: Serve) -> None:
    """Nothing grows in an error that is raised twice."""
    async with serve(answer).pool(close_timeout=0) as pool:
        connection = await pool.acquire()
    errors: list[PoolClosed] = []
    for _ in range(2):
        with pytest.raises(PoolClosed) as caught:
            await connection.receive_line()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
