"""Exchange 64 bytes: over a pool, over a stream that is held, over a new connection each time."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from statistics import median
from time import perf_counter
from typing import Any

from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool import ConnectionPool
from benchmarks.bench import Bench
from benchmarks.borrowers import warm_up
from benchmarks.remotes import HOST, Kind, Remotes
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, timed

_MESSAGE = b"x" * 64
_HELD = "held SocketStream"
#: shows what the machine makes of the time that a borrow takes, whatever takes it
_HELD_PAUSING = "held, busy between exchanges for as long as a borrow"
_FRESH = "connect, exchange, close"
#: most that ours may take of the time of a new connection
_GOAL_FRESH = {"tcp": 0.2, "tls": 1 / 15, "unix": 0.2}


async def exchange(bench: Bench, *, kind: Kind) -> list[Figure]:
    """Compare ways to send 64 bytes and get them back."""
    remote = bench.remotes.connectable(kind)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(ConnectionPool(remote))
        await warm_up(pool, 1)
        held = await stack.enter_async_context(await remote.connect())
        blocking = stack.enter_context(_blocking_socket(bench.remotes, kind))
        pause = await _time_of_a_borrow(pool)
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "ours: acquire, exchange, release": lambda: _pooled(pool),
            _HELD: lambda: exchange_on(held),
            _HELD_PAUSING: lambda: _exchange_and_pause(held, pause),
            "ours: send_receive in one call": lambda: pool.send_receive(_MESSAGE, len(_MESSAGE)),
            _FRESH: lambda: _fresh(remote),
        }
        contestants = [Contestant(name, timed(_repeating(way))) for name, way in ways.items()]
        contestants.append(Contestant("blocking socket", timed(_blocking_exchanges(blocking))))
        goals = {_HELD: 1.12, _FRESH: _GOAL_FRESH[kind]}
        return await bench.keeper.compare(
            f"exchange-{kind}", "exchange", contestants, seconds=7, goals=goals
        )


async def exchange_on(stream: ByteStream) -> None:
    """Send 64 bytes and receive as many."""
    await stream.send(_MESSAGE)
    missing = len(_MESSAGE)
    while missing:
        missing -= len(await stream.receive())


async def _time_of_a_borrow(pool: ConnectionPool) -> float:
    """Return how long it takes to borrow and give back, in seconds."""
    times: list[float] = []
    for _ in range(1000):
        begun = perf_counter()
        async with pool.acquire():
            pass
        times.append(perf_counter() - begun)
    return median(times)


async def _exchange_and_pause(stream: ByteStream, seconds: float) -> None:
    await exchange_on(stream)
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


async def _pooled(pool: ConnectionPool) -> None:
    async with pool.acquire() as connection:
        await exchange_on(connection)


async def _fresh(remote: ByteStreamConnectable) -> None:
    async with await remote.connect() as stream:
        await exchange_on(stream)


def _repeating(way: Callable[[], Awaitable[object]]) -> Callable[[int], Awaitable[None]]:
    async def repeat(count: int) -> None:
        for _ in range(count):
            await way()

    return repeat


@contextmanager
def _blocking_socket(remotes: Remotes, kind: Kind) -> Generator[socket.socket]:
    address: Any = remotes.unix if kind == "unix" else (HOST, getattr(remotes, kind))
    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as raw:
        raw.connect(address)
        if kind != "unix":
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kind != "tls":
            yield raw
            return
        context = ssl.create_default_context(cadata=remotes.authority)
        with context.wrap_socket(raw, server_hostname=HOST) as wrapped:
            yield wrapped


def _blocking_exchanges(blocking: socket.socket) -> Callable[[int], Awaitable[None]]:
    async def repeat(count: int) -> None:
        for _ in range(count):
            blocking.sendall(_MESSAGE)
            missing = len(_MESSAGE)
            while missing:
                missing -= len(blocking.recv(65536))

    return repeat
