"""Servers that mean no good: bounded memory, a clear error, and never a second borrower."""

from __future__ import annotations

import ssl
import tracemalloc
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio import DelimiterNotFound, EndOfStream, IncompleteRead, TCPConnectable, fail_after
from anyio.streams.tls import TLSConnectable

from anyconnpool import (
    ConnectionPool,
    FramedStream,
    PackageFormat,
    PackageTooLarge,
    PooledConnection,
)
from tests.cases import table
from tests.certificates import authority

from .checks import LIMIT, client_sockets, eventually, expect_closed
from .conftest import Serve
from .servers import Peer, echo_lines, every_kind

pytestmark = pytest.mark.usefixtures("no_socket_left")

Read = Callable[[PooledConnection], Awaitable[object]]


def flood(peer: Peer) -> None:
    """Send for as long as the client takes it."""
    while True:
        peer.send(bytes(262_144))


async def read_line(connection: FramedStream) -> object:
    return await connection.receive_line()


async def read_until(connection: FramedStream) -> object:
    return await connection.receive_until(b"\r\n", 10_000)


async def read_package(connection: FramedStream) -> object:
    return await connection.receive_package()


async def fails(pool: ConnectionPool, read: Read, *errors: type[Exception]) -> None:
    """See that a read fails as it should, and that its connection is closed for good."""
    with pytest.raises(errors):
        async with pool.acquire() as connection:
            with fail_after(LIMIT):
                await read(connection)
    await eventually(lambda: pool.statistics().size == 0)
    await expect_closed(pool, unclean=1)


@every_kind
@table("read", [read_line, read_until])
async def test_an_endless_line_costs_bounded_memory(serve: Serve, read: Read) -> None:
    """The read ends at the limit, whatever else the server has to say."""
    server = serve(flood)
    async with server.pool() as pool:
        tracemalloc.start()
        try:
            await fails(pool, read, DelimiterNotFound)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 8 << 20
    assert client_sockets(server) == 0


async def test_an_endless_line_whose_error_was_caught_still_costs_the_connection(
    serve: Serve,
) -> None:
    """A body that goes on after the error gives back a connection that is closed."""
    async with serve(flood).pool() as pool:
        async with pool.acquire() as connection:
            with pytest.raises(DelimiterNotFound):
                await connection.receive_line(max_bytes=10)
            assert len(connection.buffer) <= 1 << 20
        await expect_closed(pool, unclean=1)


@table("header_size", [1, 2, 3, 4])
async def test_a_huge_package_header_is_refused_at_once(serve: Serve, header_size: int) -> None:
    """Nothing of the body is waited for."""

    def boast(peer: Peer) -> None:
        peer.send(b"\xff" * header_size)
        peer.receive_line()

    package_format = PackageFormat(header_size, max_size=100)
    async with serve(boast).pool(package_format=package_format) as pool:
        await fails(pool, read_package, PackageTooLarge)


@every_kind
@table("read", [read_line, read_until, read_package])
async def test_an_end_in_mid_frame_is_an_incomplete_read(
    serve: Serve, kind: str, read: Read
) -> None:
    """What came is no frame; without TLS's closing alert somebody may have cut the connection."""

    def part(peer: Peer) -> None:
        peer.send(b"\x00\xffpart of a frame")

    error = anyio.BrokenResourceError if kind.startswith("tls") else IncompleteRead
    async with serve(part).pool() as pool:
        await fails(pool, read, error)


@pytest.mark.parametrize("kind", ["tls12", "tls13"])
@pytest.mark.parametrize("ready_made", [False, True], ids=["address", "connectable"])
async def test_a_cut_is_told_from_an_end_if_the_context_would_ignore_it(
    serve: Serve, ready_made: bool
) -> None:
    """A context with the option that older Pythons set by themselves doesn't hide the cut."""

    def part(peer: Peer) -> None:
        peer.send(b"part of a line")

    context = ssl.create_default_context()
    authority().configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    host, port = serve(part).remote
    if ready_made:
        connectable = TCPConnectable(host, port)
        pool = ConnectionPool(TLSConnectable(connectable, hostname=host, ssl_context=context))
    else:
        pool = ConnectionPool((host, port), tls=True, ssl_context=context)
    async with pool:
        await fails(pool, read_line, anyio.BrokenResourceError)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@table("read", [read_line, read_package])
async def test_an_end_between_frames_is_an_end_of_stream(serve: Serve, read: Read) -> None:
    """A server that says nothing and hangs up has ended the stream."""

    def leave(peer: Peer) -> None:
        peer.receive_line()

    async def ask_first(connection: PooledConnection) -> object:
        await connection.send_line(b"anybody there?")
        return await read(connection)

    async with serve(leave).pool() as pool:
        await fails(pool, ask_first, EndOfStream)


@pytest.mark.parametrize("kind", ["tcp", "tls12", "tls13"])
async def test_a_reset_is_a_broken_resource(serve: Serve) -> None:
    """A server that resets in mid-reply breaks this borrow only."""

    def cut(peer: Peer) -> None:
        peer.receive_line()
        peer.reset()

    async def ask_first(connection: PooledConnection) -> object:
        await connection.send_line(b"anybody there?")
        return await connection.receive_line()

    async with serve(cut).pool() as pool:
        await fails(pool, ask_first, anyio.BrokenResourceError)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_half_closed_server_costs_the_connection_after_its_reply(serve: Serve) -> None:
    """The reply of a server that ends its side is read, and then the connection is closed."""
    server = serve(None)
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            await connection.send_line(b"last one")
            peer = await server.peer(0)
            assert await peer.next_line() == b"last one"
            peer.send(b"reply\n")
            peer.socket.shutdown(1)
            assert await connection.receive_line() == b"reply"
        async with pool.acquire() as connection:
            assert not connection.reused
        await expect_closed(pool, peer_closed=1)


@every_kind
async def test_a_burst_is_taken_up_to_its_limit(serve: Serve) -> None:
    """A read without frames is bounded as well, and so is a drain."""
    async with serve(flood).pool() as pool:
        async with pool.acquire() as connection:
            assert len(await connection.receive_available(quiet=5, max_bytes=100_000)) == 100_000
            assert len(await connection.drain(quiet=5, max_bytes=300_000)) == 300_000
            assert len(connection.buffer) <= 1 << 20
        await eventually(lambda: pool.statistics().size == 0)


@every_kind
async def test_a_talkative_server_never_gets_its_connection_reused(serve: Serve) -> None:
    """One that answers twice is found out each time, and each request gets its first answer."""

    def twice(peer: Peer) -> None:
        while True:
            line = peer.receive_line()
            peer.send(b"> %b\n> %b\n" % (line, line))

    async with serve(twice).pool() as pool:
        for number in range(10):
            async with pool.acquire() as connection:
                assert not connection.reused
                await connection.send_line(b"%d" % number)
                assert await connection.receive_line() == b"> %d" % number
        await expect_closed(pool, unread_data=10)


@every_kind
async def test_a_server_that_accepts_and_hangs_up_at_once_costs_errors_not_sockets(
    serve: Serve,
) -> None:
    """Every borrow ends with an error of the connection, none of the pool's own making."""

    def leave(peer: Peer) -> None:
        peer.gate.clear()

    server = serve(leave)
    async with server.pool(max_size=2) as pool:
        for _ in range(20):
            with pytest.raises((EndOfStream, IncompleteRead, OSError, anyio.BrokenResourceError)):
                async with pool.acquire() as connection:
                    await connection.send_line(b"hello?")
                    await connection.receive_line()
        await eventually(lambda: pool.statistics().size == 0)
        server.script = echo_lines
        async with pool.acquire() as connection:
            await connection.send_line(b"well?")
            assert await connection.receive_line() == b"> well?"
    assert client_sockets(server) == 0
