"""Lines, packages and whole bursts over a stream that reads ahead."""

from __future__ import annotations

from functools import cached_property

from anyio import EndOfStream, IncompleteRead, move_on_after, sleep
from anyio.abc import AnyByteStream

from anyconnpool._entry import Liveness
from anyconnpool._liveness import SocketProbe, plain_socket_probe
from anyconnpool._package import PackageFormat
from anyconnpool._read_ahead import ReadAheadStream, check_size
from anyconnpool._settings import check_duration

_DEFAULT_FORMAT = PackageFormat()
_BURST_BYTES = 1_048_576
# How often a line that should be silent is looked at, in seconds.
_LOOK_INTERVAL = 0.01


class FramedStream(ReadAheadStream):
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

    # A quiet spell was ended by cancelling a receive, which may leave bytes in AnyIO's hands.
    _cut_short: bool = False

    def __init__(
        self,
        stream: AnyByteStream,
        *,
        package_format: PackageFormat = _DEFAULT_FORMAT,
        max_line_bytes: int = 65_536,
    ) -> None:
        check_size("max_line_bytes", max_line_bytes)
        super().__init__(stream)
        self._package_format = package_format
        self._max_line_bytes = max_line_bytes

    async def send_line(self, data: bytes, *, newline: bytes = b"\n") -> None:
        """Send a line; see :meth:`send`.

        :param data: the line without its end
        :param newline: what ends it
        :raises ValueError: if the line contains the newline, or that is empty; nothing is sent
        """
        if not newline or newline in data:
            raise ValueError(
                f"a line ended by {newline!r} can't be sent if "
                f"{'it contains that' if newline else 'that is empty'}"
            )
        await self.send(data + newline)

    async def send_package(self, data: bytes, format: PackageFormat | None = None) -> None:
        """Send a package: the length of the body, then the body; see :meth:`send`.

        :param data: the body
        :param format: the package format, if not the stream's own
        :raises PackageTooLarge: if the body exceeds the format's limit; nothing is sent
        """
        await self.send((format or self._package_format).pack(data))

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
        try:
            return await self._take_until(
                newline, self._max_line_bytes if max_bytes is None else max_bytes
            )
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
        await self._take_turn()
        try:
            return await self._take_package(format or self._package_format)
        except EndOfStream as exc:
            self._raise_if_within_frame(exc)
            raise

    async def _take_package(self, format: PackageFormat) -> bytes:
        body = self._position + format.header_size
        if body > len(self._data):
            await self._buffer_exactly(format.header_size)
            body = self._position + format.header_size
        size = int.from_bytes(self._data[self._position : body], "big")
        if size > format.max_size:
            self._unfinished += 1
            format.check_size(size)
        if body + size > len(self._data):
            await self._buffer_exactly(format.header_size + size)
            body = self._position + format.header_size
        self._position = body + size
        self._reply_owed = False
        return self._data[body : body + size]

    async def receive_available(
        self, *, quiet: float = 0.001, max_bytes: int = _BURST_BYTES
    ) -> bytes:
        """Receive a burst: wait for the first bytes, then until the line falls silent.

        For protocols without frames, like gtcp's ``Recv(-1)``, whose 1 ms is the default. It can't
        tell a pause within a reply from its end.

        :param quiet: how long nothing may arrive for the burst to be over, in seconds
        :param max_bytes: return this many bytes at most; a surplus stays buffered
        :return: at least one byte
        :raises ~anyio.EndOfStream: if the peer closed and nothing had arrived
        :raises ValueError: if an argument is negative or NaN, or ``max_bytes`` less than 1
        """
        quiet = check_duration("quiet", quiet)
        check_size("max_bytes", max_bytes)
        await self._take_turn()
        if self._position == len(self._data):
            self._data = await self._receive_chunk()
            self._position = 0
        await self._gather_burst(quiet, max_bytes)
        return self._take(max_bytes)

    async def drain(self, *, quiet: float = 0.5, max_bytes: int = _BURST_BYTES) -> bytes:
        """Throw away, and return, what is buffered and what arrives until the line is silent.

        Silence is not an error. The default is that of the question which asked for it: flush a
        socket with a read deadline of 500 ms.

        :param quiet: how long nothing may arrive, in seconds
        :param max_bytes: stop after this many bytes, whatever else there is
        :return: the bytes thrown away, maybe none
        :raises ~anyio.EndOfStream: if the peer closed and nothing had arrived
        :raises ValueError: if an argument is negative or NaN, or ``max_bytes`` less than 1
        """
        quiet = check_duration("quiet", quiet)
        check_size("max_bytes", max_bytes)
        await self._take_turn()
        await self._gather_burst(quiet, max_bytes)
        return self._take(max_bytes)

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
        probe = self._silence_probe()
        if probe is not None:
            return await self._receive_if_arrived(probe, seconds)
        with move_on_after(seconds) as scope:
            return await self._receive_chunk()
        if scope.cancelled_caught:
            self._unfinished -= 1
            self._cut_short = True
        return b""

    async def _receive_if_arrived(self, probe: SocketProbe, seconds: float) -> bytes:
        # No receive is cancelled: what arrives meanwhile stays in the kernel.
        self._unfinished += 1
        while seconds > 0 and probe() is Liveness.ALIVE:
            await sleep(min(seconds, _LOOK_INTERVAL))
            seconds -= _LOOK_INTERVAL
        self._unfinished -= 1
        return b"" if probe() is Liveness.ALIVE else await self._receive_chunk()

    def _silence_probe(self) -> SocketProbe | None:
        """Return a probe that can tell silence without receiving, if there is one."""
        # Before its first receive, AnyIO may be reading an accepted stream into its own queue.
        return self._plain_probe if self._bytes_received else None

    @cached_property
    def _plain_probe(self) -> SocketProbe | None:
        return plain_socket_probe(self._stream)

    def _raise_if_within_frame(self, cause: EndOfStream) -> None:
        if self._position < len(self._data):
            raise IncompleteRead from cause
