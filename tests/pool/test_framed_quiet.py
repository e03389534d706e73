"""Reads up to silence, on a virtual clock: how long they wait, and what they give."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio import EndOfStream
from anyio.abc import ByteStream

from anyconnpool import FramedStream
from tests.cases import table


class TimedStream(ByteStream):
    """Deliver chunks, or raise errors, at given times after the stream was made, then fall silent.

    :param arrivals: pairs of a time in seconds and what arrives then
    """

    def __init__(self, *arrivals: tuple[float, bytes | Exception]) -> None:
        self.began = anyio.current_time()
        self.arrivals = deque(arrivals)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self.arrivals:
            await anyio.sleep_forever()
        due, item = self.arrivals[0]
        await anyio.sleep_until(self.began + due)
        if isinstance(item, Exception):
            raise item
        self.arrivals.popleft()
        if len(item) > max_bytes:
            self.arrivals.appendleft((due, item[max_bytes:]))
        return item[:max_bytes]

    async def send(self, item: bytes) -> None:
        raise NotImplementedError

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


async def timed(read: Awaitable[bytes]) -> tuple[bytes, float]:
    """Return what a read gave and how many seconds it took, to the millisecond."""
    began = anyio.current_time()
    data = await read
    return data, round(anyio.current_time() - began, 3)


async def test_available_waits_for_the_first_byte_as_long_as_it_takes() -> None:
    """Silence before the first byte doesn't end the read; silence after the last one does."""
    stream = FramedStream(TimedStream((1000, b"late")))
    assert await timed(stream.receive_available(quiet=0.5)) == (b"late", 1000.5)


async def test_available_goes_on_while_the_line_is_not_silent() -> None:
    """Each arrival starts the silence anew; what comes after it is for the next read."""
    stream = FramedStream(TimedStream((0, b"a"), (0.4, b"b"), (0.8, b"c"), (1.5, b"d")))
    assert await timed(stream.receive_available(quiet=0.5)) == (b"abc", 1.3)
    assert await timed(stream.receive_available(quiet=0.5)) == (b"d", 0.7)


async def test_available_is_silent_after_a_millisecond_by_default() -> None:
    """The default is gtcp's: a millisecond without a byte."""
    stream = FramedStream(TimedStream((0, b"a"), (0.0008, b"b"), (0.0025, b"c")))
    assert await stream.receive_available() == b"ab"
    assert await stream.receive_available() == b"c"


async def test_buffered_bytes_are_first_bytes() -> None:
    """What is buffered already doesn't have to be waited for, only the silence after it."""
    stream = FramedStream(TimedStream((0.3, b"line\nmore"), (0.5, b"!"), (9, b"later")))
    assert await stream.receive_line() == b"line"
    assert await timed(stream.receive_available(quiet=1)) == (b"more!", 1.2)


async def test_available_stops_at_its_limit_and_keeps_the_rest() -> None:
    """At the limit the read ends without waiting for silence; the surplus stays buffered."""
    stream = FramedStream(TimedStream((1, b"abc"), (2, b"def")))
    assert await timed(stream.receive_available(quiet=60, max_bytes=5)) == (b"abcde", 2)
    assert stream.buffer == b"f"
    assert await timed(stream.receive_available(quiet=60, max_bytes=1)) == (b"f", 0)


@table("quiet", [0.5, math.inf])
async def test_data_and_then_the_end_are_two_answers(quiet: float) -> None:
    """The end of the stream ends the read at once; the next one is told of it."""
    stream = FramedStream(TimedStream((0, b"a"), (0.1, b"b"), (0.2, EndOfStream())))
    assert await timed(stream.receive_available(quiet=quiet)) == (b"ab", 0.2)
    for _ in range(2):
        with pytest.raises(EndOfStream):
            await stream.receive_available(quiet=quiet)


async def test_available_raises_the_end_if_nothing_came() -> None:
    """A peer that closes without a byte is EndOfStream."""
    stream = FramedStream(TimedStream((5, EndOfStream())))
    with pytest.raises(EndOfStream):
        await stream.receive_available()


async def test_drain_takes_all_up_to_silence() -> None:
    """Half a second of silence ends a drain; buffered and arriving bytes are its result."""
    stream = FramedStream(
        TimedStream((0, b"line\nold"), (0.4, b"er"), (0.8, b"oldest"), (1.5, b"new"))
    )
    assert await stream.receive_line() == b"line"
    assert await timed(stream.drain()) == (b"olderoldest", 1.3)
    assert stream.buffer == b""
    assert await stream.receive() == b"new"


async def test_silence_is_no_error_of_a_drain() -> None:
    """A drain of a silent line gives nothing, after the time it was given."""
    stream = FramedStream(TimedStream())
    assert await timed(stream.drain()) == (b"", 0.5)
    assert await timed(stream.drain(quiet=2)) == (b"", 2)
    assert (await stream.drain(quiet=0)) == b""


async def test_drain_of_buffered_bytes_waits_for_silence_too() -> None:
    """Bytes that are buffered don't shorten the wait for those behind them."""
    stream = FramedStream(TimedStream())
    stream.feed_data(b"old")
    assert await timed(stream.drain(quiet=0.25)) == (b"old", 0.25)


async def test_drain_tells_of_the_end_only_if_nothing_came() -> None:
    """Bytes and the end give the bytes; the end alone is EndOfStream."""
    stream = FramedStream(TimedStream((0.1, b"last"), (0.2, EndOfStream())))
    assert await timed(stream.drain()) == (b"last", 0.2)
    with pytest.raises(EndOfStream):
        await stream.drain()
    stream.feed_data(b"fed")
    assert await stream.drain() == b"fed"


READS: list[Callable[[FramedStream], Awaitable[bytes]]] = [
    lambda s: s.receive_available(quiet=1),
    lambda s: s.drain(quiet=1),
]


@table("read", READS)
async def test_an_error_of_the_stream_shows_and_no_byte_is_lost(
    read: Callable[[FramedStream], Awaitable[bytes]],
) -> None:
    """Bytes before a reset are returned or stay readable, and the reset is raised."""
    error = anyio.BrokenResourceError("reset by peer")
    stream = FramedStream(TimedStream((0, b"a"), (0.1, b"b"), (0.2, error)))
    seen = b""
    with pytest.raises(anyio.BrokenResourceError) as caught:
        for _ in range(2):
            seen += await read(stream)
    assert caught.value is error
    assert seen + stream.buffer == b"ab"


@table("read", READS)
@table("deadline", [0.05, 0.15, 0.7])
async def test_a_deadline_leaves_the_bytes_readable(
    read: Callable[[FramedStream], Awaitable[bytes]], deadline: float
) -> None:
    """What arrived before a deadline struck is there for the next read."""
    stream = FramedStream(TimedStream((0, b"a"), (0.1, b"b"), (9, b"later")))
    with anyio.move_on_after(deadline) as scope:
        await read(stream)
    assert scope.cancelled_caught
    assert stream.buffer == (b"a" if deadline < 0.1 else b"ab")
    assert await read(stream) == b"ab"


async def test_the_caller_s_deadline_is_not_taken_for_silence() -> None:
    """A deadline that strikes together with the silence is still the caller's."""
    stream = FramedStream(TimedStream())
    with pytest.raises(TimeoutError):
        with anyio.fail_after(1):
            while True:
                assert await stream.drain(quiet=0.25) == b""
