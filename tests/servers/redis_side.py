"""The pool's connections as Redis sees them, and the load that Redis is put under."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from anyio import connect_tcp, create_task_group

from anyconnpool import ConnectionPool, FramedStream, PooledConnection, Retry
from tests.sockets.checks import eventually

from .programs import Program
from .resp import RedisError, Reply, command

_NAME = "of-the-pool"


async def greet(connection: PooledConnection) -> None:
    """Name a new connection, for :class:`Admin` to count; for pools' ``on_connect``.

    A Redis that is loading its data accepts connections already, but counts as unreachable.
    """
    await command(connection, "CLIENT", "SETNAME", _NAME)
    try:
        await command(connection, "PING")
    except RedisError as error:
        if str(error).startswith("LOADING"):
            raise ConnectionError(str(error)) from error
        raise


class Admin:
    """A connection to Redis beside the pool.

    :param stream: the connection
    """

    def __init__(self, stream: FramedStream) -> None:
        self._stream = stream
        self.most = 0
        self.counted = 0

    async def command(self, *arguments: str) -> Reply:
        return await command(self._stream, *arguments)

    async def count(self) -> int:
        """Count the connections of the pool.

        Redis forgets all connections that have ended before it looks at what the new ones ask for.
        So a connection that has its name has no predecessor that is still counted.
        """
        clients = await self.command("CLIENT", "LIST")
        assert isinstance(clients, bytes)
        count = clients.count(f" name={_NAME} ".encode())
        self.most = max(self.most, count)
        self.counted += 1
        return count

    async def keep_counting(self) -> None:
        while True:
            await self.count()

    async def kill_clients(self) -> int:
        """Have Redis end all connections but this one; return how many."""
        killed = await self.command("CLIENT", "KILL", "TYPE", "normal")
        assert isinstance(killed, int)
        return killed


@asynccontextmanager
async def admin(server: Program) -> AsyncGenerator[Admin]:
    """Connect beside the pool."""
    async with FramedStream(await connect_tcp(*server.remote)) as stream:
        yield Admin(stream)


@asynccontextmanager
async def census(server: Program) -> AsyncGenerator[Admin]:
    """Count the connections of the pool again and again."""
    async with admin(server) as counter, create_task_group() as tasks:
        tasks.start_soon(counter.keep_counting)
        yield counter
        tasks.cancel_scope.cancel()


class Load:
    """Tasks that store values under keys of their own, and look whether they find them.

    :param pool: of connections to Redis
    :param seed: what the values are drawn from
    :param retry: what each exchange is told
    """

    def __init__(self, pool: ConnectionPool, seed: int, retry: Retry | None = None) -> None:
        self.pool = pool
        self.right = 0
        self.failed: list[Exception] = []
        self._seed = seed
        self._retry = retry
        self._over = False

    async def make_progress(self, count: int) -> None:
        """Wait until so many further rounds have gone well."""
        enough = self.right + count
        await eventually(lambda: self.right >= enough, tries=5000)

    def finish(self) -> None:
        """Have the tasks end after their present round."""
        self._over = True

    async def rounds(self, name: int, count: int) -> None:
        """Store and look so many times; what fails leaves this."""
        for turn in range(count):
            await self._round(name, turn)

    async def until_finished(self, name: int) -> None:
        """Store and look until told to end; what fails is noted down."""
        turn = 0
        while not self._over:
            turn += 1
            try:
                await self._round(name, turn)
            except Exception as error:
                self.failed.append(error)

    async def _round(self, name: int, turn: int) -> None:
        key, value = f"key {name}", self._value(name, turn)
        stored = await self.pool.run(command, "SET", key, value, retry=self._retry)
        found = await self.pool.run(command, "GET", key, retry=self._retry)
        if (stored, found) != ("OK", value):
            raise AssertionError(f"round {turn} of {key!r} got {stored!r} and {found!r:.80}")
        self.right += 1

    def _value(self, name: int, turn: int) -> bytes:
        """Make a value that no other round has: text, or bytes with line ends, few or many."""
        draw = random.Random(f"{self._seed} {name} {turn}")
        text = f"{name} {turn}"
        ends = draw.randbytes(20) + b"\r\n$-1\r\n" + draw.randbytes(20) + b"\r\n"
        return [text.encode(), text.encode() + ends, draw.randbytes(100_000)][turn % 3]
