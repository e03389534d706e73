"""Strike a scenario at every step that any of its tasks takes, the pool's own tasks included.

After the k-th step, whichever task took it, the victim is cancelled. So a strike falls also between
the moment in which a task is granted something and the moment in which it gets to know.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import anyio
from anyio.abc import ByteStreamConnectable, TaskGroup
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool

from .metering import Meter, run_on_asyncio, run_on_trio
from .network import MemoryNetwork, check_books
from .tally import Tally


class Blow(Enum):
    """How the victim is struck."""

    SCOPE_ASYNCIO = "scope-asyncio"
    SCOPE_TRIO = "scope-trio"
    #: asyncio's ``task.cancel()``, which pierces shields
    NATIVE = "native"
    #: the same at two steps running
    NATIVE_TWICE = "native-twice"
    #: all tasks of the loop at once, as asyncio does when it shuts down
    ALL_TASKS = "all-tasks"
    #: the tasks of pools that have begun, and not the victim
    POOL_TASKS = "pool-tasks"
    POOL_TASKS_TWICE = "pool-tasks-twice"


#: the blows that are meant for the tasks of the pool
ON_POOL_TASKS = (Blow.POOL_TASKS, Blow.POOL_TASKS_TWICE)
#: those that fall at two steps running
_TWICE = (Blow.NATIVE_TWICE, Blow.POOL_TASKS_TWICE)


@dataclass
class Stage:
    """What a scenario plays on."""

    network: MemoryNetwork
    pool: ConnectionPool
    tasks: TaskGroup
    #: what the other tasks got
    got: list[object] = field(default_factory=list[object])
    #: how many of them began
    others: int = 0


Act = Callable[[Stage], Awaitable[None]]


async def nothing(stage: Stage) -> None:
    """Do nothing: an act."""


@dataclass
class Scenario:
    """One thing to be struck.

    :param victim: what is struck
    :param settings: of the pool
    :param prepare: comes before, inside the pool's block, never struck
    :param others: whether what the other tasks got is right
    :param own_block: the victim enters the pool itself
    :param ends_with: what the victim raises if nothing strikes it
    :param remote: makes the pool's remote of the network
    """

    victim: Act
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    prepare: Act = nothing
    others: Callable[[list[object]], bool] = lambda got: not got
    own_block: bool = False
    ends_with: type[Exception] | None = None
    remote: Callable[[MemoryNetwork], ByteStreamConnectable] = lambda network: network


async def _be_struck(scenario: Scenario, stage: Stage, meter: Meter, blow: Blow) -> bool:
    """Play the victim; return whether it was cancelled."""
    if blow in (Blow.SCOPE_ASYNCIO, Blow.SCOPE_TRIO):
        with anyio.CancelScope() as scope:
            meter.victim = scope.cancel
            await _play(scenario, stage, meter)
        return scope.cancelled_caught
    if blow in ON_POOL_TASKS:
        meter.victim = cancel_pool_tasks
        await _play(scenario, stage, meter)
        return False
    task = asyncio.current_task()
    assert task is not None
    meter.victim = task.cancel if blow is not Blow.ALL_TASKS else cancel_all_tasks
    try:
        await _play(scenario, stage, meter)
    except asyncio.CancelledError:
        if blow is Blow.ALL_TASKS:
            raise
        _forget_cancellations(task)
        return True
    # An error of the body's has met it. On these versions asyncio's own TaskGroup then leaves it to
    # whoever counts it, too.
    counted = False
    if sys.version_info >= (3, 11):
        counted = sys.version_info < (3, 13) and task.cancelling() > 0
    _forget_cancellations(task)
    return counted


def _forget_cancellations(task: asyncio.Task[Any]) -> None:
    if sys.version_info >= (3, 11):
        while task.cancelling():
            task.uncancel()


async def _play(scenario: Scenario, stage: Stage, meter: Meter) -> None:
    outcome: type[Exception] | None = None
    try:
        try:
            await scenario.victim(stage)
        except Exception as error:
            outcome = type(error)
        assert meter.struck or outcome is scenario.ends_with
        # A cancellation that came in the very last step is delivered here.
        await checkpoint()
    finally:
        meter.victim = None


def cancel_all_tasks() -> None:
    """Cancel every task of the running loop by asyncio's own means."""
    for task in asyncio.all_tasks():
        task.cancel()


def cancel_pool_tasks() -> None:
    """Cancel the tasks of pools that have begun; not the running one, which may be about to end."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        coroutine: Any = task.get_coro()
        if (
            task.get_name().startswith("pool ")
            and inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED
        ):
            task.cancel()


async def _check_that_all_is_well(stage: Stage, blow: Blow) -> None:
    """Check the invariants of a pool that goes on, and that all its slots can be used."""
    await anyio.sleep(3)
    pool, network, logins_failed = stage.pool, stage.network, blow in ON_POOL_TASKS
    await check_books(pool, network, logins_failed=logins_failed)
    statistics = pool.statistics()
    assert (statistics.in_use, statistics.connecting, statistics.closing) == (0, 0, 0)
    assert statistics.tasks_waiting == 0
    network.on_connect = None
    with anyio.fail_after(1):
        connections = [await pool.acquire() for _ in range(int(pool.max_size))]
        for connection in connections:
            await connection.send_line(b"hello")
            assert await connection.receive_line() == b"hello"
            await connection.aclose()
    await check_books(pool, network, logins_failed=logins_failed)


def make_pool(scenario: Scenario, network: MemoryNetwork, tally: Tally | None) -> ConnectionPool:
    """Make the pool of a scenario.

    :param tally: what is to observe it
    """
    watched: dict[str, Any] = {"observers": [tally], "leak_after": 1} if tally else {}
    remote = scenario.remote(network)
    return ConnectionPool(remote, name="swept", close_timeout=1, **{**scenario.settings, **watched})


async def _perform(
    scenario: Scenario, network: MemoryNetwork, meter: Meter, blow: Blow, tally: Tally | None
) -> None:
    pool = make_pool(scenario, network, tally)
    got: list[object] = []

    def everybody_was_struck() -> bool:
        # Then AnyIO may take one cancellation for another; only the sockets matter.
        return meter.struck and blow is Blow.ALL_TASKS

    async def act() -> None:
        tasks = anyio.create_task_group()
        stage = Stage(network, pool, tasks, got)
        cancelled = False
        async with tasks:
            await scenario.prepare(stage)
            cancelled = await _be_struck(scenario, stage, meter, blow)
        if everybody_was_struck():
            return
        assert len(got) == stage.others
        if blow not in ON_POOL_TASKS:
            assert cancelled == meter.struck, "the cancellation was swallowed"
            assert scenario.others(got), got
        if not scenario.own_block:
            await _check_that_all_is_well(stage, blow)

    if not scenario.own_block:
        async with pool:
            await act()
    else:
        await act()
        assert network.open_now == 0
        network.on_connect = None
        async with pool, pool.acquire(timeout=1):
            pass
    check_closed(pool, network)
    assert network.most_open <= scenario.settings.get("max_size", 10)


def check_closed(pool: ConnectionPool, network: MemoryNetwork) -> None:
    """Assert that nothing is left of a pool whose block has ended."""
    statistics = pool.statistics()
    assert network.open_now == 0
    assert statistics.size == statistics.tasks_waiting == 0
    assert statistics.idle == statistics.in_use == statistics.connecting == statistics.closing == 0


def strike(scenario: Scenario, blow: Blow, step: int | None, *, observed: bool) -> Meter:
    """Play a scenario once, struck after a step or never; check what must hold afterwards."""
    tally = Tally() if observed else None
    meter = Meter(step, repeats=2 if blow in _TWICE else 1)
    network = MemoryNetwork()

    async def main() -> None:
        await _perform(scenario, network, meter, blow, tally)

    try:
        run = run_on_trio if blow is Blow.SCOPE_TRIO else run_on_asyncio
        run(main, meter)
    except asyncio.CancelledError:
        assert blow is Blow.ALL_TASKS
        assert meter.struck
    assert network.open_now == 0
    if tally is not None:
        tally.check()
    return meter


def sweep(scenario: Scenario, blow: Blow, *, observed: bool = False) -> int:
    """Play a scenario struck at every step; return how many there were.

    A task that asyncio cancels before its first step leaves a coroutine that was never awaited: the
    warning is none of ours. It comes when the coroutine is collected, which is to happen here and
    not in the middle of something that can't warn.
    """
    with warnings.catch_warnings():
        if blow is Blow.ALL_TASKS:
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            gc.disable()
        step, steps = 0, strike(scenario, blow, None, observed=observed).steps
        try:
            for step in range(1, steps + 1):
                strike(scenario, blow, step, observed=observed)
        except BaseException as error:
            raise AssertionError(f"struck after step {step} of {steps}") from error
        finally:
            gc.collect()
            gc.enable()
    return steps
