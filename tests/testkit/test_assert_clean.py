"""The assertion for the end of a test."""

from __future__ import annotations

import anyio
import pytest

from anyconnpool import ConnectionPool, FramedStream, PooledConnection, PoolManager
from anyconnpool.testing import MemoryConnectable, assert_clean
from tests.sockets.checks import eventually

from .peers import answer_lines


async def test_a_pool_that_nobody_uses_is_clean() -> None:
    """Before, in and after its block, with idle connections and right after a release."""
    async with MemoryConnectable(answer_lines) as remote:
        pool = ConnectionPool(remote)
        assert_clean(pool)
        async with pool:
            assert_clean(pool)
            async with pool.acquire() as connection:
                await connection.send_line(b"no reply is read, so that it has to be closed")
            assert_clean(pool)
            await pool.send_receive_line(b"hello")
            assert_clean(pool)
        assert_clean(pool)


async def test_a_pool_whose_hooks_are_at_work_is_clean() -> None:
    """To give back is all that its users have to do; peers in memory hear of the farewell."""
    heard: list[bytes] = []

    async def answer(stream: FramedStream) -> None:
        while True:
            heard.append(await stream.receive_line())
            await stream.send_line(heard[-1])

    async def reset(connection: PooledConnection) -> None:
        await connection.send_receive_line(b"RESET")

    async def say_bye(connection: PooledConnection) -> None:
        await connection.send_receive_line(b"QUIT")

    async with MemoryConnectable(answer) as remote:
        async with ConnectionPool(remote, on_release=reset, on_close=say_bye) as pool:
            await pool.send_receive_line(b"hello")
            assert pool.statistics().connecting == 1
            assert_clean(pool)
            await eventually(lambda: pool.statistics().idle)
        assert_clean(pool)
        assert heard == [b"hello", b"RESET", b"QUIT"]


async def test_what_is_still_borrowed_is_named() -> None:
    """With the pool's name, and its statistics."""
    async with (
        MemoryConnectable(answer_lines) as remote,
        ConnectionPool(remote, name="backend") as pool,
    ):
        borrowed = [await pool.acquire()]
        with pytest.raises(AssertionError, match=r"^pool backend: 1 connection is still borr"):
            assert_clean(pool)
        borrowed.append(await pool.acquire())
        with pytest.raises(AssertionError, match=r"2 connections are still borrowed\n.*in_use"):
            assert_clean(pool)
        for connection in borrowed:
            await connection.aclose()
        assert_clean(pool)


async def test_who_still_waits_is_counted() -> None:
    """A task that waits for a connection was forgotten, or will never get one."""
    async with MemoryConnectable(answer_lines) as remote:
        async with (
            ConnectionPool(remote, max_size=1) as pool,
            anyio.create_task_group() as tasks,
            pool.acquire(),
        ):
            tasks.start_soon(pool.send_receive_line, b"hello")
            await eventually(lambda: pool.statistics().tasks_waiting)
            with pytest.raises(AssertionError, match="borrowed, 1 task is still waiting for"):
                assert_clean(pool)
            tasks.cancel_scope.cancel()
        assert_clean(pool)


async def test_what_the_end_of_the_block_had_to_seize_is_told_after_it() -> None:
    """A connection that was never given back doesn't go unnoticed with its pool."""
    async with MemoryConnectable(answer_lines) as remote:
        async with ConnectionPool(remote, close_timeout=0) as pool:
            await pool.acquire()
        with pytest.raises(AssertionError, match="1 connection is still borrowed at the end of"):
            assert_clean(pool)


async def test_a_manager_answers_for_all_its_pools() -> None:
    """Each pool that is not clean has its own line."""
    async with (
        MemoryConnectable(answer_lines) as one,
        MemoryConnectable(answer_lines) as other,
        PoolManager() as manager,
    ):
        assert_clean(manager)
        await manager.send_receive_line(one, b"hello")
        assert_clean(manager)
        async with manager.acquire(one), manager.acquire(other):
            with pytest.raises(AssertionError) as caught:
                assert_clean(manager)
            assert str(caught.value).count("1 connection is still borrowed") == 2
        assert_clean(manager)


async def test_only_a_pool_or_a_manager_can_be_asserted_clean() -> None:
    """Anything else, such as the remote, is a mistake in the test."""
    with pytest.raises(TypeError, match="a pool or a manager, not <object"):
        assert_clean(object())  # type: ignore[arg-type]
