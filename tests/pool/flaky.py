"""Remotes in memory that are down, or hang up in the midst of exchanges, as a test tells them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from anyconnpool import ConnectionPool, Retry

from .network import MemoryNetwork, Peer, fill

STEADY = Retry(math.inf, interval=1, backoff=1, jitter=0)


def calling(name: str, *arguments: Any, **options: Any) -> Callable[..., Awaitable[Any]]:
    """Make a function that calls a method of a pool or connection, with more options if given."""

    def call(it: Any, **more: Any) -> Awaitable[Any]:
        result: Awaitable[Any] = getattr(it, name)(*arguments, **options, **more)
        return result

    return call


class Remote:
    """A remote that can be down; it notes when it was dialled."""

    def __init__(self, *, down: bool = True, connect_time: float = 0) -> None:
        self.network = MemoryNetwork(self._connect)
        self.down = down
        self.connect_time = connect_time
        self.dialled_at: list[float] = []
        self.most_dials = 0
        self._dials = 0

    def pool(self, retry: Retry = STEADY, **settings: Any) -> ConnectionPool:
        return ConnectionPool(self.network, connect_retry=retry, **settings)

    async def _connect(self, attempt: int) -> None:
        self.dialled_at.append(anyio.current_time())
        self._dials += 1
        self.most_dials = max(self.most_dials, self._dials)
        try:
            await anyio.sleep(self.connect_time)
        finally:
            self._dials -= 1
        if self.down:
            raise ConnectionRefusedError(f"down, dial {attempt}")

    async def be_back_after(self, seconds: float) -> None:
        await anyio.sleep(seconds)
        self.down = False


class Server:
    """A server that echoes, but for what it is told of some requests.

    :param answers: for the first requests, in order: "echo", "hang up", "half" of a reply and hang
        up, or "silence"; the last one also for all others
    """

    def __init__(self, *answers: str) -> None:
        self.answers = answers or ("echo",)
        self.network = MemoryNetwork(answer=self._answer)
        #: when a request was received, in seconds
        self.asked_at: list[float] = []
        #: the connections that end when the next request comes
        self.dying: set[int] = set()
        self._seen = Counter[int]()

    @property
    def requests(self) -> int:
        """How many requests were received."""
        return len(self.asked_at)

    def pool(self, **settings: Any) -> ConnectionPool:
        return ConnectionPool(self.network, **settings)

    async def fill_with_dying(self, pool: ConnectionPool, count: int) -> None:
        """Have the pool keep idle connections that look well but will end when used."""
        await fill(pool, count)
        self.dying = {peer.number for peer in self.network.peers}

    def _answer(self, data: bytes) -> bytes:
        peer = next(it for it in self.network.peers if len(it.received) > self._seen[it.number])
        self._seen[peer.number] = len(peer.received)
        self.asked_at.append(anyio.current_time())
        answer = self.answers[min(self.requests, len(self.answers)) - 1]
        return self._end(peer, b"") if peer.number in self.dying else self._act(peer, answer, data)

    def _act(self, peer: Peer, answer: str, data: bytes) -> bytes:
        if answer == "silence":
            return b""
        if answer == "half":
            return self._end(peer, data[:1])
        return self._end(peer, b"") if answer == "hang up" else data

    def _end(self, peer: Peer, data: bytes) -> bytes:
        peer.hang_up()
        return data
