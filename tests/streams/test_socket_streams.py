"""What a stream on a socket does, the same on every event loop and for TCP and UNIX sockets."""

from __future__ import annotations

import select
import socket
import traceback
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any

import anyio
import pytest
from anyio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    create_task_group,
    fail_after,
    move_on_after,
    to_thread,
)
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

from anyconnpool._streams import kernel
from anyconnpool._streams.connect import on_trio
from anyconnpool._streams.kernel import KernelLook
from anyconnpool._util.liveness import ALIVE, CLOSED, UNREAD, Liveness

from .wires import (
    error_of,
    fileno,
    fill,
    is_open,
    read_all,
    receive_exactly,
    reset,
    socket_pair,
    turns,
    wire,
)

kinds = pytest.mark.parametrize("kind", ["tcp", "unix"])


class Lost(Exception):
    """What tests interrupt with."""


@kinds
async def test_bytes_go_both_ways(kind: str) -> None:
    """What is sent arrives, whatever kind of bytes it is, and nothing sends nothing."""
    async with wire(kind) as (stream, peer):
        for item in (b"one", bytearray(b"two"), memoryview(b"three"), b""):
            await stream.send(item)  # type: ignore[arg-type]
        assert read_all(peer, 11) == b"onetwothree"
        peer.sendall(b"four")
        assert await stream.receive() == b"four"


async def test_ipv6_goes_as_well() -> None:
    """The attributes of an IPv6 socket are formatted as AnyIO formats them."""
    async with wire("tcp6") as (stream, peer):
        await stream.send(b"six")
        assert peer.recv(10) == b"six"
        assert stream.extra(SocketAttribute.family) == socket.AF_INET6
        assert stream.extra(SocketAttribute.remote_address) == peer.getsockname()[:2]


async def test_a_view_of_large_items_is_sent_whole() -> None:
    """The size of an item is counted in bytes."""
    words = memoryview(bytes(range(8))).cast("I")
    async with wire() as (stream, peer):
        await stream.send(words)  # type: ignore[arg-type]
        assert read_all(peer, 8) == bytes(range(8))


@kinds
async def test_a_receive_returns_what_was_asked_for_at_most(kind: str) -> None:
    """Small receives take a large chunk apart in order."""
    data = bytes(range(256)) * 16
    async with wire(kind) as (stream, peer):
        peer.sendall(data)
        await turns()
        parts = [await stream.receive(1000) for _ in range(5)]
        assert b"".join(parts) == data
        assert max(len(part) for part in parts) <= 1000


@pytest.mark.parametrize("max_bytes", [0, -1])
async def test_a_receive_of_nothing_is_refused(max_bytes: int) -> None:
    """A limit has to leave room for a byte."""
    async with wire() as (stream, _):
        with pytest.raises(ValueError, match="max_bytes must be a positive integer"):
            await stream.receive(max_bytes)


@kinds
async def test_a_huge_item_is_sent_whole(kind: str) -> None:
    """The send returns when the kernel has everything, while the peer reads."""
    data = bytes(range(256)) * 40_000
    async with wire(kind) as (stream, peer), create_task_group() as group:
        group.start_soon(stream.send, data)
        assert await to_thread.run_sync(read_all, peer, len(data)) == data


@kinds
async def test_a_huge_reply_is_received_whole(kind: str) -> None:
    """Reading pauses and goes on as often as it takes."""
    data = bytes(range(256)) * 40_000
    async with wire(kind) as (stream, peer):
        sender = Thread(target=peer.sendall, args=(data,))
        sender.start()
        assert await receive_exactly(stream, len(data)) == data
        sender.join()


@kinds
async def test_iteration_ends_with_the_stream(kind: str) -> None:
    """Iterating yields all bytes and stops where the peer stops."""
    async with wire(kind) as (stream, peer):
        peer.sendall(b"to the end")
        peer.close()
        assert b"".join([chunk async for chunk in stream]) == b"to the end"


@kinds
async def test_the_attributes_are_those_of_the_socket(kind: str) -> None:
    """Every attribute of AnyIO's own streams is there, and the socket is a real one."""
    async with wire(kind) as (stream, peer):
        raw_socket = stream.extra(SocketAttribute.raw_socket)
        assert isinstance(raw_socket, socket.socket)
        assert stream.extra(SocketAttribute.family) == peer.family
        assert stream.extra(SocketAttribute.local_address) == peer.getpeername()
        assert stream.extra(SocketAttribute.remote_address) == peer.getsockname()
        if kind == "tcp":
            assert stream.extra(SocketAttribute.local_port) == peer.getpeername()[1]
            assert stream.extra(SocketAttribute.remote_port) == peer.getsockname()[1]
        peer.close()
        await turns()
        assert stream.extra(SocketAttribute.family) == raw_socket.family


@kinds
async def test_no_byte_is_lost_between_cancelled_receives(kind: str) -> None:
    """A receiver that is cancelled again and again gets the same bytes as one that is not."""
    data = bytes(range(256)) * 20
    got = bytearray()

    async def receive(scope: anyio.CancelScope) -> None:
        with scope:
            got.extend(await stream.receive(37))

    async with wire(kind) as (stream, peer):
        for at in range(0, len(data), 64):
            scope = anyio.CancelScope()
            async with create_task_group() as group:
                group.start_soon(receive, scope)
                await turns(at // 64 % 3)
                peer.sendall(data[at : at + 64])
                await turns(at // 192 % 3)
                scope.cancel()
        while len(got) < len(data):
            got.extend(await stream.receive())
        assert bytes(got) == data


@kinds
async def test_every_call_is_a_cancellation_point(kind: str) -> None:
    """In a cancelled scope, no call does anything but close, even where it need not wait."""
    async with wire(kind) as (stream, peer):
        peer.sendall(b"still here")
        await turns()
        for call in (stream.receive, partial(stream.send, b"never sent"), stream.send_eof):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught
        assert await stream.receive() == b"still here"
        await stream.send(b"first")
        assert peer.recv(100) == b"first"


async def test_others_get_a_turn_every_32_operations() -> None:
    """Whoever finds all its bytes ready, on one stream or on many, can't keep the others out."""
    done = most = 0

    async def watch() -> None:
        nonlocal done, most
        while True:
            await checkpoint()
            most, done = max(most, done), 0

    async with wire() as (first, one), wire() as (second, two), create_task_group() as group:
        one.sendall(bytes(500))
        two.sendall(bytes(500))
        await turns()
        group.start_soon(watch)
        await checkpoint()
        for _ in range(200):
            for stream in (first, second):
                await stream.send(b"x")
                await stream.receive(1)
                done += 2
        group.cancel_scope.cancel()
    # trio chooses the order in each turn by chance: at times the same task is the last, then first.
    assert 0 < most <= (64 if on_trio() else 32)


@kinds
async def test_two_tasks_can_not_receive_at_once(kind: str) -> None:
    """The second is told so, and the first gets its bytes."""
    async with wire(kind) as (stream, peer), create_task_group() as group:
        group.start_soon(receive_exactly, stream, 5)
        await turns()
        with pytest.raises(BusyResourceError, match="reading from"):
            await stream.receive()
        peer.sendall(b"first")


@kinds
async def test_two_tasks_can_not_send_at_once(kind: str) -> None:
    """The second is told so, and the first goes on."""
    data = bytes(range(256)) * 40_000
    async with wire(kind) as (stream, peer), create_task_group() as group:
        group.start_soon(stream.send, data)
        await turns()
        with pytest.raises(BusyResourceError, match="writing to"):
            await stream.send(b"in between")
        assert await to_thread.run_sync(read_all, peer, len(data)) == data


@kinds
async def test_the_end_comes_after_the_last_byte_and_stays(kind: str) -> None:
    """EndOfStream is raised as often as somebody asks."""
    async with wire(kind) as (stream, peer):
        peer.sendall(b"last words")
        peer.shutdown(socket.SHUT_WR)
        assert await receive_exactly(stream, 10) == b"last words"
        for _ in range(2):
            with pytest.raises(EndOfStream):
                await stream.receive()
        await stream.send(b"it may still listen")
        assert peer.recv(100) == b"it may still listen"


@kinds
async def test_the_other_direction_stays_open_after_send_eof(kind: str) -> None:
    """The peer sees the end, and can still answer; what is sent afterwards is refused."""
    async with wire(kind) as (stream, peer):
        await stream.send(b"question")
        await stream.send_eof()
        await stream.send_eof()
        assert await to_thread.run_sync(read_all, peer, 100) == b"question"
        peer.sendall(b"answer")
        assert await stream.receive() == b"answer"
        error = await error_of(partial(stream.send, b"more"))
        assert isinstance(error, BrokenResourceError)
        assert isinstance(error.__cause__, BrokenPipeError)
        peer.close()
        with pytest.raises(EndOfStream):
            await stream.receive()


@kinds
async def test_sending_to_a_peer_that_is_gone_fails(kind: str) -> None:
    """At the latest when the peer's refusal has come, with its cause, and then always."""
    async with wire(kind) as (stream, peer):
        peer.close()
        with fail_after(10), pytest.raises(BrokenResourceError) as caught:
            while True:
                await stream.send(b"hello?")
                await checkpoint()
        assert isinstance(caught.value.__cause__, OSError)
        assert isinstance(await error_of(partial(stream.send, b"hello?")), BrokenResourceError)
        assert stream.look() is CLOSED


async def test_a_reset_has_its_cause() -> None:
    """A receive that waits for bytes, and later ones, raise with the kernel's error."""
    async with wire() as (stream, peer), create_task_group() as group:

        async def expect() -> None:
            for _ in range(2):
                error = await error_of(stream.receive)
                assert isinstance(error, BrokenResourceError)
                assert isinstance(error.__cause__, ConnectionResetError)

        group.start_soon(expect)
        await turns()
        reset(peer)


async def test_a_reset_fails_a_send_that_waits() -> None:
    """It doesn't wait for ever for a peer that is gone."""
    async with wire() as (stream, peer), create_task_group() as group:

        async def expect() -> None:
            error = await error_of(partial(stream.send, bytes(1 << 24)))
            assert isinstance(error, BrokenResourceError)
            assert isinstance(error.__cause__, OSError)

        group.start_soon(expect)
        await turns()
        reset(peer)


@kinds
async def test_closing_wakes_those_who_wait(kind: str) -> None:
    """A receive and a send under way raise ClosedResourceError."""
    errors: list[Exception] = []

    async def collect(call: Callable[[], Any]) -> None:
        errors.append(await error_of(call))

    async with wire(kind) as (stream, _), create_task_group() as group:
        group.start_soon(collect, stream.receive)
        group.start_soon(collect, partial(stream.send, bytes(1 << 24)))
        await turns()
        await stream.aclose()
    assert [type(error) for error in errors] == [ClosedResourceError] * 2


@kinds
async def test_a_closed_stream_refuses_everything(kind: str) -> None:
    """What had arrived is gone, and closing again does no harm."""
    async with wire(kind) as (stream, peer):
        peer.sendall(b"nobody asked")
        await turns()
        await stream.aclose()
        await stream.aclose()
        for call in (stream.receive, partial(stream.send, b"x"), stream.send_eof):
            assert isinstance(await error_of(call), ClosedResourceError)
        stream.interrupt(Lost())
        assert isinstance(await error_of(stream.receive), ClosedResourceError)
        assert stream.look() is CLOSED


@kinds
@pytest.mark.parametrize("state", ["idle", "unread", "full", "eof", "reset", "sending"])
@pytest.mark.parametrize("how", ["plainly", "cancelled"])
async def test_the_descriptor_is_closed_when_closing_returns(
    kind: str, state: str, how: str
) -> None:
    """In whatever state the stream is, and also of a cancelled call."""
    async with wire(kind) as (stream, peer), create_task_group() as group:
        fd = fileno(stream)
        if state == "unread":
            peer.sendall(b"unread")
        elif state == "full":
            peer.settimeout(0.05)
            with pytest.raises(TimeoutError):
                peer.sendall(bytes(1 << 24))
        elif state == "eof":
            peer.shutdown(socket.SHUT_WR)
        elif state == "reset":
            reset(peer)
        elif state == "sending":
            group.start_soon(error_of, partial(stream.send, bytes(1 << 24)))
        await turns()
        with anyio.CancelScope() as scope:
            if how == "cancelled":
                scope.cancel()
            await stream.aclose()
        assert scope.cancelled_caught == (how == "cancelled")
        assert not is_open(fd)


@kinds
@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
async def test_closing_loses_nothing_that_was_sent(kind: str, size: int) -> None:
    """What a send has returned for arrives, however late the peer reads."""
    data = bytes(range(250)) * (size // 250 + 1)
    received: list[bytes] = []
    async with wire(kind) as (stream, peer):
        reader = Thread(target=lambda: received.append(read_all(peer, 1 << 30)))
        reader.start()
        await stream.send(data)
        await stream.aclose()
        await to_thread.run_sync(reader.join)
    assert received == [data]


@kinds
async def test_closing_loses_nothing_that_the_peer_has_not_read(kind: str) -> None:
    """Every send that has returned arrives, if the peer reads nothing before the close."""
    async with wire(kind) as (stream, peer):
        sent = 0
        while True:
            with move_on_after(0.1) as scope:
                await stream.send(bytes(8192))
                sent += 8192
            if scope.cancelled_caught:
                break
        await stream.aclose()
        assert len(read_all(peer, 1 << 30)) >= sent


@kinds
async def test_a_flood_is_held_back(kind: str) -> None:
    """Who doesn't receive makes the peer wait, and gets everything in the end."""
    async with wire(kind) as (stream, peer):
        peer.settimeout(0.2)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1 << 28:
                sent += await to_thread.run_sync(peer.send, bytes(65536))
        assert sent < 1 << 25
        assert stream.look() is UNREAD
        assert len(await receive_exactly(stream, sent)) == sent
        assert stream.look() is ALIVE


def act(peer: socket.socket, what: str) -> Liveness:
    """Make the peer do something, and return what a look should see at once."""
    if what == "byte":
        peer.sendall(b"x")
        return UNREAD
    if what == "half-close":
        peer.shutdown(socket.SHUT_WR)
    elif what == "close":
        peer.close()
    elif what == "reset":
        reset(peer)
    elif what == "byte and close":
        peer.sendall(b"x")
        peer.close()
    return ALIVE if what == "nothing" else CLOSED


@kinds
@pytest.mark.parametrize(
    "what", ["nothing", "byte", "half-close", "close", "reset", "byte and close"]
)
async def test_a_look_is_exact_at_once_and_later(kind: str, what: str) -> None:
    """It knows what the kernel knows, before the event loop does and after."""
    async with wire(kind) as (stream, peer):
        assert stream.look() is ALIVE
        expected = act(peer, what)
        assert stream.look() is expected
        for _ in range(6):
            await checkpoint()
            assert stream.look() is expected


async def test_a_look_takes_nothing() -> None:
    """The bytes that it has seen can be received, and then it sees none."""
    async with wire() as (stream, peer):
        for number in range(100):
            peer.sendall(b"%d" % number)
            assert stream.look() is UNREAD
            assert await stream.receive() == b"%d" % number
            assert stream.look() is ALIVE


async def test_a_look_sees_the_rest_of_what_was_received() -> None:
    """Part of a chunk is unread, too."""
    async with wire() as (stream, peer):
        peer.sendall(b"two lines")
        await turns()
        assert await stream.receive(3) == b"two"
        assert stream.look() is UNREAD


async def test_a_look_sees_what_the_kernel_has_after_a_pause() -> None:
    """More than the stream holds is unread even when the stream has given away what it held."""
    async with wire() as (stream, peer):
        peer.settimeout(0.05)
        with pytest.raises(TimeoutError):
            peer.sendall(bytes(1 << 24))
        await turns(20)
        assert stream.look() is UNREAD
        await stream.receive(1 << 24)
        assert stream.look() is UNREAD


async def test_a_look_at_an_ended_stream_says_closed() -> None:
    """After EndOfStream, after a loss, and after an interruption."""
    async with wire() as (stream, peer):
        peer.shutdown(socket.SHUT_WR)
        assert isinstance(await error_of(stream.receive), EndOfStream)
        assert stream.look() is CLOSED
    async with wire() as (stream, peer):
        reset(peer)
        assert isinstance(await error_of(stream.receive), BrokenResourceError)
        assert stream.look() is CLOSED
    async with wire() as (stream, _):
        stream.interrupt(Lost())
        assert stream.look() is CLOSED


@kinds
async def test_an_interruption_reaches_those_who_wait(kind: str) -> None:
    """The receive and the send under way raise the error, each an object of its own."""
    lost, errors = Lost("too late"), list[Exception]()

    async def collect(call: Callable[[], Any]) -> None:
        errors.append(await error_of(call))

    async with wire(kind) as (stream, _), create_task_group() as group:
        group.start_soon(collect, stream.receive)
        group.start_soon(collect, partial(stream.send, bytes(1 << 24)))
        await turns()
        stream.interrupt(lost)
    assert [repr(error) for error in errors] == [repr(lost)] * 2
    assert len({id(error) for error in (lost, *errors)}) == 3


@kinds
async def test_an_interruption_does_not_grow(kind: str) -> None:
    """Who goes on calling gets the same error with the traceback of that call alone."""
    async with wire(kind) as (stream, _):
        stream.interrupt(Lost())
        lengths: set[int] = set()
        for _ in range(5):
            for call in (stream.receive, partial(stream.send, b"x")):
                error = await error_of(call)
                lengths.add(len(traceback.extract_tb(error.__traceback__)))
        assert max(lengths) < 9


@kinds
async def test_an_interruption_stays(kind: str) -> None:
    """Every later call raises the first error, even with bytes waiting; closing works."""
    lost = Lost("too late")
    async with wire(kind) as (stream, peer):
        peer.sendall(b"unread")
        await turns()
        fd = fileno(stream)
        stream.interrupt(lost)
        stream.interrupt(Lost("another"))
        peer.sendall(b"more")
        await turns()
        for _ in range(2):
            assert repr(await error_of(stream.receive)) == repr(lost)
            assert repr(await error_of(partial(stream.send, b"x"))) == repr(lost)
        await stream.aclose()
        assert not is_open(fd)


@kinds
async def test_an_interruption_wins_over_bytes_that_come_in_the_same_turn(kind: str) -> None:
    """A receive that was woken but has not run yet raises, and so does one that takes a turn."""
    lost, errors = Lost(), list[Exception]()

    async def collect() -> None:
        errors.append(await error_of(stream.receive))

    async with wire(kind) as (stream, peer), create_task_group() as group:
        group.start_soon(collect)
        await turns()
        peer.sendall(b"just in time?")
        stream.interrupt(lost)
    assert [repr(error) for error in errors] == [repr(lost)]


@kinds
async def test_a_send_after_a_cancelled_one_is_in_order(kind: str) -> None:
    """Whatever of the first was left behind, nothing of the second overtakes it."""
    async with wire(kind) as (stream, peer), create_task_group() as group:
        await fill(stream)
        group.start_soon(stream.send, b"the end")
        data = bytearray()
        while not data.endswith(b"the end"):
            data += await to_thread.run_sync(peer.recv, 1 << 20)
        assert not data[:-7].strip(b"\0")


@pytest.mark.parametrize("poll", [True, False])
def test_a_look_does_without_what_a_system_lacks(
    poll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without POLLRDHUP, and without poll, it tells the same by peeking."""
    monkeypatch.setattr(kernel, "_POLLRDHUP", 0)
    if not poll:
        monkeypatch.delattr(select, "poll")
    for what in ("nothing", "byte", "half-close", "close", "reset"):
        client, peer = socket_pair("tcp")
        look = KernelLook(client).look
        expected = act(peer, what)
        assert look() is expected, what
        client.close()
        assert look() is CLOSED
        peer.close()
        assert KernelLook(client).look() is CLOSED


def test_a_look_is_not_at_another_file() -> None:
    """The number of a socket that others have closed may be taken again."""
    client, peer = socket_pair("tcp")
    look = KernelLook(client).look
    fd = client.fileno()
    client.close()
    again, other = socket_pair("tcp")
    with peer, again, other:
        assert fd in (again.fileno(), other.fileno())
        assert look() is CLOSED


def test_a_look_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be looked at is closed."""

    def refuse(*_: object) -> Any:
        raise ValueError("filedescriptor out of range in select()")

    client, peer = socket_pair("tcp")
    with client, peer:
        monkeypatch.delattr(select, "poll")
        monkeypatch.setattr(select, "select", refuse)
        assert KernelLook(client).look() is CLOSED


def test_a_byte_that_others_have_taken_is_no_byte() -> None:
    """What was to be read a moment ago, and is not any more, is not unread."""
    client, peer = socket_pair("tcp")

    def ready(*_: object) -> tuple[list[int], list[int], list[int]]:
        return [client.fileno()], [], []

    with client, peer, pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "_POLLRDHUP", 0)
        patch.delattr(select, "poll")
        patch.setattr(select, "select", ready)
        assert KernelLook(client).look() is ALIVE
