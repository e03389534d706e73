"""Large replies and what may stay behind them, where no look at the kernel's buffers finds it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest
from anyio import create_task_group, to_thread
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, PackageFormat, PooledConnection
from anyconnpool._engine.connection import entry_of
from anyconnpool._util.liveness import Liveness
from tests.cases import table

from .checks import eventually, expect_closed, hog
from .conftest import Serve
from .servers import Peer, Server, every_kind, only_tls

pytestmark = pytest.mark.usefixtures("no_socket_left")

FOUR = PackageFormat(4)
# uvloop hands over at most 256 000 bytes at a time, asyncio 262 144, and TLS takes 65 536.
SIZES = [
    65_535,
    65_536,
    65_537,
    131_072,
    255_999,
    256_000,
    256_001,
    262_143,
    262_144,
    262_145,
    307_200,
    512_000,
    1_048_576,
]
SURPLUS = b"SURPLUS"


def large_replies(peer: Peer) -> None:
    """Answer "size surplus" with a package of that size and then so many bytes more."""
    while True:
        size, surplus = (int(word) for word in peer.receive_line().split())
        extra = (SURPLUS * (surplus // len(SURPLUS) + 1))[:surplus]
        peer.send(FOUR.pack(bytes(size)) + extra)


async def ask_for(pool: ConnectionPool, size: int, surplus: int = 0) -> bool:
    """Borrow, ask for a reply and read it exactly; tell whether the connection was reused."""
    async with pool.acquire() as connection:
        await connection.send_line(b"%d %d" % (size, surplus))
        assert await connection.receive_package(FOUR) == bytes(size)
        return connection.reused


@every_kind
@table("size", SIZES)
async def test_a_large_reply_read_exactly_keeps_the_connection(serve: Serve, size: int) -> None:
    """However it was cut into chunks, a connection with nothing left is used again."""
    async with serve(large_replies).pool(max_size=1) as pool:
        for expected in (False, True, True):
            assert await ask_for(pool, size) is expected
            # A doubtful connection is looked at first, and is idle afterwards.
            await eventually(lambda: pool.statistics().idle == 1)
        assert pool.statistics().opened == 1


@every_kind
@table("surplus", [1, 70_000, 600_000])
@table("size", SIZES[1::3])
async def test_a_surplus_never_reaches_the_next_borrower(
    serve: Serve, size: int, surplus: int
) -> None:
    """Wherever it waits, in the event loop's own queue or in TLS: the next reply is a new one."""
    async with serve(large_replies).pool(max_size=1) as pool:
        assert not await ask_for(pool, size, surplus)
        assert not await ask_for(pool, 10)
        assert await ask_for(pool, 20)
        assert pool.statistics().opened == 2


def echo_with_surplus(peer: Peer) -> None:
    """Answer each line with itself, "more" with a line that nobody asked for in the same chunk."""
    while True:
        line = peer.receive_line()
        peer.send(line + (b"\nnot asked for\n" if line == b"more" else b"\n"))


@every_kind
async def test_a_surplus_in_the_chunk_of_a_reply_closes_the_connection(serve: Serve) -> None:
    """Also in exchanges of one call, of which most make no object for the borrow."""
    async with serve(echo_with_surplus).pool(max_size=1) as pool:
        for count in range(1, 3):
            assert await pool.send_receive_line(b"well") == b"well"
            reply = (
                pool.send_receive_line(b"more") if count == 1 else pool.send_receive(b"more\n", 5)
            )
            assert (await reply).strip() == b"more"
            assert await pool.send_receive_line(b"well") == b"well"
            assert pool.statistics().closed == {"unread_data": count}


@every_kind
async def test_a_surplus_does_not_reach_a_task_that_waits_already(serve: Serve) -> None:
    """The direct hand-over is checked like one through the idle connections."""
    async with serve(large_replies).pool(max_size=1) as pool, create_task_group() as task_group:
        for _ in range(6):
            task_group.start_soon(ask_for, pool, 256_000 - 4, 100_000)
    assert pool.statistics().acquired == 6
    assert pool.statistics().reused == 0


async def connected(server: Server, pool: ConnectionPool) -> Peer:
    """Make one borrow that reads once, so that session tickets are out of the way."""
    async with pool.acquire() as connection:
        peer = await server.peer(0)
        peer.send(b"hello\n")
        assert await connection.receive_line() == b"hello"
    await eventually(lambda: pool.statistics().idle == 1)
    return peer


async def take_a_part(connection: PooledConnection, peer: Peer) -> None:
    """Leave plaintext behind, of which a part was taken below the pool."""
    peer.send(b"one record")
    assert await connection.receive_stream.receive(3) == b"one"  # type: ignore[call-arg]


async def take_a_record(connection: PooledConnection, peer: Peer) -> None:
    """Leave a record behind that came with another one, and that nobody asked for."""
    peer.send(b"one record")
    peer.send(b"another")
    assert await connection.receive_stream.receive(10) == b"one record"  # type: ignore[call-arg]


@only_tls
@table("take", [take_a_part, take_a_record])
async def test_what_tls_keeps_makes_the_connection_dirty(
    serve: Serve, take: Callable[[PooledConnection, Peer], Awaitable[None]]
) -> None:
    """The stream knows of it."""
    server = serve(None)
    async with server.pool(max_size=1) as pool:
        peer = await connected(server, pool)
        async with pool.acquire() as connection:
            await take(connection, peer)
        async with pool.acquire() as connection:
            assert not connection.reused
        await expect_closed(pool, unread_data=1)


@only_tls
@table("records", [3, 5, 8, 30])
async def test_a_burst_of_tls_records_makes_the_connection_dirty(
    serve: Serve, records: int
) -> None:
    """More than 64 KiB in one burst is fetched in pieces: none of them reaches the next."""
    server = serve(None)
    async with server.pool(max_size=1) as pool, create_task_group() as task_group:
        peer = await connected(server, pool)
        task_group.start_soon(send_records, peer, records)
        async with pool.acquire() as connection:
            assert await connection.receive_exactly(16_384) == bytes(16_384)
        async with pool.acquire() as connection:
            assert not connection.reused
            (await server.peer(1)).send(b"fresh\n")
            assert await connection.receive_line() == b"fresh"


async def send_records(peer: Peer, records: int) -> None:
    """Send full TLS records, as much as the client's kernel takes at once."""
    peer.socket.settimeout(0)
    try:
        for _ in range(records):
            peer.send(bytes(16_384))
    except OSError:
        return
    finally:
        peer.socket.settimeout(1)
    await checkpoint()


@every_kind
@table("surplus", [1, 300_000])
@table("size", [65_532, 255_996])
async def test_a_surplus_is_found_while_the_event_loop_is_busy(
    serve: Serve, size: int, surplus: int
) -> None:
    """However long the turns of the other tasks take, the look for a surplus is not cut short."""
    async with serve(large_replies).pool(max_size=1) as pool, create_task_group() as task_group:
        task_group.start_soon(hog)
        assert not await ask_for(pool, size, surplus)
        assert not await ask_for(pool, 10)
        task_group.cancel_scope.cancel()


def send_until_closed(peer: Peer, size: int) -> None:
    with suppress(OSError):
        peer.send(bytes(size))


@every_kind
@table("busy", [False, True])
@table("size", [65_536, 256_000, 262_144])
async def test_a_surplus_that_was_fetched_with_the_rest_is_found(
    serve: Serve, size: int, busy: bool
) -> None:
    """Also if other tasks take long turns just when the connection comes back."""
    server = serve(None)
    async with server.pool(max_size=1) as pool, create_task_group() as task_group:
        async with pool.acquire() as connection:
            raw_socket = connection.extra(SocketAttribute.raw_socket)
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            peer = await server.peer(0)
            task_group.start_soon(to_thread.run_sync, send_until_closed, peer, 700_000)
            await anyio.sleep(0.05)
            await connection.receive_exactly(size)
            # On a busy machine, the surplus may be late.
            look = entry_of(connection).look
            await eventually(lambda: connection.buffer or look() is Liveness.UNREAD)
        if busy:
            task_group.start_soon(hog)
        async with pool.acquire() as connection:
            assert not connection.reused
        task_group.cancel_scope.cancel()


@every_kind
@table("size", [16_380, 255_996])
async def test_a_clean_connection_is_kept_while_the_event_loop_is_busy(
    serve: Serve, size: int
) -> None:
    """A busy event loop doesn't make connections look dirty either."""
    async with serve(large_replies).pool(max_size=1) as pool, create_task_group() as task_group:
        task_group.start_soon(hog)
        assert not await ask_for(pool, size)
        assert await ask_for(pool, 10)
        task_group.cancel_scope.cancel()
