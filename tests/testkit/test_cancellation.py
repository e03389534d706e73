"""A remote in memory whose block is cancelled at any turn of the event loop."""

from __future__ import annotations

import asyncio
import gc

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from anyconnpool.testing import MemoryConnectable, ScriptedPeer, assert_clean

from .peers import answer_lines, say_nothing

_TURNS = 150


class Life:
    """Enter a remote in memory and a pool, make exchanges of all kinds, and leave."""

    def __init__(self) -> None:
        self.remote = MemoryConnectable(answer_lines)
        self.stuck = MemoryConnectable(say_nothing)
        self.scripted = MemoryConnectable(ScriptedPeer([(b"A\n", b"1\n"), (b"B\n", b"2\n")]))
        self.pool = ConnectionPool(self.remote)
        self.ended = False

    async def run(self) -> None:
        async with self.remote, self.stuck, self.scripted, self.pool as pool:
            assert await pool.send_receive_line(b"hello") == b"> hello"
            async with await self.stuck.connect() as client:
                with anyio.move_on_after(0):
                    await client.send(bytes(1_000_000))
            async with ConnectionPool(self.scripted) as scripted:
                for line in (b"A", b"B"):
                    await scripted.send_receive_line(line)
        self.ended = True

    def check(self) -> None:
        """Assert that nothing is left."""
        assert_clean(self.pool)
        remotes = (self.remote, self.stuck, self.scripted)
        assert [remote.open_now for remote in remotes] == [0, 0, 0]


async def test_a_life_ends_by_itself() -> None:
    """What the tests here cancel would come to its end, in fewer turns than they try."""
    life = Life()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(life.run)
        for _ in range(_TURNS):
            await checkpoint()
        assert life.ended
    life.check()


async def test_a_cancellation_at_any_turn_leaves_nothing() -> None:
    """Neither an error, nor a connection."""
    for turns in range(_TURNS):
        life = Life()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(life.run)
            for _ in range(turns):
                await checkpoint()
            tasks.cancel_scope.cancel()
        life.check()


# A task that asyncio cancels before its first step leaves a coroutine that was never awaited.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("blow", ["the block's task", "every task"])
async def test_a_native_cancellation_at_any_turn_leaves_nothing(
    anyio_backend_name: str, blow: str
) -> None:
    """Neither a task, nor a connection; the task that was cancelled ends as cancelled."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no other cancellation")
    others = asyncio.all_tasks()
    # Coroutines are to be collected where it is known of their warnings, not anywhere.
    gc.disable()
    try:
        for turns in range(_TURNS):
            life = Life()
            task = asyncio.create_task(life.run())
            for _ in range(turns):
                await checkpoint()
            ended = task.done()
            for struck in asyncio.all_tasks() - others if blow == "every task" else {task}:
                struck.cancel()
            await asyncio.wait({task})
            assert ended or task.cancelled()
            assert asyncio.all_tasks() == others
            life.check()
    finally:
        gc.collect()
        gc.enable()
