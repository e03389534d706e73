"""An idle connection that dies leaves the pool by itself: at once where the loop says so."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from anyconnpool._engine import housekeeper
from anyconnpool._statistics import CloseReason
from anyconnpool.events import ConnectionClosed, PoolEvent
from tests.certificates import client_context
from tests.streams.tls_peers import Wire, listening, server_context

from .checks import LIMIT, ask, client_sockets, eventually
from .conftest import Serve
from .servers import Server

pytestmark = pytest.mark.usefixtures("no_socket_left")


by_event = pytest.mark.parametrize("anyio_backend", ["asyncio", "asyncio+uvloop"], indirect=True)


@pytest.fixture(autouse=True)
def no_sweep(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the housekeeper come too late to help, except where a test is about it."""
    if "sweeps" not in request.fixturenames:
        monkeypatch.setattr(housekeeper, "_SWEEP_INTERVAL", 3600)


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the housekeeper sweep often."""
    monkeypatch.setattr(housekeeper, "_SWEEP_INTERVAL", 0.02)


class Deaths:
    """An observer that waits for connections to be closed."""

    def __init__(self) -> None:
        self.reasons: list[CloseReason] = []
        self._one_more = asyncio.Event()

    def __call__(self, event: PoolEvent) -> None:
        if isinstance(event, ConnectionClosed):
            self.reasons.append(event.reason)
            self._one_more.set()

    async def until(self, *reasons: CloseReason) -> None:
        """Wait for so many, and compare."""
        with fail_after(LIMIT):
            while len(self.reasons) < len(reasons):
                self._one_more.clear()
                await self._one_more.wait()
        assert self.reasons == list(reasons)


DEEDS: dict[str, tuple[Callable[[Server], object], CloseReason]] = {
    "FIN": (lambda server: server.peers[-1].hang_up(), CloseReason.PEER_CLOSED),
    "RST": (lambda server: server.peers[-1].reset(), CloseReason.PEER_CLOSED),
    "half-close": (
        lambda server: socket.socket.shutdown(server.peers[-1].socket, socket.SHUT_WR),
        CloseReason.PEER_CLOSED,
    ),
    "bytes": (lambda server: server.peers[-1].send(b"unasked"), CloseReason.UNREAD_DATA),
}


@by_event
@pytest.mark.parametrize("deed", DEEDS)
async def test_a_death_is_an_event(serve: Serve, deed: str) -> None:
    """Nobody acquires and nothing sweeps: the connection leaves all the same."""
    die, reason = DEEDS[deed]
    server = serve(None)
    deaths = Deaths()
    async with server.pool(observers=[deaths]) as pool:
        async with pool.acquire() as connection:
            peer = await server.peer(0)
            peer.send(b"hello\n")
            assert await connection.receive_line() == b"hello"
        assert pool.statistics().idle == 1
        die(server)
        await deaths.until(reason)
        assert pool.statistics().size == 0
        assert client_sockets(server) == 0


@by_event
async def test_it_is_known_in_the_turn_in_which_the_loop_hears_of_it(serve: Serve) -> None:
    """A handful of turns, most of them the loop's own: no time passes."""
    server = serve()
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            await ask(connection)
        server.peers[0].hang_up()
        for _ in range(5):
            await checkpoint()
        assert pool.statistics().idle == 0


@asynccontextmanager
async def idle_tls(version: str, deaths: Deaths) -> AsyncGenerator[tuple[ConnectionPool, Wire]]:
    """Make a pool with one idle connection of TLS, and the server's end of it."""
    wires: list[Wire] = []

    async def script(wire: Wire) -> None:
        await wire.shake_hands()
        wires.append(wire)

    async with AsyncExitStack() as stack:
        pool = ConnectionPool(
            await stack.enter_async_context(listening(script, server_context(version))),
            tls=True,
            ssl_context=client_context(),
            tls_hostname="localhost",
            close_timeout=0.01,
            observers=[deaths],
        )
        await stack.enter_async_context(pool)
        async with pool.acquire() as connection:
            await eventually(lambda: wires)
            wires[0].say(b"hello\n")
            assert await connection.receive_line() == b"hello"
        yield pool, wires[0]


@by_event
@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_what_tls_alone_says_is_an_event(version: str) -> None:
    """Its goodbye, half a record, a record that can't be decrypted: the socket stays open."""
    deeds: list[tuple[Callable[[Wire], bytes], CloseReason]] = [
        (lambda wire: wire.server.goodbye(), CloseReason.PEER_CLOSED),
        (lambda wire: wire.server.say(b"unasked")[:7], CloseReason.UNREAD_DATA),
        (lambda wire: wire.server.say(b"unasked"), CloseReason.UNREAD_DATA),
        (lambda _: b"\x17\x03\x03\x00\x20" + bytes(32), CloseReason.PEER_CLOSED),
    ]
    for records, reason in deeds:
        deaths = Deaths()
        async with idle_tls(version, deaths) as (pool, wire):
            wire.send(records(wire))
            await deaths.until(reason)
            assert pool.statistics().size == 0


@by_event
async def test_a_reserve_is_filled_up_at_once(serve: Serve) -> None:
    """One of min_idle that has been used, and dies, is replaced without anybody asking."""
    server = serve()
    deaths = Deaths()
    async with server.pool(min_idle=1, max_size=1, observers=[deaths]) as pool:
        for number in range(3):
            assert await pool.send_receive_line(b"ask") == b"> ask"
            assert pool.statistics().idle == 1
            server.peers[number].hang_up()
            await deaths.until(*[CloseReason.PEER_CLOSED] * (number + 1))
            with fail_after(LIMIT):
                await pool.wait_ready()
            assert pool.statistics().opened == number + 2


@by_event
async def test_who_waits_is_served_when_the_borrowed_connection_dies(serve: Serve) -> None:
    """The place that a death makes free is a place for a new connection."""
    server = serve()
    deaths = Deaths()
    async with server.pool(max_size=1, observers=[deaths]) as pool, create_task_group() as group:
        async with pool.acquire() as connection:
            await ask(connection)

            async def wait_in_line() -> None:
                assert await pool.send_receive_line(b"waited") == b"> waited"

            group.start_soon(wait_in_line)
            await eventually(lambda: pool.statistics().tasks_waiting == 1)
            server.peers[0].hang_up()
        with fail_after(LIMIT):
            await eventually(lambda: pool.statistics().idle == 1)
        assert deaths.reasons == [CloseReason.PEER_CLOSED]


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
@pytest.mark.usefixtures("sweeps")
@pytest.mark.parametrize("deed", DEEDS)
async def test_on_trio_the_sweep_finds_it(serve: Serve, deed: str) -> None:
    """trio tells nobody of what happens to a socket that nobody waits for."""
    die, reason = DEEDS[deed]
    server = serve(None)
    async with server.pool(min_idle=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            peer = await server.peer(0)
            peer.send(b"hello\n")
            assert await connection.receive_line() == b"hello"
        die(server)
        await eventually(lambda: pool.statistics().closed == {reason: 1})
        with fail_after(LIMIT):
            await pool.wait_ready()
        assert pool.statistics().opened == 2
