"""Connections without sockets: to measure what a pool adds, and nothing that the kernel does."""

from __future__ import annotations

from anyio import ClosedResourceError
from anyio.abc import ByteStream, ByteStreamConnectable


class StandIn(ByteStream):
    """A stream that does nothing; no pool has anything to probe on it."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Refuse: nothing is ever sent."""
        raise ClosedResourceError

    async def send(self, item: bytes) -> None:
        """Lose the bytes."""

    async def send_eof(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""


class Trickle(StandIn):
    """A stream that has bytes to read, and hands them over one at a time."""

    def __init__(self) -> None:
        self._data = b""
        self._position = 0

    def load(self, data: bytes) -> None:
        """Have other bytes to read."""
        self._data = data
        self._position = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next byte."""
        self._position += 1
        return self._data[self._position - 1 : self._position]


class StandInConnectable(ByteStreamConnectable):
    """Makes streams that do nothing."""

    async def connect(self) -> ByteStream:
        """Make one."""
        return StandIn()
