"""A Redis client that caches what it reads: hiredis parses, and Redis says what has changed.

Start a Redis of version 6 or later, install ``hiredis``, and run ``python examples/redis_cache.py
[port]``. It writes one key, ``anyconnpool:greeting``, and deletes it.

With RESP3, Redis remembers which keys each connection has read, and pushes a message on that
connection when one of them changes ("client-side caching"). So each connection keeps a cache beside
its parser, in its session: both end with the connection, as does what Redis remembers of it.
Mostly a push arrives while the connection is idle; then ``on_unread`` reads it. For as long as a
push is on its way, an old value may still be returned.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import anyio
import hiredis

from anyconnpool import ConnectionPool, PooledConnection, Retry

Word: TypeAlias = "str | bytes | int | float"

MAX_CACHED = 10_000
MISSING = object()
# What hiredis says of its types allows one word only.
PACK: Callable[[tuple[Word, ...]], bytes] = cast("Any", hiredis).pack_command


class Session:
    """The parser of one connection, and the values that it has read."""

    def __init__(self) -> None:
        self.parser = hiredis.Reader(notEnoughData=MISSING)
        self.cache: dict[bytes, bytes | None] = {}
        self.pushes = 0

    async def receive(self, connection: PooledConnection[Any], expected: int) -> list[Any]:
        """Receive replies, and the pushes around them, until the parser has nothing left."""
        replies: list[Any] = []
        whole = False
        while not whole or len(replies) < expected:
            self.parser.feed(await connection.receive())
            whole = True
            while whole and self.parser.has_data():
                item = self.parser.gets()
                if item is MISSING:
                    whole = False
                elif isinstance(item, hiredis.PushNotification):
                    self.digest(item)
                else:
                    replies.append(item)
        if len(replies) > expected:
            raise ValueError("Redis has sent a reply that nobody asked for")
        return replies

    def digest(self, push: list[Any]) -> None:
        """Forget the values that have changed."""
        self.pushes += 1
        if push[0] == b"invalidate":
            # None stands for all keys, after FLUSHALL.
            for key in list(self.cache) if push[1] is None else push[1]:
                self.cache.pop(key, None)


def checked(reply: Any) -> Any:
    """Return a reply unless it is an error."""
    if isinstance(reply, hiredis.ReplyError):
        # While it loads its data, a Redis that has just started is as good as down.
        raise ConnectionError(str(reply)) if str(reply).startswith("LOADING") else reply
    return reply


async def log_in(connection: PooledConnection) -> Session:
    """Switch to RESP3, and have Redis remember what this connection reads."""
    session = Session()
    commands: list[tuple[Word, ...]] = [("HELLO", 3), ("CLIENT", "TRACKING", "ON"), ("PING",)]
    await connection.send(b"".join(map(PACK, commands)))
    for reply in await session.receive(connection, len(commands)):
        checked(reply)
    return session


async def read_pushes(connection: PooledConnection[Session]) -> None:
    """Read what Redis says on an idle connection."""
    await connection.session.receive(connection, 0)


async def exchange(connection: PooledConnection[Session], *words: Word) -> Any:
    """Send a command and return its reply."""
    await connection.send(PACK(words))
    (reply,) = await connection.session.receive(connection, 1)
    return checked(reply)


async def look_up(connection: PooledConnection[Session], key: bytes) -> bytes | None:
    """Return a value, from the cache of the connection if it is there."""
    session, cache = connection.session, connection.session.cache
    if key in cache:
        return cache[key]
    pushes = session.pushes
    value: bytes | None = await exchange(connection, "GET", key)
    if session.pushes == pushes:  # else it may have changed already
        if len(cache) >= MAX_CACHED:
            cache.clear()
        cache[key] = value
    return value


class Redis:
    """Make each command on a connection of a pool."""

    def __init__(self, pool: ConnectionPool[Session]) -> None:
        self._pool = pool

    async def execute(self, *words: Word, retry: Retry | None = None) -> Any:
        """Make one exchange; with a retry, the command may be sent more than once."""
        return await self._pool.run(exchange, *words, timeout=5, retry=retry)

    async def get(self, key: str) -> bytes | None:
        """Return a value, or None if there is none."""
        return await self._pool.run(look_up, key.encode(), timeout=5, retry=Retry(2))


def make_pool(host: str, port: int) -> ConnectionPool[Session]:
    """Make a pool of connections with a parser and a cache each."""
    return ConnectionPool(
        (host, port),
        max_size=4,
        on_connect=log_in,
        on_unread=read_pushes,
        harmless=(hiredis.ReplyError,),
    )


async def main(port: int) -> None:
    """Read a value that another client then changes."""
    key = "anyconnpool:greeting"
    async with make_pool("127.0.0.1", port) as pool, make_pool("127.0.0.1", port) as others:
        redis, other = Redis(pool), Redis(others)
        await redis.execute("SET", key, "hello")
        print(await redis.get(key))
        print(await redis.get(key))  # without asking Redis
        await other.execute("SET", key, "goodbye")
        value = await redis.get(key)
        while value == b"hello":  # the push is still on its way
            await anyio.sleep(0.01)
            value = await redis.get(key)
        print(value)
        await redis.execute("DEL", key)
        print("connections closed:", pool.statistics().closed)


if __name__ == "__main__":
    # backend="trio" would do as well.
    anyio.run(main, int(sys.argv[1]) if sys.argv[1:] else 6379)
