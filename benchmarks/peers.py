"""Pools that others wrote, all for asyncio, in the shape of a :class:`Borrower`.

They are imported here only, when they are asked for, as modules without types; what asks for an
implementation of its own interface gets a class that looks the same to it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

from benchmarks.borrowers import Body, Borrower
from benchmarks.peer_connections import (
    AiosocketpoolConnection,
    RedisConnection,
    asyncpg_connection_class,
)

#: opens a connection, to be closed by who passes it
Open: TypeAlias = Callable[[], Awaitable[Any]]

#: a peer's pool of a size, while it is entered
Entering: TypeAlias = AbstractAsyncContextManager[Borrower]

ACP = "asyncio-connection-pool"
CONNPOOL = "connpool"
GENERIC = "generic-connection-pool"
REDIS = "redis"
ASYNCPG = "asyncpg"
AIOSOCKETPOOL = "aiosocketpool"


class Entered:
    """Borrow with ``async with``, as most pools offer it.

    :param borrow: makes the context manager of one borrow
    """

    def __init__(self, borrow: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._borrow = borrow

    async def repeat(self, count: int, body: Body | None = None) -> None:
        """Borrow a connection so many times, and each time do something with it."""
        for _ in range(count):
            async with self._borrow() as connection:
                if body is not None:
                    await body(connection)


class Returned:
    """Borrow by a call and give back by another.

    :param acquire: borrows
    :param release: gives back
    """

    def __init__(
        self, acquire: Callable[[], Awaitable[Any]], release: Callable[[Any], Awaitable[object]]
    ) -> None:
        self._acquire = acquire
        self._release = release

    async def repeat(self, count: int, body: Body | None = None) -> None:
        """Borrow a connection so many times, and each time do something with it."""
        for _ in range(count):
            connection = await self._acquire()
            try:
                if body is not None:
                    await body(connection)
            finally:
                await self._release(connection)


class _Strategy:
    """What asyncio-connection-pool asks for."""

    def __init__(self, open_one: Open, is_closed: Callable[[Any], bool]) -> None:
        self.make_connection = open_one
        self.connection_is_closed = is_closed

    async def close_connection(self, connection: Any) -> None:
        """Leave it to who opened it."""


class _Manager:
    """What generic-connection-pool asks for."""

    def __init__(self, open_one: Open) -> None:
        self._open_one = open_one

    async def create(self, endpoint: object) -> Any:
        """Open a connection."""
        return await self._open_one()

    async def check_aliveness(self, endpoint: object, connection: Any) -> bool:
        """Check nothing, as its base class does."""
        return True

    async def _do_nothing(self, endpoint: object, connection: Any) -> None:
        pass

    dispose = on_acquire = on_release = on_connection_dead = _do_nothing


def _never(connection: object) -> bool:
    return False


@asynccontextmanager
async def asyncio_connection_pool(
    size: int, open_one: Open, is_closed: Callable[[Any], bool] = _never
) -> AsyncGenerator[Borrower]:
    """Enter asyncio-connection-pool, which checks nothing by itself."""
    module = import_module("asyncio_connection_pool")
    pool = module.ConnectionPool(strategy=_Strategy(open_one, is_closed), max_size=size)
    yield Entered(pool.get_connection)


@asynccontextmanager
async def connpool(size: int, open_one: Open) -> AsyncGenerator[Borrower]:
    """Enter connpool."""
    module = import_module("connpool")
    config = module.PoolConfig(max_size=size)
    async with module.AsyncConnectionPool.from_callables(
        open_one, close=_never, config=config
    ) as pool:
        yield Entered(pool.connection)


@asynccontextmanager
async def generic_connection_pool(size: int, open_one: Open) -> AsyncGenerator[Borrower]:
    """Enter generic-connection-pool."""
    module = import_module("generic_connection_pool.asyncio")
    pool = module.ConnectionPool(_Manager(open_one), min_idle=size, max_size=size)
    yield Entered(lambda: pool.connection(endpoint="remote"))
    await pool.close()


@asynccontextmanager
async def redis() -> AsyncGenerator[Borrower]:
    """Enter the blocking pool of redis on stand-in connections."""
    module = import_module("redis.asyncio")
    pool = module.BlockingConnectionPool(
        max_connections=10, timeout=None, connection_class=RedisConnection
    )
    yield Returned(pool.get_connection, pool.release)
    await pool.aclose()


@asynccontextmanager
async def asyncpg() -> AsyncGenerator[Borrower]:
    """Enter asyncpg's pool on stand-in connections."""
    module = import_module("asyncpg")
    connection_class = asyncpg_connection_class(module)

    async def connect(*arguments: object, **options: object) -> Any:
        return connection_class()

    async with module.create_pool(
        min_size=10, max_size=10, connect=connect, connection_class=connection_class
    ) as pool:
        yield Entered(pool.acquire)


@asynccontextmanager
async def aiosocketpool() -> AsyncGenerator[Borrower]:
    """Enter aiosocketpool on stand-in connections; where all are in use it opens another."""
    module = import_module("aiosocketpool")
    pool = module.AsyncConnectionPool(AiosocketpoolConnection, max_size=10, reap_connections=False)
    yield Entered(pool.connection)


_INSTALLED_AS = {
    ACP: "asyncio_connection_pool",
    CONNPOOL: "connpool",
    GENERIC: "generic_connection_pool",
    REDIS: "redis",
    ASYNCPG: "asyncpg",
    AIOSOCKETPOOL: "aiosocketpool",
}

PEERS = tuple(_INSTALLED_AS)


def is_installed(peer: str) -> bool:
    """Tell whether a peer can take part."""
    return find_spec(_INSTALLED_AS[peer]) is not None


def generic_peers(size: int, open_one: Open) -> dict[str, Entering]:
    """Return the peers that pool anything, of those that are installed."""
    peers: dict[str, Entering] = {}
    for name, enter in (
        (ACP, asyncio_connection_pool),
        (CONNPOOL, connpool),
        (GENERIC, generic_connection_pool),
    ):
        if is_installed(name):
            peers[name] = enter(size, open_one)
    return peers


def all_peers(open_one: Open) -> dict[str, Entering]:
    """Return all peers that are installed, each with a pool of 10 stand-in connections."""
    peers = generic_peers(10, open_one)
    for name, enter in ((REDIS, redis), (ASYNCPG, asyncpg), (AIOSOCKETPOOL, aiosocketpool)):
        if is_installed(name):
            peers[name] = enter()
    return peers


async def enter_all(stack: AsyncExitStack, peers: dict[str, Entering]) -> dict[str, Borrower]:
    """Enter pools until a stack ends."""
    return {name: await stack.enter_async_context(peer) for name, peer in peers.items()}
