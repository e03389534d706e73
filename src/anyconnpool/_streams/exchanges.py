"""Exchanges: one request and its reply each, of every kind.

An exchange is checked and framed when it is made, before anything is acquired or sent. It is a
class and no set of functions: one is made for every request, and functions that remember their
arguments would take twice as long to make.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from anyconnpool._formats import (
    FrameFormat,
    PackageFormat,
    choose_package_format,
    encode_frame,
    frame_line,
)
from anyconnpool._util.checks import as_bytes, check_size
from anyconnpool._util.deadline import LACKS_SOMETHING

T = TypeVar("T")
DataT = TypeVar("DataT")
FrameT = TypeVar("FrameT")


class FrameDefaults(Protocol):
    """What frames are like unless that is overridden in the call; a pool's settings say it."""

    @property
    def package_format(self) -> PackageFormat: ...

    @property
    def max_line_bytes(self) -> int: ...

    @property
    def newline(self) -> bytes: ...


class FrameReader(Protocol):
    """The part of a :class:`FramedStream` that receives replies."""

    async def receive_available(self) -> bytes: ...

    async def receive_exactly(self, nbytes: int) -> bytes: ...

    async def receive_line(
        self, *, newline: bytes | None = None, max_bytes: int | None = None
    ) -> bytes: ...

    async def receive_package(self, format: PackageFormat | None = None) -> bytes: ...

    async def receive_frame(self, format: FrameFormat[Any, FrameT]) -> FrameT: ...


class Exchange(Generic[T]):
    """One request and its reply.

    :param request: what to send
    """

    __slots__ = ("request",)

    #: whether the end of its reply is known, so that others may follow on its connection
    may_share: ClassVar[bool] = False
    #: whether :meth:`take` finds replies
    finds_replies: ClassVar[bool] = False
    #: the function of the user's that receives the reply, if one does
    read: Callable[[Any], Awaitable[T]] | None = None

    def __init__(self, request: bytes) -> None:
        self.request = request

    @property
    def lacks(self) -> str:
        """Say what is not right with the part of a reply that has come in time."""
        return LACKS_SOMETHING

    def receive(self, stream: FrameReader) -> Awaitable[T]:
        """Receive the reply, however many chunks it takes."""
        raise NotImplementedError

    def take(self, data: bytes, start: int) -> tuple[T, int] | None:
        """Return the reply and where it ends, if all of it is in a buffer from an index on."""
        raise NotImplementedError


class BurstExchange(Exchange[bytes]):
    """Send bytes; the reply is what comes until the line falls silent.

    :param data: the request
    """

    __slots__ = ()

    def __init__(self, data: bytes) -> None:
        self.request = as_bytes("the request", data)

    def receive(self, stream: FrameReader) -> Awaitable[bytes]:
        return stream.receive_available()


class SizedExchange(Exchange[bytes]):
    """Send bytes; the reply has a size that is known.

    :param data: the request
    :param nbytes: length of the reply, in bytes
    """

    __slots__ = ("_nbytes",)

    may_share = finds_replies = True

    def __init__(self, data: bytes, nbytes: int) -> None:
        self.request = as_bytes("the request", data)
        check_size("nbytes", nbytes)
        self._nbytes = nbytes

    def receive(self, stream: FrameReader) -> Awaitable[bytes]:
        return stream.receive_exactly(self._nbytes)

    def take(self, data: bytes, start: int) -> tuple[bytes, int] | None:
        end = start + self._nbytes
        return (data[start:end], end) if end <= len(data) else None


def bytes_exchange(data: bytes, nbytes: int | None) -> Exchange[bytes]:
    """Return the exchange of bytes for bytes, of so many or of as many as come."""
    return BurstExchange(data) if nbytes is None else SizedExchange(data, nbytes)


class LineExchange(Exchange[bytes]):
    """Send a line; the reply is a line.

    :param data: the line without its end
    :param newline: what ends both lines, if not the default
    :param max_bytes: longest line to accept, if not the default, in bytes
    :param defaults: the defaults
    """

    __slots__ = ("_limit", "_newline")

    may_share = finds_replies = True

    def __init__(
        self, data: bytes, newline: bytes | None, max_bytes: int | None, defaults: FrameDefaults
    ) -> None:
        if newline is None:
            newline = defaults.newline
        if max_bytes is None:
            max_bytes = defaults.max_line_bytes
        else:
            check_size("max_bytes", max_bytes)
        self._newline, self._limit = newline, max_bytes
        self.request = frame_line(data, newline)

    @property
    def lacks(self) -> str:
        # The commonest reason: the server ends its lines with something else.
        return f" without a newline, {self._newline!r}"

    def receive(self, stream: FrameReader) -> Awaitable[bytes]:
        return stream.receive_line(newline=self._newline, max_bytes=self._limit)

    def take(self, data: bytes, start: int) -> tuple[bytes, int] | None:
        size = len(self._newline)
        end = data.find(self._newline, start, start + self._limit + size)
        return (data[start:end], end + size) if end >= 0 else None


class PackageExchange(Exchange[bytes]):
    """Send a package; the reply is a package.

    :param data: the body
    :param format: the format of both, if not the default
    :param default: the default
    """

    __slots__ = ("_format",)

    may_share = finds_replies = True

    def __init__(self, data: bytes, format: PackageFormat | None, default: PackageFormat) -> None:
        self._format = format = choose_package_format(format, default)
        self.request = format.encode(data)

    def receive(self, stream: FrameReader) -> Awaitable[bytes]:
        return stream.receive_package(self._format)

    def take(self, data: bytes, start: int) -> tuple[bytes, int] | None:
        format = self._format
        body = start + format.header_size
        size = int.from_bytes(data[start:body], format.byteorder) - format.overhead
        fits = body + size <= len(data) and 0 <= size <= format.max_size
        return (data[body : body + size], body + size) if fits else None


class FrameExchange(Exchange[FrameT]):
    """Send a frame; the reply is a frame.

    :param data: what the format puts into a frame
    :param format: the format of both
    """

    __slots__ = ("_format",)

    def __init__(self, data: DataT, format: FrameFormat[DataT, FrameT]) -> None:
        self.request = encode_frame(data, format)
        self._format = format

    def receive(self, stream: FrameReader) -> Awaitable[FrameT]:
        return stream.receive_frame(self._format)
