"""Streams on which the server pushes frames in bulk."""

from __future__ import annotations

from anyio import connect_tcp
from anyio.abc import ByteStream

from benchmarks.bench import Bench
from benchmarks.remotes import HOST


async def open_push(bench: Bench) -> ByteStream:
    """Connect to the server that pushes."""
    return await connect_tcp(HOST, bench.remotes.push)


def push_request(header_size: int, size: int, count: int) -> bytes:
    """Return what asks the server for frames.

    :param header_size: of packages, in bytes; 0 for lines
    :param size: of each body, in bytes
    :param count: how many frames
    """
    return f"{header_size} {size} {count}\n".encode()
