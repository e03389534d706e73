"""Read frames of 64 bytes that come in bulk: ours, AnyIO's and asyncio's ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from anyconnpool import ConnectionPool, PooledConnection
from benchmarks.bench import Bench
from benchmarks.cases.pushes import open_push, push_request
from benchmarks.goals import ANYIO_LINES, ANYIO_PACKAGES, ASYNCIO_PACKAGES
from benchmarks.remotes import HOST
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, worked

_SIZE = 64
_HEADER = 2
_FRAMES = 10_000
_ASYNCIO_LINES = "asyncio: readline"

_Read = Callable[[int], Awaitable[object]]


async def packages(bench: Bench) -> list[Figure]:
    """Read packages: a header of 2 bytes, a body of 64."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(_borrow(bench))
        anyios = await stack.enter_async_context(await open_push(bench))
        request = push_request(_HEADER, _SIZE, _FRAMES)
        contestants = [
            _on_stream("ours: receive_package", ours, request, _our_packages(ours)),
            _on_stream(ANYIO_PACKAGES, anyios, request, _anyio_packages(anyios)),
        ]
        if bench.on_asyncio:
            contestants.append(
                await _on_asyncio(bench, stack, ASYNCIO_PACKAGES, request, _asyncio_packages)
            )
        return await bench.keeper.compare("packages", "package", contestants, seconds=6)


async def lines(bench: Bench) -> list[Figure]:
    """Read lines of 64 bytes."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(_borrow(bench))
        anyios = await stack.enter_async_context(await open_push(bench))
        request = push_request(0, _SIZE, _FRAMES)
        contestants = [
            _on_stream("ours: receive_line", ours, request, _our_lines(ours)),
            _on_stream(ANYIO_LINES, anyios, request, _anyio_lines(anyios)),
        ]
        if bench.on_asyncio:
            contestants.append(
                await _on_asyncio(bench, stack, _ASYNCIO_LINES, request, _asyncio_lines)
            )
        return await bench.keeper.compare("lines", "line", contestants, seconds=4)


@asynccontextmanager
async def _borrow(bench: Bench) -> AsyncGenerator[PooledConnection]:
    async with ConnectionPool((HOST, bench.remotes.push)) as pool, pool.acquire() as connection:
        yield connection


def _our_packages(ours: PooledConnection) -> _Read:
    async def read(count: int) -> None:
        for _ in range(count):
            await ours.receive_package()

    return read


def _anyio_packages(stream: ByteStream) -> _Read:
    buffered = BufferedByteReceiveStream(stream)

    async def read(count: int) -> None:
        for _ in range(count):
            header = await buffered.receive_exactly(_HEADER)
            await buffered.receive_exactly(int.from_bytes(header, "big"))

    return read


def _asyncio_packages(reader: asyncio.StreamReader) -> _Read:
    async def read(count: int) -> None:
        for _ in range(count):
            header = await reader.readexactly(_HEADER)
            await reader.readexactly(int.from_bytes(header, "big"))

    return read


def _our_lines(ours: PooledConnection) -> _Read:
    async def read(count: int) -> None:
        for _ in range(count):
            await ours.receive_line()

    return read


def _anyio_lines(stream: ByteStream) -> _Read:
    buffered = BufferedByteReceiveStream(stream)

    async def read(count: int) -> None:
        for _ in range(count):
            await buffered.receive_until(b"\n", 65536)

    return read


def _asyncio_lines(reader: asyncio.StreamReader) -> _Read:
    async def read(count: int) -> None:
        for _ in range(count):
            await reader.readline()

    return read


def _on_stream(name: str, stream: ByteStream, request: bytes, read: _Read) -> Contestant:
    async def repeat(count: int) -> None:
        await stream.send(request)
        await read(count)

    return Contestant(name, worked(repeat), _FRAMES)


async def _on_asyncio(
    bench: Bench,
    stack: AsyncExitStack,
    name: str,
    request: bytes,
    reading: Callable[[asyncio.StreamReader], _Read],
) -> Contestant:
    reader, writer = await asyncio.open_connection(HOST, bench.remotes.push)
    stack.enter_context(_closing(writer))
    read = reading(reader)

    async def repeat(count: int) -> None:
        writer.write(request)
        await read(count)

    return Contestant(name, worked(repeat), _FRAMES)


@contextmanager
def _closing(writer: asyncio.StreamWriter) -> Generator[None]:
    try:
        yield
    finally:
        writer.close()
