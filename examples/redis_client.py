"""A Redis client in forty lines: the pool leaves only the protocol, RESP2, to be written.

Start a Redis, then run ``python examples/redis_client.py [port]``. It writes two keys whose names
begin with ``anyconnpool:``, and deletes them. All tasks share one connection, up to 64 at a time.
"""

from __future__ import annotations

import sys

import anyio

from anyconnpool import ConnectionPool, PooledConnection, Retry


class RedisError(Exception):
    """Redis has answered with an error."""


def make_pool(host: str, port: int) -> ConnectionPool:
    """Make a pool that knows the protocol: how a line ends, and which error is only a reply."""
    address = host, port
    return ConnectionPool(address, max_size=1, pipeline=64, newline=b"\r\n", harmless=(RedisError,))


def encode(*words: str) -> bytes:
    """Return a command as it goes over the wire."""
    parts = [f"*{len(words)}"]
    for word in words:
        parts += [f"${len(word.encode())}", word]
    return "\r\n".join([*parts, ""]).encode()


async def read_reply(connection: PooledConnection) -> bytes | int | None:
    """Read a reply, unless that is a list."""
    line = await connection.receive_line()
    kind, rest = line[:1], line[1:]
    match kind:
        case b"+":
            return rest
        case b"-":
            raise RedisError(rest.decode())
        case b":":
            return int(rest)
        case b"$" if rest == b"-1":
            return None
        case b"$":
            return (await connection.receive_exactly(int(rest) + 2))[:-2]
        case _:
            raise ValueError(f"this client doesn't know the reply {line!r}")


class Redis:
    """Make commands, which share the connections of a pool."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def execute(self, *words: str, retry: Retry | None = None) -> bytes | int | None:
        """Make one exchange; with a retry, the command may be sent more than once."""
        return await self._pool.exchange(encode(*words), read_reply, timeout=5, retry=retry)


async def main(port: int) -> None:
    """Store, read and count; ten tasks share one connection."""
    async with make_pool("127.0.0.1", port) as pool:
        redis = Redis(pool)
        print(await redis.execute("SET", "anyconnpool:greeting", "hello"))
        # To read twice does no harm. To count twice would: INCR gets no retry.
        print(await redis.execute("GET", "anyconnpool:greeting", retry=Retry(2)))
        print(await redis.execute("GET", "anyconnpool:nothing", retry=Retry(2)))
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(redis.execute, "INCR", "anyconnpool:count")
        print(await redis.execute("GET", "anyconnpool:count"))
        try:
            await redis.execute("INCR", "anyconnpool:greeting")
        except RedisError as error:
            print(error)
        await redis.execute("DEL", "anyconnpool:greeting", "anyconnpool:count")


if __name__ == "__main__":
    # backend="trio" would do as well.
    anyio.run(main, int(sys.argv[1]) if sys.argv[1:] else 6379)
