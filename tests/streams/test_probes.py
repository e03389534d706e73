"""What can be known of a stream without waiting: our own, AnyIO's, and any other."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import CancelScope, create_task_group, fail_after
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint
from anyio.streams.buffered import BufferedByteStream
from anyio.streams.stapled import StapledByteStream
from anyio.streams.tls import TLSStream

from anyconnpool import FramedStream
from anyconnpool._streams.kernel import KernelLook
from anyconnpool._streams.probes import LivenessAttribute, SocketLook, attributes_of, look_for
from anyconnpool._util.liveness import ALIVE, CLOSED, UNREAD, Liveness
from tests.certificates import client_context

from .tls_peers import LIMIT, Server, Wire, server_context
from .wires import reset, socket_pair, turns, wire

kinds = pytest.mark.parametrize("kind", ["tcp", "unix"])


class Attributed(ByteStream):
    """A stream of which nothing is used except its attributes."""

    def __init__(self, attributes: Mapping[Any, Callable[[], Any]]) -> None:
        self._attributes = attributes

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._attributes

    async def receive(self, max_bytes: int = 65536) -> bytes:
        raise AssertionError("nobody receives")

    async def send(self, item: bytes) -> None:
        raise AssertionError("nobody sends")

    async def send_eof(self) -> None:
        raise AssertionError("nobody sends")

    async def aclose(self) -> None:
        raise AssertionError("nobody closes")


@asynccontextmanager
async def foreign(
    kind: str, tmp_path: Path
) -> AsyncGenerator[tuple[SocketStream, socket.socket], None]:
    """Connect AnyIO's own stream; yield it and the socket at its other end, and close both."""
    if kind == "unix":
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            stream: SocketStream = await anyio.connect_unix(path)
            peer, _ = listener.accept()
        os.unlink(path)
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            stream = await anyio.connect_tcp(*listener.getsockname())
            peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with fail_after(LIMIT):
            yield stream, peer
    finally:
        peer.close()
        await anyio.aclose_forcefully(stream)


@asynccontextmanager
async def foreign_tls(
    version: str, tmp_path: Path
) -> AsyncGenerator[tuple[TLSStream, Wire, SocketStream], None]:
    """Shake hands over AnyIO's own stream; what comes at the handshake's end is not sent yet."""
    async with foreign("tcp", tmp_path) as (below, peer):
        there = Wire(peer, Server(server_context(version)))
        streams: list[TLSStream] = []
        async with create_task_group() as group:
            # What ends the handshake of TLS 1.2 the client waits for.
            group.start_soon(partial(there.shake_hands, send_last=version == "1.2"))
            streams.append(
                await TLSStream.wrap(
                    below, hostname="localhost", ssl_context=client_context(), server_side=False
                )
            )
        yield streams[0], there, below


async def digest_tickets(stream: TLSStream, there: Wire, version: str) -> None:
    """Let the client have its tickets, which TLS 1.2 has sent already."""
    if version == "1.3":
        there.send(there.last)
    there.say(b"welcome")
    assert await stream.receive() == b"welcome"


async def test_a_stream_of_ours_is_asked_itself() -> None:
    """It is exact, so that nothing is put in between."""
    async with wire() as (stream, _):
        assert look_for(stream) == stream.look


def test_a_stream_can_answer_for_itself() -> None:
    """Its attribute is asked once for the function, and that at every look."""
    answers = [*Liveness, ALIVE]
    look = look_for(Attributed({LivenessAttribute.probe: lambda: lambda: answers.pop(0)}))
    assert [look() for _ in range(4)] == [*Liveness, ALIVE]
    assert not answers


def test_a_stream_that_answers_for_itself_is_not_looked_into() -> None:
    """A socket below says less than the stream that knows its own buffers."""
    client, peer = socket_pair("unix")
    with client, peer:
        attributes: dict[Any, Callable[[], Any]] = {
            SocketAttribute.raw_socket: lambda: client,
            LivenessAttribute.probe: lambda: lambda: UNREAD,
        }
        assert look_for(Attributed(attributes))() is UNREAD


def test_a_stream_that_says_nothing_of_itself_is_taken_to_be_alive() -> None:
    """What nobody can know doesn't keep a connection from being used again."""
    assert look_for(Attributed({}))() is ALIVE


def test_a_stream_of_somebody_else_on_a_socket_is_seen_by_the_kernel() -> None:
    """Of a stream that is neither ours nor AnyIO's, the socket is what there is."""
    client, peer = socket_pair("unix")
    with client, peer:
        look = look_for(Attributed({SocketAttribute.raw_socket: lambda: client}))
        assert look() is ALIVE
        peer.sendall(b"x")
        assert look() is UNREAD
        peer.close()
        assert look() is CLOSED


def test_the_descriptor_of_a_closed_socket_may_be_anothers() -> None:
    """The number is used again by a socket that is alive, and the look isn't fooled."""
    client, peer = socket_pair("unix")
    stranger, its_peer = socket.socketpair()
    with peer, stranger, its_peer:
        look = look_for(Attributed({SocketAttribute.raw_socket: lambda: client}))
        number = client.fileno()
        client.close()
        os.dup2(stranger.fileno(), number)
        try:
            assert look() is CLOSED
        finally:
            os.close(number)


@kinds
async def test_a_look_at_anyios_stream_knows_what_the_kernel_knows(
    kind: str, tmp_path: Path
) -> None:
    """On every loop, at once and some turns later: AnyIO reads only while somebody receives."""

    def half_close(peer: socket.socket) -> None:
        peer.shutdown(socket.SHUT_WR)

    def say_and_close(peer: socket.socket) -> None:
        peer.sendall(b"x")
        peer.close()

    deeds: dict[Liveness, list[Callable[[socket.socket], object]]] = {
        ALIVE: [lambda _: None],
        UNREAD: [lambda peer: peer.sendall(b"x")],
        CLOSED: [half_close, socket.socket.close, reset, say_and_close],
    }
    for expected, deed in [(answer, deed) for answer in deeds for deed in deeds[answer]]:
        async with foreign(kind, tmp_path) as (stream, peer):
            look = look_for(stream)
            assert look() is ALIVE
            deed(peer)
            assert look() is expected
            await turns()
            assert look() is expected


@kinds
async def test_the_rest_of_a_receive_from_anyios_stream_is_unread(
    kind: str, tmp_path: Path
) -> None:
    """On asyncio and uvloop it stands in AnyIO's own queue, and the kernel has nothing."""
    async with foreign(kind, tmp_path) as (stream, peer):
        look = look_for(stream)
        peer.sendall(b"two parts")
        assert await stream.receive(4) == b"two "
        assert look() is UNREAD
        assert await stream.receive() == b"parts"
        assert look() is ALIVE


async def test_what_a_cancelled_receive_leaves_in_anyios_stream_is_unread(
    tmp_path: Path, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    """Whatever turn the bytes come in, they are unread until somebody receives them.

    On uvloop the loop may have read them when the cancellation is delivered.
    """
    taken_by_the_loop = 0
    async with foreign("tcp", tmp_path) as (stream, peer):
        look = look_for(stream)
        kernel = KernelLook(stream.extra(SocketAttribute.raw_socket)).look
        for count in [*range(6)] * 5:
            received: list[bytes] = []

            async def receive(scope: CancelScope, received: list[bytes]) -> None:
                with scope:
                    received.append(await stream.receive())

            async with create_task_group() as group:
                scope = CancelScope()
                group.start_soon(receive, scope, received)
                await turns()
                peer.sendall(b"reply")
                await turns(count)
                scope.cancel()
            if not received:
                assert look() is UNREAD
                taken_by_the_loop += kernel() is ALIVE
                received.append(await stream.receive())
            assert received == [b"reply"]
            assert look() is ALIVE
    if anyio_backend[1].get("use_uvloop"):
        assert taken_by_the_loop, "this test shows nothing"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_what_is_left_in_anyios_tls_is_unread(version: str, tmp_path: Path) -> None:
    """The rest of a record, a record that came with another one, and a half one: none is missed."""
    async with foreign_tls(version, tmp_path) as (stream, there, _):
        look = look_for(stream)
        await digest_tickets(stream, there, version)
        assert look() is ALIVE
        there.say(b"one record")
        assert look() is UNREAD
        assert await stream.receive(3) == b"one"
        assert look() is UNREAD
        assert await stream.receive() == b" record"
        assert look() is ALIVE

        there.send(there.server.say(b"first") + there.server.say(b"second"))
        assert await stream.receive() == b"first"
        assert look() is UNREAD
        assert await stream.receive() == b"second"
        assert look() is ALIVE

        record, half = there.server.say(b"and"), there.server.say(b"in two parts")
        there.send(record + half[:9])
        assert await stream.receive() == b"and"
        assert look() is UNREAD
        there.send(half[9:])
        assert await stream.receive() == b"in two parts"
        assert look() is ALIVE


async def test_tickets_in_anyios_tls_are_in_doubt_until_somebody_receives(tmp_path: Path) -> None:
    """From outside they look like data; the first receive digests them on its way."""
    async with foreign_tls("1.3", tmp_path) as (stream, there, _):
        look = look_for(stream)
        assert look() is ALIVE
        there.send(there.last)
        assert look() is UNREAD
        there.say(b"welcome")
        assert await stream.receive() == b"welcome"
        assert look() is ALIVE


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_an_end_of_anyios_tls_is_known(version: str, tmp_path: Path) -> None:
    """A hang-up below closes it; a goodbye alone is at least not taken for a good connection."""
    async with foreign_tls(version, tmp_path) as (stream, there, _):
        look = look_for(stream)
        await digest_tickets(stream, there, version)
        assert look() is ALIVE
        there.send(there.server.goodbye())
        assert look() is UNREAD
        there.hang_up()
        assert look() is CLOSED


async def test_what_anyios_queue_holds_below_tls_is_unread(tmp_path: Path) -> None:
    """A receive that was cancelled leaves records where neither the kernel nor TLS has them."""
    async with foreign_tls("1.2", tmp_path) as (stream, there, below):
        look = look_for(stream)
        there.say(b"nobody gets it whole")
        assert len(await below.receive(7)) == 7
        assert look() is UNREAD


@kinds
async def test_a_closed_stream_of_anyios_is_no_living_one(kind: str, tmp_path: Path) -> None:
    """The look says so; on uvloop, whose socket is gone, no look can be made any more."""
    async with foreign(kind, tmp_path) as (stream, _):
        look = look_for(stream)
        await stream.aclose()
        await checkpoint()
        assert look() is CLOSED
        try:
            again = look_for(stream)
        except (AttributeError, ValueError, OSError):
            return
        assert again() is CLOSED


class Logged(ByteStream):
    """A stream of the user's, which adds something to another one and passes on all else."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return attributes_of(self._stream)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class FramedOverLogged(FramedStream):
    """What the pool's users may give it: a stream of theirs below one of ours."""


WRAPPERS: dict[str, Callable[[ByteStream], ByteStream]] = {
    "framed": FramedStream,
    "framed twice": lambda stream: FramedStream(FramedStream(stream)),
    "buffered": BufferedByteStream,
    "stapled": lambda stream: StapledByteStream(stream, stream),
    "stapled of buffered": lambda stream: StapledByteStream(stream, BufferedByteStream(stream)),
    "of the user's": Logged,
    "framed over the user's": lambda stream: FramedOverLogged(Logged(stream)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
async def test_what_is_wrapped_around_a_stream_hides_nothing_of_it(
    wrap: Callable[[ByteStream], ByteStream], tmp_path: Path
) -> None:
    """Neither of ours, which reads all the time, nor of AnyIO's with its queue.

    Only what the user wraps around AnyIO's can't be looked into.
    """
    async with foreign("tcp", tmp_path) as (other, its_peer), wire() as (own, own_peer):
        for stream, peer in ((own, own_peer), (other, its_peer)):
            wrapped = wrap(stream)
            if stream is other and isinstance(wrapped, (Logged, FramedOverLogged)):
                continue
            look = look_for(wrapped)
            assert look() is ALIVE
            peer.sendall(b"two parts")
            assert look() is UNREAD
            await turns()
            assert look() is UNREAD
            # On asyncio, the rest is in user space: in ours or in AnyIO's, or in the wrapper's.
            assert await wrapped.receive(4) == b"two "
            assert look() is UNREAD
            assert await wrapped.receive() == b"parts"
            assert look() is ALIVE
            peer.close()
            assert look() is CLOSED


async def test_what_a_wrapper_has_read_ahead_is_unread(tmp_path: Path) -> None:
    """It stands in the buffer of the wrapper, and nowhere below."""
    for wrap in (BufferedByteStream, FramedStream):
        async with foreign("tcp", tmp_path) as (stream, peer):
            wrapped = wrap(stream)
            look = look_for(wrapped)
            peer.sendall(b"one\ntwo\n")
            assert await wrapped.receive_until(b"\n", 10) == b"one"
            assert wrapped.buffer == b"two\n"
            assert look() is UNREAD
            assert await wrapped.receive_until(b"\n", 10) == b"two"
            assert look() is ALIVE


async def test_tls_of_anyios_over_a_stream_of_ours_hides_nothing() -> None:
    """Ours has taken out of the kernel what TLS has not asked for yet."""
    async with wire() as (own, peer):
        there = Wire(peer, Server(server_context("1.2")))
        streams: list[TLSStream] = []
        with fail_after(LIMIT):
            async with create_task_group() as group:
                group.start_soon(there.shake_hands)
                streams.append(
                    await TLSStream.wrap(
                        FramedStream(own),
                        hostname="localhost",
                        ssl_context=client_context(),
                        server_side=False,
                    )
                )
            look = look_for(streams[0])
            assert look() is ALIVE
            record = there.server.say(b"nobody asked for it")
            for part in (record[:9], record[9:]):
                there.send(part)
                await turns()
                assert look() is UNREAD
            assert await streams[0].receive(6) == b"nobody"
            assert look() is UNREAD
            assert await streams[0].receive() == b" asked for it"
            assert look() is ALIVE
            there.hang_up()
            assert look() is CLOSED


def test_a_stream_without_a_queue_has_none() -> None:
    """Where AnyIO keeps nothing, on trio and for UNIX sockets, the kernel is all."""
    client, peer = socket_pair("unix")
    with client, peer:
        assert SocketLook(client, object())() is ALIVE
