"""Corners of the public surface: what is said where there is nothing to say, and misuse."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NoReturn

import anyio
import pytest
from anyio import ConnectionFailed, TypedAttributeLookupError, create_task_group
from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool import ConnectionPool, FramedStream, PooledConnection, PoolFull, PoolManager
from anyconnpool._engine.connection import AcquireContext
from tests.cases import table

from .network import MemoryNetwork, delayed, fill, peer_of, settle

Read = Callable[[PooledConnection], Coroutine[Any, Any, bytes]]

#: reads of a reply, and the pieces that it comes in
PIECES: dict[str, tuple[Read, tuple[bytes, ...]]] = {
    "exactly": (lambda connection: connection.receive_exactly(5), (b"re", b"ply")),
    "until": (lambda connection: connection.receive_until(b"y", 9), (b"re", b"ply")),
    "line": (lambda connection: connection.receive_line(), (b"reply", b"\n")),
    "package": (lambda connection: connection.receive_package(), (b"\0", b"\5re", b"ply")),
}


class Gone(ByteStream):
    """A stream whose socket went away before anybody looked at it, as uvloop's can."""

    def __init__(self) -> None:
        self.closed = False

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        raise AttributeError("'NoneType' object has no attribute 'family'")

    async def receive(self, max_bytes: int = 65536) -> NoReturn:
        raise AssertionError("nobody receives")

    async def send(self, item: bytes) -> NoReturn:
        raise AssertionError("nobody sends")

    async def send_eof(self) -> NoReturn:
        raise AssertionError("nobody sends")

    async def aclose(self) -> None:
        self.closed = True


class GoneAtOnce(ByteStreamConnectable):
    def __init__(self) -> None:
        self.stream = Gone()

    async def connect(self) -> Gone:
        return self.stream


async def test_a_connection_that_hangs_up_at_once_is_a_failure_to_connect() -> None:
    """Whatever its socket says then, the caller learns what happened, and nothing stays open."""
    remote = GoneAtOnce()
    async with ConnectionPool(remote, name="gone") as pool:
        with pytest.raises(ConnectionFailed, match="gone hung up at once"):
            await pool.acquire()
        assert pool.statistics().size == 0
    assert remote.stream.closed


async def test_what_is_no_socket_has_no_addresses() -> None:
    """Asking for one is an error that says why, as AnyIO's own is."""
    async with ConnectionPool(MemoryNetwork()) as pool, pool.acquire() as connection:
        with pytest.raises(TypedAttributeLookupError, match="it is not a socket"):
            assert connection.local_address
        with pytest.raises(TypedAttributeLookupError, match="it is not a socket"):
            assert connection.remote_address


async def test_leaving_an_acquire_twice_does_no_harm() -> None:
    """The second time gives nothing back."""
    async with ConnectionPool(MemoryNetwork()) as pool:
        context = pool.acquire()
        await context.__aenter__()
        await context.__aexit__(None, None, None)
        await context.__aexit__(None, None, None)
        assert (pool.statistics().idle, pool.statistics().size) == (1, 1)


async def enter_acquire(context: AcquireContext) -> None:
    async with context:
        await settle()


async def await_acquire(context: AcquireContext) -> None:
    async with await context:
        await settle()


@table("first", [enter_acquire, await_acquire])
@table("second", [enter_acquire, await_acquire])
@table("at_once", [False, True])
async def test_one_acquire_is_one_borrow(
    first: Callable[[AcquireContext], Coroutine[Any, Any, None]],
    second: Callable[[AcquireContext], Coroutine[Any, Any, None]],
    at_once: bool,
) -> None:
    """A second use of either kind is refused, and the first one loses nothing."""
    network = MemoryNetwork(delayed(1))
    async with ConnectionPool(network) as pool:
        context = pool.acquire()
        async with create_task_group() as tasks:
            tasks.start_soon(first, context)
            if not at_once:
                await pool.acquire()
            await settle()
            with pytest.raises(RuntimeError, match=r"call acquire\(\) again"):
                await second(context)
        assert pool.statistics().in_use == (not at_once)


@table("of_manager", [False, True])
async def test_a_block_that_is_ending_cannot_be_entered_again(of_manager: bool) -> None:
    """When it has ended, it can; what it has open till then would come on top."""
    network = MemoryNetwork(on_close=delayed(3))
    owner = PoolManager() if of_manager else ConnectionPool(network)

    async def enter() -> None:
        async with owner as entered:
            pool = entered.pool(network) if isinstance(entered, PoolManager) else entered
            await fill(pool, 1)

    async with create_task_group() as tasks:
        tasks.start_soon(enter)
        await anyio.sleep(1)
        assert network.open_now == 1
        with pytest.raises(RuntimeError, match="open already"):
            await enter()
    await enter()
    assert (network.opened, network.most_open, network.open_now) == (2, 1, 0)


async def test_what_is_given_back_while_an_older_error_is_handled_is_lent_again() -> None:
    """The error came before the borrow, and says nothing of it; one that came later does."""
    async with ConnectionPool(MemoryNetwork()) as pool:
        try:
            raise ValueError
        except ValueError:
            connection = await pool.acquire()
            await connection.aclose()
        assert pool.statistics().idle == 1
        connection = await pool.acquire()
        try:
            raise ValueError
        except ValueError:
            await connection.aclose()
        assert pool.statistics().idle == 0


async def test_a_dead_connection_that_an_acquire_at_once_meets_is_closed() -> None:
    """Nobody has to come by later, and no time to pass, for its slot to be free."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        async with pool.acquire() as connection:
            peer = peer_of(connection)
        peer.hang_up()
        with pytest.raises(PoolFull):
            pool.acquire_nowait()
        await settle()
        assert network.open_now == pool.statistics().size == 0


@table("read, pieces", PIECES.values())
async def test_a_reply_that_came_in_pieces_is_owed_no_longer(
    read: Read, pieces: tuple[bytes, ...]
) -> None:
    """However it was cut: once it is read, the connection is lent again."""
    async with ConnectionPool(MemoryNetwork(answer=lambda request: b"")) as pool:
        async with pool.acquire() as connection, anyio.create_task_group() as tasks:
            await connection.send(b"request")
            tasks.start_soon(read, connection)
            for piece in pieces:
                await settle()
                peer_of(connection).push(piece)
        assert pool.statistics().idle == 1


async def test_streams_can_be_shown() -> None:
    """A connection in a log says where it leads and whose it is; a stream, what it holds."""
    async with ConnectionPool(MemoryNetwork()) as pool:
        async with pool.acquire() as connection:
            assert repr(connection) == "<PooledConnection None -> None, borrowed>"
            stream = FramedStream(connection)
            stream.feed_data(b"four")
            assert repr(stream) == "<FramedStream, 4 bytes buffered>"
        assert repr(connection) == "<PooledConnection None -> None, given back>"
        await stream.aclose()
        assert repr(stream) == "<FramedStream, closed>"


def test_tls_without_a_check_of_names_needs_none() -> None:
    """Over a UNIX socket, a context that checks no hostname is enough."""
    context = ssl.create_default_context()
    context.check_hostname = False
    assert ConnectionPool("/run/x", tls=True, ssl_context=context).name == "tls+unix:///run/x"


def test_the_connectables_of_anyio_name_their_remotes() -> None:
    """A pool is called like the URL of its remote, also if that came ready-made."""
    unix = anyio.UNIXConnectable("/run/x")
    assert ConnectionPool(unix).name == "unix:///run/x"


async def test_what_a_login_left_unread_waits_for_the_first_borrower() -> None:
    """It doesn't make a connection that stands ready unfit."""
    network = MemoryNetwork()

    async def read_one_line(connection: PooledConnection) -> None:
        network.peers[-1].push(b"one\ntwo\n")
        assert await connection.receive_line() == b"one"

    async with ConnectionPool(network, min_idle=1, on_connect=read_one_line) as pool:
        await pool.wait_ready()
        async with pool.acquire() as connection:
            assert not connection.reused
            assert await connection.receive_line() == b"two"
