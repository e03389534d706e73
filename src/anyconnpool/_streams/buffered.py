"""One byte stream that reads ahead in large chunks, and counts operations that didn't end well.

AnyIO's own ``receive_exactly`` asks the socket for just the missing bytes: two trips a package, and
on asyncio the surplus stays where no probe sees it. This stream always receives a large chunk into
its own buffer, an immutable ``bytes`` with a position, so that a frame is one slice and the buffer
shows whether the connection is clean. It knows nothing of pools and frames.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from io import BytesIO
from typing import Any, NoReturn, SupportsIndex

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import AnyByteReceiveStream, AnyByteStream, ByteReceiveStream, ByteStream
from anyio.lowlevel import checkpoint
from anyio.streams.buffered import BufferedByteReceiveStream

from anyconnpool._exceptions import FrameCut, FrameTooLong
from anyconnpool._streams.probes import Look, attributes_of
from anyconnpool._streams.socket_stream import CLOSED_HERE, ENDED, broken_error
from anyconnpool._util.checks import as_bytes, check_delimiter, check_size
from anyconnpool._util.interrupts import defer_interrupts

# asyncio receives 256 KiB at most in one go: asking for as much leaves nothing behind in AnyIO.
_CHUNK = 262_144
# Reads served from the buffer before the others get a turn, less one.
TURN_MASK = 255


# What streams of others raise is mostly without a text.
_TEXTS: dict[type[Exception], str] = {
    EndOfStream: ENDED,
    BrokenResourceError: str(broken_error(None)),
    ClosedResourceError: CLOSED_HERE,
}


def _give_text(error: Exception) -> None:
    """Give one of AnyIO's errors a text if it has none."""
    if not error.args and type(error) in _TEXTS:
        error.args = (_TEXTS[type(error)],)


class ClosedStream(ByteStream):
    """Take the place of a stream that was closed or given back: refuse every use.

    :param make_error: makes what is raised
    """

    def __init__(self, make_error: Callable[[], Exception]) -> None:
        self.make_error = make_error

    async def receive(self, max_bytes: int = 65536) -> NoReturn:
        raise self.make_error()

    async def send(self, item: bytes) -> NoReturn:
        raise self.make_error()

    async def send_eof(self) -> NoReturn:
        raise self.make_error()

    async def aclose(self) -> None:
        """Do nothing: closing twice does no harm."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        raise self.make_error()


class ReadAheadStream(BufferedByteReceiveStream, ByteStream):
    """AnyIO's buffered stream with a buffer of its own that always reads ahead.

    :param stream: the stream to wrap; closing this stream closes it
    """

    receive_stream: AnyByteReceiveStream

    #: takes the place of the stream when this one has ended
    _closed_stream = ClosedStream(partial(ClosedResourceError, "this stream was closed already"))

    def __init__(self, stream: AnyByteStream) -> None:
        self._begin(stream, isinstance(stream, ByteReceiveStream))

    def _begin(self, stream: AnyByteStream, limits_chunks: bool) -> None:
        # Not as defaults on the class: CPython speeds up only attributes that the class hasn't.
        self.receive_stream = self._stream = stream
        #: whether the stream takes a limit of what it receives; object streams of bytes don't
        self._limits_chunks = limits_chunks
        self._data = b""
        self._position = 0
        #: operations that have begun and not ended well: under way, failed or cancelled
        self._unfinished: int = 0
        #: a send was the last operation
        self._reply_owed = False
        self._has_sent = False
        self._bytes_received = 0
        self._turns: int = 0
        #: looks at the stream; found out when it is needed
        self._look: Look | None = None
        self._ended = False

    def __repr__(self) -> str:
        state = "closed" if self._ended else f"{len(self._data) - self._position} bytes buffered"
        return f"<{type(self).__name__}, {state}>"

    def __getstate__(self) -> NoReturn:
        raise TypeError(f"{self!r} can't be pickled or copied: two would read one connection")

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The typed attributes of the wrapped stream."""
        return attributes_of(self._stream)

    @property
    def buffer(self) -> bytes:
        """The bytes that were received and not yet read (a copy)."""
        return self._data[self._position :]

    def feed_data(self, data: Iterable[SupportsIndex], /) -> None:
        """Append bytes to the buffer, as if they had been received.

        :param data: the bytes
        :raises ~anyio.ClosedResourceError: if this stream was closed or given back
        """
        self._check_open()
        if isinstance(data, str):
            raise TypeError("data must be bytes, not str: encode it first")
        self._data = self.buffer + bytes(data)
        self._position = 0

    @defer_interrupts
    async def aclose(self) -> None:
        """Close the wrapped stream and drop what is buffered; every later call is refused."""
        await self._end().aclose()

    def _end(self) -> AnyByteStream:
        stream = self._stream
        self.receive_stream = self._stream = self._closed_stream
        self._data = b""
        self._position = 0
        self._ended = True
        return stream

    def _revoke(self, make_error: Callable[[], Exception]) -> None:
        """End the use of the stream from outside: what is under way and what follows raises this.

        :param make_error: makes an error for each call
        """
        self._end()
        self.receive_stream = self._stream = ClosedStream(make_error)

    def _check_place(self) -> None:
        """Refuse to be used in another event loop or thread, where it is known which is right."""

    def _check_open(self) -> None:
        if self._ended:
            raise self._closed_error()

    def _closed_error(self) -> Exception:
        stream = self._stream
        closed = stream if isinstance(stream, ClosedStream) else self._closed_stream
        return closed.make_error()

    async def send(self, item: bytes) -> None:
        """Send all of the bytes.

        After a cancellation, nobody can know how many of them were sent.

        :param item: the bytes
        :raises ~anyio.BrokenResourceError: if the connection is broken
        :raises ~anyio.ClosedResourceError: if this stream was closed or given back
        """
        if type(item) is not bytes:
            item = as_bytes("what is sent", item)
        self._check_place()
        self._reply_owed = self._has_sent = True
        self._unfinished += 1
        try:
            await self._stream.send(item)
        except Exception as error:
            # Closed under its hands, streams raise this and that.
            self._check_open()
            _give_text(error)
            raise
        self._unfinished -= 1

    async def send_eof(self) -> None:
        """Let the peer know that nothing more will be sent; a pool doesn't reuse the connection."""
        self._check_place()
        self._unfinished += 1
        try:
            await self._stream.send_eof()
        except Exception as error:
            self._check_open()
            _give_text(error)
            raise

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive the bytes that have arrived, or wait for the first one.

        :param max_bytes: the most bytes to return; a surplus stays buffered
        :return: at least one byte
        :raises ~anyio.EndOfStream: if the peer closed the connection
        :raises ValueError: if ``max_bytes`` is less than 1
        """
        check_size("max_bytes", max_bytes)
        self._turns += 1
        if not self._turns & TURN_MASK:
            await self._give_turn()
        if self._position == len(self._data):
            await self._fill()
        return self._take(max_bytes)

    async def receive_exactly(self, nbytes: int) -> bytes:
        """Receive so many bytes, neither more nor less.

        :param nbytes: how many bytes
        :return: the bytes
        :raises ~anyio.IncompleteRead: if the peer closed before; what arrived stays buffered
        :raises ValueError: if ``nbytes`` is negative
        """
        try:
            if nbytes < 1:
                check_size("nbytes", nbytes, 0)
                self._check_open()
                return b""
            self._turns += 1
            if not self._turns & TURN_MASK:
                await self._give_turn()
            if self._position + nbytes > len(self._data):
                if type(nbytes) is not int:
                    check_size("nbytes", nbytes)
                if self._position == len(self._data):
                    await self._fill()
                if self._position + nbytes > len(self._data):
                    return await self._wait_exactly(nbytes)
            return self._take(nbytes)
        except TypeError:
            # Checked only now: where all is right, it costs nothing.
            check_size("nbytes", nbytes)
            raise
        except EndOfStream as exc:
            raise FrameCut(len(self._data) - self._position) from exc

    async def receive_until(self, delimiter: bytes, max_bytes: int) -> bytes:
        """Receive up to a delimiter, which is removed and not returned.

        :param delimiter: what to look for
        :param max_bytes: the most bytes that may stand before it
        :return: the bytes before the delimiter
        :raises ~anyio.DelimiterNotFound: if no delimiter follows after ``max_bytes`` bytes at
            most; the connection is not reused
        :raises ~anyio.IncompleteRead: if the peer closed before; what arrived stays buffered
        :raises ValueError: if the delimiter is empty or ``max_bytes`` less than 1
        """
        try:
            if not delimiter or max_bytes < 1:
                check_delimiter(delimiter, max_bytes)
            self._turns += 1
            if not self._turns & TURN_MASK:
                await self._give_turn()
            taken = self._take_until(delimiter, max_bytes)
        except TypeError:
            check_delimiter(delimiter, max_bytes)
            raise
        if taken is None:
            try:
                taken = await self._wait_until(delimiter, max_bytes)
            except EndOfStream as exc:
                raise FrameCut(len(self._data) - self._position) from exc
        return taken

    def _take_until(self, delimiter: bytes, max_bytes: int) -> bytes | None:
        """Take what stands before a delimiter, if that is buffered."""
        start = self._position
        end = self._data.find(delimiter, start, start + max_bytes + len(delimiter))
        if end < 0:
            return None
        self._position = end + len(delimiter)
        self._reply_owed = False
        return self._data[start:end]

    async def _wait_until(self, delimiter: bytes, max_bytes: int) -> bytes:
        """Wait for a delimiter that isn't buffered, and take what stands before it."""
        if self._position == len(self._data):
            await self._fill()
            taken = self._take_until(delimiter, max_bytes)
            if taken is not None:
                return taken
        await self._buffer_until(delimiter, max_bytes + len(delimiter))
        taken = self._take_until(delimiter, max_bytes)
        if taken is None:
            self._unfinished += 1
            raise FrameTooLong(max_bytes)
        return taken

    def _take(self, nbytes: int) -> bytes:
        start = self._position
        taken = self._data[start : start + nbytes]
        if taken:
            self._position = start + len(taken)
            self._reply_owed = False
        return taken

    async def _give_turn(self) -> None:
        """Let the other tasks have a turn; due when no bit of the mask is set in the turns.

        Reads of what is buffered are refused elsewhere only here: each would take a tenth longer.
        """
        self._check_place()
        self._unfinished += 1
        await checkpoint()
        self._unfinished -= 1

    async def _fill(self) -> None:
        """Receive one chunk more into the buffer, which should be nearly empty."""
        # What was read is dropped now, not when the wait is over: it may be long.
        self._data = self._data[self._position :]
        self._position = 0
        chunk = await self._receive_chunk()
        self._data = self._data[self._position :] + chunk
        self._position = 0

    async def _receive_chunk(self) -> bytes:
        self._check_place()
        self._unfinished += 1
        stream: Any = self._stream
        chunk = b""
        try:
            while not chunk:
                if self._limits_chunks:
                    chunk = await stream.receive(_CHUNK)
                else:
                    chunk = await stream.receive()
        except Exception as error:
            # Closed under its hands, streams raise this and that.
            self._check_open()
            _give_text(error)
            raise
        if self._ended:
            raise self._closed_error()
        self._unfinished -= 1
        self._bytes_received += len(chunk)
        return chunk

    async def _wait_exactly(self, nbytes: int, skip: int = 0) -> bytes:
        """Wait for bytes of which some are not buffered yet, and take them.

        :param nbytes: how many to take
        :param skip: how many before them, which are buffered, to take, too, and to drop
        """
        skipped, start = self._data[self._position :][:skip], self._position + skip
        # It gives its bytes away without a copy, which a bytearray doesn't.
        gathered = BytesIO()
        missing = nbytes - gathered.write(self._data[start:])
        self._data, self._position = b"", 0
        try:
            while missing:
                chunk = await self._receive_chunk()
                if len(chunk) > missing:
                    chunk, self._data = chunk[:missing], chunk[missing:]
                missing -= gathered.write(chunk)
                # It is not kept while the next one is waited for.
                chunk = b""
        except BaseException:
            if not self._ended:
                self._data = skipped + gathered.getvalue() + self._data
            raise
        self._reply_owed = False
        return gathered.getvalue()

    async def _buffer_until(self, delimiter: bytes, window: int) -> None:
        searched = 0

        def complete(data: bytes | bytearray) -> bool:
            nonlocal searched
            found = data.find(delimiter, searched, window) >= 0
            searched = max(len(data) - len(delimiter) + 1, 0)
            return found or len(data) >= window

        if not complete(self.buffer):
            await self._gather(complete, self._receive_chunk)

    async def _gather(
        self,
        complete: Callable[[bytes | bytearray], bool],
        next_chunk: Callable[[], Awaitable[bytes]],
    ) -> None:
        """Append chunks to the buffer until it is complete, or a chunk is empty.

        In time linear in the size; whatever interrupts it, all that arrived is in the buffer.
        """
        if self._position == len(self._data):
            self._data = b""
            self._position = 0
            self._data = await next_chunk()
            if not self._data or complete(self._data):
                return
        gathered = bytearray(memoryview(self._data)[self._position :])
        self._data = b""
        self._position = 0
        try:
            arrived = True
            while arrived and not complete(gathered):
                before = len(gathered)
                # Without a name, which would keep a chunk while the next one is waited for.
                gathered.extend(await next_chunk())
                arrived = len(gathered) > before
        finally:
            if not self._ended:
                self._data = bytes(gathered) + self._data
