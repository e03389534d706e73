"""What connections are borrowed from, in one shape: our pool, and what there is without a pool."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, TypeAlias

from anyio import CapacityLimiter, Event, create_task_group, current_time, sleep
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint_if_cancelled

from anyconnpool import ConnectionPool

#: what is done with a borrowed connection
Body: TypeAlias = Callable[[Any], Awaitable[object]]


class Borrower(Protocol):
    """Borrows and gives back."""

    async def repeat(self, count: int, body: Body | None = None) -> None:
        """Borrow a connection so many times, and each time do something with it."""


class OurPool:
    """Our pool, inside its block.

    :param pool: the pool
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def repeat(self, count: int, body: Body | None = None) -> None:
        """Borrow a connection so many times, and each time do something with it."""
        for _ in range(count):
            async with self._pool.acquire() as connection:
                if body is not None:
                    await body(connection)


class NoPool:
    """Nothing is pooled: every task has a connection of its own.

    :param connections: which are dealt out in turn
    """

    def __init__(self, *connections: Any) -> None:
        self._connections = deque(connections or [None])

    async def repeat(self, count: int, body: Body | None = None) -> None:
        """Do something with the same connection so many times."""
        connection = self._connections[0]
        self._connections.rotate(-1)
        for _ in range(count):
            if body is not None:
                await body(connection)


@dataclass(eq=False)
class _Kept:
    """An idle connection of :class:`OwnParts`."""

    connection: ByteStream
    look: Callable[[int], object]
    since: float


class OwnParts:
    """What our pool promises for a borrow, written as straight-line code with AnyIO's parts.

    It notices a cancellation, knows how long the connection was idle and whether the peer hung up,
    keeps its counts under a lock and the number of connections in a limiter. It waits for nobody,
    keeps no statistics and does not ask in what state a connection comes back.

    :param connections: open sockets
    """

    def __init__(self, *connections: ByteStream) -> None:
        self._lock = Lock()
        self._limiter = CapacityLimiter(len(connections))
        self._idle: deque[_Kept] = deque()
        for connection in connections:
            poll = select.poll()
            poll.register(connection.extra(SocketAttribute.raw_socket).fileno(), select.POLLIN)
            self._idle.append(_Kept(connection, poll.poll, current_time()))

    async def repeat(self, count: int, body: Body | None = None) -> None:
        """Borrow a connection so many times, and each time do something with it."""
        for _ in range(count):
            await self._borrow(body)

    async def _borrow(self, body: Body | None) -> None:
        await checkpoint_if_cancelled()
        now = current_time()
        with self._lock:
            kept = self._idle.pop()
            self._limiter.acquire_on_behalf_of_nowait(kept)
        if now - kept.since > 600 or kept.look(0):
            raise RuntimeError("the connection went bad during the measurement")
        if body is not None:
            await body(kept.connection)
        with self._lock:
            kept.since = now
            self._limiter.release_on_behalf_of(kept)
            self._idle.append(kept)


async def hold(borrower: Borrower, count: int, meanwhile: Callable[[], Awaitable[object]]) -> None:
    """Borrow several connections at once, and give them back when something is done.

    :param count: how many connections
    :param meanwhile: called when they are borrowed
    """
    held = 0
    all_held, done = Event(), Event()

    async def body(connection: object) -> None:
        nonlocal held
        held += 1
        if held == count:
            all_held.set()
        await done.wait()

    async with create_task_group() as holders:
        for _ in range(count):
            holders.start_soon(borrower.repeat, 1, body)
        await all_held.wait()
        try:
            await meanwhile()
        finally:
            done.set()


async def warm_up(pool: ConnectionPool, count: int) -> None:
    """Have our pool open connections, and wait until they are idle and beyond doubt."""
    borrowed = [await pool.acquire() for _ in range(count)]
    for connection in borrowed:
        await connection.aclose()
    # A pool has no event for this.
    while pool.statistics().idle < count:  # noqa: ASYNC110
        await sleep(0.01)
