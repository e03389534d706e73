"""Several servers of one service, which a test lets die, hang, refuse and return."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import anyio

from anyconnpool import ConnectionPool, PooledConnection, Replicas, Retry

from .network import MemoryNetwork

#: "silent" accepts and never answers, "swallowing" doesn't even accept
Mood = Literal["well", "refusing", "silent", "swallowing"]

#: rests of 1, 2, 4, 4, … seconds
REST = Retry(0, interval=1, max_interval=4, jitter=0)


class Server:
    """One server, in memory: it echoes while it is well."""

    def __init__(self) -> None:
        self.mood: Mood = "well"
        #: when it was asked for a connection
        self.asked_at: list[float] = []
        self.requests = 0
        #: how long it takes to accept
        self.slowness = 0.0
        self.network = MemoryNetwork(self._connect, answer=self._answer)

    @property
    def open_now(self) -> int:
        """How many connections it has."""
        return self.network.open_now

    async def _connect(self, number: int) -> None:
        self.asked_at.append(anyio.current_time())
        if self.slowness:
            await anyio.sleep(self.slowness)
        if self.mood == "swallowing":
            await anyio.sleep_forever()
        if self.mood == "refusing":
            raise ConnectionRefusedError("go away")

    def _answer(self, request: bytes) -> bytes:
        self.requests += 1
        return request if self.mood == "well" else b""

    def hang_up(self) -> None:
        """Close all connections."""
        for peer in self.network.peers:
            if not peer.client.closed:
                peer.hang_up()

    def die(self) -> None:
        """Close all connections, and refuse others from now on."""
        self.mood = "refusing"
        self.hang_up()


class Service:
    """Some servers, and a pool's view of them.

    :param count: how many
    :param options: those of :class:`Replicas`
    """

    def __init__(self, count: int = 3, **options: Any) -> None:
        self.servers = [Server() for _ in range(count)]
        merged: dict[str, Any] = {"rest": REST, **options}
        self.replicas = Replicas([server.network for server in self.servers], **merged)

    def pool(self, **settings: Any) -> ConnectionPool:
        """Make a pool for it."""
        return ConnectionPool(self.replicas, **settings)

    def sizes(self) -> list[int]:
        """Return how many connections the pool has to each."""
        return [state.connections for state in self.replicas.states().values()]

    def in_use(self) -> list[int]:
        """Return how many of them are borrowed."""
        return [state.in_use for state in self.replicas.states().values()]

    def resting(self) -> list[bool]:
        """Return which ones rest."""
        return [state.resting for state in self.replicas.states().values()]

    def failures(self) -> list[int]:
        """Return how often each has failed in a row."""
        return [state.failures for state in self.replicas.states().values()]

    def number_of(self, connection: PooledConnection[Any]) -> int:
        """Return which server a connection is one to."""
        return [server.network for server in self.servers].index(connection.remote)


async def ask(pool: ConnectionPool, **options: Any) -> bytes:
    """Do an exchange."""
    return await pool.send_receive(b"ping", 4, **options)


async def work(
    pool: ConnectionPool,
    until: float,
    *,
    tasks: int = 50,
    use: float = 0.01,
    note: Callable[[BaseException], object] | None = None,
    **options: Any,
) -> None:
    """Have tasks do exchanges until a moment; errors are noted, or end it."""

    async def one() -> None:
        while anyio.current_time() < until:
            try:
                await ask(pool, **options)
            except Exception as error:
                if note is None:
                    raise
                note(error)
            await anyio.sleep(use)

    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(one)


async def hold(pool: ConnectionPool, count: int) -> list[PooledConnection]:
    """Borrow connections."""
    return [await pool.acquire() for _ in range(count)]


async def give_back(connections: Iterable[PooledConnection]) -> None:
    """Release them."""
    for connection in connections:
        await connection.aclose()
