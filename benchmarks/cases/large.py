"""Read packages of all sizes: the time for a byte should not grow with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from anyio.abc import ByteStream

from anyconnpool import ConnectionPool, PackageFormat, PooledConnection
from benchmarks.bench import Bench
from benchmarks.cases.pushes import push_request
from benchmarks.goals import SMALLER_PACKAGES
from benchmarks.remotes import HOST
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, worked

_HEADER = 4
_FORMAT = PackageFormat(_HEADER)
_SIZES = {
    "ours, one package of 16 MiB": 1 << 24,
    "ours, packages of 1 MiB": 1 << 20,
    SMALLER_PACKAGES: 1 << 16,
}
_BYTES = 1 << 24


async def large_packages(bench: Bench) -> list[Figure]:
    """Read 16 MiB in one package, in some and in many."""
    remote = (HOST, bench.remotes.push)
    async with ConnectionPool(remote, package_format=_FORMAT) as pool, pool.acquire() as ours:
        contestants = [
            Contestant(name, worked(_packages(ours, size)), _BYTES) for name, size in _SIZES.items()
        ]
        contestants.append(Contestant("receive() and join, 16 MiB", worked(_joined(ours)), _BYTES))
        figures = await bench.keeper.compare("large-packages", "byte", contestants, seconds=6)
        ours.discard()
    return figures


def _packages(ours: PooledConnection, size: int) -> Callable[[int], Awaitable[None]]:
    async def repeat(count: int) -> None:
        await ours.send(push_request(_HEADER, size, count // size))
        for _ in range(count // size):
            await ours.receive_package()

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
