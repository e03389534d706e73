"""Never more than ``max_size`` sockets, by the count of the server and by that of the client."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol

import anyio
import pytest
from anyio import as_connectable, create_task_group, move_on_after
from anyio.abc import ByteStream, ByteStreamConnectable, SocketAttribute
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSConnectable

from anyconnpool import ConnectionPool, PooledConnection
from tests.certificates import client_context

from .checks import ask, ask_next, client_sockets, eventually
from .conftest import Serve
from .servers import Server, every_kind

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from anyconnpool._settings import PoolOptions

pytestmark = pytest.mark.usefixtures("no_socket_left", "no_unix_noise")


class RawSocket(Protocol):
    """What asyncio, uvloop and trio call a socket."""

    def fileno(self) -> int: ...


class CountingConnectable(ByteStreamConnectable):
    """Count the sockets that are open or being opened, whenever another one is to be opened."""

    def __init__(self, inner: ByteStreamConnectable) -> None:
        self._inner = inner
        self._sockets: list[tuple[RawSocket, int]] = []
        self._under_way = 0
        self.most = 0
        self.opened = 0

    @property
    def open(self) -> int:
        self._sockets = [(raw, fd) for raw, fd in self._sockets if raw.fileno() == fd]
        return len(self._sockets) + self._under_way

    async def connect(self) -> ByteStream:
        self._under_way += 1
        self.most = max(self.most, self.open)
        try:
            stream = await self._inner.connect()
        finally:
            self._under_way -= 1
        raw: RawSocket = stream.extra(SocketAttribute.raw_socket)
        self._sockets.append((raw, raw.fileno()))
        self.opened += 1
        return stream


def counting_pool(
    server: Server, **settings: Unpack[PoolOptions]
) -> tuple[CountingConnectable, ConnectionPool]:
    """Make a pool whose sockets are counted below its TLS."""
    counter = CountingConnectable(as_connectable(server.remote))
    if not server.tls:
        return counter, ConnectionPool(counter, **settings)
    tls = TLSConnectable(counter, hostname="127.0.0.1", ssl_context=client_context())
    return counter, ConnectionPool(tls, **settings)


class Stumble(Exception):
    """What some of the bodies raise."""


async def misuse(connection: PooledConnection, chance: random.Random) -> None:
    """Make an exchange, or do one of the things that cost the connection."""
    fate = chance.randrange(6)
    if fate == 0:
        raise Stumble
    if fate == 1:
        connection.discard()
    elif fate == 2:
        await connection.send_line(b"no one reads the reply")
    elif fate == 3:
        with move_on_after(0.001):
            await connection.receive_line()
    else:
        await ask(connection)


async def trouble(pool: ConnectionPool, chance: random.Random) -> None:
    """Borrow a few times, and be cancelled at times."""
    for _ in range(3):
        with move_on_after(chance.choice([0.002, 0.02, 5])):
            try:
                async with pool.acquire() as connection:
                    await misuse(connection, chance)
            except Stumble:
                continue


@every_kind
async def test_sixty_tasks_in_trouble_never_open_more_than_three(serve: Serve) -> None:
    """Bodies that fail, are cancelled or discard, with ``retire`` in between, keep the limit."""
    server = serve()
    counter, pool = counting_pool(server, max_size=3)
    chance = random.Random(1)
    async with pool:
        async with create_task_group() as task_group:
            for number in range(60):
                task_group.start_soon(trouble, pool, random.Random(number))
            for _ in range(20):
                await anyio.sleep(0.001 * chance.random())
                pool.retire()
                assert pool.statistics().size <= 3
        assert counter.opened > 20
        assert counter.most == 3
        assert server.most <= 3
        await eventually(lambda: not pool.statistics().closing)
        assert pool.statistics().in_use == pool.statistics().tasks_waiting == 0
        assert await ask_next(pool) in (True, False)
    assert client_sockets(server) == 0
    assert pool.statistics().size == 0


async def test_the_limit_holds_while_it_is_lowered_and_raised(serve: Serve) -> None:
    """Once the surplus is gone, never more sockets are open than the new limit allows."""
    server = serve()
    counter, pool = counting_pool(server, max_size=5)
    async with pool, create_task_group() as task_group:
        for number in range(30):
            task_group.start_soon(trouble, pool, random.Random(number))
        for limit in (2, 5, 1, 3, 1):
            pool.max_size = limit
            assert pool.max_size == limit
            # Those that are borrowed, or were being opened, are closed when they are free.
            await eventually(lambda: pool.statistics().size <= pool.max_size)
            counter.most = 0
            for _ in range(20):
                await checkpoint()
                assert counter.open <= limit
                assert counter.most <= limit
        await eventually(lambda: server.open <= 1)
    assert counter.most <= 1
    assert server.most <= 5
    assert client_sockets(server) == 0


async def test_a_lowered_limit_closes_the_idle_ones_now_and_borrowed_ones_later(
    serve: Serve,
) -> None:
    """Nothing that somebody works with is taken away."""
    server = serve()
    async with server.pool(max_size=4) as pool:
        borrowed = [await pool.acquire() for _ in range(4)]
        for connection in borrowed:
            await ask(connection)
        for connection in borrowed[:2]:
            await connection.aclose()
        pool.max_size = 1
        await eventually(lambda: server.open == 2)
        for connection in borrowed[2:]:
            await ask(connection)
            await connection.aclose()
        await eventually(lambda: server.open == 1)
        assert await ask_next(pool)
        pool.max_size = 2
        async with pool.acquire(), pool.acquire():
            assert pool.statistics().in_use == 2


async def test_waiters_pass_at_once_when_the_limit_is_raised(serve: Serve) -> None:
    """A task that waits for a slot doesn't have to wait for a release then."""
    async with serve().pool(max_size=1) as pool, pool.acquire(), create_task_group() as task_group:
        task_group.start_soon(ask_next, pool)
        await eventually(lambda: pool.statistics().tasks_waiting == 1)
        pool.max_size = 2
        await eventually(lambda: pool.statistics().idle == 1)
        assert pool.statistics().acquired == 2


async def test_refilling_and_reaping_keep_the_limit(serve: Serve) -> None:
    """Connections that expire, and those that replace them, count like all others."""
    server = serve()
    counter, pool = counting_pool(server, max_size=2, min_idle=2, max_idle_time=0.02)
    async with pool:
        await eventually(lambda: counter.opened >= 8)
        assert pool.statistics().size <= 2
        while counter.opened < 14:
            await ask_next(pool)
            await checkpoint()
    assert counter.most == 2
    assert server.most <= 2


async def test_an_old_connection_is_closed_before_its_replacement_is_opened(serve: Serve) -> None:
    """With room for one socket only, a retired connection is gone before the next one is there."""
    server = serve()
    counter, pool = counting_pool(server, max_size=1)
    async with pool:
        for _ in range(10):
            assert not await ask_next(pool)
            pool.retire()
        for _ in range(10):
            async with pool.acquire() as connection:
                await ask(connection)
                connection.discard()
    assert counter.opened == 20
    assert counter.most == 1
    assert server.most == 1
