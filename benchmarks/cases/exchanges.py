"""Exchange lines of 64 bytes: over a pool, over a held connection, over a new one each time.

A connection that is held is the least that a program can do without a pool: open it once, keep it
in a variable, and hope that it is still good.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeAlias

from anyio import create_task_group, fail_after
from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool import ConnectionPool, PooledConnection
from benchmarks.bench import Bench
from benchmarks.borrowers import warm_up
from benchmarks.goals import HELD, HELD_ASYNCIO, NO_LIMIT
from benchmarks.remotes import HOST, Kind, Remotes
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, timed

#: does one exchange
Way: TypeAlias = Callable[[], Awaitable[object]]

LINE = b"x" * 63
MESSAGE = LINE + b"\n"
_TIME_LIMIT = 5
_TASKS = 16
_EXCHANGES_EACH = 30


async def exchange(bench: Bench, *, kind: Kind) -> list[Figure]:
    """Compare ways to send a line and get one back, by one task."""
    remote = bench.remotes.connectable(kind)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(ConnectionPool(remote))
        await warm_up(pool, 1)
        held = await stack.enter_async_context(await remote.connect())
        own = await stack.enter_async_context((await pool.acquire()).detach())
        blocking = stack.enter_context(_blocking_socket(bench.remotes, kind))
        ways: dict[str, Way] = {
            "ours: send_receive_line": lambda: pool.send_receive_line(LINE),
            HELD: lambda: exchange_on(held),
            "ours: acquire, send, receive": lambda: _borrow(pool),
            "ours: a detached connection, held": lambda: exchange_on(own),
            "ours: run": lambda: pool.run(_ask),
            "connect, exchange, close": lambda: _connect_first(remote),
        }
        if bench.on_asyncio:
            streams = await _open_asyncio(stack, bench.remotes, kind)
            ways[HELD_ASYNCIO] = lambda: _exchange_on_asyncio(*streams)
        contestants = _contestants(ways)
        contestants.append(Contestant("blocking socket", timed(_blocking_exchanges(blocking))))
        return await bench.keeper.compare(f"exchange-{kind}", "exchange", contestants, seconds=8)


async def time_limit(bench: Bench) -> list[Figure]:
    """Compare exchanges with a time limit of five seconds to those without one."""
    remote = bench.remotes.connectable("tcp")
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(ConnectionPool(remote))
        await warm_up(pool, 1)
        held = await stack.enter_async_context(await remote.connect())
        ways: dict[str, Way] = {
            "ours, timeout=5": lambda: pool.send_receive_line(LINE, timeout=_TIME_LIMIT),
            NO_LIMIT: lambda: pool.send_receive_line(LINE),
            "ours, within fail_after": lambda: _in_time(lambda: pool.send_receive_line(LINE)),
            HELD: lambda: exchange_on(held),
            f"{HELD}, within fail_after": lambda: _in_time(lambda: exchange_on(held)),
        }
        return await bench.keeper.compare("time-limit", "exchange", _contestants(ways), seconds=6)


async def exchange_by_many(bench: Bench) -> list[Figure]:
    """Have 16 tasks exchange lines on 16 connections, as often as they can."""
    remote = bench.remotes.connectable("tcp")
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(ConnectionPool(remote, max_size=_TASKS))
        await warm_up(pool, _TASKS)
        held = [await stack.enter_async_context(await remote.connect()) for _ in range(_TASKS)]
        ways: dict[str, Sequence[Way]] = {
            "ours: send_receive_line": [lambda: pool.send_receive_line(LINE)] * _TASKS,
            HELD: [_bound(exchange_on, stream) for stream in held],
            "ours: acquire, send, receive": [lambda: _borrow(pool)] * _TASKS,
        }
        if bench.on_asyncio:
            pairs = [await _open_asyncio(stack, bench.remotes, "tcp") for _ in range(_TASKS)]
            ways[HELD_ASYNCIO] = [_bound(_exchange_on_asyncio, *pair) for pair in pairs]
        count = _TASKS * _EXCHANGES_EACH
        contestants = [
            Contestant(name, timed(repeating_together(each)), count) for name, each in ways.items()
        ]
        return await bench.keeper.compare("exchange-16", "exchange", contestants, seconds=8)


async def exchange_on(stream: ByteStream) -> None:
    """Send a line on a stream, and receive one."""
    await stream.send(MESSAGE)
    while not (await stream.receive()).endswith(b"\n"):
        pass


async def _exchange_on_asyncio(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(MESSAGE)
    await writer.drain()
    await reader.readline()


async def _borrow(pool: ConnectionPool) -> None:
    async with pool.acquire() as connection:
        await _ask(connection)


async def _ask(connection: PooledConnection) -> bytes:
    await connection.send_line(LINE)
    return await connection.receive_line()


async def _connect_first(remote: ByteStreamConnectable) -> None:
    async with await remote.connect() as stream:
        await exchange_on(stream)


async def _in_time(way: Way) -> None:
    with fail_after(_TIME_LIMIT):
        await way()


def _bound(exchange: Callable[..., Awaitable[object]], *arguments: Any) -> Way:
    return lambda: exchange(*arguments)


def _contestants(ways: dict[str, Way]) -> list[Contestant]:
    return [Contestant(name, timed(_repeating(way))) for name, way in ways.items()]


def _repeating(way: Way) -> Callable[[int], Coroutine[Any, Any, None]]:
    async def repeat(count: int) -> None:
        for _ in range(count):
            await way()

    return repeat


def repeating_together(ways: Sequence[Way]) -> Callable[[int], Awaitable[None]]:
    """Return what repeats each way in a task of its own, all at the same time."""

    async def repeat(count: int) -> None:
        async with create_task_group() as tasks:
            for way in ways:
                tasks.start_soon(_repeating(way), count // len(ways))

    return repeat


async def _open_asyncio(
    stack: AsyncExitStack, remotes: Remotes, kind: Kind
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if kind == "unix":
        reader, writer = await asyncio.open_unix_connection(remotes.unix)
    else:
        context = remotes.tls_context() if kind == "tls" else None
        reader, writer = await asyncio.open_connection(HOST, getattr(remotes, kind), ssl=context)
    stack.callback(writer.close)
    return reader, writer


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
        with remotes.tls_context().wrap_socket(raw, server_hostname=HOST) as wrapped:
            yield wrapped


def _blocking_exchanges(blocking: socket.socket) -> Callable[[int], Awaitable[None]]:
    async def repeat(count: int) -> None:
        for _ in range(count):
            blocking.sendall(MESSAGE)
            while not blocking.recv(65536).endswith(b"\n"):
                pass

    return repeat
