"""Redis: every value goes to whom it is for, by no more connections than allowed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio import create_task_group, move_on_after

from anyconnpool import ConnectionPool, PooledConnection
from tests.sockets.checks import eventually

from .checks import PERSISTENT, all_ended, fill, until_at_rest
from .programs import Program, redis_server
from .redis_side import Load, admin, census, greet
from .resp import RedisError, Reply, command

TASKS = 200
SIZE = 8


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Program]:
    """Run a Redis."""
    with redis_server(tmp_path) as program:
        yield program


def pool_of(server: Program) -> ConnectionPool:
    return ConnectionPool(server.remote, max_size=SIZE, on_connect=greet)


async def test_every_task_finds_the_values_that_it_stored(server: Program, seed: int) -> None:
    """200 tasks over 8 connections, which is what Redis sees of them, and never more."""
    async with pool_of(server) as pool, census(server) as counter:
        load = Load(pool, seed)
        async with create_task_group() as tasks:
            for name in range(TASKS):
                tasks.start_soon(load.rounds, name, 6)
        assert load.right == TASKS * 6
        assert counter.counted > 10
        assert counter.most == SIZE == pool.statistics().opened


async def test_idle_connections_that_redis_kills_fail_no_request(server: Program) -> None:
    """Neither one of them nor all: who comes next gets new ones, without any retry."""
    async with pool_of(server) as pool, admin(server) as killer:
        for turn in range(1, 4):
            await fill(pool)
            assert await killer.kill_clients() == SIZE
            await eventually(lambda: all_ended(pool, server))
            async with create_task_group() as tasks:
                for _ in range(3 * SIZE):
                    tasks.start_soon(pool.run, command, "PING")
            await until_at_rest(pool)
            assert pool.statistics().closed == {"peer_closed": turn * SIZE}
        assert pool.statistics().replayed == 0


async def test_connections_killed_under_load_lose_no_request(server: Program, seed: int) -> None:
    """With a retry, all requests get their own values, whatever Redis ended under them."""
    async with pool_of(server) as pool, admin(server) as killer:
        load = Load(pool, seed, PERSISTENT)
        killed = 0
        async with create_task_group() as tasks:
            for name in range(50):
                tasks.start_soon(load.until_finished, name)
            for _ in range(20):
                await load.make_progress(20)
                killed += await killer.kill_clients()
            load.finish()
        assert load.failed == []
        assert killed > 20
        assert pool.statistics().replayed > 0
        await until_at_rest(pool)
        assert await killer.count() == pool.statistics().idle <= SIZE


async def test_a_redis_that_closes_idle_connections_is_noticed(tmp_path: Path) -> None:
    """The pool drops them while nobody asks for one, and the next request has a new one."""
    with redis_server(tmp_path, "--timeout", "1") as server:
        # The pool looks at its idle connections four times in their longest life.
        pool = ConnectionPool(server.remote, max_size=3, max_lifetime=16, on_connect=greet)
        async with pool:
            await fill(pool)
            await eventually(lambda: not pool.statistics().size, tries=10_000)
            assert pool.statistics().closed == {"peer_closed": 3}
            assert await pool.run(command, "PING") == "PONG"
            assert pool.statistics().opened == 4


async def test_a_login_comes_before_the_first_request(tmp_path: Path) -> None:
    """With the right password the connection serves; an error of Redis reaches the caller as is."""
    refused: list[RedisError] = []

    async def log_in(connection: PooledConnection, password: str) -> None:
        try:
            await command(connection, "AUTH", password)
        except RedisError as error:
            refused.append(error)
            raise

    with redis_server(tmp_path, "--requirepass", "right") as server:
        async with ConnectionPool(
            server.remote, on_connect=lambda connection: log_in(connection, "right")
        ) as pool:
            assert await pool.run(command, "PING") == "PONG"
        async with ConnectionPool(
            server.remote,
            connect_retry=PERSISTENT,
            on_connect=lambda connection: log_in(connection, "wrong"),
        ) as pool:
            for number in range(2):
                with pytest.raises(RedisError, match="WRONGPASS") as caught:
                    await pool.run(command, "PING", retry=PERSISTENT)
                assert caught.value is refused[number]
            await until_at_rest(pool)
            assert (pool.statistics().opened, pool.statistics().open_failed) == (0, 2)


class Hurry:
    """Tasks that ask for values with too little time, until many were cut and many were served.

    :param pool: of connections to Redis
    :param values: by their keys
    :param seed: what the time limits are drawn from
    """

    def __init__(self, pool: ConnectionPool, values: dict[str, bytes], seed: int) -> None:
        self._pool = pool
        self._values = values
        self._seed = seed
        self.served = 0
        self.cut = 0

    async def ask(self, name: int) -> None:
        draw = random.Random(f"{self._seed} {name}")
        while min(self.served, self.cut) < 4 * TASKS:
            key = f"key {draw.randrange(len(self._values))}"
            # On a busy machine, too, some are to be served.
            limit = draw.uniform(0, 0.1) * max(1, self.cut / (self.served + 1))
            if name % 2:
                with move_on_after(limit) as scope:
                    self._check(key, await self._pool.run(command, "GET", key))
            else:
                async with self._pool.acquire() as connection:
                    # Caught in here, the cancellation doesn't show in how the borrow ends.
                    with move_on_after(limit / 10) as scope:
                        self._check(key, await command(connection, "GET", key))
            self.cut += scope.cancelled_caught

    def _check(self, key: str, value: Reply) -> None:
        assert value == self._values[key]
        self.served += 1


async def test_cancelled_requests_leave_their_replies_to_nobody(server: Program, seed: int) -> None:
    """A Redis that now and then hesitates; nobody gets another's value, and all slots come back."""
    values = {f"key {number}": b"%d\r\n" % number * 2000 for number in range(50)}
    async with pool_of(server) as pool, admin(server) as counter:
        for key, value in values.items():
            assert await pool.run(command, "SET", key, value) == "OK"
        hurry = Hurry(pool, values, seed)

        async def hesitate() -> None:
            while True:
                await counter.command("DEBUG", "SLEEP", "0.01")
                await counter.count()
                await anyio.sleep(0.005)

        async with create_task_group() as hesitation:
            hesitation.start_soon(hesitate)
            async with create_task_group() as tasks:
                for name in range(TASKS):
                    tasks.start_soon(hurry.ask, name)
            hesitation.cancel_scope.cancel()
        assert pool.statistics().closed["unclean"] > 20
        await until_at_rest(pool)
        await fill(pool)
        assert pool.statistics().idle == SIZE
        assert counter.most <= SIZE
