"""Streams of TLS on real sockets: what a look and an event know, and how data goes."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import cast

import pytest
from anyio import (
    BrokenResourceError,
    BusyResourceError,
    EndOfStream,
    Event,
    create_task_group,
    create_tcp_listener,
    create_unix_listener,
    fail_after,
)
from anyio.abc import ByteStream, Listener, SocketAttribute, SocketStream
from anyio.streams.tls import TLSAttribute, TLSListener

from anyconnpool._remote import TLSOptions
from anyconnpool._streams.connect import on_trio
from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._streams.tls import SLICE_SIZE
from anyconnpool._util.liveness import ALIVE, CLOSED, UNREAD, Liveness
from tests.certificates import client_context

from .opening import connect_to
from .tls_peers import (
    LIMIT,
    VERSIONS,
    KeyUpdates,
    connected,
    eventually,
    read_by_the_loop,
    server_context,
    turns,
)

each_version = pytest.mark.parametrize("version", VERSIONS)
BROKEN_RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)


async def seen(stream: PoolSocketStream) -> Liveness:
    """Look at once, which knows the kernel, and after the loop has read; see that they agree."""
    at_once = stream.look()
    await read_by_the_loop(stream)
    assert stream.look() is at_once
    return at_once


def events_of(stream: PoolSocketStream) -> list[Liveness]:
    """Return a list to which each event adds what a look says in it."""
    events: list[Liveness] = []
    stream.on_event = lambda: events.append(stream.look())
    return events


def needs_events() -> None:
    if on_trio():
        pytest.skip("trio keeps nothing in user space, and notifies nobody")


async def cause_of(operation: Callable[[], Awaitable[object]]) -> BaseException | None:
    """Return the cause of an operation's BrokenResourceError."""
    with pytest.raises(BrokenResourceError) as caught:
        await operation()
    return caught.value.__cause__


@each_version
async def test_a_look_is_exact_at_every_byte_of_a_record(version: str) -> None:
    """From a record's first byte until all its plaintext is received, the stream is unread."""
    async with connected(version) as (stream, wire, _):
        await eventually(lambda: stream.look() is ALIVE)
        record = wire.server.say(b"hello")
        for place in range(len(record)):
            wire.send(record[place : place + 1])
            assert await seen(stream) is UNREAD
        assert await stream.receive(4) == b"hell"
        assert stream.look() is UNREAD
        assert await stream.receive() == b"o"
        assert stream.look() is ALIVE


async def test_tickets_are_not_unread() -> None:
    """Half a ticket is unread; whole tickets are nothing, though nobody has received."""
    async with connected(send_last=False) as (stream, wire, _):
        assert await seen(stream) is ALIVE
        half = len(wire.last) // 3
        wire.send(wire.last[:half])
        assert await seen(stream) is UNREAD
        wire.send(wire.last[half:])
        await read_by_the_loop(stream)
        assert stream.look() is ALIVE
        wire.say(b"hello")
        assert await stream.receive() == b"hello"


@each_version
async def test_a_goodbye_is_an_end(version: str) -> None:
    """After the peer's close_notify the stream is closed, and a receive says that it is the end."""
    async with connected(version) as (stream, wire, _):
        wire.send(wire.server.goodbye())
        await read_by_the_loop(stream)
        assert stream.look() is CLOSED
        with pytest.raises(EndOfStream):
            await stream.receive()


@each_version
async def test_a_cut_is_no_end(version: str) -> None:
    """A hang-up without a goodbye shows at once, and a receive says that it is a cut."""
    async with connected(version) as (stream, wire, _):
        wire.hang_up()
        assert await seen(stream) is CLOSED
        assert isinstance(await cause_of(stream.receive), ssl.SSLEOFError)


@each_version
async def test_a_cut_is_an_end_for_who_does_not_insist(version: str) -> None:
    """Where ``standard_compatible`` is false, a hang-up without a goodbye is an end."""
    async with connected(version, standard_compatible=False) as (stream, wire, _):
        wire.say(b"last")
        wire.hang_up()
        assert await seen(stream) is CLOSED
        assert await stream.receive() == b"last"
        with pytest.raises(EndOfStream):
            await stream.receive()


async def test_a_reset_is_a_loss() -> None:
    """An RST shows at once, and receiving and sending fail with it as the cause."""
    async with connected() as (stream, wire, _):
        wire.reset()
        assert await seen(stream) is CLOSED
        assert isinstance(await cause_of(stream.receive), ConnectionResetError)
        assert isinstance(await cause_of(lambda: stream.send(b"x")), OSError)


@each_version
async def test_a_broken_record_ends_the_connection(version: str) -> None:
    """Bytes that can't be decrypted close the stream for both directions, with an SSLError."""
    async with connected(version) as (stream, wire, _):
        wire.send(BROKEN_RECORD)
        await read_by_the_loop(stream)
        assert stream.look() is CLOSED
        cause = await cause_of(stream.receive)
        assert isinstance(cause, ssl.SSLError)
        assert await cause_of(lambda: stream.send(b"x")) is cause
        # The peer hears why.
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            wire.server.hear(await wire.read())


@pytest.mark.parametrize("ending", ["goodbye", "broken", "cut"])
async def test_what_came_before_an_end_is_received_first(ending: str) -> None:
    """Plaintext in the same bytes as a goodbye, a broken record or half a record is delivered."""
    async with connected() as (stream, wire, _):
        await eventually(lambda: stream.look() is ALIVE)
        last = wire.server.say(b"last words")
        if ending == "goodbye":
            wire.send(last + wire.server.goodbye())
        elif ending == "broken":
            wire.send(last + BROKEN_RECORD)
        else:
            wire.send(last + wire.server.say(b"rest")[:9])
        wire.sock.shutdown(socket.SHUT_WR)
        assert await stream.receive(4) == b"last"
        assert await stream.receive() == b" words"
        with pytest.raises(EndOfStream if ending == "goodbye" else BrokenResourceError):
            await stream.receive()
        assert stream.look() is CLOSED


async def test_a_half_closed_connection_can_still_be_sent_to() -> None:
    """After the peer's goodbye its other direction is open, as TLS 1.3 has it."""
    async with connected() as (stream, wire, _):
        wire.send(wire.server.goodbye())
        with pytest.raises(EndOfStream):
            await stream.receive()
        await stream.send(b"hello")
        assert await wire.hear(5) == b"hello"


async def test_events_tell_what_nobody_waits_for() -> None:
    """Plaintext, half a record, a goodbye and a loss are events; whole tickets are none."""
    needs_events()
    async with connected(send_last=False) as (stream, wire, _):
        events = events_of(stream)
        wire.send(wire.last)
        await read_by_the_loop(stream)
        assert events == []
        record = wire.server.say(b"hello")
        wire.send(record[:3])
        await eventually(lambda: bool(events))
        wire.send(record[3:])
        await eventually(lambda: len(events) == 2)
        assert events == [UNREAD, UNREAD]
        assert await stream.receive() == b"hello"
        wire.send(wire.server.goodbye())
        await eventually(lambda: len(events) == 3)
        # What comes after the end is nothing any more.
        wire.send(b"more")
        await read_by_the_loop(stream)
        assert len(events) == 3
        wire.reset()
        await eventually(lambda: len(events) > 3)
        assert set(events[2:]) == {CLOSED}


async def test_half_a_ticket_is_an_event() -> None:
    """What has begun to come could be data, so it is told."""
    needs_events()
    async with connected(send_last=False) as (stream, wire, _):
        events = events_of(stream)
        wire.send(wire.last[:100])
        await eventually(lambda: bool(events))
        assert events == [UNREAD]


async def test_a_cut_and_a_broken_record_are_events() -> None:
    """Whatever ends the connection is told in the turn in which the loop hears of it."""
    needs_events()
    async with connected() as (stream, wire, _):
        events = events_of(stream)
        wire.hang_up()
        await eventually(lambda: CLOSED in events)
    async with connected() as (stream, wire, codec):
        events = events_of(stream)
        wire.send(BROKEN_RECORD)
        await eventually(lambda: codec.error is not None)
        assert events == [CLOSED]


async def test_nothing_is_an_event_while_a_receive_waits() -> None:
    """Who waits is told of a record, also of one that comes in parts; nobody else is."""
    async with connected() as (stream, wire, _):
        await eventually(lambda: stream.look() is ALIVE)
        events = events_of(stream)
        record = wire.server.say(b"hello")
        async with receiving(stream) as received:
            for part in (record[:3], record[3:7], record[7:]):
                wire.send(part)
                await turns(5)
        assert received == [b"hello"]
        assert events == []


@asynccontextmanager
async def receiving(stream: PoolSocketStream) -> AsyncGenerator[list[bytes], None]:
    """Let another task wait in a receive; the list has what it received after the block."""
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await stream.receive())

    async with create_task_group() as group:
        group.start_soon(receive)
        await turns(5)
        yield received


async def test_a_look_takes_nothing_from_a_receive_that_waits() -> None:
    """Bytes that come between are the receiver's, whoever looks."""
    async with connected() as (stream, wire, _):
        await eventually(lambda: stream.look() is ALIVE)
        async with receiving(stream) as received:
            wire.say(b"hello")
            assert stream.look() is UNREAD
        assert received == [b"hello"]


async def test_a_refused_client_certificate_is_known() -> None:
    """With TLS 1.3 it shows after the handshake: by a look, an event, and the first receive."""
    context = server_context(wants_certificate=True)
    async with connected(context=context, send_last=False) as (stream, wire, _):
        events = events_of(stream)
        assert stream.look() is ALIVE
        wire.send(wire.last)
        await read_by_the_loop(stream)
        assert stream.look() is CLOSED
        assert on_trio() or events[0] is CLOSED
        cause = await cause_of(stream.receive)
        assert isinstance(cause, ssl.SSLError)
        assert "ALERT" in cause.reason.upper()


def keyed(tmp_path: Path) -> ssl.SSLContext:
    context = server_context()
    context.keylog_filename = str(tmp_path / "keys")
    return context


async def test_a_peer_that_asks_for_answers_and_does_not_read_is_refused(tmp_path: Path) -> None:
    """A flood of key updates whose answers stay unread ends the connection."""
    async with connected(context=keyed(tmp_path), buffers=16_384) as (stream, wire, codec):
        await eventually(lambda: stream.look() is ALIVE)
        updates = KeyUpdates(tmp_path / "keys", sent=2)
        asked = 0
        while stream.look() is not CLOSED:
            wire.send(b"".join(updates.record() for _ in range(40)))
            await read_by_the_loop(stream)
            asked += 40
            assert asked < 20_000
        assert codec.owed < 20_000
        assert isinstance(await cause_of(stream.receive), ssl.SSLError)


async def test_answers_that_the_kernel_did_not_take_go_out_later(tmp_path: Path) -> None:
    """A peer that reads its answers late gets them, before the data sent afterwards."""
    async with connected(context=keyed(tmp_path), buffers=4_096) as (stream, wire, codec):
        await eventually(lambda: stream.look() is ALIVE)
        updates = KeyUpdates(tmp_path / "keys", sent=2)
        while not codec.owed:
            wire.send(updates.record())
            await read_by_the_loop(stream)
        assert stream.look() is ALIVE
        if not on_trio():
            # On trio, they wait for the next operation.
            while codec.owed:
                assert wire.server.hear(await wire.read()) == b""
                await turns(1)
        data = Random(1).randbytes(100_000)
        async with create_task_group() as group:
            group.start_soon(stream.send, data)
            assert await wire.hear(len(data)) == data


async def test_a_look_decrypts_what_the_loop_has_not_read_yet(tmp_path: Path) -> None:
    """What is no data is told from data while it is in the kernel, and data is kept."""
    async with connected(context=keyed(tmp_path)) as (stream, wire, _):
        await eventually(lambda: stream.look() is ALIVE)
        told: list[object] = []
        stream.on_event = lambda: told.append(stream)
        wire.send(KeyUpdates(tmp_path / "keys", sent=2).record())
        assert stream.look() is ALIVE
        assert not told
    async with connected() as (stream, wire, _):
        await eventually(lambda: stream.look() is ALIVE)
        told.clear()
        stream.on_event = lambda: told.append(stream)
        wire.send(wire.server.say(b"data"))
        assert stream.look() is UNREAD
        assert not told
        assert await stream.receive() == b"data"
        wire.sock.close()
        assert stream.look() is CLOSED
        with pytest.raises(BrokenResourceError):
            await stream.receive()


async def test_a_look_does_not_read_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On trio, a peer that keeps sending what is no data can't keep a look busy."""
    if not on_trio():
        pytest.skip("elsewhere the event loop may have read a part already")
    from anyconnpool._streams import tls, tls_trio

    async with connected(context=keyed(tmp_path)) as (stream, wire, _):
        await eventually(lambda: stream.look() is ALIVE)
        updates = KeyUpdates(tmp_path / "keys", sent=2)
        records = [updates.record() for _ in range(tls.MAX_READS + 1)]
        wire.send(b"".join(records))
        monkeypatch.setattr(tls_trio, "READ_SIZE", len(records[0]))
        assert stream.look() is UNREAD
        assert stream.look() is ALIVE


async def echo(stream: ByteStream) -> None:
    async with stream:
        with suppress(EndOfStream, BrokenResourceError):
            while True:
                await stream.send(await stream.receive())


@asynccontextmanager
async def echoing(
    listener: Listener[SocketStream], version: str = "1.3"
) -> AsyncGenerator[None, None]:
    """Echo with AnyIO's own TLS while the block lasts."""
    server = TLSListener(listener, server_context(version))
    async with server, create_task_group() as group:
        group.start_soon(server.serve, echo)
        yield
        group.cancel_scope.cancel()


@each_version
async def test_much_data_goes_both_ways(version: str) -> None:
    """Megabytes that are sent while they are received come back as they were."""
    data = Random(version).randbytes(4 << 20)
    listener = await create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    async with echoing(listener, version):
        stream = await connect_to(("127.0.0.1", port), TLSOptions(client_context()))
        received = bytearray()
        with fail_after(LIMIT):
            async with stream, create_task_group() as group:
                group.start_soon(stream.send, data)
                while len(received) < len(data):
                    received += await stream.receive(100_000)
                assert stream.look() is ALIVE
        assert received == data


async def test_tls_goes_over_a_unix_socket(tmp_path: Path) -> None:
    """A UNIX socket can speak TLS; the name to check has to be given."""
    path = tmp_path / "socket"
    async with echoing(await create_unix_listener(path)):
        stream = await connect_to(path, TLSOptions(client_context(), "localhost"))
        async with stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
        with pytest.raises(ValueError, match="give the name to check"):
            await connect_to(path, TLSOptions(client_context()))


async def test_attributes_are_those_of_the_socket_and_of_tls() -> None:
    """What AnyIO's streams say of themselves, these say, too."""
    async with connected() as (stream, wire, codec):
        assert stream.extra(TLSAttribute.ssl_object) is codec.ssl_object
        assert stream.extra(TLSAttribute.tls_version) == "TLSv1.3"
        assert stream.extra(TLSAttribute.standard_compatible) is True
        assert stream.extra(SocketAttribute.remote_address) == wire.sock.getsockname()
        assert stream.extra(SocketAttribute.local_address) == wire.sock.getpeername()


@each_version
async def test_half_closing_is_refused_as_by_anyio(version: str) -> None:
    """``send_eof`` is not implemented; AnyIO's words say since when TLS could."""
    expected = {"1.2": "requires at least TLSv1.3", "1.3": "not yet been implemented"}
    async with connected(version) as (stream, _, _):
        with pytest.raises(NotImplementedError, match=expected[version]):
            await stream.send_eof()


async def test_what_has_bytes_can_be_sent_and_nothing_is_nothing() -> None:
    """A bytearray is sent as bytes are, empty bytes are not sent at all."""
    async with connected() as (stream, wire, codec):
        await stream.send(b"")
        assert not codec.encrypted
        await stream.send(cast("bytes", bytearray(b"one ")))
        await stream.send(b"two")
        assert await wire.hear(7) == b"one two"


async def test_a_send_waits_for_a_peer_that_does_not_read() -> None:
    """What is encrypted ahead is a slice or two, however much there is to send."""
    async with connected(buffers=16_384) as (stream, wire, codec):
        data, heard = Random(2).randbytes(4 << 20), b""
        async with create_task_group() as group:
            group.start_soon(stream.send, data)
            await turns(50)
            ahead = codec.encrypted
            assert 0 < ahead <= 4 * SLICE_SIZE
            heard = await wire.hear(100_000)
            assert codec.encrypted <= ahead + len(heard) + 2 * SLICE_SIZE
            heard += await wire.hear(len(data) - len(heard))
        assert heard == data


async def test_a_peer_that_sends_without_an_end_fills_no_memory() -> None:
    """What nobody receives stays in the kernel, above half a megabyte."""
    async with connected() as (stream, wire, _):
        await eventually(lambda: stream.look() is ALIVE)
        total = 512 * 16_384
        records = b"".join(wire.server.say(bytes(16_384)) for _ in range(512))
        poured = Event()

        async def pour() -> None:
            await wire.pour(records)
            poured.set()

        async with create_task_group() as group:
            group.start_soon(pour)
            await turns(200)
            assert getattr(stream, "_size", 0) <= 2 * 262_144
            received = 0
            while received < total:
                received += len(await stream.receive())
            await poured.wait()
        assert stream.look() is ALIVE


async def test_only_one_task_may_send_and_one_receive() -> None:
    """A second receive and a second send are refused at once, and do no harm to the first."""
    async with connected(buffers=16_384) as (stream, wire, _):
        await eventually(lambda: stream.look() is ALIVE)
        data, heard = Random(3).randbytes(1 << 20), b""
        async with create_task_group() as group:
            async with receiving(stream) as received:
                group.start_soon(stream.send, data)
                await turns(5)
                with pytest.raises(BusyResourceError):
                    await stream.receive()
                for _ in range(20):
                    for second in (b"x", bytes(100_000)):
                        with pytest.raises(BusyResourceError):
                            await stream.send(second)
                    heard += await wire.hear(1)
                wire.say(b"hello")
            assert received == [b"hello"]
            assert heard + await wire.hear(len(data) - len(heard)) == data


async def test_nobody_comes_between_the_slices_of_a_send() -> None:
    """In whatever turn another task tries to send, it is refused, until the first is done."""
    async with connected() as (stream, wire, _):
        data, heard = Random(6).randbytes(8 << 20), bytearray()
        sent = Event()

        async def send() -> None:
            await stream.send(data)
            sent.set()

        async def hear() -> None:
            while len(heard) < len(data):
                heard.extend(wire.server.hear(await wire.read()))

        async with create_task_group() as group:
            group.start_soon(send)
            group.start_soon(hear)
            # trio runs the tasks of a turn in any order.
            await turns(2)
            while not sent.is_set():
                with pytest.raises(BusyResourceError):
                    await stream.send(b"x")
                await turns(1)
        assert heard == data


async def test_a_receive_returns_at_least_a_byte_and_no_more_than_asked_for() -> None:
    """A megabyte in receives of many sizes is the same megabyte; none of zero bytes is allowed."""
    data, random = Random(4).randbytes(1 << 20), Random(5)
    async with connected() as (stream, wire, _), create_task_group() as group:
        with pytest.raises(ValueError, match="max_bytes"):
            await stream.receive(0)
        records = [wire.server.say(data[i : i + 9_999]) for i in range(0, len(data), 9_999)]
        group.start_soon(wire.pour, b"".join(records))
        received = bytearray()
        while len(received) < len(data):
            most = random.choice((1, 100, 16_384, 70_000))
            chunk = await stream.receive(most)
            assert 1 <= len(chunk) <= most
            received += chunk
        assert received == data
