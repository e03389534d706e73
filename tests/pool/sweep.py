"""Strike a scenario at every step that any of its tasks takes, the pool's own tasks included.

A run counts the steps of all tasks of its event loop: on asyncio with a task factory whose
coroutines count, on trio with an instrument. Before the next step after the k-th, the victim is
cancelled. So a strike falls also between the moment in which a task is granted something and the
moment in which it gets to know.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any

import anyio
import trio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from trio.testing import MockClock

from anyconnpool import ConnectionPool

from .network import MemoryNetwork, check_books
from .virtual_clock import AutojumpLoop


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


class Meter(trio.abc.Instrument):
    """Count steps, and strike after the k-th.

    :param strike_at: the number of the step, from 1 on
    """

    def __init__(self, strike_at: int | None, repeats: int = 1) -> None:
        self.steps = 0
        self.struck = False
        self.victim: Callable[[], object] | None = None
        self._strike_at = strike_at
        self._repeats = repeats

    def step(self) -> None:
        """Count one step, if there is a victim."""
        if self.victim is None:
            return
        self.steps += 1
        if self._strike_at is not None and 0 <= self.steps - self._strike_at < self._repeats:
            self.struck = True
            self.victim()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.step()


class MeteredCoroutine(Coroutine[Any, Any, Any]):
    """Count the steps of a coroutine.

    :param inner: the coroutine
    :param meter: counts
    """

    def __init__(self, inner: Coroutine[Any, Any, Any], meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        # AnyIO asks for the state of a task's coroutine.
        return getattr(self._inner, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def send(self, value: Any) -> Any:
        try:
            return self._inner.send(value)
        finally:
            self._meter.step()

    def throw(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        try:
            return self._inner.throw(typ if isinstance(typ, BaseException) else val or typ())
        finally:
            self._meter.step()

    def close(self) -> None:
        self._inner.close()


def metered_loop(meter: Meter) -> asyncio.AbstractEventLoop:
    """Make a loop on virtual time that counts the steps of its tasks."""

    def make_task(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(MeteredCoroutine(coro, meter), loop=loop, **options)

    loop = AutojumpLoop()
    loop.set_task_factory(make_task)  # type: ignore[arg-type]
    return loop


def run_metered(main: Callable[[], Awaitable[None]], meter: Meter, blow: Blow) -> None:
    """Run ``main`` in a fresh event loop."""
    if blow is Blow.SCOPE_TRIO:
        # The same order of tasks in every run: trio shuffles them on purpose.
        importlib.import_module("trio._core._run")._r.seed(0)
        clock = MockClock(autojump_threshold=0)
        anyio.run(main, backend="trio", backend_options={"clock": clock, "instruments": [meter]})
    else:
        anyio.run(main, backend_options={"loop_factory": lambda: metered_loop(meter)})


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

    :param victim: what is struck; an ``Exception`` of it is one of its outcomes
    :param settings: of the pool
    :param prepare: comes before, inside the pool's block, never struck
    :param others: whether what the other tasks got is right
    :param own_block: the victim enters the pool itself
    """

    victim: Act
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    prepare: Act = nothing
    others: Callable[[list[object]], bool] = lambda got: not got
    own_block: bool = False


async def _be_struck(scenario: Scenario, stage: Stage, meter: Meter, blow: Blow) -> bool:
    """Play the victim; return whether it was cancelled."""
    if blow in (Blow.SCOPE_ASYNCIO, Blow.SCOPE_TRIO):
        with anyio.CancelScope() as scope:
            meter.victim = scope.cancel
            await _play(scenario, stage, meter)
        return scope.cancelled_caught
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
    return False


def _forget_cancellations(task: asyncio.Task[Any]) -> None:
    if sys.version_info >= (3, 11):
        while task.cancelling():
            task.uncancel()


async def _play(scenario: Scenario, stage: Stage, meter: Meter) -> None:
    try:
        with suppress(Exception):
            await scenario.victim(stage)
        # A cancellation that came in the very last step is delivered here.
        await checkpoint()
    finally:
        meter.victim = None


def cancel_all_tasks() -> None:
    """Cancel every task of the running loop by asyncio's own means."""
    for task in asyncio.all_tasks():
        task.cancel()


async def _check_that_all_is_well(stage: Stage) -> None:
    """Check the invariants of a pool that goes on, and that all its slots can be used."""
    await anyio.sleep(3)
    pool, network = stage.pool, stage.network
    check_books(pool, network)
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
    check_books(pool, network)


async def _perform(scenario: Scenario, network: MemoryNetwork, meter: Meter, blow: Blow) -> None:
    pool = ConnectionPool(network, name="swept", close_timeout=1, **scenario.settings)
    got: list[object] = []

    async def act() -> None:
        async with anyio.create_task_group() as tasks:
            stage = Stage(network, pool, tasks, got)
            await scenario.prepare(stage)
            cancelled = await _be_struck(scenario, stage, meter, blow)
            assert cancelled == meter.struck, "the cancellation was swallowed"
        assert len(got) == stage.others
        assert scenario.others(got), got
        if not scenario.own_block:
            await _check_that_all_is_well(stage)

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


def check_closed(pool: ConnectionPool, network: MemoryNetwork) -> None:
    """Assert that nothing is left of a pool whose block has ended."""
    statistics = pool.statistics()
    assert network.open_now == 0
    assert statistics.size == statistics.tasks_waiting == 0
    assert statistics.idle == statistics.in_use == statistics.connecting == statistics.closing == 0
    assert network.most_open <= pool.max_size


def strike(scenario: Scenario, blow: Blow, step: int | None) -> Meter:
    """Play a scenario once, struck after a step or never; check what must hold afterwards."""
    meter = Meter(step, repeats=2 if blow is Blow.NATIVE_TWICE else 1)
    network = MemoryNetwork()

    async def main() -> None:
        await _perform(scenario, network, meter, blow)

    try:
        run_metered(main, meter, blow)
    except asyncio.CancelledError:
        assert blow is Blow.ALL_TASKS
        assert meter.struck
    else:
        assert blow is not Blow.ALL_TASKS or not meter.struck, "the cancellation was swallowed"
    assert network.open_now == 0
    return meter


def sweep(scenario: Scenario, blow: Blow) -> int:
    """Play a scenario struck at every step; return how many there were."""
    steps = strike(scenario, blow, None).steps
    for step in range(1, steps + 1):
        try:
            strike(scenario, blow, step)
        except BaseException as error:
            raise AssertionError(f"struck after step {step} of {steps}: {error!r}") from error
    return steps
