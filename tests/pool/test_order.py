"""Promise 4: first come, first served."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, PoolFull
from tests.cases import table

from .network import MemoryNetwork, check_books, settle


class Queue:
    """Tasks that wait for a connection, and the order in which they are served.

    :param pool: the pool
    :param tasks: the group to run them in
    :param hold: how long each keeps its connection, in seconds
    """

    def __init__(self, pool: ConnectionPool, tasks: TaskGroup, hold: float = 0) -> None:
        self.pool = pool
        self.hold = hold
        self.tasks = tasks
        self.served: list[object] = []
        self.scopes: dict[object, anyio.CancelScope] = {}
        self.native: dict[object, asyncio.Task[object] | None] = {}

    async def join(self, *names: object) -> None:
        """Start tasks, each when the one before it waits."""
        for name in names:
            self.tasks.start_soon(self._wait, name)
            await settle()

    def cancel_natively(self, name: object) -> None:
        """Cancel a task by asyncio's own means."""
        task = self.native[name]
        assert task is not None
        task.cancel()

    async def _wait(self, name: object) -> None:
        with anyio.CancelScope() as self.scopes[name]:
            with suppress(RuntimeError):
                self.native[name] = asyncio.current_task()
            try:
                async with self.pool.acquire():
                    self.served.append(name)
                    await anyio.sleep(self.hold)
            except asyncio.CancelledError:
                if self.scopes[name].cancel_called:
                    raise


@table("pause", [False, True])
async def test_a_tight_loop_does_not_starve_a_waiter(pause: bool) -> None:
    """A task that acquires and releases without end leaves the next turn to whoever waits."""
    network = MemoryNetwork()
    rounds: list[int] = []

    async def loop() -> None:
        for number in itertools.count():
            async with pool.acquire():
                rounds.append(number)
                if pause:
                    await checkpoint()

    async with ConnectionPool(network, max_size=1) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(loop)
        await settle(5)
        for _ in range(10):
            before = len(rounds)
            async with pool.acquire():
                # The loop may go on until the others get a turn, not longer.
                assert len(rounds) - before <= (2 if pause else 130)
                taken = len(rounds)
                await settle()
                assert len(rounds) == taken
        tasks.cancel_scope.cancel()


async def test_newcomers_never_overtake() -> None:
    """What is given back while somebody waits can't be had by who asks in the same tick."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1) as pool, anyio.create_task_group() as tasks:
        queue = Queue(pool, tasks)
        connection = await pool.acquire()
        await queue.join("first", "second")
        await connection.aclose()
        with pytest.raises(PoolFull):
            pool.acquire_nowait()
        async with pool.acquire():
            assert queue.served == ["first", "second"]


@table("release_first", [True, False])
async def test_the_grant_of_a_cancelled_waiter_goes_to_the_next(release_first: bool) -> None:
    """Cancelled in the same tick as it is granted a connection, a waiter loses nothing for others.

    It may have got the connection all the same if its scope was cancelled too late; then it has
    given it back.
    """
    await cancel_and_release(lambda queue: queue.scopes["victim"].cancel(), release_first)


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@table("release_first", [True, False])
async def test_the_grant_of_a_natively_cancelled_waiter_goes_to_the_next(
    release_first: bool,
) -> None:
    """The same holds for asyncio's own ``task.cancel()``, which never comes too late."""
    served = await cancel_and_release(lambda queue: queue.cancel_natively("victim"), release_first)
    assert "victim" not in served


async def cancel_and_release(
    cancel: Callable[[Queue], object], release_first: bool
) -> list[object]:
    network = MemoryNetwork()
    pool, tasks = ConnectionPool(network, max_size=1), anyio.create_task_group()
    queue = Queue(pool, tasks)
    async with pool, tasks:
        connection = await pool.acquire()
        await queue.join("victim", "next", "last")
        if release_first:
            await connection.aclose()
            cancel(queue)
        else:
            cancel(queue)
            await connection.aclose()
        await settle()
        assert [name for name in queue.served if name != "victim"] == ["next", "last"]
        statistics = pool.statistics()
        assert statistics.cancelled == ("victim" not in queue.served)
        assert (statistics.idle, statistics.tasks_waiting) == (1, 0)
        assert statistics.acquired == 1 + len(queue.served)
        await check_books(pool, network)
    return queue.served


async def test_a_cancelled_waiter_leaves_the_line_at_once() -> None:
    """Those behind a cancelled waiter move up; the last one leaves nothing behind."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1) as pool, anyio.create_task_group() as tasks:
        queue = Queue(pool, tasks)
        async with pool.acquire():
            await queue.join(*range(5))
            for name in (0, 2, 4):
                queue.scopes[name].cancel()
            await settle()
            assert pool.statistics().tasks_waiting == 2
        await settle()
        assert queue.served == [1, 3]
        assert pool.statistics().cancelled == 3
        await check_books(pool, network)


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_grant_that_died_meanwhile_is_not_handed_on() -> None:
    """If a cancelled waiter's connection has died, the next one gets a fresh one."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1) as pool, anyio.create_task_group() as tasks:
        queue = Queue(pool, tasks, hold=1)
        connection = await pool.acquire()
        await queue.join("victim", "next")
        await connection.aclose()
        network.peers[0].hang_up()
        queue.cancel_natively("victim")
        await settle()
        assert queue.served == ["next"]
        assert pool.statistics().closed == {"peer_closed": 1}
        assert pool.statistics().opened == 2
        await check_books(pool, network)


@table("ticks", range(6))
async def test_an_acquire_cancelled_in_its_pause_gives_back_what_it_holds(ticks: int) -> None:
    """Every 64th acquire of a loop gives the others a turn with the connection in its hands."""
    network = MemoryNetwork()

    async def borrow() -> None:
        async with pool.acquire():
            pass

    async with ConnectionPool(network, max_size=1) as pool:
        for _ in range(63):
            await borrow()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(borrow)
            for _ in range(ticks):
                await checkpoint()
            tasks.cancel_scope.cancel()
        assert pool.statistics().in_use == 0
        async with pool.acquire(timeout=0) as connection:
            assert connection.reused
        assert network.opened == 1
