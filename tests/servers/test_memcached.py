"""memcached: lines and data blocks, many values in one reply, and a server that forgets all."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from anyio import connect_tcp, create_task_group, to_thread

from anyconnpool import ConnectionPool, FramedStream, Retry
from tests.sockets.checks import eventually

from .checks import PERSISTENT, all_ended, fill, until_at_rest
from .memcache import connections, look_up, store
from .programs import Program, memcached

TASKS = 100
SIZE = 6


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Program]:
    """Run a memcached."""
    with memcached(tmp_path) as program:
        yield program


class Load:
    """Tasks that store two values under keys of their own, and look them up together.

    :param pool: of connections to memcached
    :param seed: what the values are drawn from
    :param retry: what each exchange is told
    """

    def __init__(self, pool: ConnectionPool, seed: int, retry: Retry | None = None) -> None:
        self._pool = pool
        self._seed = seed
        self._retry = retry
        self.complete = 0
        self.missing = 0
        self.over = False

    async def rounds(self, name: int, count: int) -> None:
        for turn in range(count):
            await self._round(name, turn)

    async def until_over(self, name: int) -> None:
        turn = 0
        while not self.over:
            turn += 1
            await self._round(name, turn)

    async def _round(self, name: int, turn: int) -> None:
        draw = random.Random(f"{self._seed} {name} {turn}")
        values = {
            f"small-{name}": b"%d %d\r\nEND\r\n" % (name, turn) + draw.randbytes(20) + b"\r\n",
            f"large-{name}": draw.randbytes(draw.choice([0, 1000, 100_000])),
        }
        for key, value in values.items():
            assert await self._pool.run(store, key, value, retry=self._retry) == b"STORED"
        found = await self._pool.run(look_up, *values, retry=self._retry)
        assert found == {key: value for key, value in values.items() if key in found}
        if len(found) == len(values):
            self.complete += 1
        else:
            self.missing += 1


@asynccontextmanager
async def census(server: Program) -> AsyncGenerator[list[int]]:
    """Count again and again how many connections memcached has, its own ones included."""
    counts: list[int] = []

    async def count(stream: FramedStream) -> None:
        while True:
            counts.append(await connections(stream))

    socket = await connect_tcp(*server.remote)
    async with FramedStream(socket) as stream, create_task_group() as tasks:
        tasks.start_soon(count, stream)
        await eventually(lambda: counts)
        yield counts
        tasks.cancel_scope.cancel()


async def test_every_task_finds_the_values_that_it_stored(server: Program, seed: int) -> None:
    """100 tasks over 6 connections, which is what memcached counts, and never more."""
    async with census(server) as counts:
        async with ConnectionPool(server.remote, max_size=SIZE) as pool:
            load = Load(pool, seed)
            async with create_task_group() as tasks:
                for name in range(TASKS):
                    tasks.start_soon(load.rounds, name, 5)
            assert (load.complete, load.missing) == (TASKS * 5, 0)
            assert pool.statistics().opened == SIZE
        # What remains without the pool are memcached's own ones and the one that counts.
        await eventually(lambda: max(counts) - counts[-1] == SIZE)


async def test_killed_and_started_under_load_it_fails_no_request(
    server: Program, seed: int
) -> None:
    """With a retry all requests complete; what was forgotten is missing, and nothing is foreign."""
    async with ConnectionPool(server.remote, max_size=SIZE, connect_retry=PERSISTENT) as pool:
        load = Load(pool, seed, PERSISTENT)

        async def make_progress() -> None:
            enough = load.complete + 100
            await eventually(lambda: load.complete >= enough, tries=5000)

        async with create_task_group() as tasks:
            for name in range(TASKS):
                tasks.start_soon(load.until_over, name)
            for _ in range(3):
                await make_progress()
                await to_thread.run_sync(server.restart)
            await make_progress()
            load.over = True
        await until_at_rest(pool)
        assert pool.statistics().opened > SIZE


async def test_started_again_while_all_is_idle_it_fails_no_request(server: Program) -> None:
    """The ends of the old connections are noticed before anything is sent on them."""
    async with ConnectionPool(
        server.remote, max_size=SIZE, on_connect=lambda connection: look_up(connection, "nothing")
    ) as pool:
        await fill(pool)
        await to_thread.run_sync(server.restart)
        await eventually(lambda: all_ended(pool, server))
        assert await pool.run(look_up, "nothing") == {}
        await until_at_rest(pool)
        assert pool.statistics().closed == {"peer_closed": SIZE}
        assert pool.statistics().replayed == 0
