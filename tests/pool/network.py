"""A network in memory: what a server and the wire do by chance on real sockets, a test decides.

A socket counts as open from the first step of connecting until it is closed. Every method that
waits passes a real checkpoint, also when it has nothing to wait for, so that a cancellation can
strike wherever it could on a socket. The server's side is synchronous: what it does happens at
once, between two steps of the pool.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from operator import attrgetter
from typing import Any, TypeAlias

import anyio
from anyio import CapacityLimiter, TypedAttributeSet, typed_attribute
from anyio.abc import ByteStream, ByteStreamConnectable
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from anyconnpool import ConnectionPool, FramedStream
from anyconnpool._streams.probes import LivenessAttribute
from anyconnpool._util.liveness import Liveness

#: given the number of the attempt, or of the connection, from 1 on: may sleep, wait or raise
Hook: TypeAlias = Callable[[int], Awaitable[object]]


class PeerAttribute(TypedAttributeSet):
    peer: Peer = typed_attribute()


class MemoryNetwork(ByteStreamConnectable):
    """A remote to connect to.

    :param on_connect: what happens while connecting
    :param on_close: what happens while closing, unless it is by force
    :param answer: what the server sends back for what it got; it echoes by default
    """

    def __init__(
        self,
        on_connect: Hook | None = None,
        on_close: Hook | None = None,
        answer: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.on_connect = on_connect
        self.on_close = on_close
        self.answer = answer
        #: what the server says first on a new connection
        self.greeting = b""
        self.peers: list[Peer] = []
        self.attempts = 0
        self.open_now = 0
        self.most_open = 0
        #: how often any connection was looked at, and what to call then
        self.looks = 0
        self.on_look: Callable[[], object] = bool

    @property
    def opened(self) -> int:
        """How many connections were made in total."""
        return len(self.peers)

    @property
    def closed(self) -> int:
        """How many of them are closed again."""
        return sum(peer.client.closed for peer in self.peers)

    @property
    def forced(self) -> int:
        """How many of them were closed by force."""
        return sum(peer.client.forced for peer in self.peers)

    async def connect(self) -> MemoryStream:
        self.attempts += 1
        attempt = self.attempts
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            await checkpoint()
            if self.on_connect is not None:
                await self.on_connect(attempt)
        except BaseException:
            self.open_now -= 1
            raise
        peer = Peer(self, len(self.peers) + 1)
        self.peers.append(peer)
        peer.client.unread += self.greeting
        return peer.client


class Peer:
    """The server's side of a connection.

    :param network: the network it is part of
    :param number: counts the connections from 1 on
    """

    def __init__(self, network: MemoryNetwork, number: int) -> None:
        self.network = network
        self.number = number
        self.received = bytearray()
        self.client = MemoryStream(network, self)
        #: sends of the client don't end
        self.stalled = False
        #: raised by the client's probe, once
        self.look_error: BaseException | None = None

    def push(self, data: bytes) -> None:
        """Send something to the client."""
        self.client.unread += data
        self.client.wake()

    def hang_up(self) -> None:
        """Close this side."""
        self.client.at_end = True
        self.client.wake()


class MemoryStream(ByteStream):
    """The client's side of a connection."""

    def __init__(self, network: MemoryNetwork, peer: Peer) -> None:
        self.network = network
        self.peer = peer
        self.unread = b""
        self.at_end = False
        self.closed = False
        self.forced = False
        self.close_calls = 0
        self._news = anyio.Event()

    def wake(self) -> None:
        """Have a task that receives look again."""
        self._news.set()
        self._news = anyio.Event()

    def look(self) -> Liveness:
        """Answer the pool's probe."""
        self.network.looks += 1
        self.network.on_look()
        if self.peer.look_error is not None:
            error, self.peer.look_error = self.peer.look_error, None
            raise error
        if self.at_end or self.closed:
            return Liveness.CLOSED
        return Liveness.UNREAD if self.unread else Liveness.ALIVE

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await checkpoint()
        while not (self.unread or self.at_end or self.closed):
            await self._news.wait()
        if self.closed:
            raise anyio.ClosedResourceError
        if not self.unread:
            raise anyio.EndOfStream
        data, self.unread = self.unread[:max_bytes], self.unread[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        await checkpoint()
        while self.peer.stalled and not self.closed:
            await self._news.wait()
        if self.closed:
            raise anyio.ClosedResourceError
        if self.at_end:
            raise anyio.BrokenResourceError
        self.peer.received += item
        self.peer.push(self.network.answer(item))

    async def send_eof(self) -> None:
        await checkpoint()

    async def aclose(self) -> None:
        """Close; interrupted, it leaves the socket open, unless it was cancelled from the start.

        The latter is how AnyIO closes by force, the former what its sockets do with bytes unsent.
        """
        self.close_calls += 1
        try:
            await checkpoint_if_cancelled()
        except BaseException:
            self._drop(forced=True)
            raise
        await checkpoint()
        if not self.closed:
            if self.network.on_close is not None:
                await self.network.on_close(self.peer.number)
            self._drop(forced=False)

    def _drop(self, *, forced: bool) -> None:
        if not self.closed:
            self.closed = True
            self.forced = forced
            self.network.open_now -= 1
            self.wake()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {
            LivenessAttribute.probe: lambda: self.look,
            PeerAttribute.peer: lambda: self.peer,
        }


def delayed(*seconds: float) -> Hook:
    """Make a hook that sleeps: as long as is given for its call, the last number ever after."""
    return lambda number: anyio.sleep(seconds[min(number, len(seconds)) - 1])


def gated(*gates: anyio.Event) -> Hook:
    """Make a hook that waits for the event of its number; those without one pass."""

    async def hook(number: int) -> None:
        if number <= len(gates):
            await gates[number - 1].wait()

    return hook


def failing(error: Exception, *, only: Callable[[int], bool] = lambda number: True) -> Hook:
    """Make a hook that raises, always or for some numbers only."""

    async def hook(number: int) -> None:
        if only(number):
            raise error

    return hook


async def hang(number: int = 0) -> None:
    """Do nothing for ever: a hook."""
    await anyio.sleep_forever()


def peer_of(connection: FramedStream) -> Peer:
    """Return the server's side of a borrowed connection."""
    return connection.extra(PeerAttribute.peer)


def number_of(connection: FramedStream) -> int:
    """Return the number of a borrowed connection, counted from 1 on as they were opened."""
    return peer_of(connection).number


def slots_of(pool: ConnectionPool[Any]) -> CapacityLimiter:
    """Return the slots that the pool's books are kept with."""
    slots: CapacityLimiter = attrgetter("_machine._group._slots")(pool)
    return slots


async def settle(turns: int = 30) -> None:
    """Let every task run until it waits for something, without any time passing."""
    for _ in range(turns):
        await checkpoint()


async def fill(pool: ConnectionPool[Any], count: int) -> None:
    """Have the pool open some connections and keep them idle."""
    connections = [await pool.acquire() for _ in range(count)]
    for connection in connections:
        await connection.aclose()


async def check_books(
    pool: ConnectionPool[Any], network: MemoryNetwork, *, logins_failed: bool = False
) -> None:
    """Assert that pool, slots and network agree on how many connections there are.

    Only in a pool's first block, and where nothing that was detached is open.

    :param logins_failed: whether the network may have had connections that the pool never had
    """
    # A task of the pool may not have begun yet what is in the books already.
    await settle()
    statistics = pool.statistics()
    slots = slots_of(pool)
    held = statistics.in_use + statistics.connecting + statistics.closing
    assert statistics.size == statistics.idle + held == network.open_now
    assert slots.borrowed_tokens == statistics.size
    assert slots.total_tokens == max(statistics.max_size, statistics.size)
    if not logins_failed:
        assert statistics.opened == network.opened
        assert sum(statistics.closed.values()) == network.closed
