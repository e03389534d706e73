"""A hostile peer costs bounded memory and bounded work, and can't keep the loop to itself.

Work is counted, not timed: calls of the wrapped stream, and bytes allocated between them.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from anyio import CancelScope, DelimiterNotFound, create_task_group
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from anyconnpool import FramedStream, LineFormat, PackageFormat, PackageTooLarge
from tests.cases import table
from tests.conftest import BACKENDS

from .scripted import ScriptedStream

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

Read = Callable[[FramedStream], Awaitable[bytes]]


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Return both kinds of loops: each has cancellations and turns of its own."""
    return BACKENDS[request.param]


MEBIBYTE = 1 << 20


class Flood(ByteStream):
    """A peer that never stops sending; it counts what was asked of it."""

    def __init__(self, first: bytes = b"", chunk: int | None = None) -> None:
        self.first = first
        self.chunk = chunk
        self.delivered = 0
        self.largest_request = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await checkpoint()
        self.largest_request = max(self.largest_request, max_bytes)
        data = (self.first or b"x" * min(self.chunk or max_bytes, max_bytes))[:max_bytes]
        self.first = b""
        self.delivered += len(data)
        return data

    async def send(self, item: bytes) -> None:
        raise NotImplementedError

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await checkpoint()


class Eager(ScriptedStream):
    """A script that is played without pausing, metering what the reader allocates meanwhile."""

    allocated = 0
    _base = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self.allocated += tracemalloc.get_traced_memory()[1] - self._base
        data = self._take(max_bytes)
        tracemalloc.reset_peak()
        self._base = tracemalloc.get_traced_memory()[0]
        return data


@contextmanager
def traced() -> Generator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


async def allocated_by(read: Read, wire: bytes, chunk: int) -> int:
    """Return how many bytes a read allocated in all, given chunks of the size."""
    source = Eager(*(wire[at : at + chunk] for at in range(0, len(wire), chunk)))
    stream = FramedStream(source)
    with traced():
        result = await read(stream)
    assert len(result) >= len(wire) - 4
    assert not source.script
    return source.allocated


@table("chunk", [None, 1, 7])
@table("newline", [b"\n", b"\r\n", b"-" * 9])
async def test_an_endless_line_costs_its_limit_and_a_chunk(
    chunk: int | None, newline: bytes
) -> None:
    """What was received of a line without end is never more than the limit and one chunk."""
    limit = 5000
    peer = Flood(chunk=chunk)
    stream = FramedStream(peer)
    with pytest.raises(DelimiterNotFound):
        await stream.receive_line(newline=newline, max_bytes=limit)
    with pytest.raises(DelimiterNotFound):
        await stream.receive_until(newline, limit)
    one_chunk = chunk or peer.largest_request
    assert peer.delivered <= limit + len(newline) + one_chunk
    assert len(stream.buffer) == peer.delivered
    assert one_chunk <= MEBIBYTE


@table("header_size", [1, 2, 3, 4])
async def test_a_huge_package_is_refused_by_its_header(header_size: int) -> None:
    """Nothing is received after the header that announces too much."""
    source = ScriptedStream(b"\xff" * header_size, b"body", then="silence")
    stream = FramedStream(source, package_format=PackageFormat(header_size, max_size=100))
    for _ in range(2):
        with pytest.raises(PackageTooLarge) as caught:
            await stream.receive_package()
        assert caught.value.size == 256**header_size - 1
        assert caught.value.max_size == 100
    assert source.delivered == header_size


async def test_a_huge_package_is_not_made_room_for_in_advance() -> None:
    """A header that announces two gigabytes costs what really arrives, not what it says."""
    source = ScriptedStream(b"\x7f\xff\xff\xff", b"small", then="silence")
    stream = FramedStream(source, package_format=PackageFormat(4))
    with traced():
        with CancelScope() as scope:
            source.on_silence = scope.cancel
            await stream.receive_package()
        peak = tracemalloc.get_traced_memory()[1]
    assert scope.cancelled_caught
    assert stream.buffer == b"\x7f\xff\xff\xffsmall"
    assert peak < 4 * MEBIBYTE
    assert source.largest_request <= MEBIBYTE


@table("read_all", ["available", "drain"])
async def test_a_flood_ends_a_read_of_what_there_is_at_its_limit(read_all: str) -> None:
    """A peer that is never silent can't hold the read, nor make it keep more than the limit."""
    peer = Flood(chunk=1000)
    stream = FramedStream(peer)
    for _ in range(3):
        if read_all == "available":
            data = await stream.receive_available(quiet=3600, max_bytes=10_500)
        else:
            data = await stream.drain(quiet=3600, max_bytes=10_500)
        assert data == b"x" * 10_500
        assert len(stream.buffer) <= 1000


@pytest.mark.newest
async def test_a_line_of_single_bytes_is_linear_work() -> None:
    """A byte at a time costs some hundred bytes of work each, not the whole line each."""
    wire = b"x" * 16384 + b"\n"
    assert await allocated_by(lambda s: s.receive_line(), wire, 1) < 1000 * len(wire)


@table("method", ["line", "until"])
async def test_bytes_that_were_searched_are_not_searched_again(method: str) -> None:
    """Each arrival is searched by itself: a newline that changes meanwhile isn't found behind."""
    newline: Any = bytearray(b"\n")
    meanwhile = iter([b"\n", b"a", b"\n"])

    class Changing(ScriptedStream):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            newline[:] = next(meanwhile)
            return await super().receive(max_bytes)

    stream = FramedStream(Changing(b"aaaa", b"b", b"\n"))
    if method == "line":
        assert await stream.receive_line(newline=newline) == b"aaaab"
    else:
        assert await stream.receive_until(newline, 100) == b"aaaab"


@pytest.mark.newest
async def test_a_large_package_in_small_chunks_is_linear_work() -> None:
    """Four mebibytes in chunks of one kibibyte are copied a few times, not thousands of times."""
    wire = PackageFormat(4).pack(bytes(4 * MEBIBYTE))
    package_format = PackageFormat(4)
    reads: list[Read] = [
        lambda s: s.receive_package(package_format),
        lambda s: s.receive_exactly(len(wire)),
    ]
    for read in reads:
        assert await allocated_by(read, wire, 1024) < 20 * len(wire)


@pytest.mark.newest
@table("read_all", ["available", "drain"])
async def test_a_burst_of_small_chunks_is_linear_work(read_all: str) -> None:
    """A quarter of a mebibyte in chunks of 64 bytes, up to silence, is not copied once a chunk."""
    wire = bytes(MEBIBYTE // 4)

    async def read(stream: FramedStream) -> bytes:
        if read_all == "available":
            return await stream.receive_available(quiet=3600, max_bytes=MEBIBYTE)
        return await stream.drain(quiet=3600, max_bytes=MEBIBYTE)

    assert await allocated_by(read, wire, 64) < 100 * len(wire)


FRAME = b"\0\4abc\n"
BUFFERED_READS: dict[str, Read] = {
    "receive": lambda s: s.receive(len(FRAME)),
    "exactly": lambda s: s.receive_exactly(len(FRAME)),
    "until": lambda s: s.receive_until(b"\n", 100),
    "line": lambda s: s.receive_line(),
    "package": lambda s: s.receive_package(),
    "frame": lambda s: s.receive_frame(LineFormat()),
    "available": lambda s: s.receive_available(quiet=0, max_bytes=len(FRAME)),
    "drain": lambda s: s.drain(quiet=0, max_bytes=len(FRAME)),
}


@table("name", BUFFERED_READS)
async def test_a_loop_over_buffered_frames_lets_others_run(name: str) -> None:
    """In 2000 reads that never wait, other tasks get several turns."""
    stream = FramedStream(ScriptedStream())
    stream.feed_data(FRAME * 2000)
    turns = during = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with create_task_group() as task_group:
        task_group.start_soon(other)
        await checkpoint()
        before = turns
        for _ in range(2000):
            await BUFFERED_READS[name](stream)
        during = turns - before
        task_group.cancel_scope.cancel()
    assert during >= 2


@table("name", BUFFERED_READS)
async def test_a_loop_over_buffered_frames_can_be_cancelled(name: str) -> None:
    """A cancelled scope ends the loop within some hundred frames, and no frame is lost."""
    stream = FramedStream(ScriptedStream())
    stream.feed_data(FRAME * 2000)
    done = 0
    with CancelScope() as scope:
        scope.cancel()
        for _ in range(2000):
            await BUFFERED_READS[name](stream)
            done += 1
    assert scope.cancelled_caught
    assert done < 1000
    assert stream.buffer == FRAME * (2000 - done)


@on_asyncio
@table("name", BUFFERED_READS)
async def test_a_loop_over_buffered_frames_can_be_cancelled_natively(name: str) -> None:
    """``task.cancel()`` is noticed in the same way."""
    stream = FramedStream(ScriptedStream())
    stream.feed_data(FRAME * 2000)
    done = 0

    async def loop() -> None:
        nonlocal done
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        for _ in range(2000):
            await BUFFERED_READS[name](stream)
            done += 1

    task = asyncio.get_running_loop().create_task(loop())
    await asyncio.wait([task])
    assert task.cancelled()
    assert done < 1000
    assert stream.buffer == FRAME * (2000 - done)
