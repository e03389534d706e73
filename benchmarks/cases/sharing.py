"""Exchange lines on shared connections: a crowd, one task alone, and a bulk of requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from anyio import Event, create_task_group
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from benchmarks.bench import Bench
from benchmarks.borrowers import warm_up
from benchmarks.cases.exchanges import LINE, MESSAGE, exchange_on, repeating_together
from benchmarks.goals import BY_HAND, HELD, NOT_SHARED
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, timed

_OURS = "ours: send_receive_line, shared"
_CROWD, _HELD, _EACH = 64, 16, 30
_BULK = 10_000


async def shared_by_many(bench: Bench) -> list[Figure]:
    """Have 64 tasks share one connection, and 16 tasks hold 16."""
    remote = bench.remotes.connectable("tcp")
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(ConnectionPool(remote, max_size=1, pipeline=_CROWD))
        await warm_up(pool, 1)
        held = [await stack.enter_async_context(await remote.connect()) for _ in range(_HELD)]
        contestants = [
            _together(_OURS, [lambda: pool.send_receive_line(LINE)] * _CROWD),
            _together(HELD, [_bound(stream) for stream in held]),
        ]
        return await bench.keeper.compare("shared-64", "exchange", contestants, seconds=8)


async def shared_by_one(bench: Bench) -> list[Figure]:
    """Compare one task on a pool that shares with the same on one that doesn't."""
    remote = bench.remotes.connectable("tcp")
    async with AsyncExitStack() as stack:
        pools = {
            _OURS: await stack.enter_async_context(ConnectionPool(remote, pipeline=_CROWD)),
            NOT_SHARED: await stack.enter_async_context(ConnectionPool(remote)),
        }
        contestants: list[Contestant] = []
        for name, pool in pools.items():
            await warm_up(pool, 1)
            contestants.append(_together(name, [_asking(pool)]))
        return await bench.keeper.compare("shared-1", "exchange", contestants, seconds=6)


async def bulk(bench: Bench) -> list[Figure]:
    """Have a task for each of 10 000 requests, over a pool and by one sender and one reader."""
    remote = bench.remotes.connectable("tcp")
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(ConnectionPool(remote, max_size=1, pipeline=_BULK))
        await warm_up(pool, 1)
        stream = await stack.enter_async_context(await remote.connect())
        contestants = [
            _together(_OURS, [lambda: pool.send_receive_line(LINE)] * _BULK, each=1),
            Contestant(BY_HAND, timed(_by_hand(stream)), _BULK),
        ]
        return await bench.keeper.compare("bulk", "exchange", contestants, seconds=8)


def _asking(pool: ConnectionPool) -> Callable[[], Awaitable[object]]:
    return lambda: pool.send_receive_line(LINE)


def _bound(stream: ByteStream) -> Callable[[], Awaitable[object]]:
    return lambda: exchange_on(stream)


def _together(
    name: str, ways: Sequence[Callable[[], Awaitable[object]]], each: int = _EACH
) -> Contestant:
    return Contestant(name, timed(repeating_together(ways)), len(ways) * each)


def _by_hand(stream: ByteStream) -> Callable[[int], Awaitable[object]]:
    """Return what has tasks wait for replies that one task reads, after one has sent all."""

    async def repeat(count: int) -> None:
        replies: list[Event] = []
        requests: list[bytes] = []

        async def ask() -> None:
            requests.append(MESSAGE)
            reply = Event()
            replies.append(reply)
            await reply.wait()

        async def read() -> None:
            size = read_count = 0
            while read_count < count:
                size += len(await stream.receive(262_144))
                while read_count < size // len(MESSAGE):
                    replies[read_count].set()
                    read_count += 1

        async with create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(ask)
            tasks.start_soon(read)
            while len(requests) < count:
                await checkpoint()
            await stream.send(b"".join(requests))

    return repeat
