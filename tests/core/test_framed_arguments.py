"""Wrong arguments of a framed stream are clear errors that cost no byte; limits have defaults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import DelimiterNotFound

from anyconnpool import FramedStream, LineFormat, PackageFormat, PackageTooLarge
from tests.cases import table

from .scripted import ScriptedStream

NAN = float("nan")

WRONG_CALLS: dict[str, Callable[[FramedStream], Awaitable[object]]] = {
    "receive 0": lambda s: s.receive(0),
    "receive -1": lambda s: s.receive(-1),
    "exactly -1": lambda s: s.receive_exactly(-1),
    "until nothing": lambda s: s.receive_until(b"", 10),
    "until within 0": lambda s: s.receive_until(b"\n", 0),
    "until within -1": lambda s: s.receive_until(b"\n", -1),
    "line up to nothing": lambda s: s.receive_line(newline=b""),
    "line within 0": lambda s: s.receive_line(max_bytes=0),
    "line within -1": lambda s: s.receive_line(max_bytes=-1),
    "available, negative quiet": lambda s: s.receive_available(quiet=-0.1),
    "available, no number": lambda s: s.receive_available(quiet=NAN),
    "available within 0": lambda s: s.receive_available(max_bytes=0),
    "drain, negative quiet": lambda s: s.drain(quiet=-0.1),
    "drain, no number": lambda s: s.drain(quiet=NAN),
    "drain within 0": lambda s: s.drain(max_bytes=0),
    "send a line with a newline": lambda s: s.send_line(b"two\nlines"),
    "send a line that ends in its newline": lambda s: s.send_line(b"one\n"),
    "send a line with another newline": lambda s: s.send_line(b"a<br>b", newline=b"<br>"),
    "send a line that ends in half its newline": lambda s: s.send_line(b"a\n", newline=b"\n\n"),
    "frame within 0": lambda s: s.receive_frame(LineFormat(), max_bytes=0),
    "send a frame with a newline": lambda s: s.send_frame(b"two\nlines", LineFormat()),
    "exchange of a frame with a newline": lambda s: s.send_receive_frame(b"a\nb", LineFormat()),
    "send a line up to nothing": lambda s: s.send_line(b"x", newline=b""),
}


@table("name", WRONG_CALLS)
@table("fed", [b"", b"abc\nrest"])
async def test_a_wrong_argument_is_an_error_that_costs_nothing(name: str, fed: bytes) -> None:
    """The error comes before anything is read or written, buffered bytes or not."""
    source = ScriptedStream(b"never read")
    stream = FramedStream(source)
    stream.feed_data(fed)
    with pytest.raises(ValueError, match=r".") as caught:
        await WRONG_CALLS[name](stream)
    assert not isinstance(caught.value, PackageTooLarge)
    assert (source.receives, source.sent, stream.buffer) == (0, [], fed)


@table("wrong", [0, -1])
def test_a_line_limit_below_one_is_refused(wrong: int) -> None:
    """A stream that could read no line cannot be made."""
    with pytest.raises(ValueError, match="max_line_bytes"):
        FramedStream(ScriptedStream(), max_line_bytes=wrong)


@pytest.mark.parametrize("size", [65536, 65537])
async def test_a_line_has_at_most_65536_bytes_if_nothing_else_is_said(size: int) -> None:
    """The default limit of a line holds to the byte."""
    stream = FramedStream(ScriptedStream(b"x" * size + b"\nrest"))
    if size == 65536:
        assert await stream.receive_line() == b"x" * size
    else:
        with pytest.raises(DelimiterNotFound):
            await stream.receive_line()


async def test_the_limit_of_a_call_goes_before_that_of_the_stream() -> None:
    """A call may allow more or less than the stream's own limit, for itself alone."""
    stream = FramedStream(ScriptedStream(b"12345\n12345\n123\n"), max_line_bytes=4)
    with pytest.raises(DelimiterNotFound):
        await stream.receive_line()
    assert await stream.receive_line(max_bytes=5) == b"12345"
    with pytest.raises(DelimiterNotFound):
        await stream.receive_line(max_bytes=4)
    with pytest.raises(DelimiterNotFound):
        await stream.receive_line()
    assert await stream.receive_line(max_bytes=100) == b"12345"
    with pytest.raises(DelimiterNotFound):
        await stream.receive_line(max_bytes=2)
    assert await stream.receive_line() == b"123"


async def test_the_line_limit_does_not_hold_for_other_reads() -> None:
    """Packages and counted bytes have limits of their own."""
    stream = FramedStream(ScriptedStream(b"\0\x09123456789" + b"123456789;"), max_line_bytes=4)
    assert await stream.receive_package() == b"123456789"
    assert await stream.receive_until(b";", 9) == b"123456789"


async def test_settings_are_keywords() -> None:
    """Only the stream is passed by position."""
    make: Any = FramedStream
    with pytest.raises(TypeError):
        make(ScriptedStream(), PackageFormat())
    stream: Any = FramedStream(ScriptedStream(b"ab\n"))
    with pytest.raises(TypeError):
        await stream.receive_line(b"\n")


async def test_the_stream_s_own_package_format_is_used_both_ways() -> None:
    """The format given to the stream holds for sending and for receiving."""
    source = ScriptedStream(b"\0\0\5hello")
    stream = FramedStream(source, package_format=PackageFormat(3))
    assert await stream.receive_package() == b"hello"
    await stream.send_package(b"hi")
    assert b"".join(source.sent) == b"\0\0\2hi"


@table("buffered", [b"", b"line\n\0\1x"])
async def test_a_closed_stream_says_so(buffered: bytes) -> None:
    """After aclose every read raises ClosedResourceError, also with bytes in the buffer."""
    source = ScriptedStream(b"more")
    stream = FramedStream(source)
    stream.feed_data(buffered)
    await stream.aclose()
    assert source.closed
    reads: list[Callable[[], Awaitable[bytes]]] = [
        stream.receive,
        stream.receive_line,
        stream.receive_package,
        stream.receive_available,
        stream.drain,
        lambda: stream.receive_exactly(1),
        lambda: stream.receive_until(b"\n", 10),
    ]
    for read in reads:
        with pytest.raises(anyio.ClosedResourceError):
            await read()
    for send in (stream.send, stream.send_line, stream.send_package):
        with pytest.raises(anyio.ClosedResourceError):
            await send(b"x")
    await stream.aclose()
