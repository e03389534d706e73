"""Pools and managers outside one block: ``serve`` in a task of the user's, ``open``, ``aclose``."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, PoolClosed, PoolError, PoolManager

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
from .network import MemoryNetwork, delayed, hang, settle


@each_kind
async def test_a_served_pool_lives_until_it_is_closed(make: Make) -> None:
    """The start value is the pool, and its task ends when aclose() has closed everything."""
    network = MemoryNetwork(on_close=delayed(2))
    owner = make(network)
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        assert await tasks.start(owner.serve) is owner
        await ask(owner, network)
        await anyio.sleep(3)
        await ask(owner, network)
        assert network.open_now == 1
        await owner.aclose()
        assert anyio.current_time() - began == pytest.approx(5)
        await check_ended(owner, network)
    assert anyio.current_time() - began == pytest.approx(5)


@each_kind
async def test_serve_needs_no_start_value(make: Make) -> None:
    """It may be started like any other task."""
    network = MemoryNetwork()
    owner = make(network)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(owner.serve)
        await settle()
        await ask(owner, network)
        await owner.aclose()


@each_kind
async def test_a_served_pool_ends_with_its_task_group(make: Make) -> None:
    """A cancellation closes everything at once, as that of a block does, and aclose() returns."""
    network = MemoryNetwork(on_close=hang)
    owner = make(network)
    borrowed: Any = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(owner.serve)
        await ask(owner, network)
        borrowed = await acquire(owner, network)
        tasks.cancel_scope.cancel()
    assert anyio.current_time() == 0
    with pytest.raises(anyio.ClosedResourceError):
        await borrowed.send(b"x")
    await borrowed.aclose()
    await owner.aclose()
    await check_ended(owner, network)


@each_kind
async def test_an_error_of_the_task_group_ends_a_served_pool(make: Make) -> None:
    """The error leaves as the task group has it, and nothing of the pool's is added."""
    network = MemoryNetwork()
    owner = make(network)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        async with anyio.create_task_group() as tasks:
            await tasks.start(owner.serve)
            await ask(owner, network)
            raise LookupError
    assert [type(error) for error in getattr(caught.value, "exceptions", ())] == [LookupError]
    await check_ended(owner, network)


@asyncio_only
@each_kind
async def test_an_open_pool_lives_across_tasks(make: Make) -> None:
    """One task opens it, another uses it, a third closes it; no scope of theirs has an effect."""
    network = MemoryNetwork()
    owner = make(network)
    others = asyncio.all_tasks()

    async def connect() -> None:
        with anyio.move_on_after(1):
            assert await owner.open() is owner
            await ask(owner, network)

    for act in (connect, lambda: anyio.sleep(5), lambda: ask(owner, network), owner.aclose):
        await asyncio.get_running_loop().create_task(act())
        if act is connect:
            name = "pool 'hosted'" if isinstance(owner, ConnectionPool) else "pool 'manager'"
            assert name in {task.get_name() for task in asyncio.all_tasks() - others}
    assert asyncio.all_tasks() == others
    assert network.opened == 1
    await check_ended(owner, network)


@each_kind
async def test_trio_is_told_of_serve(make: Make, anyio_backend_name: str) -> None:
    """There is no task without a task group: the error says what to use, and nothing is begun."""
    if anyio_backend_name != "trio":
        pytest.skip("it is what trio lacks")
    network = MemoryNetwork()
    owner = make(network)
    with pytest.raises(RuntimeError, match=r"await task_group\.start\(pool\.serve\)"):
        await owner.open()
    with pytest.raises(RuntimeError, match="was not opened"):
        await owner.aclose()
    async with owner:
        await ask(owner, network)


async def test_what_a_subclass_adds_to_the_block_is_run(ways: list[str]) -> None:
    """``serve`` and ``open`` run the block that ``async with`` runs, whoever has written it."""
    done: list[str] = []

    class LoggedPool(ConnectionPool):
        @asynccontextmanager
        async def __asynccontextmanager__(self) -> AsyncGenerator[LoggedPool]:
            done.append("before")
            await checkpoint()
            async with super().__asynccontextmanager__():
                yield self
            done.append("after")

    network = MemoryNetwork()
    pool = LoggedPool(network)
    for how in ways:
        async with anyio.create_task_group() as tasks:
            await start(pool, tasks, how)
            await ask(pool, network)
            await pool.aclose()
        await check_ended(pool, network)
    assert done == ["before", "after"] * len(ways)


async def test_a_block_that_fails_to_begin_leaves_nothing(ways: list[str]) -> None:
    """The error leaves from ``serve`` or ``open``, and the pool is as it was before."""

    class PickyPool(ConnectionPool):
        picky = True

        @asynccontextmanager
        async def __asynccontextmanager__(self) -> AsyncGenerator[PickyPool]:
            if self.picky:
                raise LookupError
            async with super().__asynccontextmanager__():
                yield self

    network = MemoryNetwork()
    for how in ways:
        pool = PickyPool(network)
        with pytest.raises(LookupError):
            await (pool.open() if how == "open" else pool.serve())
        pool.picky = False
        async with pool:
            await ask(pool, network)
            with pytest.raises(RuntimeError, match="was not opened"):
                await pool.aclose()


@asyncio_only
async def test_a_pool_closes_with_aclosing() -> None:
    """What is opened so can be closed by the standard library's context manager."""
    network = MemoryNetwork()
    async with aclosing(await make_pool(network).open()) as pool:
        await ask(pool, network)
    await check_ended(pool, network)


@asyncio_only
@each_kind
async def test_an_open_pool_outlives_the_garbage_collection(make: Make) -> None:
    """Its task waits for nothing but aclose(), and is kept all the same."""
    network = MemoryNetwork()
    owner = await make(network).open()
    await settle()
    gc.collect()
    await ask(owner, network)
    await owner.aclose()


# Nothing to test before: asyncio has no eager tasks there.
@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks begin at once since Python 3.12")
@asyncio_only
@each_kind
async def test_a_pool_opens_on_eager_tasks(make: Make) -> None:
    """The block's task may have begun before open() gets it."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009
    network = MemoryNetwork()
    owner = await make(network).open()
    await ask(owner, network)
    await owner.aclose()
    await check_ended(owner, network)


async def check_refused(owner: Owner, ways: list[str]) -> None:
    """Assert that nothing opens or enters a pool that is open."""
    with pytest.raises(RuntimeError, match="already"):
        async with owner:
            pass
    with pytest.raises(RuntimeError, match="is open already"):
        await owner.serve()
    if "open" in ways:
        with pytest.raises(RuntimeError, match="is open already"):
            await owner.open()


@each_kind
async def test_a_pool_that_is_open_is_opened_by_nobody(make: Make, ways: list[str]) -> None:
    """Neither while it is open, nor before all is closed; what was refused has done no harm."""
    for how in (*ways, "async with"):
        network = MemoryNetwork(on_close=delayed(2))
        owner = make(network)
        async with anyio.create_task_group() as tasks:
            if how == "async with":
                async with owner:
                    await check_refused(owner, ways)
                    await ask(owner, network)
                continue
            await start(owner, tasks, how)
            await check_refused(owner, ways)
            await ask(owner, network)
            tasks.start_soon(owner.aclose)
            await anyio.sleep(1)
            await check_refused(owner, ways)
        assert network.opened == 1
        await check_ended(owner, network)


@each_kind
async def test_a_block_that_is_being_left_is_not_entered_again(make: Make) -> None:
    """Nobody opens sockets while others are closing beyond the pool's maximum."""
    network = MemoryNetwork(on_close=delayed(2))
    owner = make(network)

    async def run() -> None:
        async with owner:
            await ask(owner, network)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await anyio.sleep(1)
        with pytest.raises(RuntimeError, match="is open already"):
            await run()
    await run()
    assert network.most_open == 1


@asyncio_only
@each_kind
async def test_two_that_open_at_once_open_one_pool(make: Make) -> None:
    """The second one is refused, and the first has the pool."""
    network = MemoryNetwork()
    owner = make(network)
    results = await asyncio.gather(owner.open(), owner.open(), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == sorted(
        ["RuntimeError", type(owner).__name__]
    )
    await ask(owner, network)
    await owner.aclose()
    await check_ended(owner, network)


@each_kind
async def test_a_pool_can_be_opened_again(make: Make, ways: list[str]) -> None:
    """Whatever way its last block was run."""
    network = MemoryNetwork()
    owner = make(network)
    for how in (*ways, *reversed(ways)):
        async with owner:
            await ask(owner, network)
        async with anyio.create_task_group() as tasks:
            await start(owner, tasks, how)
            await ask(owner, network)
            await owner.aclose()
        await check_ended(owner, network)
    async with owner:
        await ask(owner, network)
    with pytest.raises(PoolClosed, match="has been left: its async with block has ended"):
        await ask(owner, network)


async def test_a_managers_pool_is_opened_by_its_manager_alone(ways: list[str]) -> None:
    """Its own methods refuse, and it goes on."""
    network = MemoryNetwork()
    async with anyio.create_task_group() as tasks, PoolManager() as manager:
        pool = manager.pool(network)
        for how in ways:
            with pytest.raises(RuntimeError, match="lives in its manager's block"):
                await (pool.open() if how == "open" else pool.serve())
        with pytest.raises(RuntimeError, match="a manager"):
            await pool.aclose()
        await ask(pool, network)
        tasks.cancel_scope.cancel()


@each_kind
async def test_aclose_ends_no_block_of_others(make: Make) -> None:
    """Before it was opened, in an ``async with`` block and after one, it says what it is for."""
    network = MemoryNetwork()
    owner = make(network)
    message = r"was not opened: aclose\(\) ends what open\(\) or serve\(\) has begun"
    with pytest.raises(RuntimeError, match=message):
        await owner.aclose()
    async with owner:
        with pytest.raises(RuntimeError, match=message):
            await owner.aclose()
        await ask(owner, network)
    with pytest.raises(RuntimeError, match=message):
        await owner.aclose()


@each_kind
async def test_aclose_gives_borrowers_grace(make: Make, ways: list[str]) -> None:
    """It returns when all is closed: as the end of a block does, after close_timeout at the latest.

    Who waits for a connection meanwhile is told that the pool was closed.
    """
    for how in ways:
        network = MemoryNetwork(answer=lambda data: b"")
        owner = make(network, max_size=1, close_timeout=3)
        began = anyio.current_time()
        borrowed: Any = None
        async with anyio.create_task_group() as tasks:
            await start(owner, tasks, how)
            borrowed = await acquire(owner, network)

            async def wait(owner: Owner = owner, network: MemoryNetwork = network) -> None:
                with pytest.raises(PoolClosed, match="has been closed"):
                    await acquire(owner, network)

            tasks.start_soon(wait)
            await settle()
            await owner.aclose()
        assert anyio.current_time() - began == pytest.approx(3)
        await check_ended(owner, network)
        await borrowed.aclose()


@each_kind
async def test_aclose_may_be_called_by_many_and_often(make: Make, ways: list[str]) -> None:
    """All of them return when the block has ended, those who come later at once."""
    for how in ways:
        network = MemoryNetwork(on_close=delayed(2))
        owner = make(network)
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            await start(owner, tasks, how)
            await ask(owner, network)
            async with anyio.create_task_group() as closers:
                for _ in range(3):
                    closers.start_soon(owner.aclose)
                await anyio.sleep(1)
                await owner.aclose()
                assert network.open_now == 0
            await owner.aclose()
        assert anyio.current_time() - began == pytest.approx(2)


@each_kind
async def test_a_cancelled_aclose_closes_all_the_same(make: Make, ways: list[str]) -> None:
    """Cancelled before its first step or while it waits; another one waits for the rest."""
    for how in ways:
        for patience in (0, 1):
            network = MemoryNetwork(on_close=delayed(2))
            owner = make(network)
            began = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                await start(owner, tasks, how)
                await ask(owner, network)
                with anyio.move_on_after(patience) as scope:
                    await owner.aclose()
                assert scope.cancelled_caught
                with pytest.raises(PoolClosed):
                    await settle()
                    await ask(owner, network)
                await owner.aclose()
            assert anyio.current_time() - began == pytest.approx(2)
            await check_ended(owner, network)


@each_kind
async def test_aclose_is_a_cancellation_point_also_after_the_end(
    make: Make, ways: list[str]
) -> None:
    """As any method of AnyIO's is that may wait."""
    for how in ways:
        owner = make(MemoryNetwork())
        async with anyio.create_task_group() as tasks:
            await start(owner, tasks, how)
            await owner.aclose()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await owner.aclose()
        assert scope.cancelled_caught


async def check_aclose_is_refused(owner: Owner) -> None:
    with pytest.raises(PoolError, match="opened in another event loop or thread: use it"):
        await owner.aclose()


def close_elsewhere(owner: Owner, backend: str) -> None:
    anyio.run(check_aclose_is_refused, owner, backend=backend)


@each_kind
async def test_aclose_in_another_event_loop_is_refused(make: Make, ways: list[str]) -> None:
    """Whatever loop that is, while the block runs and after it; the pool goes on."""
    for how in ways:
        network = MemoryNetwork()
        owner = make(network)

        async with anyio.create_task_group() as tasks:
            await start(owner, tasks, how)
            for backend in ("asyncio", "trio"):
                await anyio.to_thread.run_sync(close_elsewhere, owner, backend)
            await ask(owner, network)
            await owner.aclose()
        await anyio.to_thread.run_sync(close_elsewhere, owner, "asyncio")
