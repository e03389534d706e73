"""Redis, killed by SIGKILL and started again under load, over data that outlive it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio import create_task_group, to_thread

from anyconnpool import ConnectionPool

from .checks import HANG_UPS, PERSISTENT, until_at_rest
from .programs import Program, redis_server
from .redis_side import Load, greet

SIZE = 8
RESTARTS = 3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Program]:
    """Run a Redis."""
    with redis_server(tmp_path) as program:
        yield program


async def run_over_restarts(server: Program, load: Load) -> None:
    """Have 50 tasks make requests while Redis is killed and started."""
    async with create_task_group() as tasks:
        for name in range(50):
            tasks.start_soon(load.until_finished, name)
        for _ in range(RESTARTS):
            await load.make_progress(100)
            await to_thread.run_sync(server.restart)
        await load.make_progress(100)
        load.finish()
    await until_at_rest(load.pool)


def pool_of(server: Program) -> ConnectionPool:
    return ConnectionPool(server.remote, max_size=SIZE, connect_retry=PERSISTENT, on_connect=greet)


async def test_with_retry_no_request_is_lost(server: Program, seed: int) -> None:
    """All requests complete, and find the values that their own tasks stored."""
    async with pool_of(server) as pool:
        load = Load(pool, seed, PERSISTENT)
        await run_over_restarts(server, load)
        assert load.failed == []
        assert pool.statistics().opened > SIZE
        assert pool.statistics().replayed > 0


async def test_without_retry_only_requests_in_flight_fail(server: Program, seed: int) -> None:
    """At most one for each connection that was cut, with an error that tells of a hang-up."""
    async with pool_of(server) as pool:
        load = Load(pool, seed)
        await run_over_restarts(server, load)
        assert [error for error in load.failed if not isinstance(error, HANG_UPS)] == []
        assert 0 < len(load.failed) <= SIZE * RESTARTS
