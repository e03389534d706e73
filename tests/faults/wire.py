"""Plain ends of a line: a blocking socket as the client, a notebook as the remote."""

from __future__ import annotations

import select
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from anyio import EndOfStream, Event, to_thread
from anyio.abc import ByteStream, ByteStreamConnectable

_PATIENCE = 20


async def receive(source: socket.socket, nbytes: int) -> bytes:
    """Return so many bytes, or what came before the end of the stream."""
    data = b""
    while len(data) < nbytes:
        chunk = await to_thread.run_sync(source.recv, nbytes - len(data))
        if not chunk:
            break
        data += chunk
    return data


class Client:
    """A connected socket whose waiting is done in a thread."""

    def __init__(self, address: Any) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(_PATIENCE)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise

    @property
    def silent(self) -> bool:
        """Whether nothing has come, no end either."""
        return not select.select([self.socket], [], [], 0)[0]

    async def send(self, data: bytes) -> None:
        await to_thread.run_sync(self.socket.sendall, data)

    async def receive(self, nbytes: int) -> bytes:
        """Return so many bytes, or what came before the end of the stream."""
        return await receive(self.socket, nbytes)

    def jam(self) -> int:
        """Send until nothing has moved for a while; return how many bytes went."""
        sent = 0
        while select.select([], [self.socket], [], 0.05)[1]:
            sent += self.socket.send(bytes(65_536))
        return sent


@asynccontextmanager
async def client_of(address: Any) -> AsyncGenerator[Client]:
    """Connect, without giving the proxy a turn meanwhile; it accepts when it gets one."""
    client = Client(address)
    try:
        yield client
    finally:
        client.socket.close()


class Recorder(ByteStream, ByteStreamConnectable):
    """A remote that notes what it is sent, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._closed = Event()

    async def connect(self) -> ByteStream:
        return self

    async def send(self, item: bytes) -> None:
        self.pieces.append(item)

    async def send_eof(self) -> None:
        self.pieces.append(b"EOF")

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await self._closed.wait()
        raise EndOfStream

    async def aclose(self) -> None:
        self._closed.set()
