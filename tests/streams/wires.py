"""A stream of ours and the plain blocking socket at its other end."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from anyconnpool._streams.connect import open_stream
from anyconnpool._streams.socket_stream import PoolSocketStream

_PATIENCE = 20
_Result = TypeVar("_Result")


def socket_pair(kind: str) -> tuple[socket.socket, socket.socket]:
    """Connect two sockets of a kind, "tcp", "tcp6" or "unix"; the first one is non-blocking."""
    if kind == "unix":
        client, peer = socket.socketpair()
    else:
        family, host = (socket.AF_INET6, "::1") if kind == "tcp6" else (socket.AF_INET, "127.0.0.1")
        with socket.create_server((host, 0), family=family) as listener:
            client = socket.create_connection(listener.getsockname()[:2])
            peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.setblocking(False)
    peer.settimeout(_PATIENCE)
    return client, peer


@asynccontextmanager
async def wire(kind: str = "tcp") -> AsyncGenerator[tuple[PoolSocketStream, socket.socket], None]:
    """Yield a stream and the socket at its other end, and close both."""
    client, peer = socket_pair(kind)
    stream = await open_stream(client)
    try:
        yield stream, peer
    finally:
        peer.close()
        await anyio.aclose_forcefully(stream)


def reset(peer: socket.socket) -> None:
    """Close with RST."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def read_all(peer: socket.socket, count: int) -> bytes:
    """Receive so many bytes, blocking; fewer if the stream ends before."""
    data = bytearray()
    while len(data) < count and (chunk := peer.recv(65536)):
        data += chunk
    return bytes(data)


async def receive_exactly(stream: PoolSocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.receive()
    return data


async def turns(count: int = 5) -> None:
    """Let the event loop see what the kernel has, and act on it."""
    for _ in range(count):
        await checkpoint()


async def fill(stream: PoolSocketStream) -> int:
    """Send until the kernel takes no more; a cancelled send is left behind. Return the bytes."""
    sent = 0
    while True:
        with anyio.move_on_after(0.05) as scope:
            await stream.send(bytes(1 << 20))
            sent += 1 << 20
        if scope.cancelled_caught:
            return sent


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def fileno(stream: PoolSocketStream) -> int:
    """Return the descriptor of a stream."""
    return int(stream.extra(anyio.abc.SocketAttribute.raw_socket).fileno())


async def error_of(call: Callable[[], Awaitable[Any]]) -> Exception:
    """Return what a call raises."""
    try:
        await call()
    except Exception as error:
        return error
    raise AssertionError("it didn't fail")
