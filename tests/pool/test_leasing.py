"""Who is lent a connection when: first come, first served, as many as there may be."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from contextlib import suppress

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from anyconnpool import AcquireTimeout, ConnectionPool, PoolClosed, PooledConnection, PoolFull
from anyconnpool._engine import leasing
from tests.cases import table

from .network import MemoryNetwork, check_books, delayed, fill, number_of, settle


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


async def hold(pool: ConnectionPool, seconds: float = 1) -> None:
    async with pool.acquire():
        await anyio.sleep(seconds)


async def test_max_waiting_0_connects_where_there_is_room_and_never_waits_for_a_slot() -> None:
    """Opening a connection is no waiting; needing somebody else's is."""
    network = MemoryNetwork(delayed(1))
    async with ConnectionPool(network, max_size=2, max_waiting=0, name="echo") as pool:
        async with pool.acquire(), pool.acquire():
            now = anyio.current_time()
            with pytest.raises(PoolFull, match="as many tasks as max_waiting") as caught:
                await pool.acquire()
            assert anyio.current_time() == now == pytest.approx(2)
            assert caught.value.statistics.in_use == 2
            assert "not counting those for whom a connection is on its way (" in str(caught.value)
            assert "pool 'echo'" in str(caught.value)
            assert isinstance(caught.value, anyio.WouldBlock)
        async with pool.acquire():
            pass
        await check_books(pool, network)


async def test_max_waiting_0_waits_for_its_own_dead_connection_to_close() -> None:
    """A connection that is being replaced needs a moment to close: that is no waiting in line."""
    network = MemoryNetwork(on_close=delayed(0.5))
    async with ConnectionPool(network, max_size=1, max_waiting=0) as pool:
        for end in ("the peer hangs up", "it is retired", "its borrower discards it"):
            connection = await pool.acquire()
            number = number_of(connection)
            if end == "its borrower discards it":
                connection.discard()
            else:
                await connection.aclose()
            if end == "the peer hangs up":
                network.peers[number - 1].hang_up()
            if end == "it is retired":
                pool.retire()
            async with pool.acquire(timeout=1) as connection:
                assert number_of(connection) == number + 1
    assert network.most_open == 1


async def test_acquire_nowait_lends_what_is_idle_and_opens_nothing() -> None:
    """An idle connection at once, else PoolFull, also where there would be room."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=2) as pool:
        with pytest.raises(PoolFull, match="no idle connection"):
            pool.acquire_nowait()
        await settle()
        assert network.attempts == 0
        await fill(pool, 1)
        connection = pool.acquire_nowait()
        assert (number_of(connection), connection.reused) == (1, True)
        with pytest.raises(PoolFull):
            pool.acquire_nowait()
        await connection.aclose()
        await check_books(pool, network)


async def test_acquire_nowait_skips_what_is_dead() -> None:
    """It takes the newest connection that is good, the others are closed."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=4) as pool:
        await fill(pool, 4)
        network.peers[3].hang_up()
        network.peers[2].push(b"?")
        connection = pool.acquire_nowait()
        assert number_of(connection) == 2
        await connection.aclose()
        await anyio.sleep(1)
        statistics = pool.statistics()
        assert statistics.closed == {"peer_closed": 1, "unread_data": 1}
        assert statistics.idle == 2
        await check_books(pool, network)


async def give_back(*connections: PooledConnection) -> None:
    for connection in connections:
        await connection.aclose()
    await settle()


async def test_lowered_it_never_deadlocks_those_who_wait() -> None:
    """Waiters are served with fewer connections, in the end by the only one left."""
    network = MemoryNetwork(on_close=delayed(0.1))
    async with ConnectionPool(network, max_size=5) as pool:
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(hold, pool)
            for size in (3, 1, 4, 1, 2, 1):
                await anyio.sleep(0.7)
                pool.max_size = size
                await settle()
                await check_books(pool, network)
        assert pool.statistics().acquired == 30
        await anyio.sleep(1)
        assert pool.statistics().size == 1
        await check_books(pool, network)


async def test_lowered_while_connecting_the_surplus_is_closed_when_it_is_open() -> None:
    """A connect that has become too much ends in a close, or serves whoever waits."""
    network = MemoryNetwork(delayed(1))
    async with ConnectionPool(network, max_size=3) as pool:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(hold, pool)
            await anyio.sleep(0.5)
            pool.max_size = 1
            await check_books(pool, network)
            assert pool.statistics().connecting == 3
        assert pool.statistics().acquired == 3
        await settle()
        assert pool.statistics().size == 1
        await check_books(pool, network)


async def test_slots_are_exact_after_changes() -> None:
    """After any change exactly ``max_size`` connections can be borrowed, not one more."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=3) as pool:
        for size in (5, 2, 7, 1, 4):
            pool.max_size = size
            await settle()
            held = [await pool.acquire(timeout=1) for _ in range(size)]
            with pytest.raises(PoolFull):
                pool.acquire_nowait()
            with anyio.move_on_after(1) as scope:
                await pool.acquire()
            assert scope.cancelled_caught
            await check_books(pool, network)
            await give_back(*held)
            await check_books(pool, network)


async def test_it_can_be_changed_outside_the_block_and_is_kept() -> None:
    """Changed before entering or after leaving, it holds for the next block."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, max_size=3)
    pool.max_size = 1
    for size in (1, 2):
        async with pool:
            held = [await pool.acquire(timeout=1) for _ in range(size)]
            with pytest.raises(AcquireTimeout):
                await pool.acquire(timeout=1)
            await give_back(*held)
        pool.max_size = size + 1
        assert pool.max_size == size + 1
    for wrong in (0, -1, math.nan):
        with pytest.raises((ValueError, TypeError)):
            pool.max_size = wrong
    assert pool.max_size == 3


async def test_retiring_outside_the_block_is_refused() -> None:
    """There is nothing to retire, and the text says so."""
    pool = ConnectionPool(MemoryNetwork())
    with pytest.raises(PoolClosed, match="has not been entered"):
        pool.retire()
    async with pool:
        pool.retire()
    with pytest.raises(PoolClosed, match="has been left"):
        pool.retire()


async def test_a_pause_that_is_cancelled_is_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 acquires one gives the others a turn; cancelled there, it has used nothing."""
    async with ConnectionPool(MemoryNetwork()) as pool:
        for _ in range(63):
            async with pool.acquire():
                pass
        with anyio.CancelScope() as scope:

            async def cancelled_pause() -> None:
                scope.cancel()
                await checkpoint()

            monkeypatch.setattr(leasing, "checkpoint", cancelled_pause)
            await pool.acquire()
        statistics = pool.statistics()
        assert (statistics.acquired, statistics.cancelled) == (63, 1)
        assert (statistics.idle, statistics.in_use) == (1, 0)
