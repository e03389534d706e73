"""A framed stream: its writes, its arguments, and the AnyIO byte stream that it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import pytest
from anyio import CancelScope, DelimiterNotFound, create_memory_object_stream
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledObjectStream

from anyconnpool import FramedStream, LineFormat, PackageFormat, PackageTooLarge
from tests.cases import table

from .scripted import ScriptedStream


async def test_is_a_buffered_stream_and_a_byte_stream_of_anyio() -> None:
    """Whatever takes one of AnyIO's takes a framed stream."""
    stream = FramedStream(ScriptedStream(b"x"))
    assert isinstance(stream, BufferedByteReceiveStream)
    assert isinstance(stream, ByteStream)
    stream.feed_data(bytearray(b"line\nf"))
    assert await stream.receive_line() == b"line"
    stream.feed_data([101, 100])
    assert stream.buffer == b"fed"
    assert isinstance(stream.buffer, bytes)
    assert await stream.receive() == b"fed"
    assert [chunk async for chunk in stream] == [b"x"]


@table("cancelled", [False, True])
async def test_what_is_fed_while_a_read_waits_is_behind_what_it_waits_for(cancelled: bool) -> None:
    """Neither the read nor its cancellation loses it."""
    source = ScriptedStream(b"b", b"c")
    stream = FramedStream(source)
    stream.feed_data(b"a")
    with CancelScope() as scope:

        def interfere() -> None:
            stream.feed_data(b"fed")
            if cancelled:
                scope.cancel()

        source.at_point(0, interfere)
        assert await stream.receive_exactly(3) == b"abc"
    assert stream.buffer == (b"afed" if cancelled else b"fed")


async def test_results_are_plain_bytes() -> None:
    """No read gives a bytearray or a view of the buffer."""
    for fed in (b"ab\n\0\1ccc;d", b""):
        stream = FramedStream(ScriptedStream(b"ab\n\0\1ccc;d"))
        stream.feed_data(fed)
        results = [
            await stream.receive_line(),
            await stream.receive_package(),
            await stream.receive_exactly(1),
            await stream.receive_until(b";", 5),
            await stream.receive(1),
        ]
        assert [type(result) for result in results] == [bytes] * 5
        assert results == [b"ab", b"c", b"c", b"c", b"d"]


async def test_extra_attributes_are_those_of_the_wrapped_stream() -> None:
    """What the wrapped stream knows of itself can be asked of the framed one."""
    attribute: str = anyio.typed_attribute()

    class Labelled(ScriptedStream):
        @property
        def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
            return {attribute: lambda: "label"}

    assert FramedStream(Labelled()).extra(attribute) == "label"


async def test_send_and_its_end_pass_through() -> None:
    """A plain send writes what it is given; the end of sending reaches the wrapped stream."""
    source = ScriptedStream(b"still\n")
    stream = FramedStream(source)
    await stream.send(b"as it is\n")
    await stream.send_eof()
    assert source.sent == [b"as it is\n"]
    assert source.sent_eof
    assert await stream.receive_line() == b"still"


@table("newline", [b"\n", b"\r\n", b"\0", b"<br>"])
async def test_a_line_is_sent_with_its_newline_in_one_write(newline: bytes) -> None:
    """One write, so that no small segment waits for an acknowledgement."""
    source = ScriptedStream()
    await FramedStream(source).send_line(b"text", newline=newline)
    assert source.sent == [b"text" + newline]


async def test_an_empty_line_is_a_line() -> None:
    """Nothing but the newline is sent."""
    source = ScriptedStream()
    await FramedStream(source).send_line(b"")
    assert source.sent == [b"\n"]


async def test_other_ends_of_lines_may_be_in_a_line() -> None:
    """Only the newline of the call would make two lines of one."""
    source = ScriptedStream()
    await FramedStream(source).send_line(b"a\nb\r", newline=b"\r\n")
    assert source.sent == [b"a\nb\r\r\n"]


@table("data", [b"", b"x", b"\0\1", b"x" * 65535])
async def test_a_package_is_sent_with_its_header_in_one_write(data: bytes) -> None:
    """The header never travels alone."""
    source = ScriptedStream()
    await FramedStream(source).send_package(data)
    assert source.sent == [PackageFormat().pack(data)]


@table("header_size", [1, 2, 3, 4])
async def test_the_format_of_a_send_goes_before_that_of_the_stream(header_size: int) -> None:
    """A format passed to a call holds for this call alone."""
    source = ScriptedStream()
    stream = FramedStream(source)
    await stream.send_package(b"abc", PackageFormat(header_size))
    await stream.send_package(b"abc", format=PackageFormat(header_size))
    await stream.send_package(b"abc")
    special = (3).to_bytes(header_size, "big") + b"abc"
    assert source.sent == [special, special, b"\0\3abc"]


async def test_a_package_that_is_too_large_is_not_sent_at_all() -> None:
    """Not one byte of it is written, and the stream goes on working."""
    source = ScriptedStream()
    stream = FramedStream(source)
    with pytest.raises(PackageTooLarge) as caught:
        await stream.send_package(bytes(65536))
    assert (caught.value.size, caught.value.max_size) == (65536, 65535)
    with pytest.raises(PackageTooLarge):
        await stream.send_package(b"abc", PackageFormat(max_size=2))
    assert source.sent == []
    await stream.send_package(b"ok")
    assert source.sent == [b"\0\2ok"]


async def test_what_one_end_sends_the_other_end_receives() -> None:
    """Lines and packages of one framed stream are read back by another."""
    source = ScriptedStream()
    sender = FramedStream(source, package_format=PackageFormat(1))
    lines = [b"", b"one", b"two\r", b"x" * 1000]
    packages = [b"", b"\n", b"x" * 255]
    for line in lines:
        await sender.send_line(line)
    for package in packages:
        await sender.send_package(package)
    receiver = FramedStream(ScriptedStream(*source.sent), package_format=PackageFormat(1))
    assert [await receiver.receive_line() for _ in lines] == lines
    assert [await receiver.receive_package() for _ in packages] == packages


async def test_wraps_an_object_stream_of_bytes() -> None:
    """AnyIO's other kind of byte stream takes no size; empty items are not the end."""
    to_stream, from_peer = create_memory_object_stream[bytes](20)
    to_peer, from_stream = create_memory_object_stream[bytes](20)
    stream = FramedStream(StapledObjectStream(to_peer, from_peer))
    with to_stream, from_peer, to_peer, from_stream:
        for item in (b"li", b"", b"ne\n\0", b"", b"\3abcxyz", b"", b"12;", b"", b"more", b""):
            to_stream.send_nowait(item)
        to_stream.close()
        assert await stream.receive_line() == b"line"
        assert await stream.receive_package() == b"abc"
        assert await stream.receive(2) == b"xy"
        assert await stream.receive_until(b";", 9) == b"z12"
        assert await stream.receive(3) == b"mor"
        assert stream.buffer == b"e"
        assert await stream.receive(3) == b"e"
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await stream.send_line(b"out")
        assert from_stream.receive_nowait() == b"out\n"


async def test_a_wait_for_bytes_sees_no_empty_item_of_an_object_stream() -> None:
    """An empty item is no byte: a plain receive and a read of what is there wait on."""
    to_stream, from_peer = create_memory_object_stream[bytes](20)
    to_peer, from_stream = create_memory_object_stream[bytes](20)
    stream = FramedStream(StapledObjectStream(to_peer, from_peer))
    with to_stream, from_peer, to_peer, from_stream:
        for item in (b"", b"a", b"", b"", b"b"):
            to_stream.send_nowait(item)
        to_stream.close()
        assert await stream.receive() == b"a"
        assert await stream.receive_available(quiet=60) == b"b"


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


@pytest.mark.parametrize("wire", [b"123456789\n", b"1234567"])
async def test_a_frame_that_is_too_long_says_which_limit_there_is(wire: bytes) -> None:
    """That of ``receive_frame``, whether its end has come or not; lines have one of their own."""
    stream = FramedStream(ScriptedStream(wire))
    with pytest.raises(DelimiterNotFound, match=r"the first 7 bytes: .* of receive_frame\(\)"):
        await stream.receive_frame(LineFormat(), max_bytes=7)
    with pytest.raises(DelimiterNotFound, match=r"or the pool's max_line_bytes"):
        await stream.receive_line(max_bytes=5)


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


async def test_the_newline_of_a_call_goes_before_that_of_the_stream() -> None:
    """A stream has a newline of its own for all it sends and receives in lines."""
    given: Any = bytearray(b"<br>")
    source = ScriptedStream(b"a\nb<br>c<br>d\ne<br>")
    stream = FramedStream(source, newline=given)
    # What is kept is a copy.
    given[:] = b"?"
    assert await stream.receive_line() == b"a\nb"
    await stream.send_line(b"x")
    assert await stream.send_receive_line(b"y") == b"c"
    assert await stream.receive_line(newline=b"\n") == b"d"
    assert await stream.receive_line() == b"e"
    assert source.sent == [b"x<br>", b"y<br>"]


def test_a_newline_that_is_none_is_refused() -> None:
    """A stream that could find no end of a line cannot be made."""
    newline: Any = b""
    with pytest.raises(ValueError, match="newline must be 1 or more bytes, not 0"):
        FramedStream(ScriptedStream(), newline=newline)
    newline = "\n"
    with pytest.raises(TypeError, match="newline must be bytes, not str: encode it first"):
        FramedStream(ScriptedStream(), newline=newline)


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


@table(
    "theirs, ours",
    [
        ("readline", "receive_line"),
        ("read", "receive"),
        ("recv", "receive"),
        ("readexactly", "receive_exactly"),
        ("readuntil", "receive_until"),
        ("write", "send"),
        ("sendall", "send"),
    ],
)
def test_names_of_other_libraries_lead_to_ours(theirs: str, ours: str) -> None:
    """Who writes the name of asyncio's streams or of sockets is told ours, which exists."""
    for made in (FramedStream(ScriptedStream()), FramedStream):
        kind = made if isinstance(made, type) else type(made)
        with pytest.raises(AttributeError) as caught:
            getattr(made, theirs)
        assert str(caught.value) == f"{kind.__name__} has no {theirs!r}: use {ours}()"
        assert hasattr(made, ours)
        assert not hasattr(made, theirs)
    # With it, CPython looks up every attribute more slowly.
    assert not hasattr(FramedStream, "__getattr__")
