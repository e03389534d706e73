"""What tests look at and wait for: sockets of this process, conditions, exchanges."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, PooledConnection

#: what must come within seconds comes within so many on the busiest machine
LIMIT = 20


class HasRemote(Protocol):
    """A server, of which its address is enough."""

    @property
    def remote(self) -> Any: ...


def open_sockets() -> set[str]:
    """Return the sockets that this process has open, both ends of loopback connections."""
    return set(_open_sockets().values())


def _open_sockets() -> dict[int, str]:
    links: dict[int, str] = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            links[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
    return {fd: link for fd, link in links.items() if link.startswith("socket:")}


def client_sockets(server: HasRemote) -> int:
    """Count the sockets of this process that are connected to a server."""
    count = 0
    for fd in _open_sockets():
        with suppress(OSError), socket.socket(fileno=os.dup(fd)) as duplicate:
            count += duplicate.getpeername() == server.remote
    return count


def reset(client: socket.socket) -> None:
    """Close a client's TCP socket by RST, as a program that crashes may."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


async def eventually(condition: Callable[[], object], *, tries: int = 2500) -> None:
    """Wait until a condition holds, looking again every 2 ms, 5 s at least."""
    for _ in range(tries):
        if condition():
            return
        await anyio.sleep(0.002)
    raise AssertionError("what was waited for never came")


async def hog() -> None:
    """Keep the event loop busy, with a turn for the others every few milliseconds."""
    while True:
        # To hold up the event loop is what it is for.
        time.sleep(0.004)  # noqa: ASYNC251
        await checkpoint()


async def ask(connection: PooledConnection, line: bytes = b"ping") -> None:
    """Make one exchange with a server that echoes lines, and see that the reply is its own."""
    await connection.send_line(line)
    assert await connection.receive_line() == b"> " + line


async def ask_next(pool: ConnectionPool, line: bytes = b"next") -> bool:
    """Make one exchange on a connection of its own borrow; tell whether it was a reused one."""
    async with pool.acquire() as connection:
        await ask(connection, line)
        return connection.reused


async def expect_closed(pool: ConnectionPool[Any], **reasons: int) -> None:
    """See that the pool has closed as many connections, for these reasons, and no other."""
    await eventually(lambda: not pool.statistics().closing)
    assert pool.statistics().closed == reasons, pool.statistics()


def error_group() -> Exception:
    """Make a group that a body may raise, and that nobody may take apart or wrap."""
    home = import_module("exceptiongroup" if sys.version_info < (3, 11) else "builtins")
    group: Exception = home.ExceptionGroup("the body's own", [OSError("an inner one")])
    return group
