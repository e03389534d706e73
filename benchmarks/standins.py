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


class StandInConnectable(ByteStreamConnectable):
    """Makes streams that do nothing."""

    async def connect(self) -> ByteStream:
        """Make one."""
        return StandIn()
