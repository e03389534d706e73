"""The formats of frames: lines, length-prefixed packages, and what a format of your own has to do.

A format is a value with some arithmetic; nothing here knows streams. A new format is one
small class with the two methods of :class:`FrameFormat`.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, Protocol, TypeVar, cast

from anyconnpool._exceptions import FrameTooLong, PackageTooLarge, PackageTooSmall
from anyconnpool._util.checks import (
    advise,
    as_bytes,
    byte_size,
    check_count,
    check_size,
    quoted,
)

DataT = TypeVar("DataT")
DataT_contra = TypeVar("DataT_contra", contravariant=True)
FrameT_co = TypeVar("FrameT_co", covariant=True)

_LARGEST_HEADER = 4
_GTCP_MAX_SIZE = (0xFF, 0xFFFF, 0xFFFFFF, 0x7FFFFFFF)


class FrameFormat(Protocol[DataT_contra, FrameT_co]):
    """Put data into a frame, and find the end of a frame in what was received.

    Any object with these two methods is a format; :class:`LineFormat` and :class:`PackageFormat`
    are two of them. A format holds no state of a connection: one object serves all connections.
    """

    def encode(self, data: DataT_contra, /) -> bytes:
        """Put data into a frame.

        :param data: what to send
        :return: the frame, as it goes over the wire
        :raises Exception: if the data can't be sent in this format; nothing is sent then
        """
        ...

    def decode(self, buffer: bytes, start: int, eof: bool) -> tuple[FrameT_co, int] | None:
        """Find the next frame in what has been received.

        It is asked with all that is buffered, and again after each chunk that arrives.

        :param buffer: bytes that were received; those before ``start`` belong to earlier frames
        :param start: where the frame begins, an index into ``buffer``
        :param eof: whether nothing more will come; a read asks like this at most once, and only if
            bytes are left
        :return: the frame, which may be any object, and the index into ``buffer`` at which it ends;
            ``None`` if more bytes are needed
        :raises Exception: if this is not a frame; the connection is not reused then
        """
        ...


@dataclass(frozen=True)
class LineFormat:
    r"""Read and write lines: a newline ends each, and is not part of the data.

    :param newline: what ends a line; with ``b"\n"``, the default, a ``\r`` before it stays
    :param max_bytes: longest line to send or to accept, in bytes without its end; 65 536, AnyIO's
        size of one receive, by default
    :raises TypeError: if the newline is not bytes, or the limit not an integer
    :raises ValueError: if the newline is empty, or the limit less than 1
    """

    newline: bytes = b"\n"
    _: KW_ONLY
    max_bytes: int = 65_536

    def __post_init__(self) -> None:
        check_size("newline", byte_size("newline", self.newline))
        check_count("max_bytes", self.max_bytes, least=1, unlimited=False)

    def encode(self, data: bytes) -> bytes:
        """Append the newline to a line.

        :param data: the line without its end
        :raises ValueError: if the newline occurs before the end, or the line is too long
        """
        line = frame_line(data, self.newline)
        size = len(line) - len(self.newline)
        if size > self.max_bytes:
            raise ValueError(
                f"a line of {size} bytes exceeds max_bytes, {self.max_bytes}; use a LineFormat "
                f"with a larger max_bytes"
            )
        return line

    def decode(self, buffer: bytes, start: int, eof: bool) -> tuple[bytes, int] | None:
        """Find the next line.

        :raises ~anyio.DelimiterNotFound: if it is longer than ``max_bytes``
        """
        end = buffer.find(self.newline, start, start + self.max_bytes + len(self.newline))
        if end >= 0:
            return buffer[start:end], end + len(self.newline)
        if len(buffer) - start >= self.max_bytes + len(self.newline):
            raise FrameTooLong(self.max_bytes, "use a LineFormat with a larger max_bytes")
        return None


def frame_line(data: bytes, newline: bytes) -> bytes:
    """Append the newline to a line.

    :raises ValueError: if the newline is empty, or occurs before the end of the line
    """
    if type(newline) is not bytes:
        newline = as_bytes("the newline", newline)
    line = (data if type(data) is bytes else as_bytes("a line", data)) + newline
    if not newline:
        raise ValueError("a line can't be ended by an empty newline")
    if line.find(newline) != len(line) - len(newline):
        raise ValueError(
            f"a line ended by {quoted(newline)} can't be sent if that occurs before its end: the "
            f"peer would find the end too early"
        )
    return line


@dataclass(frozen=True, init=False)
class PackageFormat:
    """Read and write packages: a header with the length of the body, then the body.

    A package may have an empty body. The defaults are those of GoFrame's ``gtcp.PkgOption``: a
    big-endian header that counts the body alone, not itself.

    :param header_size: length of the header in bytes, 1 to 4
    :param max_size: largest body to send or to accept, in bytes; by default what gtcp allows for
        the header (255, 65 535, 16 777 215 or 2 147 483 647), or what the header can express if it
        counts itself
    :param byteorder: the order of the header's bytes, ``"big"`` or ``"little"``
    :param includes_header: whether the length in the header counts the header as well
    :raises ValueError: if the header size is not 1 to 4, the header can't express ``max_size``, or
        the byte order is neither
    :raises TypeError: if an argument is of the wrong type
    """

    #: length of the header in bytes
    header_size: int
    #: largest body, in bytes
    max_size: int
    #: the order of the header's bytes
    byteorder: Literal["big", "little"]
    #: whether the length in the header counts the header as well
    includes_header: bool
    #: how much the length in the header exceeds that of the body, in bytes
    overhead: int = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        header_size: int = 2,
        *,
        max_size: int | None = None,
        byteorder: Literal["big", "little"] = "big",
        includes_header: bool = False,
    ) -> None:
        check_count("header_size", header_size, least=1, unlimited=False)
        if header_size > _LARGEST_HEADER:
            raise ValueError(f"header_size must be 1, 2, 3 or 4 bytes, not {header_size}")
        if byteorder not in ("big", "little"):
            raise ValueError(f'byteorder must be "big" or "little", not {quoted(byteorder)}')
        if not isinstance(cast("object", includes_header), bool):
            given = type(includes_header).__name__
            raise TypeError(f"includes_header must be a bool, not {given}")
        overhead = header_size if includes_header else 0
        most = 256**header_size - 1 - overhead
        if max_size is None:
            max_size = min(_GTCP_MAX_SIZE[header_size - 1], most)
        check_count("max_size", max_size, least=0, unlimited=False)
        if max_size > most:
            raise ValueError(
                f"max_size must be 0 to {most} bytes, which is what a header of "
                f"{header_size} bytes can express, not {max_size}"
            )
        for name, value in (
            ("header_size", header_size),
            ("max_size", max_size),
            ("byteorder", byteorder),
            ("includes_header", includes_header),
            ("overhead", overhead),
        ):
            object.__setattr__(self, name, value)

    def check_size(self, size: int) -> None:
        """Refuse a body that is too large for this format.

        :param size: length of the body in bytes
        :raises PackageTooLarge: if it exceeds ``max_size``
        :raises PackageTooSmall: if it is negative: a header announced less than its own size
        """
        if size > self.max_size:
            raise PackageTooLarge(size, self.max_size)
        if size < 0:
            raise PackageTooSmall(size + self.header_size, self.header_size)

    def pack(self, data: bytes) -> bytes:
        """Put the header before a body; the same as :meth:`encode`.

        :param data: the body
        :return: header and body
        :raises PackageTooLarge: if the body exceeds ``max_size``
        """
        return self.encode(data)

    def encode(self, data: bytes) -> bytes:
        """Put the header before a body.

        :param data: the body
        :return: header and body
        :raises PackageTooLarge: if the body exceeds ``max_size``
        """
        size = byte_size("a package", data)
        self.check_size(size)
        return (size + self.overhead).to_bytes(self.header_size, self.byteorder) + data

    def decode(self, buffer: bytes, start: int, eof: bool) -> tuple[bytes, int] | None:
        """Find the next package.

        :raises PackageTooLarge: if the header announces more than ``max_size``
        :raises PackageTooSmall: if it announces less than its own size
        """
        body = start + self.header_size
        if body > len(buffer):
            return None
        size = int.from_bytes(buffer[start:body], self.byteorder) - self.overhead
        self.check_size(size)
        end = body + size
        return (buffer[body:end], end) if end <= len(buffer) else None


def choose_package_format(given: PackageFormat | None, default: PackageFormat) -> PackageFormat:
    """Return the format that is given in a call, or the default if none is given.

    :raises TypeError: if the given value is not a package format
    """
    if given is None:
        return default
    if not isinstance(cast("object", given), PackageFormat):
        advice = advise(PackageFormat, given)
        raise TypeError(f"format must be a PackageFormat, not {type(given).__name__}{advice}")
    return given


def encode_frame(data: DataT, format: FrameFormat[DataT, Any]) -> bytes:
    """Put data into a frame, by a format that anybody may have written.

    :raises TypeError: if it is not a format, or doesn't make bytes
    :raises Exception: what the format raises
    """
    try:
        frame = format.encode(data)
    except (AttributeError, TypeError):
        check_frame_format(format)
        raise
    return frame if type(frame) is bytes else as_bytes("what encode() of the format makes", frame)


def check_frame_format(format: object) -> None:
    """Refuse what is not a frame format.

    :raises TypeError: if it hasn't the methods of one, or is a class
    """
    if isinstance(format, type):
        raise TypeError(
            f"format must be an object, not the class itself: write {format.__name__}()"
        )
    if not (hasattr(format, "encode") and hasattr(format, "decode")):
        raise TypeError(
            f"format must have the methods of a FrameFormat, encode() and decode(), which "
            f"{quoted(format)} has not"
        )
