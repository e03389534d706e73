"""Every read of a framed stream: what it gives doesn't depend on how the bytes were cut."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio import DelimiterNotFound, EndOfStream, IncompleteRead

from anyconnpool import FramedStream, LineFormat, PackageFormat, PackageTooLarge, PackageTooSmall
from tests.cases import table

from .scripted import ScriptedStream, every_cut, rest_of

Read = Callable[[FramedStream], Awaitable[bytes]]


class Netstrings:
    """A format of one's own: ``3:abc,``."""

    def encode(self, data: bytes) -> bytes:
        return b"%d:%b," % (len(data), data)

    def decode(self, buffer: bytes, start: int, eof: bool) -> tuple[bytes, int] | None:
        colon = buffer.find(b":", start)
        if colon < 0:
            return None
        comma = colon + 1 + int(buffer[start:colon])
        if comma >= len(buffer):
            return None
        if buffer[comma : comma + 1] != b",":
            raise ValueError("a netstring ends with a comma")
        return buffer[colon + 1 : comma], comma + 1


class UpToTheEnd:
    """A frame is all there is until the stream ends; what it makes of it may be anything."""

    def __init__(self, ends_at: int | None = None) -> None:
        self.asked: list[tuple[bytes, bool]] = []
        self.ends_at = ends_at

    def encode(self, data: object) -> bytes:
        raise LookupError("this can't be sent")

    def decode(self, buffer: bytes, start: int, eof: bool) -> tuple[object, int] | None:
        self.asked.append((buffer[start:], eof))
        if self.ends_at is not None:
            return None, start + self.ends_at
        return (None, len(buffer)) if eof else None


@dataclass(frozen=True)
class Case:
    """A read, the bytes it meets, and what is left of them afterwards."""

    name: str
    read: Read
    wire: bytes
    gives: bytes | type[Exception]
    leaves: bytes


FRAMES = [
    Case("line", lambda s: s.receive_line(), b"one\ntwo\n", b"one", b"two\n"),
    Case("line keeps \\r", lambda s: s.receive_line(), b"one\r\ntwo", b"one\r", b"two"),
    Case("empty line", lambda s: s.receive_line(), b"\n\nx", b"", b"\nx"),
    Case(
        "line with a long newline",
        lambda s: s.receive_line(newline=b"\r\n"),
        b"a\rb\nc\r\r\nd",
        b"a\rb\nc\r",
        b"d",
    ),
    Case(
        "line as long as the limit",
        lambda s: s.receive_line(max_bytes=5),
        b"12345\nrest",
        b"12345",
        b"rest",
    ),
    Case(
        "line as long as the limit, long newline",
        lambda s: s.receive_line(newline=b"<br>", max_bytes=4),
        b"1234<br>r",
        b"1234",
        b"r",
    ),
    Case(
        "until keeps case apart",
        lambda s: s.receive_until(b"END", 100),
        b"xEnDyENDz",
        b"xEnDy",
        b"z",
    ),
    Case(
        "until a delimiter that repeats its start",
        lambda s: s.receive_until(b"aab", 100),
        b"aaaabaab",
        b"aa",
        b"aab",
    ),
    Case(
        "until as long as the limit",
        lambda s: s.receive_until(b"\r\n", 4),
        b"ab\nc\r\nd",
        b"ab\nc",
        b"d",
    ),
    Case("exactly", lambda s: s.receive_exactly(6), b"abcdefXY", b"abcdef", b"XY"),
    Case("exactly all", lambda s: s.receive_exactly(5), b"abcde", b"abcde", b""),
    Case("exactly nothing", lambda s: s.receive_exactly(0), b"abc", b"", b"abc"),
    Case("package", lambda s: s.receive_package(), b"\0\3abc\0\1", b"abc", b"\0\1"),
    Case("empty package", lambda s: s.receive_package(), b"\0\0\0\1x", b"", b"\0\1x"),
    Case(
        "package with a long header",
        lambda s: s.receive_package(PackageFormat(4)),
        b"\0\0\0\3abcd",
        b"abc",
        b"d",
    ),
    Case(
        "package of little-endian bytes",
        lambda s: s.receive_package(PackageFormat(2, byteorder="little", includes_header=True)),
        b"\5\0abcd",
        b"abc",
        b"d",
    ),
    Case("frame", lambda s: s.receive_frame(Netstrings()), b"3:abc,1:", b"abc", b"1:"),
    Case("frame, of lines", lambda s: s.receive_frame(LineFormat()), b"a\nbc", b"a", b"bc"),
    Case(
        "frame as long as the limit",
        lambda s: s.receive_frame(Netstrings(), max_bytes=6),
        b"3:abc,r",
        b"abc",
        b"r",
    ),
    Case(
        "package as large as the limit",
        lambda s: s.receive_package(PackageFormat(1, max_size=4)),
        b"\4abcdef",
        b"abcd",
        b"ef",
    ),
]

REFUSALS = [
    Case(
        "line over the limit",
        lambda s: s.receive_line(max_bytes=4),
        b"12345\nrest",
        DelimiterNotFound,
        b"12345\nrest",
    ),
    Case(
        "line over the limit, long newline",
        lambda s: s.receive_line(newline=b"\r\n", max_bytes=4),
        b"12345\r\nr",
        DelimiterNotFound,
        b"12345\r\nr",
    ),
    Case(
        "until over the limit",
        lambda s: s.receive_until(b"END", 3),
        b"1234ENDz",
        DelimiterNotFound,
        b"1234ENDz",
    ),
    Case(
        "line without an end over the limit",
        lambda s: s.receive_line(max_bytes=4),
        b"12345",
        DelimiterNotFound,
        b"12345",
    ),
    Case(
        "package that announces too little",
        lambda s: s.receive_package(PackageFormat(2, includes_header=True)),
        b"\0\1ab",
        PackageTooSmall,
        b"\0\1ab",
    ),
    Case(
        "frame over the limit",
        lambda s: s.receive_frame(Netstrings(), max_bytes=5),
        b"3:abc,r",
        DelimiterNotFound,
        b"3:abc,r",
    ),
    Case("no frame", lambda s: s.receive_frame(Netstrings()), b"3:abcd", ValueError, b"3:abcd"),
    Case(
        "package over the limit",
        lambda s: s.receive_package(PackageFormat(2, max_size=2)),
        b"\0\3abcdef",
        PackageTooLarge,
        b"\0\3abcdef",
    ),
]

ENDS = [
    Case("line after the end", lambda s: s.receive_line(), b"", EndOfStream, b""),
    Case("line cut short", lambda s: s.receive_line(), b"par", IncompleteRead, b"par"),
    Case(
        "line cut short within its newline",
        lambda s: s.receive_line(newline=b"\r\n"),
        b"par\r",
        IncompleteRead,
        b"par\r",
    ),
    Case(
        "line as long as the limit cut short",
        lambda s: s.receive_line(max_bytes=3),
        b"par",
        IncompleteRead,
        b"par",
    ),
    Case("until after the end", lambda s: s.receive_until(b";", 9), b"", IncompleteRead, b""),
    Case("until cut short", lambda s: s.receive_until(b";", 9), b"par", IncompleteRead, b"par"),
    Case("exactly after the end", lambda s: s.receive_exactly(1), b"", IncompleteRead, b""),
    Case("exactly cut short", lambda s: s.receive_exactly(4), b"par", IncompleteRead, b"par"),
    Case("package after the end", lambda s: s.receive_package(), b"", EndOfStream, b""),
    Case("package cut in its header", lambda s: s.receive_package(), b"\0", IncompleteRead, b"\0"),
    Case(
        "package cut in its body",
        lambda s: s.receive_package(),
        b"\0\3ab",
        IncompleteRead,
        b"\0\3ab",
    ),
    Case("frame after the end", lambda s: s.receive_frame(Netstrings()), b"", EndOfStream, b""),
    Case(
        "frame cut short",
        lambda s: s.receive_frame(Netstrings()),
        b"3:ab",
        IncompleteRead,
        b"3:ab",
    ),
    Case("receive after the end", lambda s: s.receive(), b"", EndOfStream, b""),
]


def case_name(case: Case) -> str:
    return case.name


@table("case", FRAMES)
async def test_a_frame_is_the_same_however_it_was_cut(case: Case) -> None:
    """A read gives its frame and leaves the bytes after it, in every cut."""
    for chunks in every_cut(case.wire):
        stream = FramedStream(ScriptedStream(*chunks))
        assert await case.read(stream) == case.gives, chunks
        assert await rest_of(stream) == case.leaves, chunks


@table("case", FRAMES)
async def test_a_frame_is_the_same_if_it_was_fed(case: Case) -> None:
    """Fed bytes come first and may hold the frame's beginning or all of it."""
    for size in range(len(case.wire) + 1):
        remainder = [case.wire[size:]] if size < len(case.wire) else []
        stream = FramedStream(ScriptedStream(*remainder))
        stream.feed_data(case.wire[:size])
        assert stream.buffer == case.wire[:size]
        assert await case.read(stream) == case.gives, size
        assert await rest_of(stream) == case.leaves, size


@table("case", [*REFUSALS, *ENDS])
async def test_a_read_that_gets_no_frame_takes_nothing_away(case: Case) -> None:
    """However it was cut: the same error again, over the limit or at the end, and all is there."""
    for chunks in every_cut(case.wire):
        stream = FramedStream(ScriptedStream(*chunks))
        assert isinstance(case.gives, type)
        for _ in range(2):
            with pytest.raises(case.gives):
                await case.read(stream)
        assert await rest_of(stream) == case.leaves, chunks


@table("case", ENDS)
async def test_an_error_of_the_stream_passes_and_takes_nothing_away(case: Case) -> None:
    """A broken connection shows as itself; the bytes that came before it stay readable."""
    for chunks in every_cut(case.wire):
        error = anyio.BrokenResourceError("reset by peer")
        stream = FramedStream(ScriptedStream(*chunks, error))
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await case.read(stream)
        assert caught.value is error
        assert stream.buffer == case.wire, chunks
        if case.wire:
            assert await stream.receive_exactly(len(case.wire)) == case.wire


async def test_a_loop_over_lines_ends_with_the_stream() -> None:
    """A server's loop reads every line and then EndOfStream, again at each further call."""
    stream = FramedStream(ScriptedStream(b"a\nb", b"\n\nc", b"\n"))
    assert [await stream.receive_line() for _ in range(4)] == [b"a", b"b", b"", b"c"]
    for _ in range(3):
        with pytest.raises(EndOfStream):
            await stream.receive_line()


async def test_receive_gives_what_there_is_and_keeps_the_rest() -> None:
    """A plain receive gives at least one byte and at most what was asked for."""
    stream = FramedStream(ScriptedStream(b"abcdef", b"gh"))
    assert await stream.receive(4) == b"abcd"
    assert await stream.receive(1) == b"e"
    assert await stream.receive(100) == b"f"
    assert await stream.receive() == b"gh"
    with pytest.raises(EndOfStream):
        await stream.receive()


async def test_reads_of_every_kind_take_turns_on_one_stream() -> None:
    """No read takes a byte of the next, whatever kind it is."""
    wire = b"line\n" + b"\0\3pkg" + b"12345" + b"till;" + b"x" * 9 + b"\n"
    for size in range(1, len(wire) + 1):
        chunks = [wire[at : at + size] for at in range(0, len(wire), size)]
        stream = FramedStream(ScriptedStream(*chunks))
        assert await stream.receive_line() == b"line"
        assert await stream.receive_package() == b"pkg"
        assert await stream.receive_exactly(5) == b"12345"
        assert await stream.receive_until(b";", 10) == b"till"
        assert await stream.receive_line(max_bytes=9) == b"x" * 9
        with pytest.raises(EndOfStream):
            await stream.receive_line()


async def test_a_frame_may_be_anything_and_end_with_the_stream() -> None:
    """A format is asked after each chunk, and at the end once more if bytes are left."""
    source = ScriptedStream(b"ab", b"c")
    stream, whole = FramedStream(source), UpToTheEnd()
    frame: object = await stream.receive_frame(whole)
    assert frame is None
    assert whole.asked == [(b"ab", False), (b"abc", False), (b"abc", True)]
    with pytest.raises(EndOfStream):
        await stream.receive_frame(whole)
    assert len(whole.asked) == 3


@table("ends_at", [0, -1, 4])
async def test_a_frame_that_ends_outside_of_the_buffer_is_refused(ends_at: int) -> None:
    """Such a format is wrong; nothing is taken."""
    stream = FramedStream(ScriptedStream(b"abc"))
    with pytest.raises(ValueError, match="found a frame that ends at"):
        await stream.receive_frame(UpToTheEnd(ends_at))
    assert stream.buffer == b"abc"


async def test_frames_are_sent_in_one_write_or_not_at_all() -> None:
    """What a format makes of the data goes over the wire; what it raises, to the caller."""
    source = ScriptedStream(b"5:reply,")
    stream = FramedStream(source)
    await stream.send_frame(b"hello", Netstrings())
    assert await stream.receive_frame(Netstrings()) == b"reply"
    with pytest.raises(LookupError):
        await stream.send_frame(None, UpToTheEnd())
    assert source.sent == [b"5:hello,"]


async def test_an_exchange_of_frames_is_one_of_its_format() -> None:
    """Sent and received in the same one; a time limit holds for both together."""
    source = ScriptedStream(b"5:reply,", then="silence")
    stream = FramedStream(source)
    assert await stream.send_receive_frame(b"hello", Netstrings()) == b"reply"
    with pytest.raises(TimeoutError):
        await stream.send_receive_frame(b"again", Netstrings(), timeout=0.01)
    assert source.sent == [b"5:hello,", b"5:again,"]


async def test_what_is_sent_may_be_any_kind_of_bytes() -> None:
    """The items of a memoryview may be larger than bytes: bytes are what is counted."""
    source = ScriptedStream()
    stream = FramedStream(source)
    for data in (b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"abcd").cast("I")):
        sendable: Any = data
        await stream.send_line(sendable)
        await stream.send_package(sendable)
    assert source.sent == [b"abcd\n", b"\0\4abcd"] * 4
    for send in (stream.send_line, stream.send_package):
        text: Any = "abcd"
        with pytest.raises(TypeError, match="must be bytes, not str: encode it first"):
            await send(text)
