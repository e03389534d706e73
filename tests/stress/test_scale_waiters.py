"""Thousands of waiters over ten connections: in order, cancelled in masses, at a flat cost."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection, PoolManager
from tests.pool.conftest import anyio_backend as anyio_backend
from tests.pool.network import MemoryNetwork, check_books, fill, settle

from .soak import CostMeter, assert_flat

# The long form takes minutes where other things load the machine.
pytestmark = pytest.mark.timeout(600)

CONNECTIONS = 10
#: those at both ends of the line that stay when the rest is cancelled from the middle
SPARED = 20


class Borrower:
    """A task that waits for a connection, notes that it got it, and gives it back when told."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._task: asyncio.Task[Any] | None = None
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        with self._scope:
            await self._borrow()

    async def run_for_native_cancellation(self) -> None:
        self._task = asyncio.current_task()
        try:
            await self._borrow()
        except asyncio.CancelledError:
            if sys.version_info >= (3, 11) and self._task is not None:
                self._task.uncancel()

    async def _borrow(self) -> None:
        place = len(self._line.borrowers)
        self._line.borrowers.append(self)
        async with self._line.pool.acquire():
            self._line.served.append(place)
            if not self._line.go_on.is_set():
                await self._line.go_on.wait()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:
            self._scope.cancel()


class Line:
    """A pool whose connections are all borrowed, and a line of tasks that wait for them.

    :param native: the tasks are going to be cancelled by asyncio's own means
    """

    def __init__(self, pool: ConnectionPool, tasks: TaskGroup, *, native: bool = False) -> None:
        self.pool = pool
        #: in the order in which they asked for a connection
        self.borrowers: list[Borrower] = []
        #: the places of those who got one, in the order in which they did
        self.served: list[int] = []
        self.held: list[PooledConnection] = []
        #: lets the borrowers give back what they got
        self.go_on = anyio.Event()
        self._tasks = tasks
        self._native = native

    async def take_all(self) -> None:
        """Borrow all connections."""
        self.held = [await self.pool.acquire() for _ in range(CONNECTIONS)]

    async def grow(self, count: int) -> None:
        """Put so many more tasks in line."""
        for _ in range(count):
            borrower = Borrower(self)
            run = borrower.run_for_native_cancellation if self._native else borrower.run
            self._tasks.start_soon(run)
        await settle(5)

    async def release(self) -> None:
        """Give back all connections, and have everybody do so at once."""
        self.go_on.set()
        for connection in self.held:
            await connection.aclose()


@asynccontextmanager
async def standing_line(
    count: int, *, native: bool = False
) -> AsyncGenerator[tuple[Line, MemoryNetwork]]:
    network = MemoryNetwork()
    async with (
        ConnectionPool(network, max_size=CONNECTIONS) as pool,
        anyio.create_task_group() as tasks,
    ):
        line = Line(pool, tasks, native=native)
        await line.take_all()
        await line.grow(count)
        assert pool.statistics().tasks_waiting == count
        yield line, network


def turns(places: Iterable[int]) -> list[list[int]]:
    """Return who is served in each turn of the event loop, in which trio shuffles its tasks."""
    listed = list(places)
    return [sorted(listed[n : n + CONNECTIONS]) for n in range(0, len(listed), CONNECTIONS)]


async def test_waiters_are_served_in_the_order_in_which_they_came(many: int) -> None:
    """Thousands of waiters get ten connections first come, first served, without exception."""
    async with standing_line(many) as (line, network):
        await line.release()
        with anyio.fail_after(1):
            while line.pool.statistics().tasks_waiting:
                await settle()
        await check_books(line.pool, network)
        assert turns(line.served) == turns(range(many))
        assert network.opened == CONNECTIONS


def oldest_first(count: int) -> list[int]:
    return list(range(count))


def newest_first(count: int) -> list[int]:
    return list(reversed(range(count)))


def from_the_middle(count: int) -> list[int]:
    """Return the places from the middle of the line outwards, but for those at its ends."""
    return sorted(range(SPARED, count - SPARED), key=lambda place: abs(place - count // 2))


@pytest.mark.parametrize("native", [False, True], ids=["scope", "native"])
@pytest.mark.parametrize("order", [oldest_first, newest_first, from_the_middle])
async def test_a_mass_of_waiters_is_cancelled_and_the_pool_lives_on(
    order: Callable[[int], list[int]], native: bool, many: int, anyio_backend_name: str
) -> None:
    """Thousands of cancelled waiters leave nothing behind; those left are served in order."""
    if native and anyio_backend_name != "asyncio":
        pytest.skip("only asyncio's tasks can be cancelled natively")
    async with standing_line(many, native=native) as (line, network):
        victims = order(many)
        for place in victims:
            line.borrowers[place].cancel()
        await settle()
        statistics = line.pool.statistics()
        assert statistics.cancelled == len(victims)
        assert statistics.tasks_waiting == many - len(victims)
        assert statistics.in_use == CONNECTIONS
        assert line.served == []
        await line.release()
        await settle(many - len(victims) + 30)
        assert turns(line.served) == turns(sorted(set(range(many)) - set(victims)))
        await check_books(line.pool, network)
        assert line.pool.statistics().idle == CONNECTIONS == network.opened
        await fill(line.pool, CONNECTIONS)
        assert network.opened == CONNECTIONS


async def test_waiters_cancelled_while_they_are_served_pass_on_what_they_got(
    many: int, seed: int
) -> None:
    """A cancellation in the very turn of the grant loses no connection, whomever it strikes."""
    chance = random.Random(seed)
    async with standing_line(many) as (line, network):
        await line.release()
        while (waiting := line.pool.statistics().tasks_waiting) > CONNECTIONS:
            # The next to be served, and some who have been granted a connection just now.
            first = many - waiting
            for place in chance.sample(range(first - CONNECTIONS, first + CONNECTIONS), 7):
                line.borrowers[max(place, 0)].cancel()
            await settle(1)
        await settle()
        await check_books(line.pool, network)
        statistics = line.pool.statistics()
        assert (statistics.idle, statistics.in_use) == (CONNECTIONS, 0), f"seed {seed}"
        assert statistics.acquired == len(line.served) + CONNECTIONS, f"seed {seed}"


async def costs_in_line(pool: ConnectionPool, count: int, meter: CostMeter) -> dict[str, int]:
    """Return what single events cost while so many wait."""
    costs: dict[str, int] = {}
    async with anyio.create_task_group() as tasks:
        line = Line(pool, tasks)
        await line.take_all()
        await line.grow(count)
        with meter:
            await line.grow(1)
        costs["join"] = meter.count
        for name, place in {"oldest": 0, "newest": count, "middle": count // 2}.items():
            with meter:
                line.borrowers[place].cancel()
                await settle(5)
            costs[f"cancel the {name}"] = meter.count
        with meter, pytest.raises(AcquireTimeout):
            await pool.acquire(timeout=0)
        costs["time out"] = meter.count
        with meter:
            pool.statistics()
        costs["statistics"] = meter.count
        with meter:
            await line.held.pop().aclose()
            await settle(1)
        costs["hand over"] = meter.count
        with meter:
            line.held.pop().discard()
            await settle(10)
        costs["replace one"] = meter.count
        await line.release()
    return costs


async def test_what_happens_to_one_waiter_costs_the_same_in_any_line(
    many: int, meter: CostMeter
) -> None:
    """To join, leave, be served or time out costs no more in a line of thousands than of 100."""

    async def costs(count: int) -> dict[str, int]:
        async with ConnectionPool(MemoryNetwork(), max_size=CONNECTIONS) as pool:
            return await costs_in_line(pool, count, meter)

    assert_flat(await costs(100), await costs(many))


async def test_what_happens_to_one_waiter_of_a_manager_costs_the_same_in_any_line(
    many: int, meter: CostMeter
) -> None:
    """The same holds for the waiters of a manager, whose shared_limit is used up."""

    async def costs(count: int) -> dict[str, int]:
        async with PoolManager(max_total=CONNECTIONS) as manager:
            return await costs_in_line(manager.pool(MemoryNetwork()), count, meter)

    assert_flat(await costs(100), await costs(many))
