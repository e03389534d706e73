"""How pools outside one block end: cancelled at any step, by force, or forgotten."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, PoolClosed, PooledConnection
from tests.cases import table

from .hosting import (
    Make,
    Owner,
    acquire,
    ask,
    asyncio_only,
    check_ended,
    each_kind,
    make_pool,
    start,
)
from .interrupts import interrupt
from .network import MemoryNetwork, hang, settle
from .scenarios import acquire_and_exchange
from .sweep import ON_POOL_TASKS, Blow, Scenario, Stage, sweep

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


def tasks_of(owner: Owner) -> list[asyncio.Task[Any]]:
    """Return the tasks that an opened pool runs its block in."""
    name = "pool 'hosted'" if isinstance(owner, ConnectionPool) else "pool 'manager'"
    return [task for task in asyncio.all_tasks() if task.get_name() == name]


async def open_and_close(stage: Stage) -> None:
    """Open the pool for one exchange, and have two close it."""
    await stage.pool.open()
    left = anyio.Event()

    async def close_too() -> None:
        await left.wait()
        await stage.pool.aclose()

    # As long as the pool may be open, somebody is there who waits for its end.
    stage.tasks.start_soon(close_too)
    try:
        await acquire_and_exchange(stage)
    finally:
        left.set()
        await stage.pool.aclose()


async def serve_and_close(stage: Stage) -> None:
    """Have a task run the pool for one exchange."""
    async with anyio.create_task_group() as tasks:
        pool = await tasks.start(stage.pool.serve)
        # The pool may have been cancelled with the victim, before the victim gets to know.
        with suppress(PoolClosed):
            await acquire_and_exchange(stage)
        await pool.aclose()


SERVE = Scenario(serve_and_close, {"min_idle": 2}, own_block=True)


async def open_again(stage: Stage) -> None:
    """Open and close the pool twice."""
    for _ in range(2):
        await open_and_close(stage)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "blow",
    [blow for blow in Blow if blow not in (Blow.SCOPE_TRIO, *ON_POOL_TASKS)],
    ids=lambda blow: blow.value,
)
@table("act, settings", [(open_and_close, {}), (open_and_close, {"min_idle": 2}), (open_again, {})])
def test_opening_and_closing_is_cancelled_at_any_step(
    act: Callable[[Stage], Awaitable[None]], settings: dict[str, Any], blow: Blow
) -> None:
    """A cancelled open() leaves nothing, not even for a turn; a cancelled aclose() closes all."""
    if blow is Blow.ALL_TASKS and sys.version_info < (3, 11):
        pytest.skip("a task group takes one cancellation for another, and goes on in mid-close")
    assert sweep(Scenario(act, settings, own_block=True), blow) > 10


@pytest.mark.sweep
# Not all tasks at once: AnyIO's start() hangs if its task is cancelled before its first step.
@pytest.mark.parametrize(
    "blow",
    [blow for blow in Blow if blow not in (Blow.ALL_TASKS, *ON_POOL_TASKS)],
    ids=lambda blow: blow.value,
)
def test_serving_is_cancelled_at_any_step(blow: Blow) -> None:
    """Everything is closed when the task group has ended."""
    assert sweep(SERVE, blow) > 10


@pytest.mark.newest
def test_an_interrupt_at_any_line_of_serve_leaves_nothing() -> None:
    """On trio, Ctrl-C waits until the pool can be closed."""
    for step, place in enumerate(interrupt(SERVE, None, observed=False), 1):
        if place.startswith(("hosting.py", "_pool.py", "lifecycle.py")):
            interrupt(SERVE, step, observed=False)


@asyncio_only
@each_kind
async def test_a_cancelled_open_can_be_repeated_at_once(make: Make) -> None:
    """Nothing is left of the first one when it raises, though it was cancelled twice."""
    others = asyncio.all_tasks()
    for blows in (1, 2):
        for turns in range(6):
            network = MemoryNetwork(on_close=hang)
            owner = make(network, min_idle=2)
            task = asyncio.get_running_loop().create_task(owner.open())
            await settle(turns)
            for _ in range(blows):
                task.cancel()
                await checkpoint()
            await asyncio.wait([task])
            if task.cancelled():
                assert network.open_now == 0
                assert asyncio.all_tasks() == others
                with pytest.raises(RuntimeError, match="was not opened"):
                    await owner.aclose()
                await owner.open()
            await ask(owner, network)
            network.on_close = None
            await owner.aclose()


@asyncio_only
@each_kind
async def test_who_cancels_the_blocks_task_closes_the_pool(make: Make) -> None:
    """Users get PoolClosed, aclose() returns without an error, and the pool can be opened again."""
    network = MemoryNetwork(on_close=hang)
    owner = await make(network).open()
    await ask(owner, network)
    borrowed = await acquire(owner, network)
    (task,) = tasks_of(owner)
    task.cancel()
    await asyncio.wait([task])
    assert anyio.current_time() == 0
    await check_ended(owner, network)
    with pytest.raises(anyio.ClosedResourceError):
        await borrowed.send(b"x")
    await borrowed.aclose()
    for _ in range(2):
        await owner.aclose()
    network.on_close = None
    await owner.open()
    await ask(owner, network)
    await owner.aclose()


@asyncio_only
async def test_who_cancels_the_blocks_task_before_it_begins_fails_open() -> None:
    """The caller of open() is not cancelled: it gets an error that says what happened."""
    pool = make_pool(MemoryNetwork())
    opening = asyncio.get_running_loop().create_task(pool.open())
    await settle(2)
    tasks_of(pool)[0].cancel()
    with pytest.raises(PoolClosed, match="was cancelled while it was opened"):
        await opening
    await pool.open()
    await pool.aclose()


def raiser(error: BaseException) -> Callable[[PooledConnection], Awaitable[None]]:
    async def raise_it(connection: PooledConnection) -> None:
        raise error

    return raise_it


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return what is in an exception group, and in the groups in it."""
    inner = getattr(error, "exceptions", None)
    return [error] if inner is None else [leaf for one in inner for leaf in leaves_of(one)]


@each_kind
async def test_what_nobody_catches_leaves_from_serve(make: Make) -> None:
    """The pool has ended; aclose() has nothing to say about it."""
    network = MemoryNetwork()
    error = SystemExit(3)
    # In a group: asyncio would stop its loop for the error itself.
    owner = make(network, on_connect=raiser(BaseExceptionGroup("stop", [error])))
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        async with anyio.create_task_group() as tasks:
            await tasks.start(owner.serve)
            with pytest.raises(PoolClosed):
                await ask(owner, network)
            with anyio.CancelScope(shield=True):
                await owner.aclose()
                await check_ended(owner, network)
            await checkpoint()
    assert set(leaves_of(caught.value)) == {error}


@asyncio_only
@each_kind
async def test_what_nobody_catches_leaves_from_aclose_once(make: Make) -> None:
    """The first who closes the pool gets it, as it leaves a block; users get PoolClosed."""
    network = MemoryNetwork()
    error = SystemExit(3)
    owner = await make(network, on_connect=raiser(BaseExceptionGroup("stop", [error]))).open()
    with pytest.raises(PoolClosed, match="has been closed"):
        await ask(owner, network)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await owner.aclose()
    assert scope.cancelled_caught
    results = await asyncio.gather(owner.aclose(), owner.aclose(), return_exceptions=True)
    (group,) = [result for result in results if result is not None]
    assert set(leaves_of(group)) == {error}
    await owner.aclose()
    await check_ended(owner, network)


@table("error", [SystemExit(3), KeyboardInterrupt()])
@each_kind
def test_the_end_of_the_program_leaves_from_aclose(make: Make, error: BaseException) -> None:
    """asyncio stops its loop for such an error; whoever goes on with the loop gets it there."""
    network = MemoryNetwork()
    owner = make(network, on_connect=raiser(error))
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(owner.open())
        with pytest.raises(type(error)):
            loop.run_until_complete(ask(owner, network))
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            loop.run_until_complete(owner.aclose())
        assert set(leaves_of(caught.value)) == {error}
        loop.run_until_complete(owner.aclose())
        loop.run_until_complete(check_ended(owner, network))
        assert not asyncio.all_tasks(loop)
    finally:
        loop.close()


@asyncio_only
@each_kind
async def test_a_forgotten_pool_is_warned_of_and_closed(make: Make) -> None:
    """When the last reference goes, a ResourceWarning names it, and its block ends by itself."""
    network = MemoryNetwork()
    others = asyncio.all_tasks()
    gc.collect()
    owner = await make(network, min_idle=1).open()
    await ask(owner, network)
    described = "ConnectionPool 'hosted'" if isinstance(owner, ConnectionPool) else "PoolManager"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del owner
        gc.collect()
        await settle()
    (warning,) = caught
    assert warning.category is ResourceWarning
    assert described in str(warning.message)
    assert str(warning.message).endswith("was never closed: await its aclose()")
    assert network.open_now == 0
    assert asyncio.all_tasks() == others


@each_kind
async def test_who_closes_what_was_opened_gets_no_warning(make: Make, ways: list[str]) -> None:
    """Nor does who cancels open(), or aclose(), or was refused, or goes on to ``async with``."""
    network = MemoryNetwork()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for how in ways:
            for patience in (0, 1):
                owner = make(network)
                async with anyio.create_task_group() as tasks:
                    await start(owner, tasks, how)
                    await ask(owner, network)
                    with anyio.move_on_after(patience):
                        await owner.aclose()
                await settle()
                async with owner:
                    await ask(owner, network)
                del owner
                gc.collect()
