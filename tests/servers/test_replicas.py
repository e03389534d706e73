"""Two memcached behind one pool, killed in turn under load: no exchange fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
from anyio import create_task_group, to_thread

from anyconnpool import ConnectionPool, Replicas, Retry
from tests.sockets.checks import eventually

from .memcache import look_up, store
from .programs import Program, memcached

TASKS = 50
SIZE = 8
REST = Retry(0, interval=0.2, max_interval=1)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Program]]:
    """Run two memcached."""
    with ExitStack() as stack:
        programs: list[Program] = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            programs.append(stack.enter_context(memcached(tmp_path / name)))
        yield programs


class Load:
    """Tasks that store values and look them up, on whichever server has a connection for them.

    :param pool: of connections to both
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self.done = 0
        self.found = 0
        self.over = False

    async def work(self, name: int) -> None:
        retry = Retry(2)
        turn = 0
        while not self.over:
            turn += 1
            key, value = f"key-{name}", b"%d %d" % (name, turn)
            assert await self._pool.run(store, key, value, retry=retry, timeout=60) == b"STORED"
            found = await self._pool.run(look_up, key, retry=retry, timeout=60)
            # The other one may have an older value, or none.
            assert set(found) <= {key}
            assert found.get(key, value).split()[0] == b"%d" % name
            self.found += bool(found)
            self.done += 2
            await anyio.sleep(0.001)

    async def go_on(self, exchanges: int) -> None:
        """Wait until so many more have succeeded."""
        until = self.done + exchanges
        await eventually(lambda: self.done >= until, tries=15_000)


@pytest.mark.timeout(600)
async def test_killed_in_turn_they_fail_no_exchange(
    servers: list[Program], long_form: bool
) -> None:
    """Each gets half of the connections again after it was killed and started; or for a minute."""
    replicas = Replicas([server.remote for server in servers], rest=REST)
    async with ConnectionPool(replicas, max_size=SIZE) as pool, create_task_group() as tasks:
        load = Load(pool)

        def shares() -> list[int]:
            return [state.connections for state in replicas.states().values()]

        for name in range(TASKS):
            tasks.start_soon(load.work, name)
        for server in servers * (50 if long_form else 2):
            await eventually(lambda: shares() == [SIZE // 2, SIZE // 2], tries=15_000)
            await load.go_on(500)
            await to_thread.run_sync(server.kill)
            await load.go_on(500)
            await to_thread.run_sync(server.start)
        await eventually(lambda: shares() == [SIZE // 2, SIZE // 2], tries=15_000)
        assert load.found > 0
        load.over = True
