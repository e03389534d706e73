"""Promise 3 for a manager: whatever is cancelled at whatever point, nothing leaks."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, PoolClosed, PoolManager, Replicas, Retry

from .metering import Meter, run_on_asyncio, run_on_trio
from .network import MemoryNetwork, delayed, fill
from .sweep import Blow, Scenario, Stage, _be_struck  # pyright: ignore[reportPrivateUsage]

MAX_TOTAL = 2
BLOWS = [Blow.SCOPE_ASYNCIO, Blow.SCOPE_TRIO, Blow.NATIVE, Blow.NATIVE_TWICE]


class Play:
    """What a scenario plays on: a manager of three remotes, with room for two connections.

    :param tasks: for the other tasks
    :param pipeline: how many exchanges share a connection
    """

    def __init__(self, tasks: TaskGroup, pipeline: int) -> None:
        self.tasks = tasks
        self.most = 0
        self.networks = [
            MemoryNetwork(on_connect=self.note, on_close=delayed(0.01)) for _ in range(3)
        ]
        self.manager = PoolManager(max_total=MAX_TOTAL, close_timeout=1, pipeline=pipeline)
        rest = Retry(0, interval=0.02, max_interval=0.05, jitter=0)
        #: two of the remotes as one
        self.replicas = Replicas(self.networks[:2], rest=rest)
        self.served = 0
        self.others = 0

    async def note(self, number: int) -> None:
        self.most = max(self.most, sum(network.open_now for network in self.networks))

    async def exchange(self, index: int) -> None:
        """Do one exchange with one of the remotes."""
        reply = await self.manager.send_receive_line(self.networks[index], b"ping")
        assert reply == b"ping"

    def start_other(self, index: int, hold: float = 0) -> None:
        """Be another task that borrows, and gets what it wants unless the block ends."""
        self.others += 1
        self.tasks.start_soon(self._other, index, hold)

    async def _other(self, index: int, hold: float) -> None:
        try:
            async with self.manager.acquire(self.networks[index]) as connection:
                await connection.send_line(b"other")
                assert await connection.receive_line() == b"other"
                await anyio.sleep(hold)
        except (PoolClosed, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return
        self.served += 1


Act = Callable[[Play], Awaitable[None]]


async def acquire_where_another_gives_way(play: Play) -> None:
    """Take the place of an idle connection of another remote."""
    await play.exchange(0)


async def idle_elsewhere(play: Play) -> None:
    """Have as many connections idle as there may be, and one more task that needs their place."""
    await fill(play.manager.pool(play.networks[1]), MAX_TOTAL)
    play.start_other(2)


async def wait_in_line(play: Play) -> None:
    """Wait behind one of another remote and before another one."""
    play.start_other(2)
    await play.exchange(0)


async def all_borrowed(play: Play) -> None:
    """Have everything borrowed for a moment."""
    for index in (0, 1):
        play.start_other(index, 0.1)
    await anyio.sleep(0.01)


async def enter_and_leave(play: Play) -> None:
    """Run a manager for two exchanges that need each other's place."""
    async with play.manager:
        for index in (0, 1, 2):
            await play.exchange(index)


async def leave_borrowers(play: Play) -> None:
    """Leave a manager whose places are borrowed for long, with others waiting for them."""
    async with play.manager:
        for index in (0, 1, 2, 0):
            play.start_other(index, 30)
        await anyio.sleep(0.05)


async def use_replicas(play: Play) -> None:
    """Do some exchanges with two of the remotes as one, while a third one is in use."""
    for _ in range(3):
        assert await play.manager.send_receive_line(play.replicas, b"ping") == b"ping"
        await anyio.sleep(0.03)


async def one_fails(play: Play) -> None:
    """Have one of the replicas refuse twice, and the other remote be asked meanwhile."""

    async def refuse(number: int) -> None:
        await play.note(number)
        if number <= 2:
            raise ConnectionRefusedError("no")

    play.networks[0].on_connect = refuse
    play.start_other(2, 0.05)
    play.start_other(2, 0.02)


async def nothing(play: Play) -> None:
    """Do nothing."""


SCENARIOS: dict[str, tuple[Act, Act, bool]] = {
    "give way": (acquire_where_another_gives_way, idle_elsewhere, False),
    "wait in line": (wait_in_line, all_borrowed, False),
    "enter and leave": (enter_and_leave, nothing, True),
    "leave borrowers": (leave_borrowers, nothing, True),
    "replicas": (use_replicas, one_fails, False),
    "shared replicas": (use_replicas, one_fails, False),
}


async def play_once(name: str, meter: Meter, blow: Blow) -> None:
    victim, prepare, own_block = SCENARIOS[name]
    async with AsyncExitStack() as stack:
        tasks = anyio.create_task_group()
        play = Play(tasks, 3 if name.startswith("shared") else 1)
        cancelled = False
        if not own_block:
            await stack.enter_async_context(play.manager)
        scenario = Scenario(lambda stage: victim(play))
        async with tasks:
            await prepare(play)
            # The victim knows its stage already; this one is for the striking only.
            stage = Stage(play.networks[0], ConnectionPool(play.networks[0]), tasks)
            cancelled = await _be_struck(scenario, stage, meter, blow)
        assert cancelled == meter.struck, "the cancellation was swallowed"
        if own_block:
            await stack.enter_async_context(play.manager)
        else:
            assert play.served == play.others
        await check_that_all_is_well(play)
    assert play.most <= MAX_TOTAL
    assert [network.open_now for network in play.networks] == [0, 0, 0]
    assert play.manager.statistics() == {}


async def check_that_all_is_well(play: Play) -> None:
    """Check that each remote can have all places, also those of a manager entered again."""
    await anyio.sleep(3)
    for network in play.networks:
        network.on_connect = play.note
        pool = play.manager.pool(network)
        with anyio.fail_after(1):
            connections = [await pool.acquire() for _ in range(MAX_TOTAL)]
        for connection in connections:
            await connection.aclose()
        await anyio.sleep(0.1)
        assert (network.open_now, pool.statistics().idle) == (MAX_TOTAL, MAX_TOTAL)


def strike(name: str, blow: Blow, step: int | None) -> Meter:
    meter = Meter(step, repeats=2 if blow is Blow.NATIVE_TWICE else 1)

    async def main() -> None:
        await play_once(name, meter, blow)
        await checkpoint()

    run = run_on_trio if blow is Blow.SCOPE_TRIO else run_on_asyncio
    run(main, meter)
    return meter


@pytest.mark.sweep
@pytest.mark.parametrize("blow", BLOWS, ids=lambda blow: blow.value)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_cancellation_at_any_step_leaks_nothing(name: str, blow: Blow) -> None:
    """Struck at every step of any task, no place is lost, and the others are served."""
    steps = strike(name, blow, None).steps
    assert steps > 0
    for step in range(1, steps + 1):
        try:
            strike(name, blow, step)
        except BaseException as error:
            raise AssertionError(f"struck after step {step} of {steps}") from error
    gc.collect()
