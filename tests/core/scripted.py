"""A byte stream that plays a script, and ways to cut bytes into chunks.

What a socket decides by chance (how bytes are cut, when a cancellation strikes, when the peer
falls silent) is decided here by the test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import anyio
from anyio.abc import ByteReceiveStream, ByteStream
from anyio.lowlevel import checkpoint


class ScriptedStream(ByteStream):
    """Deliver the given chunks, one for each receive, then end as told.

    A receive passes two points: one before its checkpoint, where a cancellation finds nothing
    taken, and one after, where a cancellation finds the bytes handed over. A test can have a
    function called at the k-th point.

    :param script: chunks to deliver; an exception is raised in its turn
    :param then: what follows the last chunk
    """

    def __init__(self, *script: bytes | Exception, then: Literal["end", "silence"] = "end") -> None:
        self.script = deque(script)
        self.then = then
        self.at_end: type[Exception] = anyio.EndOfStream
        self.receives = 0
        self.delivered = 0
        self.largest_request = 0
        self.sent: list[bytes] = []
        self.sent_eof = False
        self.closed = False
        self.points = 0
        self.on_silence: Callable[[], object] = lambda: None
        self._strike: tuple[int, Callable[[], object]] | None = None

    @property
    def undelivered(self) -> int:
        """How many bytes of the script are still to come."""
        return sum(len(item) for item in self.script if isinstance(item, bytes))

    def at_point(self, number: int, action: Callable[[], object]) -> None:
        """Call ``action`` at the given point, counted from now."""
        self._strike = (self.points + number, action)

    def _pass_point(self) -> None:
        number, self.points = self.points, self.points + 1
        if self._strike is not None and self._strike[0] == number:
            self._strike[1]()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self.receives += 1
        self.largest_request = max(self.largest_request, max_bytes)
        self._pass_point()
        await checkpoint()
        if not self.script and self.then == "silence":
            self.on_silence()
            await anyio.sleep_forever()
        data = self._take(max_bytes)
        self._pass_point()
        return data

    def _take(self, max_bytes: int) -> bytes:
        if self.closed:
            raise anyio.ClosedResourceError
        if not self.script:
            raise self.at_end
        item = self.script.popleft()
        if isinstance(item, Exception):
            raise item
        if len(item) > max_bytes:
            self.script.appendleft(item[max_bytes:])
            item = item[:max_bytes]
        self.delivered += len(item)
        return item

    async def send(self, item: bytes) -> None:
        await checkpoint()
        if self.closed:
            raise anyio.ClosedResourceError
        self.sent.append(bytes(item))

    async def send_eof(self) -> None:
        await checkpoint()
        self.sent_eof = True

    async def aclose(self) -> None:
        self.closed = True
        await checkpoint()


async def rest_of(stream: ByteReceiveStream) -> bytes:
    """Receive until the peer's end."""
    return b"".join([chunk async for chunk in stream])


def cut(data: bytes, *places: int) -> list[bytes]:
    """Cut the data at the given places."""
    edges = [0, *sorted(set(places) & set(range(1, len(data)))), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if end > start]


def every_cut(data: bytes) -> Iterator[list[bytes]]:
    """Yield the data cut in every possible way: ``2 ** (len(data) - 1)`` ways."""
    for mask in range(1 << max(len(data) - 1, 0)):
        yield cut(data, *(place for place in range(1, len(data)) if mask >> (place - 1) & 1))
