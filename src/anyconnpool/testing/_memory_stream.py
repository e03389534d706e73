"""The two ends of a connection in memory, which behave like those of a socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anyio import ClosedResourceError, EndOfStream, Event, ResourceGuard
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from anyconnpool._streams.probes import LivenessAttribute
from anyconnpool._streams.socket_stream import CLOSED_HERE, ENDED, broken_error
from anyconnpool._util.liveness import Liveness

# About what a socket takes before its sender has to wait.
_CAPACITY = 65_536


class _Pipe:
    """What goes in one direction."""

    def __init__(self) -> None:
        self.data = bytearray()
        #: whether the writer has ended the stream
        self.ended = False
        #: whether the reader has closed its end
        self.broken = False
        self.changed = Event()

    def notify(self) -> None:
        """Wake those who wait, to look again."""
        self.changed.set()
        self.changed = Event()

    def put(self, data: memoryview) -> int:
        """Add as many bytes as there is room for, and return how many that are."""
        room = _CAPACITY - len(self.data)
        self.data += data[:room]
        self.notify()
        return min(room, len(data))

    def take(self, max_bytes: int) -> bytes:
        """Remove and return what has arrived, oldest bytes first."""
        data = bytes(self.data[:max_bytes])
        del self.data[:max_bytes]
        self.notify()
        return data


class MemoryStream(ByteStream):
    """One end of a connection in memory.

    :param incoming: what the other end sends
    :param outgoing: what this end sends
    """

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._receiving = ResourceGuard("reading from")
        self._sending = ResourceGuard("writing to")
        self.closed = False

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        with self._receiving:
            await checkpoint()
            while True:
                if self.closed:
                    raise ClosedResourceError(CLOSED_HERE)
                if self._incoming.data:
                    return self._incoming.take(max_bytes)
                if self._incoming.ended:
                    raise EndOfStream(ENDED)
                await self._incoming.changed.wait()

    async def send(self, item: bytes) -> None:
        with self._sending:
            await checkpoint()
            rest = memoryview(item)
            while True:
                if self.closed:
                    raise ClosedResourceError(CLOSED_HERE)
                if self._outgoing.ended or self._outgoing.broken:
                    raise broken_error(None)
                rest = rest[self._outgoing.put(rest) :]
                if not rest:
                    return
                await self._outgoing.changed.wait()

    async def send_eof(self) -> None:
        if self.closed:
            raise ClosedResourceError(CLOSED_HERE)
        self._outgoing.ended = True
        self._outgoing.notify()
        await checkpoint()

    async def aclose(self) -> None:
        # Closed before anything can be cancelled: this is how AnyIO closes by force, too.
        self.close()
        await checkpoint()

    def close(self) -> None:
        """Close at once; the other end gets what was sent, then the end of the stream."""
        self.closed = True
        self._incoming.broken = True
        self._outgoing.ended = True
        self._incoming.notify()
        self._outgoing.notify()

    def look(self) -> Liveness:
        """Answer the pool's look as a socket would answer it."""
        if self.closed or self._incoming.ended:
            return Liveness.CLOSED
        return Liveness.UNREAD if self._incoming.data else Liveness.ALIVE

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {LivenessAttribute.probe: lambda: self.look}


def connected_pair() -> tuple[MemoryStream, MemoryStream]:
    """Return both ends of a new connection."""
    one_way, other_way = _Pipe(), _Pipe()
    return MemoryStream(one_way, other_way), MemoryStream(other_way, one_way)
