"""A byte stream on a socket for asyncio, uvloop and Proactor.

Rules:

- **It reads all the time**, also while nobody receives, so that a hang-up or a byte that nobody has
  asked for is an event. It stops at 256 KiB or 64 chunks and reads again below 64 KiB: a byte waits
  in ``_chunks`` or not yet in this process. Only Proactor can hold one more receive in between.
- **Data never goes into a future.** It is stored first, then the task that waits is woken; so a
  cancellation at the same moment loses nothing.
- **The transport's write buffer has no room.** Anything that the kernel doesn't take at once holds
  ``send`` up, so that closing loses nothing that ``send`` has returned for.
- **Attributes know what the loop knows.** asyncio runs what was ready before it asks the kernel, so
  a byte can be two turns away from ``_chunks``; ``look`` asks the kernel itself.

The event loop talks to a small protocol object, of one of two kinds. On selector loops it lends a
buffer to read into: for a plain protocol asyncio allocates 256 KiB before every read and gives most
of it back, which takes two system calls and two page faults, a third of a small exchange. uvloop
has a buffer of its own, and Proactor fills buffers between the turns, so none can be shared there.

What doesn't work: a cancelled ``send`` can't take back what the transport has got; it still goes
out, and the next ``send`` follows it. Close the stream then, which cuts it off.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, NoReturn, cast

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
)
from anyio.lowlevel import RunVar, current_token

from anyconnpool._exceptions import StreamBusy
from anyconnpool._streams.kernel import KernelLook
from anyconnpool._streams.socket_stream import (
    CLOSED_HERE,
    ENDED,
    EOF_SENT,
    TURN_MASK,
    PoolSocketStream,
    broken_error,
)
from anyconnpool._util.errors import copy_for_caller
from anyconnpool._util.liveness import ALIVE, CLOSED, UNREAD, Liveness

#: how many bytes may wait before reading pauses, and at how many it goes on
HIGH_WATER: Final = 262_144
LOW_WATER: Final = 65_536
#: how many chunks may wait; a chunk of one byte takes forty times its size
MAX_CHUNKS: Final = 64
#: bytes of the buffer that a selector loop reads into: what is copied out of it is still cached
SCRATCH_SIZE: Final = 65_536


class _Home:
    """What all streams of one event loop share."""

    __slots__ = (
        "check",
        "hides_a_receive",
        "is_uvloop",
        "loop",
        "operations",
        "scratch",
        "turn",
    )

    def __init__(self) -> None:
        token = current_token()
        self.loop = cast("asyncio.AbstractEventLoop", token.native_token)
        #: raises if the running task is cancelled by a scope, without giving a turn otherwise
        self.check: Callable[[], Coroutine[Any, Any, None]]
        self.check = token.backend_class.checkpoint_if_cancelled
        #: gives the other tasks a turn
        self.turn: Callable[[], Coroutine[Any, Any, None]] = token.backend_class.checkpoint
        #: counts the operations, of all streams, since a task may use one after the other
        self.operations = 0
        self.is_uvloop = type(self.loop).__module__.partition(".")[0] == "uvloop"
        selects = isinstance(self.loop, BaseSelectorEventLoop)
        #: whether a transport that was told to pause can still hold what it has read
        self.hides_a_receive = not selects and not self.is_uvloop
        #: not one for the process: a read gives other threads a turn, with loops of their own
        self.scratch = memoryview(bytearray(SCRATCH_SIZE)) if selects else None


_homes: RunVar[_Home | None] = RunVar("anyconnpool_home", None)


def _home() -> _Home:
    home = _homes.get()
    if home is None:
        home = _Home()
        _homes.set(home)
    return home


class AsyncioSocketStream(PoolSocketStream):
    """A connected socket as a stream. :meth:`start` has to be called before anything else.

    :param sock: a connected, non-blocking socket, TCP or UNIX, which from now on is the stream's
    """

    tells = True

    def __init__(self, sock: socket.socket) -> None:
        self._home = _home()
        self._sock = sock
        self._transport: asyncio.Transport
        self._look_into_kernel = KernelLook(sock).look
        self._chunks: list[bytes | memoryview] = []
        self._size = 0
        # What tasks wait for; there is none while nobody waits.
        self._receiver: asyncio.Future[None] | None = None
        self._sender: asyncio.Future[None] | None = None
        self._loss: asyncio.Event | None = None
        # What has happened.
        self._read_paused = self._write_paused = False
        self._hidden = False
        self._eof = self._eof_sent = self._lost = self._closed = False
        self._error: Exception | None = None
        self._interruption: Exception | None = None
        # Whether one of these ends receiving, and sending.
        self._receives_no_more = self._sends_no_more = False

    async def start(self) -> None:
        """Hand the socket over to the event loop, which begins to read.

        If this fails or is cancelled, the socket is closed.
        """
        home, sock = self._home, self._sock
        is_unix = sock.family == getattr(socket, "AF_UNIX", None)
        connect = home.loop.create_unix_connection if is_unix else home.loop.create_connection
        try:
            await connect(self._make_protocol, sock=sock)
        except asyncio.CancelledError:
            # Cancelled here, nobody gets the transport. libuv has closed the descriptor already,
            # and it may be another file's; asyncio's transport will find it closed in a later turn.
            if home.is_uvloop:
                sock.detach()
            else:
                sock.close()
            raise
        except BaseException:
            sock.close()
            raise

    def _make_protocol(self) -> asyncio.BaseProtocol:
        if self._home.scratch is not None:
            return _BufferedProtocol(self, self._home.scratch)
        return _PlainProtocol(self)

    # What the event loop calls, by way of the protocol.

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take the transport."""
        self._transport = transport
        # uvloop, which otherwise collects writes until the end of the turn, then writes at once.
        transport.set_write_buffer_limits(0)

    def data_arrived(self, data: bytes | bytearray | memoryview) -> None:
        """Store what the loop has read; the memory may be the loop's own."""
        self._chunks.append(bytes(data))
        self._size += len(data)
        if self._size > HIGH_WATER or len(self._chunks) >= MAX_CHUNKS:
            self._pause_reading()
        receiver = self._receiver
        if receiver is None or receiver.cancelled():
            if self.on_event is not None:
                self.on_event()
        elif not receiver.done():
            receiver.set_result(None)

    def eof_arrived(self) -> None:
        """Take note that the peer sends no more; this end still may."""
        self._eof = self._receives_no_more = True
        self._notify()

    def connection_lost(self, error: Exception | None) -> None:
        """Take note that the connection is gone; the descriptor is closed after this call."""
        self._lost = self._receives_no_more = self._sends_no_more = True
        if self._error is None and error is not None:
            # Without the traceback, which leads to the transport: together they would be a cycle.
            self._error = error.with_traceback(None)
        _wake(self._sender)
        if self._loss is not None:
            self._loss.set()
        self._notify()

    def pause_writing(self) -> None:
        """Make senders wait: the kernel didn't take everything."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Let the sender go on: the kernel has everything."""
        self._write_paused = False
        _wake(self._sender)

    def _notify(self) -> None:
        receiver = self._receiver
        if receiver is None or receiver.cancelled():
            if self.on_event is not None:
                self.on_event()
        else:
            _wake(receiver)

    def _pause_reading(self) -> None:
        if not self._read_paused and not self._lost:
            self._read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        self._read_paused = False
        if self._lost:
            return
        self._transport.resume_reading()
        if self._home.hides_a_receive:
            # What it holds it hands over in its next turn, and then calls this.
            self._hidden = True
            self._home.loop.call_soon(self._reveal)

    def _reveal(self) -> None:
        self._hidden = False

    # What the pool and the stream's user call.

    def look(self) -> Liveness:
        """Say whether it is open and has nothing to read: exactly, and without waiting."""
        if self._receives_no_more or self._transport.is_closing():
            return CLOSED
        in_kernel = self._look_into_kernel()
        if in_kernel is ALIVE and (self._chunks or self._hidden):
            return UNREAD
        return in_kernel

    def interrupt(self, error: Exception) -> None:
        """Make the receive and the send under way, and every later one, raise an error."""
        if self._closed or self._interruption is not None:
            return
        self._interruption = error
        self._receives_no_more = self._sends_no_more = True
        self._pause_reading()
        self._drop_chunks()
        _wake(self._receiver)
        _wake(self._sender)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what has arrived, or wait for something. Cancelled, it takes nothing.

        :param max_bytes: how many bytes to return at most
        :raises ValueError: if ``max_bytes`` is less than 1
        :raises EndOfStream: if the peer has hung up, or sends no more
        :raises BrokenResourceError: if the connection is lost; the cause says why
        :raises ClosedResourceError: if this end has closed it
        :raises BusyResourceError: if another task waits in ``receive``
        """
        if max_bytes < 1:
            raise ValueError("max_bytes must be a positive integer")
        if self._chunks or self._receives_no_more:
            # A receive that has to wait needs no check: what waits is cancelled without asking.
            home = self._home
            await home.check()
            home.operations += 1
            if not home.operations & TURN_MASK:
                await home.turn()
        while not self._chunks:
            if self._receives_no_more:
                self._raise_unreceivable()
            if self._receiver is not None:
                raise StreamBusy("reading from")
            self._receiver = self._home.loop.create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        return self._take(max_bytes)

    def _take(self, max_bytes: int) -> bytes:
        chunks = self._chunks
        if self._size <= max_bytes:
            data = bytes(chunks[0]) if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            self._size = 0
        else:
            data = bytes(chunks[0][:max_bytes])
            if len(data) == len(chunks[0]):
                del chunks[0]
            else:
                # A view, or many small receives of a large chunk would copy it again and again.
                chunks[0] = memoryview(chunks[0])[max_bytes:]
            self._size -= len(data)
        if self._read_paused and self._size <= LOW_WATER and len(chunks) <= MAX_CHUNKS // 2:
            self._resume_reading()
        return data

    def _drop_chunks(self) -> None:
        self._chunks.clear()
        self._size = 0

    def _raise_unreceivable(self) -> NoReturn:
        if self._interruption is not None:
            raise copy_for_caller(self._interruption)
        if self._closed:
            raise ClosedResourceError(CLOSED_HERE)
        if self._error is not None:
            raise broken_error(self._error) from self._error
        raise EndOfStream(ENDED)

    async def send(self, item: bytes) -> None:
        """Send bytes, and wait until the kernel has all of them.

        Cancelled while it waits, the rest still goes out, unless the stream is closed.

        :param item: the bytes
        :raises BrokenResourceError: if the connection is lost, the cause says why; or if
            ``send_eof`` was called
        :raises ClosedResourceError: if this end has closed it
        :raises BusyResourceError: if another task waits in ``send``
        """
        if self._sender is not None:
            raise StreamBusy("writing to")
        home = self._home
        await home.check()
        home.operations += 1
        if not home.operations & TURN_MASK:
            await home.turn()
        if self._write_paused:
            # What a cancelled send has left goes first.
            await self._drain()
        if not self._try_to_send(item):
            await self._finish_sending()

    async def send_at_once(self, data: bytes) -> None:
        """Send without asking whether the task is cancelled; see :class:`PoolSocketStream`."""
        if not self._try_to_send(data):
            await self._finish_sending()

    def begin_to_send(self, data: bytes) -> Coroutine[Any, Any, None] | None:
        """Send what the kernel takes at once; see :class:`PoolSocketStream`."""
        return None if self._try_to_send(data) else self._finish_sending()

    def _try_to_send(self, data: bytes) -> bool:
        """Write bytes, and return whether the kernel has all of them."""
        if self._sends_no_more:
            self._raise_unsendable()
        transport = self._transport
        if not transport.is_closing():
            self._write(data)
        return not (self._write_paused or transport.is_closing())

    async def _finish_sending(self) -> None:
        if self._write_paused:
            await self._drain()
        else:
            # Lost, mostly by this very write. The loop says why in its next turn.
            await self._wait_until_lost()
            self._raise_unsendable()

    def _write(self, data: bytes) -> None:
        # Not a view: the transport may keep a part of it.
        self._transport.write(data if type(data) is bytes else bytes(data))

    async def _drain(self) -> None:
        if self._sender is not None:
            raise StreamBusy("writing to")
        while self._write_paused and not (self._lost or self._closed or self._interruption):
            self._sender = self._home.loop.create_future()
            try:
                await self._sender
            finally:
                self._sender = None
        if self._write_paused or self._interruption:
            self._raise_unsendable()

    def _raise_unsendable(self) -> NoReturn:
        if self._interruption is not None:
            raise copy_for_caller(self._interruption)
        if self._closed:
            raise ClosedResourceError(CLOSED_HERE)
        if self._error is None and self._eof_sent:
            raise BrokenResourceError(EOF_SENT) from BrokenPipeError(
                errno.EPIPE, os.strerror(errno.EPIPE)
            )
        raise broken_error(self._error) from self._error

    async def send_eof(self) -> None:
        """Say that nothing more will be sent; what the peer sends can still be received.

        :raises ClosedResourceError: if this end has closed it
        """
        await self._home.check()
        if self._closed:
            raise ClosedResourceError(CLOSED_HERE)
        self._eof_sent = self._sends_no_more = True
        if not self._transport.is_closing():
            # It fails if the connection is lost and the loop doesn't know it yet.
            with suppress(OSError):
                self._transport.write_eof()

    async def aclose(self) -> None:
        """Close it. The descriptor is closed on return, also of a cancelled call."""
        self._begin_to_close()
        if self._lost:
            await self._home.turn()
            return
        await self._finish_closing()
        await self._home.check()

    def _begin_to_close(self) -> None:
        self._mark_closed()
        self._transport.abort()

    def _mark_closed(self) -> None:
        self.on_event = None
        self._closed = self._receives_no_more = self._sends_no_more = True
        self._drop_chunks()
        _wake(self._receiver)
        _wake(self._sender)

    async def _finish_closing(self) -> None:
        """Wait until the descriptor is closed: a turn or two."""
        cancellation: asyncio.CancelledError | None = None
        with CancelScope(shield=True):
            # A native cancellation has to wait for it, too.
            while not self._lost:
                try:
                    await self._wait_until_lost()
                except asyncio.CancelledError as error:
                    cancellation = error
        if cancellation is not None:
            try:
                raise cancellation
            finally:
                del cancellation

    async def _wait_until_lost(self) -> None:
        if self._loss is None:
            self._loss = asyncio.Event()
        if not self._lost:
            await self._loss.wait()

    @property
    def _raw_socket(self) -> socket.socket:
        return self._sock


class _Protocol:
    """Pass on what both kinds of protocol are told."""

    __slots__ = ("_arrived", "_stream")

    def __init__(self, stream: AsyncioSocketStream) -> None:
        self._stream = stream
        self._arrived = stream.data_arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream.connection_made(cast("asyncio.Transport", transport))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()

    def eof_received(self) -> bool:
        self._stream.eof_arrived()
        # The other direction stays open.
        return True


# The common class comes first: asyncio's own has methods of these names that do nothing.


class _BufferedProtocol(_Protocol, asyncio.BufferedProtocol):
    """Lend the loop's buffer for a read, and copy out of it what has come."""

    __slots__ = ("_buffer",)

    def __init__(self, stream: AsyncioSocketStream, buffer: memoryview) -> None:
        super().__init__(stream)
        self._buffer = buffer

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._arrived(self._buffer[:nbytes])


class _PlainProtocol(_Protocol, asyncio.Protocol):
    """Take what the loop has read into memory of its own."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        # Proactor hands out bytearrays.
        self._arrived(data)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    # A cancellation may have been faster.
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
