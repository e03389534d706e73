"""An open connection as the pool sees it: what it knows of it, and that closing it closes it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import CancelScope, aclose_forcefully, create_task_group, fail_after, move_on_after
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSStream

from anyconnpool import KeepAlive
from anyconnpool._remote import TLSOptions
from anyconnpool._streams.probes import LivenessAttribute
from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._streams.transport import Transport, force_close
from anyconnpool._util.liveness import ALIVE, CLOSED, UNREAD, Liveness
from tests.certificates import client_context

from .opening import connect_to
from .tls_peers import LIMIT, Server, Wire, server_context
from .wires import is_open

# Who connects, of our own and of AnyIO's. Those with TLS wait for a goodbye that may never come.
KINDS = ("own tcp", "own unix", "own tls", "foreign tcp", "foreign unix", "foreign tls")


@asynccontextmanager
async def connection(kind: str, tmp_path: Path) -> AsyncGenerator[tuple[Transport, Wire]]:
    """Connect a stream of a kind; nothing of it is open after the block."""
    whose, how = kind.split()
    path = str(tmp_path / "socket")
    address: Any = path if how == "unix" else ("127.0.0.1", 0)
    family = socket.AF_UNIX if how == "unix" else socket.AF_INET
    with socket.socket(family) as listener, fail_after(LIMIT):
        listener.bind(address)
        listener.listen()
        address = listener.getsockname()
        wires: list[Wire] = []

        async def accept() -> None:
            listener.setblocking(False)
            await anyio.wait_readable(listener)
            accepted, _ = listener.accept()
            if how == "unix":
                accepted.setblocking(False)
                wires.append(UnixWire(accepted))
                return
            wires.append(Wire(accepted, Server(server_context("1.2"))))
            if how == "tls":
                await wires[0].shake_hands()

        streams: list[ByteStream] = []
        async with create_task_group() as group:
            group.start_soon(accept)
            streams.append(await connect(whose, how, address))
        try:
            yield Transport(streams[0], None, "a pool"), wires[0]
        finally:
            wires[0].sock.close()
            with move_on_after(1, shield=True):
                await force_close(streams[0])
            if how == "unix":
                os.unlink(path)


class UnixWire(Wire):
    """The server's end of a UNIX socket."""

    def __init__(self, accepted: socket.socket) -> None:
        self.sock = accepted


async def connect(whose: str, how: str, address: Any) -> ByteStream:
    if how == "unix":
        return await (connect_to(address) if whose == "own" else anyio.connect_unix(address))
    if how == "tcp":
        return await (connect_to(address) if whose == "own" else anyio.connect_tcp(*address))
    context = client_context()
    if whose == "own":
        return await connect_to(address, TLSOptions(context, "localhost"))
    below = await anyio.connect_tcp(*address)
    return await TLSStream.wrap(below, hostname="localhost", ssl_context=context, server_side=False)


def descriptor(transport: Transport) -> int:
    return int(transport.stream.extra(SocketAttribute.raw_socket).fileno())


async def hear_the_end(there: Wire) -> bool:
    """Tell whether the client says goodbye before it hangs up, by TLS."""
    while data := await there.read():
        there.server.hear(data)
    return there.server.heard_goodbye


@pytest.mark.parametrize("kind", KINDS)
async def test_the_descriptor_is_closed_when_closing_returns(kind: str, tmp_path: Path) -> None:
    """By force, within the grace, after it, and in whatever way and turn it is cancelled."""

    async def in_a_cancelled_scope(close: Callable[[], Awaitable[None]]) -> None:
        with CancelScope() as scope:
            scope.cancel()
            await close()

    async def in_a_scope_cancelled_later(close: Callable[[], Awaitable[None]]) -> None:
        with move_on_after(0.01):
            await close()

    async def plainly(close: Callable[[], Awaitable[None]]) -> None:
        await close()

    for way in (plainly, in_a_cancelled_scope, in_a_scope_cancelled_later):
        # The peer says nothing, so that a grace is not enough for TLS.
        for grace in (0, 0.05, LIMIT if way is not plainly else 0.01):
            async with connection(kind, tmp_path) as (transport, there):
                number = descriptor(transport)
                await way(partial(transport.close, grace))
                assert not is_open(number), (way, grace)
                assert transport.look() is CLOSED
                await hear_the_end(there) if "tls" in kind else await there.read()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "asyncio+uvloop"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_descriptor_is_closed_when_closing_is_cancelled_natively(
    kind: str, tmp_path: Path
) -> None:
    """In whichever turn it strikes; once more is no excuse either."""
    for grace in (0, LIMIT):
        for count in range(1, 7):
            for strikes in (1, 2):
                async with connection(kind, tmp_path) as (transport, _):
                    number = descriptor(transport)
                    task = asyncio.ensure_future(transport.close(grace))
                    for _ in range(count):
                        await checkpoint()
                    for _ in range(strikes):
                        task.cancel()
                        await checkpoint()
                    await asyncio.wait([task])
                    assert not is_open(number), (grace, count, strikes)


@pytest.mark.parametrize("kind", ["own tls", "foreign tls"])
async def test_a_grace_is_for_goodbyes(kind: str, tmp_path: Path) -> None:
    """Closing ends when the peer has answered, long before the grace is over."""
    async with connection(kind, tmp_path) as (transport, there):
        number = descriptor(transport)
        async with create_task_group() as group:
            group.start_soon(transport.close, LIMIT * 10)
            await there.hear_goodbye()
            assert is_open(number)
            there.send(there.server.goodbye())
        assert not is_open(number)


async def test_ours_says_goodbye_even_by_force(tmp_path: Path) -> None:
    """It costs nothing, and the peer knows that nothing is missing."""
    async with connection("own tls", tmp_path) as (transport, there):
        await transport.close(0)
        assert await hear_the_end(there)


class Stubborn(ByteStream):
    """A stream that has its own way of closing, the first time."""

    def __init__(self, close: Callable[[], Awaitable[object]]) -> None:
        self._close: Callable[[], Awaitable[object]] | None = close
        self.closes = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        raise AssertionError("nobody receives")

    async def send(self, item: bytes) -> None:
        raise AssertionError("nobody sends")

    async def send_eof(self) -> None:
        raise AssertionError("nobody sends")

    async def aclose(self) -> None:
        self.closes += 1
        close, self._close = self._close, None
        if close is not None:
            await close()
        await checkpoint()


async def test_a_stream_that_fails_to_close_is_closed_by_force(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its error goes to the log, not to whom the pool has nothing to say."""

    async def fail() -> None:
        raise OSError("not now")

    for grace in (0, LIMIT):
        stream = Stubborn(fail)
        with caplog.at_level(logging.DEBUG, "anyconnpool.pool"):
            await Transport(stream, None, "a pool").close(grace)
        assert stream.closes == (2 if grace else 1)
    assert "not now" in caplog.text


async def test_a_stream_that_never_closes_holds_nobody_up() -> None:
    """After the grace it is closed by force, which waits for nothing."""
    stream = Stubborn(anyio.sleep_forever)
    with fail_after(LIMIT):
        await Transport(stream, None, "a pool").close(0.01)
        assert stream.closes == 2
        stream = Stubborn(anyio.sleep_forever)
        await Transport(stream, None, "a pool").close(0)
        assert stream.closes == 1


async def test_a_look_that_fails_says_closed(caplog: pytest.LogCaptureFixture) -> None:
    """What can't be looked at is not lent; the log has why."""

    class Blind(Stubborn):
        @property
        def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
            def look() -> Liveness:
                raise OSError("too dark")

            return {LivenessAttribute.probe: lambda: look}

    transport = Transport(Blind(checkpoint), None, "a pool")
    assert transport.look() is CLOSED
    assert "too dark" in caplog.text
    assert "a pool" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_known_of_a_stream_is_found_out_when_it_is_opened(
    kind: str, tmp_path: Path
) -> None:
    """Its addresses can be read when it is closed; a look at it is exact as long as it is open."""
    async with connection(kind, tmp_path) as (transport, there):
        assert transport.look() is ALIVE
        there.send(b"\x15")
        assert transport.look() is UNREAD
        assert (transport.look == getattr(transport.stream, "look", None)) == ("own" in kind)
        addresses = transport.local_address, transport.remote_address
        if "unix" in kind:
            assert addresses == ("", str(tmp_path / "socket"))
        else:
            assert addresses == (there.sock.getpeername(), there.sock.getsockname())
        await transport.close(0)
        assert repr(transport) == f"{addresses[0]} -> {addresses[1]}"


async def test_a_stream_without_addresses_has_none() -> None:
    """It is no error; nor is keepalive, which is for TCP only."""
    transport = Transport(Stubborn(checkpoint), KeepAlive(), "a pool")
    assert transport.local_address is transport.remote_address is None
    assert transport.look() is ALIVE


@pytest.mark.parametrize("kind", KINDS)
async def test_keepalive_is_for_tcp_only(kind: str, tmp_path: Path) -> None:
    """Whoever has made the stream; without one the socket is left alone."""
    async with connection(kind, tmp_path) as (transport, _):
        raw_socket = transport.stream.extra(SocketAttribute.raw_socket)
        for keepalive, expected in ((None, 0), (KeepAlive(), int("unix" not in kind))):
            Transport(transport.stream, keepalive, "a pool")
            assert raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == expected


async def test_closing_by_force_twice_does_no_harm(tmp_path: Path) -> None:
    """The pool may come to a stream that its owner has closed."""
    for kind in KINDS:
        async with connection(kind, tmp_path) as (transport, _):
            assert isinstance(transport.stream, PoolSocketStream) == ("own" in kind)
            await aclose_forcefully(transport.stream)
            await transport.close(0)
            await transport.close(LIMIT)


def test_an_address_that_a_log_could_choke_on_is_escaped() -> None:
    """The path of a UNIX socket may hold anything but NUL, and an abstract name anything."""
    transport = Transport.__new__(Transport)
    transport.local_address, transport.remote_address = "", "\0name\x1b[31m\udcff\n"
    assert repr(transport) == r" -> \x00name\x1b[31m\udcff\n"
