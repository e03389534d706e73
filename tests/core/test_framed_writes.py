"""The writes of a framed stream, and what it is besides: an AnyIO byte stream around another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest
from anyio import CancelScope, create_memory_object_stream
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledObjectStream

from anyconnpool import FramedStream, PackageFormat, PackageTooLarge
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
