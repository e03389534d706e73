"""Framed streams over real loopback sockets, TCP and UNIX, at both ends of a connection."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio import EndOfStream, Event, create_task_group, wait_all_tasks_blocked
from anyio.abc import Listener, SocketAttribute, SocketStream

from anyconnpool import FramedStream, PackageFormat

from .checks import LIMIT

Handler = Callable[[FramedStream], Awaitable[None]]

FOUR = PackageFormat(4)


class Server:
    """A listener on a loopback socket whose handler gets each accepted stream framed."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.path = directory / "socket"

    @asynccontextmanager
    async def serving(self, handler: Handler) -> AsyncGenerator[FramedStream]:
        """Serve, and yield a connection to the server; both ends are closed afterwards."""

        async def handle(stream: SocketStream) -> None:
            async with FramedStream(stream) as framed:
                with suppress(EndOfStream):
                    await handler(framed)
            handled.set()

        handled = Event()
        if self.kind == "unix":
            listener: Listener[SocketStream] = await anyio.create_unix_listener(self.path)
            remote = anyio.as_connectable(self.path)
        else:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            remote = anyio.as_connectable(listener.extra(SocketAttribute.local_address))
        async with listener, create_task_group() as task_group:
            task_group.start_soon(listener.serve, handle)
            async with FramedStream(await remote.connect()) as client:
                yield client
            await handled.wait()
            task_group.cancel_scope.cancel()


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Server:
    """Return a server of each kind of socket."""
    return Server(request.param, tmp_path)


@asynccontextmanager
async def raw_peer() -> AsyncGenerator[tuple[FramedStream, socket.socket]]:
    """Yield a client and, for full control of what it sees, its peer's plain socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connected = await anyio.connect_tcp("127.0.0.1", listening.getsockname()[1])
        async with FramedStream(connected) as client:
            peer, _ = listening.accept()
            with peer:
                yield client, peer


def reset(peer: socket.socket) -> None:
    """Close a socket so that its peer gets a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


async def echo_lines(stream: FramedStream) -> None:
    """Answer each line until the client ends."""
    while True:
        await stream.send_line(b"> " + await stream.receive_line())


async def test_requests_sent_ahead_are_answered_in_order(server: Server) -> None:
    """A thousand lines in one write give a thousand replies, none lost and none doubled."""
    async with server.serving(echo_lines) as client:
        await client.send(b"".join(b"%d\n" % number for number in range(1000)))
        replies = [await client.receive_line() for _ in range(1000)]
    assert replies == [b"> %d" % number for number in range(1000)]


async def test_the_other_direction_stays_open_after_a_half_close(server: Server) -> None:
    """A server that reads to the end can still answer, and then the client sees its end."""

    async def count(stream: FramedStream) -> None:
        lines = 0
        while True:
            try:
                await stream.receive_line()
            except EndOfStream:
                break
            lines += 1
        await stream.send_line(b"%d lines" % lines)

    async with server.serving(count) as client:
        await client.send(b"one\ntwo\nthree\n")
        await client.send_eof()
        assert await client.receive_line() == b"3 lines"
        with pytest.raises(EndOfStream):
            await client.receive_line()


async def test_a_reset_in_mid_frame_is_a_broken_resource_and_keeps_the_bytes() -> None:
    """A reset is told from an end, and the bytes before it stay readable."""
    async with raw_peer() as (client, peer):
        peer.sendall(b"whole\npart")
        assert await client.receive_line() == b"whole"
        assert client.buffer == b"part"
        reset(peer)
        with pytest.raises(anyio.BrokenResourceError):
            await client.receive_line()
        assert client.buffer == b"part"
        assert await client.receive_exactly(4) == b"part"


async def test_a_reset_while_waiting_is_a_broken_resource() -> None:
    """A read that is waiting when the reset comes raises the same."""
    async with raw_peer() as (client, peer), create_task_group() as task_group:

        async def wait() -> None:
            with pytest.raises(anyio.BrokenResourceError):
                await client.receive_package()

        task_group.start_soon(wait)
        await wait_all_tasks_blocked()
        reset(peer)


async def test_available_joins_the_segments_of_a_burst(server: Server) -> None:
    """A segment that comes while the line isn't silent yet belongs to the same answer."""
    go_on = Event()

    async def two_segments(stream: FramedStream) -> None:
        await stream.send(b"one ")
        await go_on.wait()
        await stream.send(b"two")

    async with server.serving(two_segments) as client, create_task_group() as task_group:

        async def release() -> None:
            await wait_all_tasks_blocked()
            go_on.set()

        task_group.start_soon(release)
        # The server closes after the second segment: that ends the read, not the clock.
        with anyio.fail_after(LIMIT):
            assert await client.receive_available(quiet=50) == b"one two"
        with pytest.raises(EndOfStream):
            await client.receive_available()


async def test_available_leaves_what_comes_after_the_silence(server: Server) -> None:
    """A segment sent after the read has ended is the next read's."""
    go_on, finish = Event(), Event()

    async def two_segments(stream: FramedStream) -> None:
        await stream.send(b"one")
        await go_on.wait()
        await stream.send(b"two")
        await finish.wait()

    async with server.serving(two_segments) as client:
        assert await client.receive_available() == b"one"
        assert client.buffer == b""
        go_on.set()
        assert await client.receive_available() == b"two"
        finish.set()


async def test_a_send_to_a_peer_that_never_reads_can_be_cancelled() -> None:
    """The cancellation frees the sender, and what the peer sends can still be read."""
    async with raw_peer() as (client, peer):
        finished = False

        async def send() -> None:
            nonlocal finished
            await client.send_package(bytes(32 << 20), FOUR)
            finished = True

        async with create_task_group() as task_group:
            task_group.start_soon(send)
            await wait_all_tasks_blocked()
            task_group.cancel_scope.cancel()
        assert not finished
        peer.sendall(b"still here\n")
        assert await client.receive_line() == b"still here"
