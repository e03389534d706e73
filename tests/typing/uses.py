"""Typical uses and their types: `nox -s types` reads this module, nobody runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream, ByteStreamConnectable, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from anyconnpool import (
    AcquireTimeout,
    ConnectionPool,
    FramedStream,
    KeepAlive,
    PackageFormat,
    PackageTooLarge,
    PoolClosed,
    PooledConnection,
    PoolError,
    PoolFull,
    PoolManager,
    PoolStatistics,
    Replicas,
    Retry,
)
from anyconnpool.events import (
    CloseReason,
    ConnectionAcquired,
    ConnectionClosed,
    ExchangeReplayed,
    Observer,
    PoolEvent,
    PoolObserver,
    PoolStarted,
)
from anyconnpool.testing import FaultProxy, Faults, assert_clean

if TYPE_CHECKING:
    from typing_extensions import assert_type

ADDRESS = ("127.0.0.1", 8999)


async def count(connection: PooledConnection, word: bytes, limit: int = 10) -> int:
    """Do an exchange that takes arguments and returns something of its own."""
    return len(await connection.send_receive_line(word, max_bytes=limit))


async def read_count(connection: PooledConnection[Any]) -> int:
    """Read a reply, and return something of its own."""
    return len(await connection.receive_line())


async def share(pool: ConnectionPool, manager: PoolManager) -> None:
    """What a read function returns is what the exchange returns."""
    assert_type(await pool.exchange(b"x", read_count, timeout=2, retry=Retry(3)), int)
    assert_type(await manager.exchange(ADDRESS, bytearray(b"x"), read_count), int)
    assert_type(await pool.exchange(b"x", lambda connection: connection.receive_line()), bytes)
    assert_type(pool.statistics().in_flight, int)


async def log_in(connection: PooledConnection) -> None:
    """Do what a new connection needs."""


class Session:
    """Be what a login has led to."""

    user = "alice"


async def begin_session(connection: PooledConnection, user: str = "") -> Session:
    """Log in, and return what is to be kept with the connection."""
    return Session()


async def greet(connection: PooledConnection[Session], word: bytes) -> str:
    """Do an exchange that needs the session."""
    return connection.session.user


async def ping(connection: PooledConnection[object]) -> None:
    """Do what any connection can do."""


class Service:
    """Have an exchange as a method."""

    async def fetch(self, connection: PooledConnection) -> list[str]:
        return [str(await connection.receive_line())]


class NamedPool(ConnectionPool):
    """Be a kind of pool."""


async def enter_pools() -> None:
    """Each way to a pool gives a pool, and a subclass gives itself."""
    async with ConnectionPool(ADDRESS) as pool:
        assert_type(pool, ConnectionPool)
    async with NamedPool("/run/server.sock") as named:
        assert_type(named, NamedPool)
    async with anyio.create_task_group() as tasks:
        await tasks.start(named.serve)
        assert_type(await named.open(), NamedPool)
        assert_type(await named.aclose(), None)
    assert_type(NamedPool.from_url("tls://example.org:443", tls_hostname="other"), NamedPool)
    ConnectionPool(anyio.TCPConnectable("127.0.0.1", 1), max_size=float("inf"), one_way=True)
    ConnectionPool(
        ADDRESS,
        on_connect=log_in,
        check=partial(count, word=b"PING"),
        connect_retry=Retry(3, interval=0.5),
        keepalive=None,
        idle_order="fifo",
        package_format=PackageFormat(4, max_size=1000),
    )


class ServicePool(ConnectionPool[Session]):
    """Be a pool of one protocol."""

    def __init__(self, user: str) -> None:
        super().__init__(ADDRESS, on_connect=self._begin)
        self.user = user

    async def _begin(self, connection: PooledConnection) -> Session:
        return await begin_session(connection, self.user)


async def keep_sessions(hook: Callable[[PooledConnection], Awaitable[int]] | None) -> None:
    """What a hook returns is the type of the sessions; None without a hook."""
    assert_type(ConnectionPool(ADDRESS), ConnectionPool[None])
    assert_type(ConnectionPool(ADDRESS, on_connect=log_in), ConnectionPool[None])
    assert_type(ConnectionPool(ADDRESS, on_connect=None), ConnectionPool[None])
    pool = ConnectionPool(ADDRESS, on_connect=begin_session, check=ping, harmless=(OSError,))
    assert_type(pool, ConnectionPool[Session])
    hooked = ConnectionPool(ADDRESS, tls=True, on_connect=partial(begin_session, user="bob"))
    assert_type(hooked, ConnectionPool[Session])
    ConnectionPool[Session](ADDRESS, on_connect=begin_session)
    maybe = ConnectionPool(ADDRESS, on_connect=hook)
    assert_type((await maybe.acquire()).session, int | None)
    assert_type(ConnectionPool.from_url("tcp://h:1"), ConnectionPool[None])
    by_url = ConnectionPool.from_url("tls://h:1", tls_hostname="i", on_connect=begin_session)
    assert_type(by_url, ConnectionPool[Session])
    assert_type(NamedPool.from_url("tcp://h:1", on_connect=log_in), NamedPool)
    async with ServicePool("alice") as service, pool as entered:
        assert_type(entered, ConnectionPool[Session])
        assert_type(service, ServicePool)
        assert_type((await service.acquire()).session, Session)


async def use_sessions(pool: ConnectionPool[Session], manager: PoolManager[Session]) -> None:
    """Every way to a connection leads to its session."""
    async with pool.acquire() as connection:
        assert_type(connection, PooledConnection[Session])
        assert_type(connection.session, Session)
    assert_type((await pool.acquire()).session, Session)
    assert_type((await pool.connect()).session, Session)
    assert_type(pool.acquire_nowait().session, Session)
    assert_type(await pool.run(greet, b"word"), str)
    assert_type(await pool.run(ping), None)
    assert_type(manager.pool(ADDRESS), ConnectionPool[Session])
    assert_type((await manager.acquire(ADDRESS)).session, Session)
    assert_type(await manager.run(ADDRESS, greet, b"word"), str)
    assert_type(PoolManager(), PoolManager[None])
    assert_type(PoolManager(max_size=1, on_connect=begin_session), PoolManager[Session])
    any_pool: ConnectionPool[object] = pool
    any_connection: PooledConnection[object] = pool.acquire_nowait()
    assert_clean(pool)
    assert_clean(manager)
    print(any_pool, any_connection)


async def borrow(pool: ConnectionPool) -> None:
    """Every way to borrow gives the same kind of connection."""
    async with pool.acquire(timeout=1) as connection:
        assert_type(connection, PooledConnection)
        assert_type(connection.reused, bool)
        assert_type(connection.age, float)
        assert_type(connection.session, None)
        assert_type(connection.local_address, Any)
        assert_type(connection.detach(), FramedStream)
    assert_type(await pool.acquire(), PooledConnection)
    async with AsyncExitStack() as stack:
        assert_type(await stack.enter_async_context(pool.acquire()), PooledConnection)
    assert_type(await pool.connect(), PooledConnection)
    assert_type(pool.acquire_nowait(), PooledConnection)
    async with await pool.acquire() as awaited:
        assert_type(awaited, PooledConnection)


async def exchange(pool: ConnectionPool) -> None:
    """Exchanges return bytes, sends nothing."""
    assert_type(await pool.send_receive(b"", 10, timeout=1, retry=Retry(1)), bytes)
    assert_type(await pool.send_receive_line(b"", newline=b"\r\n", max_bytes=9), bytes)
    assert_type(await pool.send_receive_package(b"", PackageFormat(1)), bytes)
    await pool.send_package(b"")
    await pool.wait_ready()
    pool.retire()
    pool.retire(where=lambda info: info.age > 60, within=5)
    assert_type(pool.max_size, float)
    pool.max_size = 20


async def run(pool: ConnectionPool, manager: PoolManager) -> None:
    """What `run` returns is what the function returns, with or without arguments."""
    assert_type(await pool.run(count, b"word"), int)
    assert_type(await pool.run(count, b"word", 5, timeout=1, retry=Retry(2)), int)
    assert_type(await pool.run(Service().fetch), list[str])
    assert_type(await pool.run(log_in), None)
    assert_type(await manager.run(ADDRESS, count, b"word", timeout=1), int)
    assert_type(await manager.run("/run/server.sock", Service().fetch), list[str])


async def manage() -> None:
    """A manager has what a pool has, with the remote before the rest."""
    assert_type(await PoolManager().open(), PoolManager)
    async with PoolManager(max_total=100, max_size=10, on_connect=log_in) as manager:
        assert_type(manager, PoolManager)
        assert_type(manager.pool(ADDRESS), ConnectionPool)
        async with manager.acquire(ADDRESS, timeout=1) as connection:
            assert_type(connection, PooledConnection)
        assert_type(await manager.send_receive_line("/run/server.sock", b"word"), bytes)
        assert_type(manager.statistics()[ADDRESS], PoolStatistics)
        assert_type([each.idle for each in manager.statistics().values()], list[int])


async def read(accepted: SocketStream) -> None:
    """Both ends of a connection have the same framed reads."""
    async with FramedStream(accepted, max_line_bytes=100) as stream:
        assert_type(await stream.receive(), bytes)
        assert_type(await stream.receive_exactly(4), bytes)
        assert_type(await stream.receive_until(b"\0", 100), bytes)
        assert_type(await stream.receive_line(), bytes)
        assert_type(await stream.receive_package(), bytes)
        assert_type(await stream.receive_available(quiet=0.1), bytes)
        assert_type(await stream.drain(), bytes)
        assert_type(stream.buffer, bytes)


def fit_in(pool: ConnectionPool, connection: PooledConnection) -> None:
    """Pools and connections go wherever AnyIO takes the like."""
    connectable: ByteStreamConnectable = pool
    stream: ByteStream = connection
    buffered: BufferedByteReceiveStream = connection
    framed: FramedStream = connection
    print(connectable, stream, buffered, framed)


def tell(statistics: PoolStatistics) -> None:
    """Statistics are numbers, and counts by reason."""
    assert_type(statistics.max_size, float)
    assert_type(statistics.tasks_waiting, int)
    assert_type(statistics.closed, Mapping[str, int])
    assert_type(Retry(3).count, float)
    assert_type(PackageFormat().header_size, int)
    assert_type(KeepAlive(), KeepAlive)


def catch(
    timeout: AcquireTimeout, full: PoolFull, closed: PoolClosed, large: PackageTooLarge
) -> None:
    """Errors are caught as the built-in ones and AnyIO's, too."""
    kinds: tuple[PoolError, ...] = (timeout, full, closed, large)
    late: TimeoutError = timeout
    wrong: ValueError = large
    block: anyio.WouldBlock = full
    shut: anyio.ClosedResourceError = closed
    print(kinds, late, wrong, block, shut)


class Watcher(PoolObserver):
    """Override what is of interest."""

    def acquired(self, event: ConnectionAcquired) -> None:
        assert_type(event.wait_time, float)
        assert_type(event.pool, str)

    def replayed(self, event: ExchangeReplayed) -> None:
        assert_type(event.error, Exception)


def watch(event: PoolEvent) -> None:
    """Tell events apart by their types."""
    match event:
        case ConnectionClosed():
            assert_type(event.age, float)
            assert_type(event.reason, CloseReason)
        case PoolStarted():
            assert_type(event.statistics(), PoolStatistics)
        case _:
            assert_type(event, PoolEvent)


def observe(events: list[PoolEvent]) -> None:
    """Functions, methods and observers observe, whatever they return."""
    observers: list[Observer] = [watch, Watcher(), events.append, lambda event: event.pool]
    ConnectionPool(ADDRESS, observers=observers, leak_after=60)
    ConnectionPool(ADDRESS, observers=[watch, Watcher()])
    PoolManager(observers=(events.append,))


async def misbehave() -> None:
    """The fault proxy stands between a pool and its remote."""
    async with FaultProxy(ADDRESS) as proxy:
        assert_type(proxy, FaultProxy)
        proxy.faults = Faults()


async def find() -> list[tuple[str, int]]:
    """Find the servers of a service."""
    return [ADDRESS]


async def use_several_servers() -> None:
    """Give a pool several servers, in all ways."""
    replicas = Replicas([ADDRESS, "/run/server"], order="in_order", rest=Retry(0, interval=2))
    async with ConnectionPool(replicas) as pool, pool.acquire() as connection:
        assert_type(connection.remote, Any)
    for remote, state in replicas.states().items():
        print(remote, state.resting, state.last_error)
    replicas.set([ADDRESS])
    ConnectionPool(Replicas(find, refresh=5))
    ConnectionPool([ADDRESS, ("127.0.0.1", 9000)])
    ConnectionPool(Replicas.from_dns("localhost", 8999, rest=Retry(0)), tls=True)
    assert_type(await replicas.connect(), ByteStream)
