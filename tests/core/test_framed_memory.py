"""A stream that waits keeps what it needs, and no chunk that it has read."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from anyio import EndOfStream, IncompleteRead
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from anyconnpool import FramedStream, LineFormat, PackageFormat

_KIB = 1024
_CHUNK = 256 * _KIB

#: makes a chunk of this size that begins a burst of frames, or is one
Make = Callable[[], bytes]


class Source(ByteStream):
    """Deliver chunks that are made when they are asked for; note what memory is in use then."""

    def __init__(self, *makes: Make) -> None:
        self._makes = [*makes]
        self.used: list[int] = []

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await checkpoint()
        gc.collect()
        self.used.append(tracemalloc.get_traced_memory()[0])
        if not self._makes:
            raise EndOfStream
        return self._makes.pop(0)()

    async def send(self, item: bytes) -> None:
        await checkpoint()

    async def send_eof(self) -> None:
        await checkpoint()

    async def aclose(self) -> None:
        await checkpoint()


async def read_lines(stream: FramedStream) -> None:
    while True:
        await stream.receive_line()


async def read_until(stream: FramedStream) -> None:
    while True:
        await stream.receive_until(b"\n", 65536)


async def read_line_frames(stream: FramedStream) -> None:
    while True:
        await stream.receive_frame(LineFormat())


async def read_packages(stream: FramedStream) -> None:
    while True:
        await stream.receive_package()


async def read_exactly(stream: FramedStream) -> None:
    while True:
        await stream.receive_exactly(_KIB)


async def read_bytes(stream: FramedStream) -> None:
    while True:
        await stream.receive()


Reader = Callable[[FramedStream], Awaitable[None]]


def lines() -> bytes:
    return (b"x" * (_KIB - 1) + b"\n") * 256


def packages() -> bytes:
    return PackageFormat().pack(b"x" * (_KIB - 4)) * 256


async def measure(reader: Reader, *makes: Make) -> list[int]:
    """Return how much memory was in use at each receive, more than before the first one."""
    source = Source(*makes)
    stream = FramedStream(source)
    tracemalloc.start()
    try:
        with pytest.raises((EndOfStream, IncompleteRead)):
            await reader(stream)
    finally:
        tracemalloc.stop()
    return [used - source.used[0] for used in source.used[1:]]


@pytest.mark.parametrize(
    ("reader", "make"),
    [
        *((read_lines, lines), (read_until, lines), (read_line_frames, lines)),
        *((read_packages, packages), (read_exactly, packages), (read_bytes, lines)),
    ],
    ids=lambda value: value.__name__,
)
async def test_a_burst_is_dropped_before_the_next_wait(reader: Reader, make: Make) -> None:
    """Whether all of it was read, or the beginning of a frame is left."""
    whole, begun = await measure(reader, make, lambda: make() + make()[: _KIB // 2])
    assert whole < 16 * _KIB
    assert begun < 16 * _KIB


async def read_much_exactly(stream: FramedStream) -> None:
    await stream.receive_exactly(9 * _CHUNK)


async def read_a_long_line(stream: FramedStream) -> None:
    await stream.receive_line(max_bytes=9 * _CHUNK)


@pytest.mark.parametrize("reader", [read_much_exactly, read_a_long_line])
async def test_what_is_gathered_is_not_kept_twice(reader: Reader) -> None:
    """While the next chunk of a long frame is waited for, the last one is a part of it only."""

    def make() -> bytes:
        return b"x" * _CHUNK

    used = await measure(reader, make, make, make, make)
    # Memory that grows as it is needed is up to an eighth larger than what is in it.
    for chunks, size in enumerate(used[1:], 2):
        assert size < (chunks * 9 / 8 + 0.25) * _CHUNK
