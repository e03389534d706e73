"""The pool's own tasks, cancelled natively: each ends, its work goes on, and so does the block.

That is what a program does which cancels all tasks and waits for them, or somebody with a debugger.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from typing import Any

import anyio
import pytest
from anyio import BrokenResourceError, ConnectionFailed, create_task_group, fail_after

from anyconnpool import ConnectionPool, PoolClosed, PooledConnection, PoolManager, Replicas
from anyconnpool.events import PoolEvent
from tests.cases import table

from .network import MemoryNetwork, check_books, fill, hang, settle
from .scenarios import SCENARIOS
from .scenarios_exchanges import EXCHANGE_SCENARIOS, silence
from .scenarios_hooks import HOOK_SCENARIOS
from .scenarios_pipelines import PIPELINE_SCENARIOS
from .scenarios_replicas import REPLICA_SCENARIOS
from .sweep import Blow, sweep

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

ALL = SCENARIOS | EXCHANGE_SCENARIOS | HOOK_SCENARIOS | PIPELINE_SCENARIOS | REPLICA_SCENARIOS

twice_too = table("blows", [1, 2])


def own_tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks of pools that run in this event loop."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("pool ")]


async def strike(blows: int = 1) -> None:
    """Cancel all of them, and wait until they have ended."""
    await settle()
    tasks = own_tasks()
    assert tasks
    for _ in range(blows):
        for task in tasks:
            task.cancel()
    with fail_after(1000):
        await asyncio.wait(tasks)


@twice_too
async def test_the_housekeeper_goes_on(blows: int) -> None:
    """What is idle for too long is closed, and what is missing is opened."""
    network = MemoryNetwork()
    async with ConnectionPool(network, min_idle=1, max_idle_time=60) as pool:
        await fill(pool, 3)
        await strike(blows)
        opened = network.opened
        await anyio.sleep(61)
        await settle()
        assert pool.statistics().closed == {"max_idle_time": opened}
        assert pool.statistics().idle == 1
        await strike(blows)
        network.peers[-1].hang_up()
        await anyio.sleep(6)
        assert pool.statistics().idle == 1
        await check_books(pool, network)


@twice_too
@table("pipeline", [1, 8])
async def test_the_alarms_go_on(blows: int, pipeline: int) -> None:
    """Time limits hold: of what was under way, and of what is begun afterwards."""
    network = MemoryNetwork(answer=silence)
    got: list[type[Exception]] = []
    began = anyio.current_time()

    async def ask() -> None:
        try:
            await pool.send_receive_line(b"a", timeout=5)
        except (TimeoutError, BrokenResourceError) as error:
            got.append(type(error))

    async with ConnectionPool(network, pipeline=pipeline) as pool:
        await fill(pool, 2)
        with fail_after(60):
            async with create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(ask)
                await strike(blows)
                await ask()
        # A task that sends and receives for several has broken what it was at.
        expected = TimeoutError if pipeline == 1 else BrokenResourceError
        assert got == [expected] * 2 + [TimeoutError] or got == [TimeoutError] * 3
        assert anyio.current_time() == pytest.approx(began + 5)


@twice_too
@table("busy", [False, True])
async def test_the_discovery_goes_on(blows: int, busy: bool) -> None:
    """It is called again when it is time; whoever waited for it is told, or waits for the next."""
    network = MemoryNetwork()
    called_at: list[float] = []
    began = anyio.current_time()

    async def find() -> list[MemoryNetwork]:
        called_at.append(anyio.current_time() - began)
        if busy and len(called_at) == 2:
            await hang()
        return [network]

    async with ConnectionPool(Replicas(find, refresh=10)) as pool:
        await fill(pool, 1)
        await anyio.sleep(11 if busy else 5)
        await strike(blows)
        await anyio.sleep(31)
        assert called_at == pytest.approx([0, 10, 21, 31, 41] if busy else [0, 10, 20, 30])
        await fill(pool, 1)


@twice_too
async def test_a_manager_goes_on_to_drop_what_nobody_uses(blows: int) -> None:
    """After ``max_idle_time``, as ever."""
    network = MemoryNetwork()
    async with PoolManager(max_idle_time=60) as manager:
        await fill(manager.pool(network), 1)
        await strike(blows)
        await anyio.sleep(200)
        assert manager.statistics() == {}
        await fill(manager.pool(network), 1)


@twice_too
async def test_what_was_under_way_has_failed_and_is_begun_anew(blows: int) -> None:
    """An attempt and a check: who waited for them is told, or served by the next one."""
    network, hangs = MemoryNetwork(), [True]

    async def log_in(connection: PooledConnection) -> None:
        if hangs:
            await hang()

    async def expect_failure() -> None:
        with pytest.raises(ConnectionFailed, match="was cancelled"):
            await pool.acquire()

    async def check(connection: PooledConnection) -> None:
        if hangs:
            await hang()

    settings: dict[str, Any] = {"on_connect": log_in, "check": check, "check_after": 0}
    async with ConnectionPool(network, max_size=1, **settings) as pool:
        async with create_task_group() as tasks:
            tasks.start_soon(expect_failure)
            await strike(blows)
        hangs.clear()
        await fill(pool, 1)
        hangs.append(True)
        async with create_task_group() as tasks:
            tasks.start_soon(fill, pool, 1)
            await settle()
            await strike(blows)
            hangs.clear()
        assert pool.statistics().closed == {"check_failed": 1}
        assert pool.statistics().idle == pool.statistics().size == network.open_now == 1


@twice_too
async def test_a_goodbye_is_over_at_once(blows: int) -> None:
    """The socket is closed by force, and its slot is free."""
    network, began = MemoryNetwork(on_close=hang), anyio.current_time()
    async with ConnectionPool(network, max_size=1, close_timeout=100) as pool:
        await fill(pool, 1)
        pool.retire()
        await strike(blows)
        assert (network.open_now, pool.statistics().size) == (0, 0)
        assert anyio.current_time() == began


async def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@table("where", ["on_connect", "check", "observer", "on_close"])
async def test_a_task_that_is_cancelled_in_its_last_step_ends_nothing_else(where: str) -> None:
    """By the code that it runs, which doesn't wait for anything afterwards."""

    async def hook(connection: PooledConnection) -> None:
        await cancel_itself()

    def observe(event: PoolEvent) -> None:
        task = asyncio.current_task()
        if task is not None and task in own_tasks():
            task.cancel()

    settings: dict[str, Any] = {where: hook}
    if where == "check":
        settings["check_after"] = 0
    if where == "observer":
        settings = {"observers": [observe]}
    network = MemoryNetwork()
    async with ConnectionPool(network, **settings) as pool:
        for _ in range(3):
            with fail_after(60):
                try:
                    await fill(pool, 1)
                except ConnectionFailed:
                    assert where == "on_connect"
            pool.retire()
            await settle()
        await check_books(pool, network)
    assert network.open_now == 0


def has_begun(task: asyncio.Task[Any]) -> bool:
    return inspect.getcoroutinestate(task.get_coro()) != inspect.CORO_CREATED  # type: ignore[arg-type]


# The coroutine of a task that was cancelled before its first step goes away, of which Python warns.
unbegun = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")


@unbegun
@table("also", ["nobody", "the block's task", "a scope around it", "its body raises"])
async def test_a_task_that_is_cancelled_before_it_has_begun_ends_the_block_with_an_error(
    also: str,
) -> None:
    """AnyIO ends a task group for that: it is said, unless somebody else had the block end."""
    network = MemoryNetwork()

    async def run() -> None:
        with anyio.CancelScope() as scope:
            async with ConnectionPool(network, name="mem", close_timeout=100) as pool:
                await fill(pool, 1)
                pool.retire()
                new = [task for task in own_tasks() if not has_begun(task)]
                assert [task.cancel() for task in new] == [True]
                task = asyncio.current_task()
                assert task is not None
                if also == "the block's task":
                    task.cancel()
                if also == "a scope around it":
                    scope.cancel()
                try:
                    await anyio.sleep_forever()
                finally:
                    if also == "its body raises":
                        raise LookupError

    await asyncio.wait([task := asyncio.ensure_future(run())])
    assert network.open_now == 0
    if also == "its body raises":
        assert isinstance(task.exception(), LookupError)
    elif also == "a scope around it":
        assert task.result() is None
    elif also == "the block's task" or sys.version_info < (3, 11):
        assert task.cancelled()
    else:
        assert isinstance(task.exception(), PoolClosed)
        assert "pool 'mem' has ended, because one of its own tasks" in str(task.exception())
    gc.collect()


@pytest.mark.newest
@pytest.mark.parametrize("name", ALL)
def test_the_pools_tasks_are_cancelled_at_any_step(name: str, anyio_backend: object) -> None:
    """Nothing leaks, nobody waits for ever, and the block and the pool go on."""
    assert sweep(ALL[name], Blow.POOL_TASKS) > 0


@pytest.mark.newest
@pytest.mark.parametrize("name", HOOK_SCENARIOS)
def test_the_pools_tasks_are_cancelled_at_any_two_steps(name: str, anyio_backend: object) -> None:
    """The same while they clean up."""
    assert sweep(HOOK_SCENARIOS[name], Blow.POOL_TASKS_TWICE) > 0
