"""A manager of a thousand remotes: its maximum, its counts, what it drops, what it costs."""

from __future__ import annotations

import random
from operator import attrgetter
from weakref import ref

import anyio
import pytest

from anyconnpool import ConnectionPool, PoolManager
from tests.pool.conftest import anyio_backend as anyio_backend
from tests.pool.network import MemoryNetwork, delayed, settle

from .soak import CostMeter, Figures, assert_flat

# The long form takes minutes where other things load the machine.
pytestmark = pytest.mark.timeout(600)

REMOTES = 1000
MAX_TOTAL = 100
MAX_IDLE_TIME = 5


class Town:
    """A thousand remotes, and a manager that has room for a hundred connections.

    :param seed: what chance starts from
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.most_open = 0
        self.networks = [MemoryNetwork(self._note, on_close=delayed(0.01)) for _ in range(REMOTES)]
        self.manager = PoolManager(max_total=MAX_TOTAL, max_idle_time=MAX_IDLE_TIME)

    @property
    def open_now(self) -> int:
        return sum(network.open_now for network in self.networks)

    async def _note(self, number: int) -> None:
        self.most_open = max(self.most_open, self.open_now)

    async def churn(self, exchanges: int) -> None:
        """Have three times as many tasks as there is room for make exchanges here and there."""
        async with anyio.create_task_group() as tasks:
            for _ in range(3 * MAX_TOTAL):
                tasks.start_soon(self._visit, exchanges // (3 * MAX_TOTAL))

    async def _visit(self, exchanges: int) -> None:
        for number in range(exchanges):
            network = self.chance.choice(self.networks)
            line = b"%d" % number
            assert await self.manager.send_receive_line(network, line) == line

    def check(self) -> None:
        """Assert that every pool's counts, and their sum, are right while nothing is borrowed."""
        found = self.manager.statistics()
        for network, one in found.items():
            assert isinstance(network, MemoryNetwork)
            assert one.size == one.idle == network.open_now
            assert one.tasks_waiting == 0
            assert one.opened == network.opened
        assert self.open_now == sum(one.size for one in found.values()) <= MAX_TOTAL
        assert self.most_open == MAX_TOTAL

    def forget_closed_connections(self) -> None:
        """Let go of the servers' ends."""
        for network in self.networks:
            assert network.open_now == 0
            network.peers.clear()


async def test_a_thousand_remotes_share_a_hundred_connections_and_leave_nothing(
    seed: int, long_form: bool
) -> None:
    """Never more than `max_total` are open; unused pools are dropped and nothing of them stays."""
    town = Town(seed)
    figures: list[Figures] = []
    async with town.manager as manager:
        for _ in range(5 if long_form else 2):
            pools = [ref(manager.pool(network)) for network in town.networks]
            await town.churn(10_000 if long_form else 900)
            await anyio.sleep(1)
            town.check()
            await anyio.sleep(3 * MAX_IDLE_TIME)
            assert not manager.statistics()
            town.forget_closed_connections()
            figures.append(Figures.now())
            assert not [pool for pool in pools if pool() is not None], f"seed {seed}"
    figures[-1].assert_no_more_than(figures[0], f"seed {seed}")


async def costs_among_remotes(count: int, meter: CostMeter) -> dict[str, int]:
    """Return what single events cost among so many remotes with one idle connection each."""
    costs: dict[str, int] = {}
    networks = [MemoryNetwork() for _ in range(count)]
    async with PoolManager(max_total=count, max_idle_time=MAX_IDLE_TIME) as manager:
        for network in networks:
            await manager.send_receive_line(network, b"ping")
        with meter:
            await manager.send_receive_line(networks[count // 2], b"ping")
        costs["reuse"] = meter.count
        newcomer = MemoryNetwork()
        with meter:
            pool = manager.pool(newcomer)
            await settle(5)
        costs["make a pool"] = meter.count
        with meter:
            await pool.send_receive_line(b"ping")
            await settle()
        costs["one gives way to another"] = meter.count
        assert networks[0].open_now == 0
        with meter:
            drop(manager, networks[-1])
            await settle()
        costs["drop a pool"] = meter.count
    return costs


def drop(manager: PoolManager, network: MemoryNetwork) -> None:
    """Have the manager drop a pool now, without the others being looked at."""
    pool: ConnectionPool = manager.pool(network)
    running = attrgetter("_running")(manager)[pool]
    attrgetter("_lifecycle")(manager).stop(running)


async def test_one_event_costs_the_same_among_any_number_of_remotes(meter: CostMeter) -> None:
    """A borrow, a new pool, a connection that gives way or a dropped pool is no work for others."""
    assert_flat(await costs_among_remotes(20, meter), await costs_among_remotes(REMOTES, meter))


async def test_a_connect_costs_the_same_however_many_are_under_way(
    meter: CostMeter, many: int
) -> None:
    """Each of thousands who need a new connection at once costs a manager as much as one of 20."""

    async def cost(count: int) -> int:
        network = MemoryNetwork()
        go_on = anyio.Event()

        async def borrow(pool: ConnectionPool) -> None:
            async with pool.acquire():
                await go_on.wait()

        async with (
            PoolManager(max_size=count) as manager,
            anyio.create_task_group() as tasks,
        ):
            pool = manager.pool(network)
            with meter:
                for _ in range(count):
                    tasks.start_soon(borrow, pool)
                await settle()
            assert network.open_now == count
            go_on.set()
        return meter.count // count

    assert_flat({"connect": await cost(20)}, {"connect": await cost(many)})
