"""What the stream does on asyncio and uvloop only: events, native cancellation, its buffers."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError, create_task_group, to_thread
from anyio.lowlevel import checkpoint

from anyconnpool._streams.asyncio_socket import (
    HIGH_WATER,
    LOW_WATER,
    MAX_CHUNKS,
    AsyncioSocketStream,
)
from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._util.liveness import ALIVE, CLOSED, UNREAD
from tests.sockets.checks import eventually

from .wires import (
    error_of,
    fileno,
    fill,
    is_open,
    receive_exactly,
    reset,
    turns,
    wire,
)

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio", "asyncio+uvloop"], indirect=True)
kinds = pytest.mark.parametrize("kind", ["tcp", "unix"])


def start(call: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
    """Begin a call in a native task."""

    async def run() -> Any:
        return await call()

    return asyncio.get_running_loop().create_task(run())


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel natively, and see that the task is cancelled."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def own(stream: PoolSocketStream) -> AsyncioSocketStream:
    """Return the stream with the type that it has here."""
    assert isinstance(stream, AsyncioSocketStream)
    return stream


def held(stream: PoolSocketStream) -> list[bytes]:
    """Return what the stream holds in user space."""
    return cast("list[bytes]", vars(stream)["_chunks"])


@kinds
async def test_whatever_nobody_waits_for_is_an_event(kind: str) -> None:
    """A byte, the end, and the loss of the connection are notified when the loop hears of them."""
    async with wire(kind) as (stream, peer):
        events: list[str] = []
        stream.on_event = lambda: events.append(stream.look().name)
        peer.sendall(b"x")
        await eventually(lambda: events == ["UNREAD"])
        assert await stream.receive() == b"x"
        peer.close()
        await eventually(lambda: events == ["UNREAD", "CLOSED"])


async def test_a_reset_is_an_event() -> None:
    """A lost connection is notified even if nobody ever receives or sends again."""
    async with wire() as (stream, peer):
        events: list[str] = []
        stream.on_event = lambda: events.append(stream.look().name)
        reset(peer)
        await eventually(lambda: events == ["CLOSED"])


async def test_what_a_receive_waits_for_is_no_event() -> None:
    """Neither its bytes nor its end; but what arrives while its cancellation is on its way is."""
    async with wire() as (stream, peer):
        events: list[None] = []
        stream.on_event = lambda: events.append(None)
        task = start(stream.receive)
        await turns()
        peer.sendall(b"x")
        assert await task == b"x"
        task = start(stream.receive)
        await turns()
        task.cancel()
        own(stream).data_arrived(b"late")
        assert len(events) == 1
        with pytest.raises(asyncio.CancelledError):
            await task
        task = start(partial(receive_exactly, stream, 5))
        await turns()
        peer.close()
        with pytest.raises(anyio.EndOfStream):
            await task
        assert len(events) == 1


@kinds
async def test_closing_is_no_event(kind: str) -> None:
    """Whoever closes the stream is not told so."""
    async with wire(kind) as (stream, _):
        events: list[None] = []
        stream.on_event = lambda: events.append(None)
        await stream.aclose()
        await turns()
        assert not events
        assert stream.on_event is None


@kinds
async def test_a_natively_cancelled_receive_takes_nothing(kind: str) -> None:
    """Whether the bytes come before the cancellation, after it or in the same turn."""
    async with wire(kind) as (stream, peer):
        for before in range(4):
            for between in range(4):
                task = start(stream.receive)
                await turns(before)
                peer.sendall(b"x")
                await turns(between)
                task.cancel()
                await asyncio.wait([task])
                got = b"" if task.cancelled() else task.result()
                assert got or await stream.receive() == b"x"


@kinds
@pytest.mark.parametrize("count", [0, 1, 2])
async def test_a_natively_cancelled_close_closes(kind: str, count: int) -> None:
    """The call ends cancelled, and the descriptor is closed when it does."""
    async with wire(kind) as (stream, _):
        fd = fileno(stream)
        # A task that has not begun is not part of it.
        task = start(stream.aclose)
        await checkpoint()
        for _ in range(count):
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == bool(count)
        assert not is_open(fd)


async def test_a_native_cancellation_of_a_close_is_not_taken_for_the_scopes() -> None:
    """Cancelled both ways, the native one leaves the scope."""
    async with wire() as (stream, _):

        async def close() -> None:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stream.aclose()

        task = start(close)
        await checkpoint()
        await cancelled(task)


@pytest.mark.parametrize("how", ["plainly", "by a scope", "natively", "both ways"])
async def test_closing_waits_for_a_transport_that_takes_its_time(how: str) -> None:
    """However often it is cancelled, it returns when the descriptor is closed."""
    left, right = socket.socketpair()
    with right:
        stream = AsyncioSocketStream(left)
        protocol = cast("asyncio.Protocol", stream._make_protocol())  # pyright: ignore[reportPrivateUsage]
        LazyTransport(left, protocol)

        async def close() -> bool:
            with anyio.CancelScope() as scope:
                if how in ("by a scope", "both ways"):
                    scope.cancel()
                try:
                    await stream.aclose()
                finally:
                    assert left.fileno() == -1
            return scope.cancelled_caught

        task = start(close)
        await checkpoint()
        while how in ("natively", "both ways") and not task.done():
            task.cancel()
            await checkpoint()
        await asyncio.wait([task])
        if how in ("natively", "both ways"):
            assert task.cancelled()
        else:
            assert task.result() == (how == "by a scope")


async def test_two_tasks_can_close_at_once() -> None:
    """Both return when the descriptor is closed, also if one of them is cancelled."""
    async with wire() as (stream, _):
        fd = fileno(stream)
        tasks = [start(stream.aclose) for _ in range(3)]
        await checkpoint()
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, False, False]
        assert not is_open(fd)


@kinds
async def test_the_rest_of_a_cancelled_send_still_goes_out(kind: str) -> None:
    """It goes out as it was, though its owner uses the memory for something else."""
    async with wire(kind) as (stream, peer):
        item = bytearray(b"a" * (1 << 24))
        task = start(partial(stream.send, cast("bytes", item)))
        await turns()
        await cancelled(task)
        item[:] = b"b" * len(item)
        task = start(partial(stream.send, b"the next"))
        data = bytearray()
        while len(data) < len(item) + 8:
            data += await to_thread.run_sync(peer.recv, 1 << 20)
        await task
        assert data == b"a" * len(item) + b"the next"


@kinds
async def test_a_send_that_is_cancelled_behind_another_sends_nothing(kind: str) -> None:
    """It waits for what the other has left, and gives the transport nothing before."""
    async with wire(kind) as (stream, peer):
        size = await fill(stream) + (1 << 20)
        async with create_task_group() as group:
            group.start_soon(stream.send, b"never sent")
            await turns()
            group.cancel_scope.cancel()
        data = bytearray()
        while len(data) < size:
            data += await to_thread.run_sync(peer.recv, 1 << 20)
        assert len(data) == size
        await stream.send(b"sent")
        assert await to_thread.run_sync(peer.recv, 100) == b"sent"


@kinds
async def test_it_holds_a_bounded_number_of_bytes(kind: str) -> None:
    """Reading pauses above 256 KiB and goes on below 64 KiB."""
    async with wire(kind) as (stream, peer):
        peer.setblocking(False)

        def holds_more_than(size: int) -> bool:
            with suppress(BlockingIOError):
                peer.send(bytes(65536))
            return sum(map(len, held(stream))) > size

        await eventually(lambda: holds_more_than(HIGH_WATER))
        for _ in range(100):
            assert not holds_more_than(2 * HIGH_WATER)
            await checkpoint()
        while sum(map(len, held(stream))) > LOW_WATER:
            await stream.receive(10_000)
        await eventually(lambda: holds_more_than(LOW_WATER))


async def test_it_holds_a_bounded_number_of_chunks() -> None:
    """One byte at a time, the bytes would be the least of what they cost."""
    async with wire() as (stream, peer):

        def holds(chunks: int) -> bool:
            return len(held(stream)) == chunks

        for number in range(MAX_CHUNKS):
            peer.sendall(b"x")
            await eventually(partial(holds, number + 1))
        for _ in range(3 * MAX_CHUNKS):
            peer.sendall(b"x")
            await turns(2)
        assert holds(MAX_CHUNKS)
        assert await receive_exactly(stream, 4 * MAX_CHUNKS) == b"x" * (4 * MAX_CHUNKS)


async def test_an_interrupted_stream_holds_nothing_more() -> None:
    """What arrives after an interruption stays in the kernel."""
    async with wire() as (stream, peer):
        stream.interrupt(ValueError())
        peer.sendall(b"x")
        await turns()
        assert not held(stream)


async def test_a_failed_write_fails_its_send(caplog: pytest.LogCaptureFixture) -> None:
    """The write that finds the connection lost raises with the cause, at once, and logs nothing."""
    caplog.set_level(logging.DEBUG)
    async with wire() as (stream, peer):
        reset(peer)
        error = await error_of(partial(stream.send, b"x"))
        assert isinstance(error, BrokenResourceError)
        assert isinstance(error.__cause__, OSError)
        for _ in range(10):
            assert isinstance(await error_of(partial(stream.send, b"x")), BrokenResourceError)
        await stream.send_eof()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_each_kind_of_loop_has_its_kind_of_protocol() -> None:
    """A selector loop reads into one buffer for all streams, uvloop into its own."""
    async with wire() as (first, _), wire() as (second, _):
        protocols = [own(stream)._make_protocol() for stream in (first, second)]  # pyright: ignore[reportPrivateUsage]
        loop = asyncio.get_running_loop()
        if type(loop).__module__.startswith("uvloop"):
            assert all(isinstance(protocol, asyncio.Protocol) for protocol in protocols)
        else:
            buffers = [cast("asyncio.BufferedProtocol", one).get_buffer(-1) for one in protocols]
            assert buffers[0] is buffers[1]


async def test_loops_do_not_share_a_buffer() -> None:
    """A read lets other threads run, which may have a loop of their own."""

    async def home() -> object:
        async with wire() as (stream, _):
            return vars(stream)["_home"]

    here = await home()
    assert await home() is here
    elsewhere = await to_thread.run_sync(partial(anyio.run, home))
    assert elsewhere is not here


class LazyTransport(asyncio.Transport):
    """A transport as Proactor's: a pause leaves a receive that has ended with the transport.

    And it takes its time to close the socket.
    """

    def __init__(self, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.sock = sock
        self.protocol = protocol
        self.paused = False
        self.pending = bytearray()
        protocol.connection_made(self)

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.lose(4)

    def lose(self, turns: int) -> None:
        """Close the socket some turns later."""
        if turns:
            asyncio.get_running_loop().call_soon(self.lose, turns - 1)
        else:
            self.protocol.connection_lost(None)
            self.sock.close()

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        asyncio.get_running_loop().call_soon(self.read, self.pending)
        self.pending = bytearray()

    def read(self, data: bytearray) -> None:
        if self.paused:
            self.pending += data
        elif data:
            self.protocol.data_received(cast("bytes", data))


async def test_what_proactor_holds_back_is_unread() -> None:
    """After a pause nobody can see what the transport has, until it has had its turn."""
    left, right = socket.socketpair()
    with left, right:
        stream = AsyncioSocketStream(left)
        home = vars(stream)["_home"]
        before = home.scratch, home.hides_a_receive
        home.scratch, home.hides_a_receive = None, True
        try:
            protocol = cast("asyncio.Protocol", stream._make_protocol())  # pyright: ignore[reportPrivateUsage]
            transport = LazyTransport(left, protocol)
            transport.read(bytearray(HIGH_WATER + 1))
            transport.read(bytearray(b"held back"))
            assert transport.paused
            assert stream.look() is UNREAD
            assert await stream.receive(HIGH_WATER * 2) == bytes(HIGH_WATER + 1)
            assert stream.look() is UNREAD
            await checkpoint()
            assert held(stream) == [b"held back"]
            assert await stream.receive() == b"held back"
            assert stream.look() is ALIVE
            await stream.aclose()
        finally:
            home.scratch, home.hides_a_receive = before


async def test_a_plain_protocol_does_the_same_on_every_loop() -> None:
    """What uvloop and Proactor get works on a selector loop, too."""
    async with wire() as (first, _):
        home = vars(first)["_home"]
        before = home.scratch
        home.scratch = None
        try:
            async with wire() as (stream, peer):
                peer.sendall(b"x" * 100_000)
                assert await receive_exactly(stream, 100_000) == b"x" * 100_000
                peer.close()
                await eventually(lambda: stream.look() is CLOSED)
        finally:
            home.scratch = before


async def test_a_loop_that_fails_to_take_the_socket_leaves_none() -> None:
    """The descriptor is closed if the loop refuses it."""
    left, right = socket.socketpair()
    with right:
        fd = left.fileno()
        stream = AsyncioSocketStream(left)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(TypeError):
            patch.setattr(stream, "_make_protocol", None)
            await stream.start()
        assert not is_open(fd)


async def test_a_closed_stream_drops_what_a_cancelled_send_left() -> None:
    """A send that waits behind it fails as any other on a closed stream."""
    async with wire() as (stream, _):
        await fill(stream)
        async with create_task_group() as group:

            async def expect() -> None:
                error = await error_of(partial(stream.send, b"x"))
                assert isinstance(error, ClosedResourceError)

            group.start_soon(expect)
            await turns()
            await stream.aclose()
