"""The borrowed connection: its facts, its ways out of the pool, and its end."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio import (
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    TypedAttributeLookupError,
)
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteStream, BufferedConnectable
from anyio.streams.tls import TLSAttribute, TLSConnectable, TLSStream

from anyconnpool import ConnectionPool, FramedStream, PackageFormat, PooledConnection
from tests.cases import table
from tests.certificates import client_context

from .checks import ask, ask_next, client_sockets, eventually, expect_closed
from .conftest import Serve
from .servers import every_kind, only_tls

pytestmark = pytest.mark.usefixtures("no_socket_left")


async def give_back(connection: PooledConnection) -> None:
    await connection.aclose()


async def discard(connection: PooledConnection) -> None:
    connection.discard()


async def detach(connection: PooledConnection) -> None:
    await connection.detach().aclose()


@table("end", [give_back, discard, detach])
async def test_the_facts_can_be_read_after_the_end(
    serve: Serve, end: Callable[[PooledConnection], Awaitable[None]]
) -> None:
    """Addresses, age and the like are for the logs, which are written afterwards."""
    server = serve()
    async with server.pool() as pool:
        connection = await pool.acquire()
        before = connection.local_address, connection.remote_address, connection.reused
        await end(connection)
        assert before == (connection.local_address, connection.remote_address, connection.reused)
        assert connection.remote_address == server.remote
        assert connection.age >= 0
        assert connection.buffer == b""
        await connection.aclose()


@every_kind
async def test_the_addresses_are_those_of_the_socket(serve: Serve) -> None:
    """As AnyIO gives them, at this end and at the peer's."""
    server = serve()
    async with server.pool() as pool, pool.acquire() as connection:
        assert connection.remote_address == server.remote
        assert connection.extra(SocketAttribute.remote_address) == server.remote
        assert connection.extra(SocketAttribute.local_address) == connection.local_address
        await ask(connection)
        if server.kind != "unix":
            assert connection.local_address == server.peers[0].socket.getpeername()
        with pytest.raises(TypedAttributeLookupError):
            connection.extra(PooledConnection)
        assert connection.extra(PooledConnection, 7) == 7


@only_tls
async def test_the_attributes_of_tls_pass_through(serve: Serve) -> None:
    """The version that was agreed on can be asked for."""
    server = serve()
    async with server.pool() as pool, pool.acquire() as connection:
        version = "TLSv1.2" if server.kind == "tls12" else "TLSv1.3"
        assert connection.extra(TLSAttribute.tls_version) == version
        await ask(connection)


async def test_a_connection_tells_whether_it_was_used_before_and_how_old_it_is(
    serve: Serve,
) -> None:
    """``reused`` turns true with the second borrow, and ``age`` goes on growing."""
    async with serve().pool() as pool:
        async with pool.acquire() as connection:
            assert not connection.reused
            await ask(connection)
            age = connection.age
        assert age >= 0
        async with pool.acquire() as connection:
            assert connection.reused
            await eventually(lambda: connection.age > age + 0.01)
            await ask(connection)


async def test_two_tasks_on_one_connection_are_told_what_to_do(serve: Serve) -> None:
    """The second one's error names the way out; an end that the peer makes says so."""
    server = serve()
    async with server.pool() as pool, pool.acquire() as connection:
        await ask(connection)

        async def end() -> None:
            with pytest.raises(EndOfStream, match="the peer has closed the connection"):
                await connection.receive()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError, match="give each task a connection of its own"):
                await connection.receive()
            server.peers[0].hang_up()
        connection.discard()


async def test_a_discarded_connection_is_closed_now(serve: Serve) -> None:
    """The server sees its end while the borrower's block still goes on."""
    server = serve()
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            await ask(connection)
            connection.discard()
            await eventually(lambda: server.open == pool.statistics().size == 0)
        await expect_closed(pool, discarded=1)


@every_kind
async def test_a_detached_connection_is_its_owners_for_good(serve: Serve) -> None:
    """It leaves its slot to others, keeps what was buffered, and outlives the pool."""
    server = serve()
    async with server.pool(max_size=1, package_format=PackageFormat(1)) as pool:
        async with pool.acquire() as connection:
            await connection.send_line(b"one two")
            assert await connection.receive_until(b" ", 10) == b">"
            own = connection.detach()
            assert isinstance(own, FramedStream)
            assert not isinstance(own, PooledConnection)
            assert pool.statistics().size == 0
        assert not await ask_next(pool)
        assert server.open == 2
    assert pool.statistics().closed == {"detached": 1, "pool_closed": 1}
    assert client_sockets(server) == 1
    async with own:
        assert await own.receive_line() == b"one two"
        await own.send_line(b"still here")
        assert await own.receive_line() == b"> still here"
    assert client_sockets(server) == 0


async def test_what_was_left_behind_by_the_pool_cannot_be_detached(serve: Serve) -> None:
    """A connection that was closed at the end of the pool's block is nobody's any more."""
    async with serve().pool(close_timeout=0) as pool:
        connection = await pool.acquire()
    with pytest.raises(ClosedResourceError):
        connection.detach()
    with pytest.raises(ClosedResourceError):
        connection.discard()


@every_kind
async def test_a_pool_is_a_connectable_that_others_wrap(serve: Serve) -> None:
    """What AnyIO builds over a pool connects, and really closes what it has connected."""
    server = serve()
    async with server.pool(max_size=1) as pool:
        for _ in range(3):
            stream = await BufferedConnectable(pool).connect()
            assert isinstance(stream, BufferedByteStream)
            async with stream:
                await stream.send(b"hello\n")
                assert await stream.receive_until(b"\n", 100) == b"> hello"
                assert pool.statistics().in_use == 1
            assert pool.statistics().in_use == 0
        await expect_closed(pool, discarded=3)
        assert client_sockets(server) == 0


async def test_who_hangs_up_on_a_connected_stream_leaves_its_reply_to_nobody(serve: Serve) -> None:
    """Foreign code closes in the middle of a reply; the next borrower gets another connection."""
    server = serve(None)
    async with server.pool(max_size=1) as pool:
        async with await pool.connect() as stream:
            await stream.send(b"request\n")
            peer = await server.peer(0)
            peer.send(b"half a ")
            assert await stream.receive() == b"half a "
            peer.send(b"reply\n")
        async with pool.acquire() as connection:
            assert not connection.reused
            (await server.peer(1)).send(b"mine\n")
            assert await connection.receive_line() == b"mine"


async def test_a_connected_stream_is_closed_by_force_if_its_closing_is_cancelled(
    serve: Serve,
) -> None:
    """The peer doesn't answer the goodbye of TLS; the slot is free all the same."""
    server = serve(None)
    async with server.pool(max_size=1) as pool:
        stream = await pool.connect()
        await anyio.aclose_forcefully(stream)
        await eventually(lambda: pool.statistics().size == 0)
        assert client_sockets(server) == 0
        await stream.aclose()
        with pytest.raises(ClosedResourceError):
            await stream.send(b"x")


def test_a_pool_is_refused_as_the_remote_of_a_pool() -> None:
    """The outer one would have no say about what the inner one reuses."""
    with pytest.raises(TypeError, match="a pool can't be the remote of a pool"):
        ConnectionPool(ConnectionPool(("localhost", 1)))


@only_tls
async def test_tls_can_be_spoken_over_borrowed_connections(serve: Serve) -> None:
    """A pool of plain connections carries AnyIO's TLS, whose end leaves them unfit for reuse."""
    server = serve()
    async with ConnectionPool(server.remote) as pool:
        tls = TLSConnectable(pool, hostname="127.0.0.1", ssl_context=client_context())
        for _ in range(2):
            stream = await tls.connect()
            assert isinstance(stream, TLSStream)
            await stream.send(b"hello\n")
            assert await stream.receive() == b"> hello\n"
            server.peers[-1].hang_up()
            await stream.transport_stream.aclose()
        assert pool.statistics().reused == 0
        assert pool.statistics().in_use == 0


async def test_the_descriptor_of_a_borrowed_connection_is_a_real_socket(serve: Serve) -> None:
    """Whoever needs the socket itself, for options say, gets at it as in AnyIO."""
    async with serve().pool() as pool, pool.acquire() as connection:
        raw = connection.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await ask(connection)
