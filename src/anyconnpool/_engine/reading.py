"""What a ``read`` function of an exchange gets: a connection that it can only read from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from anyconnpool._core.states import PoolEntry
from anyconnpool._engine.connection import Owner, PooledConnection, SessionT_co
from anyconnpool._streams.exchanges import Exchange, FrameReader
from anyconnpool._streams.framed import FramedStream
from anyconnpool._streams.transport import Transport
from anyconnpool._util.checks import as_bytes, quoted
from anyconnpool._util.functions import as_awaitable

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class ReplyConnection(PooledConnection[SessionT_co]):
    """A connection on which a request was sent, in the hands of what reads the reply.

    Whatever else is tried with it is refused, and the connection is closed for it.
    """

    def __init__(self, owner: Owner, entry: PoolEntry[Transport]) -> None:
        super().__init__(owner, entry)
        #: whether it is in the hands of a read function
        self.is_read = False

    def _refuse(self, what: str) -> NoReturn:
        self._unfinished += 1
        raise RuntimeError(
            f"the read function of an exchange only reads: it must not {what} the connection, "
            f"which was closed for it; to do more than one request and one reply, use pool.run()"
        )

    async def send(self, item: bytes) -> None:
        """Send, unless a read function calls this."""
        if self.is_read:
            self._refuse("send on")
        await super().send(item)

    async def send_eof(self) -> None:
        """End sending, unless a read function calls this."""
        if self.is_read:
            self._refuse("send on")
        await super().send_eof()

    async def aclose(self) -> None:
        """Give the connection back, unless a read function calls this."""
        if self.is_read:
            self._refuse("close")
        await super().aclose()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self.is_read:
            self._refuse("close")
        await super().__aexit__(exc_type, exc_val, exc_tb)

    def discard(self) -> None:
        """Give the connection back to be closed, unless a read function calls this."""
        if self.is_read:
            self._refuse("discard")
        super().discard()

    def detach(self) -> FramedStream:
        """Take the connection out of the pool, unless a read function calls this."""
        if self.is_read:
            self._refuse("detach")
        return super().detach()


def begin_read(
    read: Callable[[Any], Awaitable[T]], connection: ReplyConnection[Any]
) -> Coroutine[Any, Any, T]:
    """Call a function of the user's that reads a reply.

    :return: what has to be awaited
    :raises TypeError: if it is not an async function
    """
    result = read(connection)
    if isinstance(result, CoroutineType):
        return cast("Coroutine[Any, Any, T]", result)
    return _await(as_awaitable(result, read, "the read function"))


def start_read(
    read: Callable[[Any], Awaitable[T]], connection: ReplyConnection[Any]
) -> tuple[Coroutine[Any, Any, T], object]:
    """Call a function of the user's that reads a reply, and run it until it waits.

    :return: the rest of it, and what it has asked the event loop for
    :raises StopIteration: with the reply, if all of it was there
    :raises TypeError: if it is not an async function
    """
    try:
        coroutine = begin_read(read, connection)
    except StopIteration as error:
        # From a plain function: it is no reply.
        raise RuntimeError(
            "the read function raised StopIteration: have it return the reply"
        ) from error
    return coroutine, coroutine.send(None)


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


class ReadingExchange(Exchange[T]):
    """Send a request; a function of the user's receives the reply.

    :param request: what to send
    :param read: the function
    :raises TypeError: if the request is not bytes, or ``read`` can't be called
    """

    __slots__ = ("read",)

    may_share = True

    def __init__(
        self, request: bytes | bytearray | memoryview, read: Callable[[Any], Awaitable[T]]
    ) -> None:
        self.request = as_bytes("the request", request)
        if not callable(read):
            raise TypeError(
                f"read must be an async function of the connection, which receives the reply, "
                f"given without a call of it, not {quoted(read)}"
            )
        self.read = read

    async def receive(self, stream: FrameReader) -> T:
        connection, read = cast("ReplyConnection[Any]", stream), self.read
        assert read is not None
        connection.is_read = True
        try:
            return await begin_read(read, connection)
        finally:
            connection.is_read = False


class SharedConnection(ReplyConnection[Any]):
    """What reads the replies on a connection that exchanges share.

    A read function has it for one reply: then another object takes its place, so that nobody reads
    the replies of others with it.

    :param owner: the pool's part that knows its settings
    :param entry: the connection
    :param before_waiting: called before bytes are waited for
    :param heard: called when some have come
    """

    def __init__(
        self,
        owner: Owner,
        entry: PoolEntry[Transport],
        before_waiting: Callable[[], object],
        heard: Callable[[], object],
    ) -> None:
        super().__init__(owner, entry)
        # The pool seizes it in a way of its own.
        entry.connection = None
        self.is_read = self._has_sent = True
        #: what the stream has raised, if it has
        self.stream_error: Exception | None = None
        #: whether bytes are waited for
        self.is_waiting = False
        self._before_waiting, self._heard = before_waiting, heard

    def renew(self) -> Self:
        """End this object, and return one with all that it had."""
        new = object.__new__(type(self))
        # One by one: an object whose dictionary was copied into it is slower for good.
        new.receive_stream, new._stream = self.receive_stream, self._stream
        new._limits_chunks, new._look = self._limits_chunks, self._look
        new._data, new._position, new._turns = self._data, self._position, self._turns
        new._unfinished, new._bytes_received = self._unfinished, self._bytes_received
        new._reply_owed, new._has_sent = False, True
        new._ended, new._handled = False, None
        new._defaults, new._owner, new._entry = self._defaults, self._owner, self._entry
        new.is_read, new.is_waiting, new.stream_error = True, False, self.stream_error
        new._before_waiting, new._heard = self._before_waiting, self._heard
        self.stream_error = None
        self._end()
        return new

    @property
    def consumed(self) -> int:
        """How many bytes have been read of all that were received."""
        return self._bytes_received - (len(self._data) - self._position)

    @property
    def has_unread(self) -> bool:
        """Whether bytes are left in the buffer."""
        return self._position < len(self._data)

    @property
    def is_sound(self) -> bool:
        """Whether no operation has failed, was cancelled or is under way."""
        return not self._unfinished

    @property
    def buffered(self) -> tuple[bytes, int]:
        """The buffer, and where what is unread begins in it."""
        return self._data, self._position

    def move_to(self, position: int) -> None:
        """Take note that the buffer was read up to a position."""
        self._position = position

    def drop_chunk(self) -> None:
        """Keep nothing of what was read, while the connection is idle."""
        self._data, self._position = b"", 0

    async def _receive_chunk(self) -> bytes:
        self._before_waiting()
        self.is_waiting = True
        try:
            chunk = await super()._receive_chunk()
        except Exception as error:
            self.stream_error = error
            raise
        finally:
            self.is_waiting = False
        self._heard()
        return chunk
