"""Every form of an exchange, as one kind of function: what to ask, and how long and how often."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable
from typing import Protocol

from anyio import BrokenResourceError, ConnectionFailed, EndOfStream, IncompleteRead, fail_after

from anyconnpool import ConnectionPool, PackageFormat, PooledConnection, Retry

#: what an exchange whose connection was ended raises
HANG_UPS = (EndOfStream, IncompleteRead, BrokenResourceError, ConnectionFailed, ssl.SSLError)

#: the size, in bytes, of a request that jams a connection whose peer doesn't read
LARGE = 16 << 20
FORMAT = PackageFormat(4)


class Exchange(Protocol):
    """One exchange with a server that echoes: it returns what the server says the key is."""

    __name__: str

    def __call__(
        self, pool: ConnectionPool, key: bytes, *, timeout: float | None, retry: Retry | None
    ) -> Awaitable[bytes]: ...


async def ask_bytes(
    pool: ConnectionPool, key: bytes, *, timeout: float | None, retry: Retry | None
) -> bytes:
    return await pool.send_receive(key, len(key), timeout=timeout, retry=retry)


async def ask_until_silence(
    pool: ConnectionPool, key: bytes, *, timeout: float | None, retry: Retry | None
) -> bytes:
    return await pool.send_receive(key, timeout=timeout, retry=retry)


async def ask_line(
    pool: ConnectionPool, key: bytes, *, timeout: float | None, retry: Retry | None
) -> bytes:
    return await pool.send_receive_line(key, max_bytes=LARGE, timeout=timeout, retry=retry)


async def ask_package(
    pool: ConnectionPool, key: bytes, *, timeout: float | None, retry: Retry | None
) -> bytes:
    return await pool.send_receive_package(key, FORMAT, timeout=timeout, retry=retry)


async def _converse(connection: PooledConnection, key: bytes) -> bytes:
    await connection.send_package(key, FORMAT)
    return await connection.receive_package(FORMAT)


async def run(
    pool: ConnectionPool, key: bytes, *, timeout: float | None, retry: Retry | None
) -> bytes:
    return await pool.run(_converse, key, timeout=timeout, retry=retry)


async def by_hand(
    pool: ConnectionPool, key: bytes, *, timeout: float | None, retry: Retry | None
) -> bytes:
    """Borrow and converse; nothing is ever repeated."""
    with fail_after(timeout):
        async with pool.acquire() as connection:
            return await _converse(connection, key)


async def tell_bytes(
    pool: ConnectionPool, key: bytes, *, timeout: float | None, retry: Retry | None
) -> bytes:
    await pool.send(key, timeout=timeout, retry=retry)
    return key


async def tell_line(
    pool: ConnectionPool, key: bytes, *, timeout: float | None, retry: Retry | None
) -> bytes:
    await pool.send_line(key, timeout=timeout, retry=retry)
    return key


async def tell_package(
    pool: ConnectionPool, key: bytes, *, timeout: float | None, retry: Retry | None
) -> bytes:
    await pool.send_package(key, FORMAT, timeout=timeout, retry=retry)
    return key


#: those that know how long the reply is, or where it ends
FRAMED: tuple[Exchange, ...] = (ask_bytes, ask_line, ask_package, run, by_hand)
#: those with a reply
ASKING: tuple[Exchange, ...] = (*FRAMED, ask_until_silence)
#: those of a pool that is one-way
TELLING: tuple[Exchange, ...] = (tell_bytes, tell_line, tell_package)
