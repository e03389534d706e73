"""A memcached client: set, get and delete in its text protocol, over a pool.

Start a memcached, then run ``python examples/memcached_client.py [port]``. It writes one key,
``anyconnpool-example``, and deletes it.
"""

from __future__ import annotations

import sys

import anyio

from anyconnpool import ConnectionPool, PooledConnection, Retry

# Each of these commands may be sent twice: the second time changes nothing.
RETRY = Retry(2)


class MemcachedError(Exception):
    """Memcached has answered with an error, or with what this client doesn't know."""


async def ask(connection: PooledConnection, request: bytes) -> tuple[bytes, bytes]:
    """Send a command and return the first line of the reply, and the value if one follows."""
    await connection.send(request)
    line = await connection.receive_line(newline=b"\r\n")
    if not line.startswith(b"VALUE "):
        return line, b""
    size = int(line.split()[3])
    value = await connection.receive_exactly(size + len(b"\r\nEND\r\n"))
    return line, value[:size]


class Memcached:
    """Make each command on a connection of a pool."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def set(self, key: str, value: bytes, *, seconds: int = 0) -> None:
        """Store a value, for ever or for so many seconds."""
        head = b"set %s 0 %d %d\r\n" % (checked(key), seconds, len(value))
        await self._exchange(head + value + b"\r\n", b"STORED")

    async def get(self, key: str) -> bytes | None:
        """Return a value, or None if there is none."""
        line, value = await self._exchange(b"get %s\r\n" % checked(key), b"VALUE", b"END")
        return value if line.startswith(b"VALUE") else None

    async def delete(self, key: str) -> bool:
        """Delete a value, and return whether there was one."""
        line, _ = await self._exchange(b"delete %s\r\n" % checked(key), b"DELETED", b"NOT_FOUND")
        return line == b"DELETED"

    async def _exchange(self, request: bytes, *expected: bytes) -> tuple[bytes, bytes]:
        line, value = await self._pool.run(ask, request, timeout=5, retry=RETRY)
        if not line.startswith(expected):
            raise MemcachedError(line.decode())
        return line, value


def checked(key: str) -> bytes:
    """Encode a key, and refuse one that memcached would take for the rest of the command."""
    if not key.isascii() or not key.isprintable() or " " in key or not 1 <= len(key) <= 250:
        raise ValueError(f"{key!r} can't be a key of memcached")
    return key.encode()


async def main(port: int) -> None:
    """Store, read and delete a value."""
    async with ConnectionPool(("127.0.0.1", port)) as pool:
        memcached = Memcached(pool)
        await memcached.set("anyconnpool-example", b"line 1\r\nline 2", seconds=60)
        print(await memcached.get("anyconnpool-example"))
        print(await memcached.delete("anyconnpool-example"))
        print(await memcached.get("anyconnpool-example"))
        print(await memcached.delete("anyconnpool-example"))


if __name__ == "__main__":
    # backend="trio" would do as well.
    anyio.run(main, int(sys.argv[1]) if sys.argv[1:] else 11211)
