"""Lines, packages and whole exchanges over a stream that reads ahead."""

from __future__ import annotations

from dataclasses import dataclass

from anyio import EndOfStream, IncompleteRead
from anyio.abc import AnyByteStream

from anyconnpool._formats import PackageFormat
from anyconnpool._streams.buffered import TURN_MASK
from anyconnpool._streams.bursts import BurstStream
from anyconnpool._util.checks import check_delimiter, check_size
from anyconnpool._util.deadline import time_limit

_DEFAULT_FORMAT = PackageFormat()


def frame_line(data: bytes, newline: bytes) -> bytes:
    """Put the end to a line.

    :raises ValueError: if the line contains the newline, or that is empty
    """
    if not newline or newline in data:
        raise ValueError(
            f"a line ended by {newline!r} can't be sent if "
            f"{'it contains that' if newline else 'that is empty'}"
        )
    return data + newline


@dataclass(frozen=True, slots=True)
class FrameDefaults:
    """What frames are like unless a call is told otherwise.

    :ivar package_format: format of packages
    :ivar max_line_bytes: longest line, in bytes
    """

    package_format: PackageFormat
    max_line_bytes: int


class FramedStream(BurstStream):
    """Read and write lines and packages on any AnyIO byte stream, for both ends of a connection.

    Servers wrap accepted streams in it; :class:`PooledConnection` offers the same on the client's
    side. It is an AnyIO :class:`~anyio.streams.buffered.BufferedByteReceiveStream`; one task at a
    time may receive, and one may send. Every method that waits can be cancelled. Bytes that arrived
    before a cancellation or an error stay in the buffer, and the next read gets them. Reads of
    what is buffered already don't wait, but every 256th gives the other tasks a turn.

    :param stream: the stream to wrap; closing this stream closes it
    :param package_format: the default of :meth:`receive_package` and :meth:`send_package`
    :param max_line_bytes: the default limit of :meth:`receive_line`, in bytes
    :raises ValueError: if ``max_line_bytes`` is less than 1
    """

    def __init__(
        self,
        stream: AnyByteStream,
        *,
        package_format: PackageFormat = _DEFAULT_FORMAT,
        max_line_bytes: int = 65_536,
    ) -> None:
        check_size("max_line_bytes", max_line_bytes)
        super().__init__(stream)
        self._defaults = FrameDefaults(package_format, max_line_bytes)

    async def send_line(self, data: bytes, *, newline: bytes = b"\n") -> None:
        """Send a line; see :meth:`send`.

        :param data: the line without its end
        :param newline: what ends it
        :raises ValueError: if the line contains the newline, or that is empty; nothing is sent
        """
        await self.send(frame_line(data, newline))

    async def send_package(self, data: bytes, format: PackageFormat | None = None) -> None:
        """Send a package: the length of the body, then the body; see :meth:`send`.

        :param data: the body
        :param format: the package format, if not the stream's own
        :raises PackageTooLarge: if the body exceeds the format's limit; nothing is sent
        """
        await self.send((format or self._defaults.package_format).pack(data))

    async def receive_line(self, *, newline: bytes = b"\n", max_bytes: int | None = None) -> bytes:
        r"""Receive a line.

        :param newline: what ends a line; a ``\r`` before it stays
        :param max_bytes: longest line to accept, in bytes without its end; by default the
            stream's ``max_line_bytes``
        :return: the line without its end
        :raises ~anyio.EndOfStream: if the peer closed between two lines
        :raises ~anyio.IncompleteRead: if it closed within a line; what came stays buffered
        :raises ~anyio.DelimiterNotFound: if the line is longer; the connection is not reused
        :raises ValueError: if the newline is empty or ``max_bytes`` less than 1
        """
        limit = self._defaults.max_line_bytes if max_bytes is None else max_bytes
        if not newline or limit < 1:
            check_delimiter(newline, limit)
        self._turns += 1
        if not self._turns & TURN_MASK:
            await self._give_turn()
        # What ReadAheadStream._take_until() does; the call would cost a tenth of a buffered line.
        data, start, size = self._data, self._position, len(newline)
        end = data.find(newline, start, start + limit + size)
        if end >= 0:
            self._position = end + size
            self._reply_owed = False
            return data[start:end]
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
        :raises ~anyio.IncompleteRead: if it closed within a package; what came stays buffered
        :raises PackageTooLarge: if the header announces more than the format allows; nothing of
            the body is waited for, and the connection is not reused
        """
        format = format or self._defaults.package_format
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

    def _take_package(self, format: PackageFormat) -> bytes | None:
        """Take a package, if all of it is buffered."""
        data = self._data
        header = self._position
        start = header + format.header_size
        if start > len(data):
            return None
        size = int.from_bytes(data[header:start], "big")
        if size > format.max_size:
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
                return await self._wait_exactly(int.from_bytes(header, "big"), len(header))
            await self._fill()
            package = self._take_package(format)
        return package

    async def send_receive(
        self, data: bytes, nbytes: int | None = None, *, timeout: float | None = None
    ) -> bytes:
        """Send, then receive the reply.

        :param data: the request
        :param nbytes: length of the reply in bytes; without it, the reply is what comes until the
            line falls silent, as by :meth:`receive_available`
        :param timeout: limit for both together, in seconds; by default none
        :raises TimeoutError: if it takes longer; what was sent and received is then unknown
        :raises ValueError: if an argument makes no sense; nothing is sent

        It raises what :meth:`send`, :meth:`receive_exactly` and :meth:`receive_available` raise.
        """
        if nbytes is not None:
            check_size("nbytes", nbytes)
        with time_limit(timeout):
            await self.send(data)
            if nbytes is None:
                return await self.receive_available()
            return await self.receive_exactly(nbytes)

    async def send_receive_line(
        self,
        data: bytes,
        *,
        newline: bytes = b"\n",
        max_bytes: int | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """Send a line, then receive one.

        :param data: the line to send, without its end
        :param newline: what ends both lines
        :param max_bytes: longest line to accept; see :meth:`receive_line`
        :param timeout: limit for both together, in seconds; by default none
        :return: the line received, without its end
        :raises TimeoutError: if it takes longer; what was sent and received is then unknown

        It raises what :meth:`send_line` and :meth:`receive_line` raise.
        """
        if max_bytes is not None:
            check_size("max_bytes", max_bytes)
        with time_limit(timeout):
            await self.send_line(data, newline=newline)
            return await self.receive_line(newline=newline, max_bytes=max_bytes)

    async def send_receive_package(
        self,
        data: bytes,
        format: PackageFormat | None = None,
        *,
        timeout: float | None = None,
    ) -> bytes:
        """Send a package, then receive one.

        :param data: the body to send
        :param format: the format of both packages, if not the stream's own
        :param timeout: limit for both together, in seconds; by default none
        :return: the body received
        :raises TimeoutError: if it takes longer; what was sent and received is then unknown

        It raises what :meth:`send_package` and :meth:`receive_package` raise.
        """
        with time_limit(timeout):
            await self.send_package(data, format)
            return await self.receive_package(format)

    def _raise_if_within_frame(self, cause: EndOfStream) -> None:
        if self._position < len(self._data):
            raise IncompleteRead from cause
