"""A byte stream on a socket for trio.

Nothing waits in user space: what has arrived is in the kernel until somebody receives it, so a look
is one poll. An operation tries first, since a wait costs two more system calls. Before a receive
waits, it gives the other tasks a turn and tries again, which often makes the wait needless.

What doesn't work: a cancelled ``send`` may have sent a part; the rest is cut off. Close the stream
then, since the next ``send`` would follow the gap.

Only to be imported where trio runs.
"""

from __future__ import annotations

import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import trio
from anyio import ClosedResourceError, EndOfStream
from anyio.lowlevel import RunVar

from anyconnpool._exceptions import StreamBusy
from anyconnpool._streams.kernel import KernelLook
from anyconnpool._streams.socket_stream import (
    CLOSED_HERE,
    ENDED,
    TURN_MASK,
    PoolSocketStream,
    broken_error,
)
from anyconnpool._util.errors import copy_for_caller
from anyconnpool._util.liveness import CLOSED, Liveness


class _Home:
    """Count the operations of all streams of one run, since a task may use one after the other."""

    __slots__ = ("operations",)

    def __init__(self) -> None:
        self.operations = 0


_homes: RunVar[_Home | None] = RunVar("anyconnpool_home", None)


def _home() -> _Home:
    home = _homes.get()
    if home is None:
        home = _Home()
        _homes.set(home)
    return home


class TrioSocketStream(PoolSocketStream):
    """A connected socket as a stream.

    :param sock: a connected, non-blocking socket, TCP or UNIX, which from now on is the stream's
    """

    def __init__(self, sock: socket.socket) -> None:
        self._home = _home()
        self._sock = sock
        self._look_into_kernel = KernelLook(sock).look
        self._receiving = self._sending = False
        # What has happened.
        self._eof = self._closed = False
        self._error: OSError | None = None
        self._interruption: Exception | None = None
        # Whether one of these ends receiving.
        self._receives_no_more = False

    def look(self) -> Liveness:
        """Say whether it is open and has nothing to read: exactly, and without waiting."""
        if self._receives_no_more:
            return CLOSED
        return self._look_into_kernel()

    def interrupt(self, error: Exception) -> None:
        """Make the receive and the send under way, and every later one, raise an error."""
        if self._closed or self._interruption is not None:
            return
        self._interruption = error
        self._receives_no_more = True
        # It wakes those who wait, and closes nothing.
        trio.lowlevel.notify_closing(self._sock)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what has arrived, or wait for something. Cancelled, it takes nothing.

        :param max_bytes: how many bytes to return at most
        :raises ValueError: if ``max_bytes`` is less than 1
        :raises EndOfStream: if the peer has hung up, or sends no more
        :raises BrokenResourceError: if the connection is lost; the cause says why
        :raises ClosedResourceError: if this end has closed it
        :raises BusyResourceError: if another task is in ``receive``
        """
        if max_bytes < 1:
            raise ValueError("max_bytes must be a positive integer")
        if self._receiving:
            raise StreamBusy("reading from")
        self._receiving = True
        try:
            await self._checkpoint()
            data = self._try_to_receive(max_bytes)
            if data is None:
                # A turn for the others costs less than the wait that it often makes needless.
                await trio.lowlevel.checkpoint()
                data = self._try_to_receive(max_bytes)
            while data is None:
                try:
                    await trio.lowlevel.wait_readable(self._sock)
                except trio.ClosedResourceError:
                    self._raise_if_ended()
                data = self._try_to_receive(max_bytes)
        finally:
            self._receiving = False
        return data

    def _try_to_receive(self, max_bytes: int) -> bytes | None:
        if self._receives_no_more:
            self._raise_if_ended()
        try:
            data = self._sock.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            # Without the traceback, which leads here: together they would be a cycle.
            self._error = error.with_traceback(None)
        else:
            if data:
                return data
            self._eof = True
        self._receives_no_more = True
        self._raise_if_ended()
        return None

    def _raise_if_ended(self) -> None:
        if self._interruption is not None:
            raise copy_for_caller(self._interruption)
        if self._closed:
            raise ClosedResourceError(CLOSED_HERE)
        if self._error is not None:
            raise broken_error(self._error) from self._error
        if self._eof:
            raise EndOfStream(ENDED)

    async def _checkpoint(self) -> None:
        home = self._home
        home.operations += 1
        if home.operations & TURN_MASK:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    async def send(self, item: bytes) -> None:
        """Send bytes, and wait until the kernel has all of them.

        Cancelled while it waits, it has sent a part.

        :param item: the bytes
        :raises BrokenResourceError: if the connection is lost, the cause says why; or if
            ``send_eof`` was called
        :raises ClosedResourceError: if this end has closed it
        :raises BusyResourceError: if another task is in ``send``
        """
        if self._sending:
            raise StreamBusy("writing to")
        self._sending = True
        try:
            await self._checkpoint()
            # Not a view: its owner might change it while this waits.
            await self._send_all(item if type(item) is bytes else bytes(item))
        finally:
            self._sending = False

    async def send_at_once(self, data: bytes) -> None:
        """Send without asking whether the task is cancelled; see :class:`PoolSocketStream`."""
        sent = self._try_to_send(data)
        if sent < len(data):
            await self._send_all(memoryview(data)[sent:])

    def begin_to_send(self, data: bytes) -> Coroutine[Any, Any, None] | None:
        """Send what the kernel takes at once; see :class:`PoolSocketStream`."""
        sent = self._try_to_send(data)
        return None if sent == len(data) else self._send_all(memoryview(data)[sent:])

    async def _send_all(self, data: bytes | memoryview) -> None:
        while data:
            sent = self._try_to_send(data)
            if sent == len(data):
                break
            data = memoryview(data)[sent:]
            try:
                await trio.lowlevel.wait_writable(self._sock)
            except trio.ClosedResourceError:
                self._raise_if_unsendable()
        self._raise_if_unsendable()

    def _try_to_send(self, data: bytes | memoryview) -> int:
        self._raise_if_unsendable()
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise broken_error(error) from error

    def _raise_if_unsendable(self) -> None:
        if self._interruption is not None:
            raise copy_for_caller(self._interruption)
        if self._closed:
            raise ClosedResourceError(CLOSED_HERE)

    async def send_eof(self) -> None:
        """Say that nothing more will be sent; what the peer sends can still be received.

        :raises ClosedResourceError: if this end has closed it
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise ClosedResourceError(CLOSED_HERE)
        # It fails if the connection is lost, which the next receive will say.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    # Ctrl-C between the mark and the closing would leave a socket that nobody closes.
    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Close it. The descriptor is closed on return, also of a cancelled call."""
        self._close_now()
        await trio.lowlevel.checkpoint()

    def _close_now(self) -> None:
        self._mark_closed()
        self._sock.close()

    def _mark_closed(self) -> None:
        self.on_event = None
        self._closed = self._receives_no_more = True
        if self._sock.fileno() >= 0:
            # It wakes those who wait.
            trio.lowlevel.notify_closing(self._sock)

    @property
    def _raw_socket(self) -> socket.socket:
        return self._sock
