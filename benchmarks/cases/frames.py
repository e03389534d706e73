"""Read packages of all sizes: the time for a byte should not grow with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from anyconnpool import FramedStream, PackageFormat
from benchmarks.bench import Bench
from benchmarks.cases.pushes import open_push, push_request
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, timed
from benchmarks.standins import Trickle

_HEADER = 4
_FORMAT = PackageFormat(_HEADER)
_SMALL = {"1 KiB": 1 << 10, "64 B": 64, "1 B": 1}
_LARGE = {"16 MiB": 1 << 24, "1 MiB": 1 << 20, "64 KiB": 1 << 16}
_SMALL_FRAMES = 2_000
_LARGE_BYTES = 1 << 24


async def small_frames(bench: Bench) -> list[Figure]:
    """Read packages so small that each costs about the same."""
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(await open_push(bench))
        contestants = [
            Contestant(f"ours, {name} each", timed(_packages(stream, size)), _SMALL_FRAMES)
            for name, size in _SMALL.items()
        ]
        return await bench.keeper.compare("frames-small", "package", contestants, seconds=3)


async def large_frames(bench: Bench) -> list[Figure]:
    """Read packages so large that each byte costs about the same."""
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(await open_push(bench))
        contestants = [
            Contestant(f"ours, {name} each", timed(_bytes(stream, size)), _LARGE_BYTES)
            for name, size in _LARGE.items()
        ]
        contestants.append(
            Contestant("receive() and join, 16 MiB", timed(_joined(stream)), _LARGE_BYTES)
        )
        return await bench.keeper.compare("frames-large", "byte", contestants, seconds=6)


async def single_bytes(bench: Bench) -> list[Figure]:
    """Read packages that come one byte at a time, from memory."""
    reading: dict[str, Callable[[int], Awaitable[None]]] = {}
    for name, size in (("64 KiB", 1 << 16), ("1 KiB", 1 << 10)):
        reading[f"ours, {name} each"] = _our_trickle(size)
        reading[f"AnyIO, {name} each"] = _anyio_trickle(size)
    contestants = [Contestant(name, timed(repeat), 1 << 16) for name, repeat in reading.items()]
    return await bench.keeper.compare("single-bytes", "byte", contestants, seconds=5)


def _packages(stream: ByteStream, size: int) -> Callable[[int], Awaitable[None]]:
    framed = FramedStream(stream, package_format=_FORMAT)

    async def repeat(count: int) -> None:
        await stream.send(push_request(_HEADER, size, count))
        for _ in range(count):
            await framed.receive_package()

    return repeat


def _bytes(stream: ByteStream, size: int) -> Callable[[int], Awaitable[None]]:
    read = _packages(stream, size)

    async def repeat(count: int) -> None:
        await read(count // size)

    return repeat


def _joined(stream: ByteStream) -> Callable[[int], Awaitable[None]]:
    """Do what no reader of large packages can do without."""

    async def repeat(count: int) -> None:
        await stream.send(push_request(_HEADER, count, 1))
        chunks: list[bytes] = []
        missing = _HEADER + count
        while missing:
            chunks.append(await stream.receive(1 << 18))
            missing -= len(chunks[-1])
        b"".join(chunks)

    return repeat


def _our_trickle(size: int) -> Callable[[int], Awaitable[None]]:
    trickle = Trickle()
    framed = FramedStream(trickle, package_format=_FORMAT)

    async def repeat(count: int) -> None:
        trickle.load(_FORMAT.pack(b"x" * size) * (count // size))
        for _ in range(count // size):
            await framed.receive_package()

    return repeat


def _anyio_trickle(size: int) -> Callable[[int], Awaitable[None]]:
    trickle = Trickle()
    buffered = BufferedByteReceiveStream(trickle)

    async def repeat(count: int) -> None:
        trickle.load(_FORMAT.pack(b"x" * size) * (count // size))
        for _ in range(count // size):
            header = await buffered.receive_exactly(_HEADER)
            await buffered.receive_exactly(int.from_bytes(header, "big"))

    return repeat
