"""Lines, packages and frames, one by one and in exchanges, over a stream that reads ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import EndOfStream, move_on_after
from anyio.abc import AnyByteStream, ByteStreamConnectable

from anyconnpool._exceptions import FrameCut, FrameTooLong
from anyconnpool._formats import (
    FrameFormat,
    PackageFormat,
    check_frame_format,
    choose_package_format,
    encode_frame,
    frame_line,
)
from anyconnpool._streams.buffered import TURN_MASK, ReadAheadStream
from anyconnpool._streams.exchanges import (
    Exchange,
    FrameDefaults,
    FrameExchange,
    LineExchange,
    PackageExchange,
    bytes_exchange,
)
from anyconnpool._streams.probes import look_for
from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._util.checks import (
    as_bytes,
    check_delimiter,
    check_duration,
    check_size,
    quoted,
)
from anyconnpool._util.deadline import describe_timeout, time_limit
from anyconnpool._util.functions import OtherName
from anyconnpool._util.liveness import Liveness

T = TypeVar("T")
DataT = TypeVar("DataT")
FrameT = TypeVar("FrameT")

_DEFAULT_FORMAT = PackageFormat()
_BURST_BYTES = 1_048_576
_FRAME_BYTES = 65_536
_ALLOW_LONGER = "raise max_bytes of receive_frame(), which send_receive_frame() doesn't take"
# How long to wait for what has come to a stream that is not of our own, in seconds.
_PATIENCE = 0.1


@dataclass(frozen=True, slots=True)
class _ChosenDefaults:
    """What was chosen for a stream that no pool knows."""

    package_format: PackageFormat
    max_line_bytes: int
    newline: bytes


class FramedStream(ReadAheadStream):
    """Read and write lines, packages and other frames on any AnyIO byte stream.

    Servers wrap accepted streams in it; :class:`PooledConnection` offers the same on the client's
    side. It is an AnyIO :class:`~anyio.streams.buffered.BufferedByteReceiveStream`.

    One task at a time may receive, and one may send; another one gets a
    :exc:`~anyio.BusyResourceError`. If the connection breaks, whoever sends or receives gets a
    :exc:`~anyio.BrokenResourceError`; after this stream was closed, a
    :exc:`~anyio.ClosedResourceError`. Every method that waits can be cancelled. Bytes that arrived
    before a cancellation or an error stay in the buffer, and the next read gets them. Reads of
    bytes that are buffered already don't wait; every 256th of them gives the other tasks a turn.

    :param stream: the stream to wrap; closing this stream closes it
    :param package_format: the default of :meth:`receive_package` and :meth:`send_package`
    :param max_line_bytes: the default limit of :meth:`receive_line`, in bytes; 65 536 is AnyIO's
        default for one receive
    :param newline: what ends a line by default
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if ``max_line_bytes`` is less than 1, or the newline empty
    """

    def __init__(
        self,
        stream: AnyByteStream,
        *,
        package_format: PackageFormat = _DEFAULT_FORMAT,
        max_line_bytes: int = 65_536,
        newline: bytes = b"\n",
    ) -> None:
        is_one = hasattr(stream, "receive") or hasattr(stream, "send")
        # A pool has a send, too.
        if not is_one or isinstance(stream, (type, ByteStreamConnectable)):
            raise TypeError(f"stream must be a byte stream of AnyIO's, not {quoted(stream)}")
        check_size("max_line_bytes", max_line_bytes)
        newline = as_bytes("newline", newline)
        check_size("newline", len(newline))
        package_format = choose_package_format(package_format, _DEFAULT_FORMAT)
        super().__init__(stream)
        self._defaults: FrameDefaults = _ChosenDefaults(package_format, max_line_bytes, newline)

    async def send_line(self, data: bytes, *, newline: bytes | None = None) -> None:
        r"""Send a line.

        After a cancellation, nobody can know how much of it was sent.

        :param data: the line without its end
        :param newline: what ends it, if not the stream's own newline
        :raises ValueError: if the newline is empty or occurs before the end; nothing is sent
        :raises ~anyio.BrokenResourceError: if the connection is broken

        Nothing but the newline is refused. If it is ``\r\n``, a ``\n`` alone is sent, and some
        peers end the line there.
        """
        await self.send(frame_line(data, self._defaults.newline if newline is None else newline))

    async def send_package(self, data: bytes, format: PackageFormat | None = None) -> None:
        """Send a package: the length of the body, then the body.

        After a cancellation, nobody can know how much of it was sent.

        :param data: the body
        :param format: the package format, if not the stream's own
        :raises PackageTooLarge: if the body exceeds the format's limit; nothing is sent
        :raises ~anyio.BrokenResourceError: if the connection is broken
        """
        await self.send(choose_package_format(format, self._defaults.package_format).encode(data))

    async def send_frame(self, data: DataT, format: FrameFormat[DataT, Any]) -> None:
        """Send data in a frame.

        After a cancellation, nobody can know how much of it was sent.

        :param data: what the format puts into a frame
        :param format: the format
        :raises Exception: what the format raises if the data can't be sent; nothing is sent then
        :raises ~anyio.BrokenResourceError: if the connection is broken
        """
        await self.send(encode_frame(data, format))

    async def receive_line(
        self, *, newline: bytes | None = None, max_bytes: int | None = None
    ) -> bytes:
        r"""Receive a line.

        :param newline: what ends a line, if not the stream's own newline; a ``\r`` before it stays
        :param max_bytes: longest line to accept, in bytes without its end; by default the
            stream's ``max_line_bytes``
        :return: the line without its end
        :raises ~anyio.EndOfStream: if the peer closed between two lines
        :raises ~anyio.IncompleteRead: if it closed within a line; what arrived stays buffered
        :raises ~anyio.DelimiterNotFound: if the line is longer; the connection is not reused
        :raises ValueError: if the newline is empty or ``max_bytes`` less than 1
        """
        defaults = self._defaults
        limit = defaults.max_line_bytes if max_bytes is None else max_bytes
        newline = defaults.newline if newline is None else newline
        try:
            if not newline or limit < 1:
                check_delimiter(newline, limit)
            # What ReadAheadStream._take_until() does; the call would cost a tenth of a buffered
            # line.
            size = len(newline)
            self._turns += 1
            if not self._turns & TURN_MASK:
                await self._give_turn()
            data, start = self._data, self._position
            end = data.find(newline, start, start + limit + size)
        except TypeError:
            # Checked only now: where all is right, it costs nothing.
            check_delimiter(newline, limit)
            raise
        if end >= 0:
            self._position = end + size
            self._reply_owed = False
            return data[start:end]
        # Kept here, the chunk would be kept as long as the next one is waited for.
        del data
        try:
            return await self._wait_until(newline, limit)
        except EndOfStream as exc:
            self._raise_if_within_frame(exc)
            raise

    async def receive_package(self, format: PackageFormat | None = None) -> bytes:
        """Receive a package.

        Nothing of it is taken before all of it is there: after a cancellation the next read starts
        at its header again.

        :param format: the package format, if not the stream's own
        :return: the body
        :raises ~anyio.EndOfStream: if the peer closed between two packages
        :raises ~anyio.IncompleteRead: if it closed within a package; what arrived stays buffered
        :raises PackageTooLarge: if the header announces more than the format allows; nothing of
            the body is waited for, and the connection is not reused
        :raises PackageTooSmall: if it announces less than its own size; the connection is not
            reused
        """
        if format is None:
            format = self._defaults.package_format
        else:
            format = choose_package_format(format, format)
        self._turns += 1
        if not self._turns & TURN_MASK:
            await self._give_turn()
        package = self._take_package(format)
        if package is None:
            try:
                package = await self._wait_package(format)
            except EndOfStream as exc:
                self._raise_if_within_frame(exc)
                raise
        return package

    async def receive_frame(
        self, format: FrameFormat[Any, FrameT], *, max_bytes: int = _FRAME_BYTES
    ) -> FrameT:
        """Receive a frame.

        Nothing of it is taken before all of it is there: after a cancellation the next read starts
        at its beginning again.

        :param format: the format, which finds the frame
        :param max_bytes: longest frame to accept, in bytes as it goes over the wire
        :return: the frame that the format makes of it
        :raises ~anyio.EndOfStream: if the peer closed between two frames
        :raises ~anyio.IncompleteRead: if it closed within a frame; what arrived stays buffered
        :raises ~anyio.DelimiterNotFound: if the frame is longer; the connection is not reused
        :raises ValueError: if ``max_bytes`` is less than 1, or the format found a frame that ends
            where it begins or before, or beyond the buffer; the connection is not reused then
        :raises Exception: what the format raises; the connection is not reused
        """
        check_size("max_bytes", max_bytes)
        self._turns += 1
        if not self._turns & TURN_MASK:
            await self._give_turn()
        frame = self._take_frame(format, max_bytes)
        if frame is None:
            check_frame_format(format)
        while frame is None:
            try:
                await self._fill()
            except EndOfStream as exc:
                frame = self._take_frame(format, max_bytes, eof=True)
                if frame is None:
                    self._raise_if_within_frame(exc)
                    raise
            else:
                frame = self._take_frame(format, max_bytes)
        return frame[0]

    def _take_frame(
        self, format: FrameFormat[Any, FrameT], max_bytes: int, *, eof: bool = False
    ) -> tuple[FrameT] | None:
        """Take a frame, if all of it is buffered; in a tuple, since a frame may be anything."""
        data, start = self._data, self._position
        if start == len(data):
            return None
        # Until the frame is known to be good: whatever is raised makes the connection unfit.
        self._unfinished += 1
        try:
            found = format.decode(data, start, eof)
        except (AttributeError, TypeError):
            check_frame_format(format)
            raise
        if found is None:
            if len(data) - start >= max_bytes:
                raise FrameTooLong(max_bytes, _ALLOW_LONGER)
            self._unfinished -= 1
            return None
        try:
            frame, end = found
            within = start < end <= len(data)
        except (TypeError, ValueError):
            raise TypeError(
                f"decode() of {quoted(format)} must return None, or a tuple of the frame and the "
                f"index at which it ends, not {type(found).__name__}"
            ) from None
        if not within:
            raise ValueError(
                f"{quoted(format)} found a frame that ends at {end}: it has to end after {start}, "
                f"where it begins, and not after {len(data)}, where the buffer ends"
            )
        if end - start > max_bytes:
            raise FrameTooLong(max_bytes, _ALLOW_LONGER)
        self._unfinished -= 1
        self._position = end
        self._reply_owed = False
        return (frame,)

    async def receive_available(
        self, *, quiet: float = 0.001, max_bytes: int = _BURST_BYTES
    ) -> bytes:
        """Receive a burst: wait for the first bytes, then until the line falls silent.

        It is for protocols without frames, like gtcp's ``Recv(-1)``, whose 1 ms is the default. It
        takes a pause within a reply for the end of the reply. Bytes that have arrived are part of
        the burst, also where a busy event loop reads them late.

        :param quiet: how long nothing may arrive for the burst to be over, in seconds
        :param max_bytes: the most bytes to return; a surplus stays buffered
        :return: at least one byte
        :raises ~anyio.EndOfStream: if the peer closed and nothing had arrived
        :raises ValueError: if an argument is negative or NaN, or ``max_bytes`` less than 1
        """
        quiet = check_duration("quiet", quiet)
        check_size("max_bytes", max_bytes)
        self._turns += 1
        if not self._turns & TURN_MASK:
            await self._give_turn()
        if self._position == len(self._data):
            await self._fill()
        await self._gather_burst(quiet, max_bytes)
        return self._take(max_bytes)

    async def drain(self, *, quiet: float = 0.5, max_bytes: int = _BURST_BYTES) -> bytes:
        """Throw away what is buffered and what arrives until the line is silent, and return it.

        Silence is not an error. The default of 0.5 s comes from the question "TCP connection pool"
        of 2012, whose pool flushed a socket with such a read deadline. Bytes that arrive after the
        silence are not thrown away.

        :param quiet: how long nothing may arrive, in seconds
        :param max_bytes: stop after this many bytes, whatever else there is
        :return: the bytes thrown away, perhaps none
        :raises ~anyio.EndOfStream: if the peer closed and nothing had arrived
        :raises ValueError: if an argument is negative or NaN, or ``max_bytes`` less than 1
        """
        quiet = check_duration("quiet", quiet)
        check_size("max_bytes", max_bytes)
        self._check_open()
        self._turns += 1
        if not self._turns & TURN_MASK:
            await self._give_turn()
        await self._gather_burst(quiet, max_bytes)
        return self._take(max_bytes)

    def _take_package(self, format: PackageFormat) -> bytes | None:
        """Take a package, if all of it is buffered."""
        data = self._data
        header = self._position
        start = header + format.header_size
        if start > len(data):
            return None
        size = int.from_bytes(data[header:start], format.byteorder) - format.overhead
        if not 0 <= size <= format.max_size:
            self._unfinished += 1
            format.check_size(size)
        end = start + size
        if end > len(data):
            return None
        self._position = end
        self._reply_owed = False
        return data[start:end]

    async def _wait_package(self, format: PackageFormat) -> bytes:
        """Wait for a package of which something is missing, and take it."""
        package = None
        while package is None:
            header = self._data[self._position : self._position + format.header_size]
            if len(header) == format.header_size:
                size = int.from_bytes(header, format.byteorder) - format.overhead
                return await self._wait_exactly(size, len(header))
            await self._fill()
            package = self._take_package(format)
        return package

    async def send_receive(
        self, data: bytes, nbytes: int | None = None, *, timeout: float | None = None
    ) -> bytes:
        """Send, then receive the reply.

        After a cancellation, nobody can know how much was sent; a reply may still come.

        :param data: the request
        :param nbytes: length of the reply in bytes; without it, the reply is what comes until
            nothing has come for 1 ms, 1 MiB at most
        :param timeout: limit for both together, in seconds; by default none
        :return: the reply
        :raises TimeoutError: if it takes longer; a reply may still come
        :raises ValueError: if an argument makes no sense; nothing is sent
        :raises ~anyio.EndOfStream: if the peer closed before anything of a reply without a length
        :raises ~anyio.IncompleteRead: if it closed before the end of a reply with a length
        :raises ~anyio.BrokenResourceError: if the connection is broken
        """
        return await self._exchange(bytes_exchange(data, nbytes), timeout)

    async def send_receive_line(
        self,
        data: bytes,
        *,
        newline: bytes | None = None,
        max_bytes: int | None = None,
        timeout: float | None = None,
    ) -> bytes:
        r"""Send a line, then receive one.

        After a cancellation, nobody can know how much was sent; a reply may still come.

        :param data: the line to send, without its end
        :param newline: what ends both lines, if not the stream's own newline; a ``\r`` before a
            ``\n`` stays
        :param max_bytes: longest line to accept, in bytes without its end; by default the stream's
            ``max_line_bytes``
        :param timeout: limit for both together, in seconds; by default none
        :return: the line received, without its end
        :raises TimeoutError: if it takes longer; a reply may still come
        :raises ValueError: if the newline is empty or occurs in the data, or ``max_bytes`` is less
            than 1; nothing is sent
        :raises ~anyio.EndOfStream: if the peer closed before the line
        :raises ~anyio.IncompleteRead: if it closed within the line
        :raises ~anyio.DelimiterNotFound: if the line is longer; the connection is not reused
        :raises ~anyio.BrokenResourceError: if the connection is broken
        """
        exchange = LineExchange(data, newline, max_bytes, self._defaults)
        return await self._exchange(exchange, timeout)

    async def send_receive_package(
        self,
        data: bytes,
        format: PackageFormat | None = None,
        *,
        timeout: float | None = None,
    ) -> bytes:
        """Send a package, then receive one.

        After a cancellation, nobody can know how much was sent; a reply may still come.

        :param data: the body to send
        :param format: the format of both packages, if not the stream's own
        :param timeout: limit for both together, in seconds; by default none
        :return: the body received
        :raises TimeoutError: if it takes longer; a reply may still come
        :raises PackageTooLarge: if the body exceeds the format's limit; then nothing is sent; or if
            the reply's header announces more; then the connection is not reused
        :raises PackageTooSmall: if the header announces less than its own size; the connection is
            not reused
        :raises ~anyio.EndOfStream: if the peer closed before the package
        :raises ~anyio.IncompleteRead: if it closed within the package
        :raises ~anyio.BrokenResourceError: if the connection is broken
        """
        exchange = PackageExchange(data, format, self._defaults.package_format)
        return await self._exchange(exchange, timeout)

    async def send_receive_frame(
        self, data: DataT, format: FrameFormat[DataT, FrameT], *, timeout: float | None = None
    ) -> FrameT:
        """Send data in a frame, then receive a frame.

        After a cancellation, nobody can know how much was sent; a reply may still come.

        :param data: what the format puts into a frame
        :param format: the format of both frames
        :param timeout: limit for both together, in seconds; by default none
        :return: the frame that the format makes of the reply, of 65 536 bytes at most
        :raises TimeoutError: if it takes longer; a reply may still come
        :raises ~anyio.EndOfStream: if the peer closed before the frame
        :raises ~anyio.IncompleteRead: if it closed within the frame
        :raises ~anyio.DelimiterNotFound: if the frame is longer; the connection is not reused
        :raises ~anyio.BrokenResourceError: if the connection is broken
        :raises Exception: what the format raises: before anything is sent if the data can't be
            sent, else the connection is not reused
        """
        return await self._exchange(FrameExchange(data, format), timeout)

    # Seen by those who know asyncio's streams or sockets, and unseen by type checkers.
    if not TYPE_CHECKING:
        readline, readuntil = OtherName("receive_line"), OtherName("receive_until")
        read, readexactly, recv = map(OtherName, ("receive", "receive_exactly", "receive"))
        write, sendall = OtherName("send"), OtherName("send")

    async def _exchange(self, exchange: Exchange[T], timeout: float | None) -> T:
        before = self._bytes_received

        def describe() -> str:
            received = self._bytes_received - before
            size = len(exchange.request)
            return describe_timeout("no reply", timeout or 0, size, received, exchange.lacks)

        with time_limit(timeout, describe):
            await self.send(exchange.request)
            return await exchange.receive(self)

    def _raise_if_within_frame(self, cause: EndOfStream) -> None:
        if self._position < len(self._data):
            raise FrameCut(len(self._data) - self._position) from cause

    async def _gather_burst(self, quiet: float, max_bytes: int) -> None:
        arrived = 0

        def complete(data: bytes | bytearray) -> bool:
            nonlocal arrived
            arrived = len(data)
            return arrived >= max_bytes

        async def next_chunk() -> bytes:
            try:
                return await self._receive_within(quiet)
            except EndOfStream:
                if not arrived:
                    raise
                return b""

        if not complete(self.buffer):
            await self._gather(complete, next_chunk)

    async def _receive_within(self, seconds: float) -> bytes:
        """Receive what arrives within some time; nothing if the line stays silent."""
        with move_on_after(seconds):
            return await self._receive_chunk()
        self._unfinished -= 1
        if self._look is None:
            self._look = look_for(self._stream)
        if self._look() is not Liveness.UNREAD:
            return b""
        # On a busy event loop the time has passed with bytes there.
        if isinstance(self._stream, PoolSocketStream):
            return b"" if self._stream.has_part_only else await self._receive_chunk()
        # Of a TLS stream that is not of our own nobody knows whether a whole record has come.
        with move_on_after(max(seconds, _PATIENCE)):
            return await self._receive_chunk()
        self._unfinished -= 1
        return b""
