"""Pools under ``asyncio.run()`` and ``uvloop.run()``, where AnyIO has not started the event loop.

With sniffio installed, AnyIO knows the event loop there in tasks only, and not in callbacks: it is
told of it by ``anyio.run()``, which all other tests are run by.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from importlib.util import find_spec
from typing import Any, TypeAlias

import pytest

from anyconnpool import ConnectionPool, PoolManager, Replicas
from tests.cases import in_case

Run: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]


class Server:
    """Echo lines; the word ``bye`` is the last one, and ``more`` is followed by another line."""

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line)
                if line == b"more\n":
                    # Not together with the reply, whose reader would see it.
                    await asyncio.sleep(0.1)
                    writer.write(b"that was not asked for\n")
                elif line == b"bye\n":
                    await asyncio.sleep(0.1)
                    break
        finally:
            writer.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so, half a minute at most."""
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it took too long")


async def hang_up(pool: ConnectionPool) -> None:
    await pool.send_receive_line(b"bye", timeout=30)


async def say_something(pool: ConnectionPool) -> None:
    await pool.send_receive_line(b"more", timeout=30)


async def retire_soon(pool: ConnectionPool) -> None:
    asyncio.get_running_loop().call_soon(pool.retire)


async def retire_from_a_thread(pool: ConnectionPool) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(lambda: loop.call_soon_threadsafe(pool.retire))


async def retire_by_a_signal(pool: ConnectionPool) -> None:
    loop = asyncio.get_running_loop()
    before = pool.statistics().closed
    loop.add_signal_handler(signal.SIGUSR1, pool.retire)
    os.kill(os.getpid(), signal.SIGUSR1)
    await until(lambda: pool.statistics().closed != before)
    loop.remove_signal_handler(signal.SIGUSR1)


async def discard_soon(pool: ConnectionPool) -> None:
    connection = await pool.acquire()
    asyncio.get_running_loop().call_soon(connection.discard)


async def borrow_in_a_callback(pool: ConnectionPool) -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: pool.acquire_nowait().discard())


WAYS: list[Callable[[ConnectionPool], Awaitable[None]]] = [
    hang_up,
    say_something,
    retire_soon,
    retire_from_a_thread,
    retire_by_a_signal,
    discard_soon,
    borrow_in_a_callback,
]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "asyncio":
        return asyncio.run
    if find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    import uvloop

    return uvloop.run


def test_a_connection_that_leaves_in_a_callback_is_closed(run: Run) -> None:
    """Its slot is free again, and the next one is opened on it."""

    async def main() -> None:
        async with Server() as server, ConnectionPool(server.address, max_size=1) as pool:
            for leave in WAYS:
                with in_case(leave):
                    assert await pool.send_receive_line(b"x", timeout=30) == b"x"
                    await leave(pool)
                    # As soon as something else is due, it has happened.
                    await until(lambda: not pool.statistics().size)

    run(main())


def test_a_manager_and_replicas_are_changed_in_callbacks(run: Run) -> None:
    """So are the limits of a pool."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Server() as one, Server() as two, PoolManager() as manager:
            await manager.send_receive_line(one.address, b"x", timeout=30)
            loop.call_soon(manager.retire)
            await until(lambda: manager.statistics()[one.address].closed)
            replicas = Replicas([one.address])
            async with ConnectionPool(replicas, max_size=2, min_idle=1) as pool:
                await pool.wait_ready()
                loop.call_soon(replicas.set, [two.address])
                await until(lambda: pool.statistics().closed and pool.statistics().idle)
                async with pool.acquire(), pool.acquire():
                    loop.call_soon(setattr, pool, "max_size", 1)
                    await until(lambda: pool.max_size == 1)
                await until(lambda: pool.statistics().size == 1)
                assert await pool.send_receive_line(b"x", timeout=30) == b"x"

    run(main())


def test_a_pool_that_is_forgotten_open_is_closed(run: Run) -> None:
    """Its finalizer may run anywhere."""

    async def main() -> None:
        async with Server() as server:
            forgotten = [ConnectionPool(server.address)]
            await forgotten[0].open()
            assert await forgotten[0].send_receive_line(b"x", timeout=30) == b"x"
            asyncio.get_running_loop().call_soon(forgotten.clear)
            await until(lambda: len(asyncio.all_tasks()) <= 1)

    with pytest.warns(ResourceWarning, match="aclose"):
        run(main())
