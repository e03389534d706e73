"""Pools outside one block, on real sockets and every event loop."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import Any

import anyio
import pytest

from anyconnpool import ConnectionPool, PoolClosed, PoolManager
from tests.cases import table

from .checks import ask_next, eventually
from .conftest import Serve
from .servers import Server

pytestmark = pytest.mark.usefixtures("no_socket_left")


@pytest.fixture
def on_asyncio(anyio_backend_name: str) -> None:
    """Leave trio out."""
    if anyio_backend_name != "asyncio":
        pytest.skip("open() is asyncio's")


asyncio_only = pytest.mark.usefixtures("on_asyncio")


async def test_a_served_pool_closes_its_sockets(serve: Serve) -> None:
    """By aclose(), and by a cancellation of its task group."""
    server = serve()
    async with anyio.create_task_group() as tasks:
        pool = await tasks.start(server.pool(min_idle=2).serve)
        await ask_next(pool)
        await pool.aclose()
        await eventually(lambda: not server.open)
        await tasks.start(pool.serve)
        await ask_next(pool)
        manager: PoolManager = await tasks.start(PoolManager().serve)
        assert await manager.send_receive_line(server.remote, b"x") == b"> x"
        tasks.cancel_scope.cancel()
    await eventually(lambda: not server.open)


async def test_a_pool_is_served_by_the_event_loops_own_means(
    serve: Serve, anyio_backend_name: str
) -> None:
    """By trio's nursery, with its start value, and by a bare task of asyncio's."""
    server = serve()
    pool = server.pool()
    if anyio_backend_name == "trio":
        import trio

        async with trio.open_nursery() as nursery:
            assert await nursery.start(pool.serve) is pool
            await ask_next(pool)
            await pool.aclose()
    else:
        task = asyncio.get_running_loop().create_task(pool.serve())
        await eventually(lambda: _runs(pool))
        await ask_next(pool)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await pool.aclose()


def _runs(pool: ConnectionPool) -> bool:
    try:
        pool.retire()
    except PoolClosed:
        return False
    return True


class Client:
    """What many a library's client looks like.

    :param server: the server to ask
    """

    def __init__(self, server: Server) -> None:
        self._pool = server.pool(on_connect=self._log_in)
        self.logins = 0

    async def connect(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.aclose()

    async def ask(self) -> bytes:
        return await self._pool.send_receive_line(b"x", timeout=5)

    async def _log_in(self, connection: Any) -> None:
        self.logins += 1


@asyncio_only
async def test_a_class_connects_and_closes(serve: Serve) -> None:
    """Its methods are called by different tasks, more than once, and also by cancelled ones."""
    server = serve()
    client = Client(server)
    loop = asyncio.get_running_loop()
    for round in (1, 2):
        await loop.create_task(client.connect())
        assert await loop.create_task(client.ask()) == b"> x"
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.close()
        await asyncio.gather(client.close(), client.close())
        assert client.logins == round
        await eventually(lambda: not server.open)


@asyncio_only
@table("keeps", [False, True])
async def test_a_forgotten_pool_closes_its_sockets(serve: Serve, keeps: bool) -> None:
    """Also where somebody still has a connection: that is taken after close_timeout."""
    server = serve()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pool = await server.pool(close_timeout=0.1).open()
        await ask_next(pool)
        connection = await pool.acquire() if keeps else None
        del pool
        gc.collect()
        await eventually(lambda: not server.open)
    assert [str(one.message).partition("> ")[2] for one in caught] == [
        "was never closed: await its aclose()"
    ]
    if connection is not None:
        with pytest.raises(anyio.ClosedResourceError):
            await connection.send(b"x")
        await connection.aclose()


@asyncio_only
async def test_a_cancelled_open_leaves_no_socket(serve: Serve) -> None:
    """Though connects were under way."""
    server = serve()
    pool = server.pool(min_idle=3)
    loop = asyncio.get_running_loop()
    for turns in range(8):
        task = loop.create_task(pool.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await pool.aclose()
    await pool.open()
    assert await pool.send_receive_line(b"x", timeout=5) == b"> x"
    await pool.aclose()
    await eventually(lambda: not server.open)
