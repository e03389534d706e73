"""What the tests here wait for, and how their requests are repeated."""

from __future__ import annotations

import math
import os
import select
import socket
import ssl
from contextlib import suppress
from typing import Any

import anyio

from anyconnpool import ConnectionPool, Retry
from tests.sockets.checks import HasRemote, eventually

#: what fails a request whose connection ends under it
HANG_UPS = (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, ssl.SSLError)

#: as often as it takes: what never succeeds meets the time limit of the test
PERSISTENT = Retry(math.inf, interval=0.01, max_interval=0.1)


def all_ended(pool: ConnectionPool[Any], server: HasRemote) -> bool:
    """Tell whether the server has ended all idle connections of a pool.

    Where the event loop tells of it, they have left the pool already. The others are readable: by
    the end of the stream, or by the alert with which TLS announces it.
    """
    count = 0
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                count += _is_ended(fd, server)
    statistics = pool.statistics()
    # One that is being closed is readable as well: it must not stand for one that is still good.
    return count == statistics.idle == statistics.size


def _is_ended(fd: int, server: HasRemote) -> bool:
    with socket.socket(fileno=os.dup(fd)) as duplicate:
        if duplicate.getpeername() != server.remote:
            return False
        poll = select.poll()
        poll.register(duplicate, select.POLLIN)
        return bool(poll.poll(0))


async def until_at_rest(pool: ConnectionPool[Any]) -> None:
    """Wait until all connections of a pool are idle."""
    await eventually(lambda: pool.statistics().size == pool.statistics().idle)


async def fill(pool: ConnectionPool[Any]) -> None:
    """Open all the connections that a pool may have, and wait until they are idle."""
    connections = [await pool.acquire() for _ in range(int(pool.max_size))]
    for connection in connections:
        await connection.aclose()
    await until_at_rest(pool)
