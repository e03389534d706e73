"""One maximum for the pools of all remotes, and one fair order of those who wait."""

from __future__ import annotations

import itertools

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from anyconnpool import AcquireTimeout, PoolManager
from tests.cases import table

from .network import MemoryNetwork, delayed, failing, fill, peer_of, settle


class Sockets:
    """Count what is open over several networks, whenever one of them connects.

    :param count: how many networks
    :param seconds: how long connecting and closing take
    """

    def __init__(self, count: int, seconds: float = 0) -> None:
        self.most = 0
        self.seconds = seconds
        self.networks = [
            MemoryNetwork(on_connect=self._note, on_close=delayed(seconds)) for _ in range(count)
        ]

    def __getitem__(self, index: int) -> MemoryNetwork:
        return self.networks[index]

    def open(self) -> list[int]:
        return [network.open_now for network in self.networks]

    async def _note(self, number: int) -> None:
        self.most = max(self.most, sum(self.open()))
        await anyio.sleep(self.seconds)


class Line:
    """Tasks that wait for connections to several remotes, and the order of their service.

    :param hold: how long each keeps its connection, in seconds
    """

    def __init__(
        self, manager: PoolManager, sockets: Sockets, tasks: TaskGroup, hold: float = 0
    ) -> None:
        self.manager = manager
        self.sockets = sockets
        self.tasks = tasks
        self.hold = hold
        self.served: list[int] = []
        self._numbers = itertools.count()

    async def join(self, *indexes: int) -> None:
        """Have tasks wait for these networks, each when the one before it waits."""
        for index in indexes:
            self.tasks.start_soon(self._wait, next(self._numbers), index)
            await settle()

    async def _wait(self, number: int, index: int) -> None:
        async with self.manager.acquire(self.sockets[index]) as connection:
            self.served.append(number)
            assert peer_of(connection).network is self.sockets[index]
            await anyio.sleep(self.hold)


async def test_two_remotes_take_turns_over_one_place() -> None:
    """With room for one socket the remotes alternate, and each gets its own replies."""
    sockets = Sockets(2)
    order: list[int] = []

    async def work(index: int) -> None:
        for _ in range(20):
            order.append(index)
            assert await manager.send_receive(sockets[index], b"%d" % index, 1) == b"%d" % index

    async with PoolManager(max_total=1) as manager:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, 0)
            tasks.start_soon(work, 1)
        assert order.count(0) == order.count(1) == 20
        assert all(abs(order[:n].count(0) - order[:n].count(1)) <= 2 for n in range(40))
    assert sockets.most == 1
    assert sockets.open() == [0, 0]


@table("pause", [False, True])
async def test_a_busy_remote_cannot_starve_another(pause: bool) -> None:
    """However many tasks work in tight loops, a caller elsewhere waits for one turn of each."""
    sockets = Sockets(2)
    turns = [0]

    async def loop() -> None:
        while True:
            async with manager.acquire(sockets[0]):
                turns[0] += 1
                if pause:
                    await checkpoint()

    async with PoolManager(max_total=3, max_size=3) as manager, anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(loop)
        await settle(200)
        for _ in range(10):
            before = turns[0]
            async with manager.acquire(sockets[1]):
                assert turns[0] - before <= (3 * 64 + 30 if not pause else 100)
            await settle(50)
        tasks.cancel_scope.cancel()
    assert sockets.most == 3


async def test_nothing_gives_way_while_there_is_room() -> None:
    """Below the maximum, idle connections stay for their own remote."""
    sockets = Sockets(2)
    async with PoolManager(max_total=4) as manager:
        await fill(manager.pool(sockets[0]), 2)
        await fill(manager.pool(sockets[1]), 2)
        await settle()
        assert sockets.open() == [2, 2]


async def test_a_waiter_that_gives_up_costs_the_others_nothing() -> None:
    """Its place in the line, and the room that is being made for it, go to the next."""
    sockets = Sockets(3, seconds=1)
    async with PoolManager(max_total=1) as manager, anyio.create_task_group() as tasks:
        await fill(manager.pool(sockets[0]), 1)
        line = Line(manager, sockets, tasks)
        with anyio.move_on_after(0.5):
            async with manager.acquire(sockets[1]):
                raise AssertionError("there is no room yet")
        await line.join(2)
        with pytest.raises(AcquireTimeout):
            await manager.acquire(sockets[1], timeout=0.1)
        await anyio.sleep(5)
        assert line.served == [0]
        # The connect of the first one to give up was under way: it goes on, and gives way.
        assert sockets[1].opened == 1
    assert sockets.most == 1


async def test_a_remote_that_is_down_takes_no_room_from_the_others() -> None:
    """Its callers get their errors, and the place goes to the next."""
    down, up = MemoryNetwork(on_connect=failing(ConnectionRefusedError("down"))), MemoryNetwork()
    async with PoolManager(max_total=1) as manager:
        for _ in range(3):
            with pytest.raises(anyio.ConnectionFailed):
                await manager.send_receive(down, b"ping", 4)
            assert await manager.send_receive(up, b"ping", 4) == b"ping"


async def test_a_detached_connection_is_no_longer_counted() -> None:
    """Its place is free for another remote at once."""
    sockets = Sockets(2)
    async with PoolManager(max_total=1) as manager:
        async with manager.acquire(sockets[0]) as connection:
            mine = connection.detach()
        async with manager.acquire(sockets[1], timeout=1):
            await mine.send(b"still open")
        await mine.aclose()


async def test_a_dropped_pool_leaves_its_room_to_the_others() -> None:
    """What it once had open is not counted any more, however often it is made again."""
    sockets = Sockets(2)
    async with PoolManager(max_total=2, max_idle_time=10) as manager:
        for _ in range(3):
            await fill(manager.pool(sockets[0]), 2)
            await anyio.sleep(60)
            assert manager.statistics() == {}
        async with manager.acquire(sockets[1], timeout=1), manager.acquire(sockets[1], timeout=1):
            assert sockets.open() == [0, 2]
