"""Mistakes of a pool's users that it helps to find: what is never given back, entered or left."""

from __future__ import annotations

import gc
import logging
import re
import subprocess
import sys
import warnings
import weakref
from typing import Any, cast

import anyio
import pytest

from anyconnpool import AcquireTimeout, ConnectionPool, PoolManager
from tests.cases import table

from .network import MemoryNetwork, fill


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings, with what differs from run to run left out."""
    return [
        re.sub(r" at \S*/test_leaks\.py:\d+ in ", " here in ", record.getMessage()).replace(
            "None -> None", "it"
        )
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]


async def borrow(pool: ConnectionPool, seconds: float) -> None:
    async with pool.acquire():
        await anyio.sleep(seconds)


async def test_a_leak_is_told_once_a_borrow(caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the task that borrowed, since when, and where."""
    async with (
        ConnectionPool(MemoryNetwork(), name="dripping", leak_after=10) as pool,
        anyio.create_task_group() as tasks,
    ):
        for seconds in (9, 25):
            tasks.start_soon(borrow, pool, seconds, name=f"for {seconds} s")
        await anyio.sleep(30)
        first = warned(caplog)
        await borrow(pool, 60)
        assert first == [
            "pool dripping: it was borrowed 10.0 s ago by task 'for 25 s' here in borrow and has "
            "not been given back for leak_after, 10 s"
        ]
        assert len(warned(caplog)) == 2


@pytest.mark.parametrize("way", ["connect", "exchange", "nowait"])
async def test_the_place_is_the_callers(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """However the connection was borrowed, the place is outside of this package."""
    network = MemoryNetwork(answer=lambda request: b"")
    async with ConnectionPool(network, name="dripping", leak_after=1) as pool:
        await fill(pool, 1)
        if way == "exchange":
            with anyio.move_on_after(3):
                await pool.send_receive_line(b"x")
        else:
            connection = await pool.connect() if way == "connect" else pool.acquire_nowait()
            await anyio.sleep(3)
            await connection.aclose()
    (warning,) = warned(caplog)
    assert "here in test_the_place_is_the_callers and" in warning


async def test_names_that_a_terminal_would_obey_are_escaped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those of tasks, and those of files, which may come from anywhere."""
    found: dict[str, Any] = {"sleep": anyio.sleep}
    program = "async def borrow(pool):\n async with pool.acquire():\n  await sleep(3)"
    exec(compile(program, "evil\x1b[2J.py", "exec"), found)
    async with (
        ConnectionPool(MemoryNetwork(), leak_after=1) as pool,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(found["borrow"], pool, name="evil\x1b]0;\n")
    (warning,) = warned(caplog)
    assert warning.isprintable()
    assert r"by task 'evil\x1b]0;\n' at evil\x1b[2J.py:2 in borrow" in warning


async def test_without_leak_after_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A borrow may last as long as it likes."""
    async with ConnectionPool(MemoryNetwork()) as pool:
        await borrow(pool, 10_000)
    assert not warned(caplog)


async def test_what_is_not_given_back_at_the_end_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who keeps a connection beyond the grace of the pool's end is named in a warning."""
    async with anyio.create_task_group() as tasks:
        async with ConnectionPool(MemoryNetwork(), name="ending", close_timeout=5) as pool:
            tasks.start_soon(borrow, pool, 3, name="just in time")
            tasks.start_soon(borrow, pool, 60, name="too long")
            await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert warned(caplog) == [
        "pool ending: it was borrowed 6.0 s ago by task 'too long' and is still borrowed at the "
        "end of the pool's block: it is closed now"
    ]


async def test_an_exchange_that_never_ends_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Also on an idle connection of a stream that is not of the pool's own."""
    network = MemoryNetwork(answer=lambda request: b"")

    async def ask() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await pool.send_receive_line(b"x")

    async with (
        anyio.create_task_group() as tasks,
        ConnectionPool(network, name="ending", close_timeout=5) as pool,
    ):
        await fill(pool, 1)
        tasks.start_soon(ask, name="too long")
        await anyio.sleep(1)
    (warning,) = warned(caplog)
    assert "by task 'too long'" in warning


async def test_nobody_is_blamed_if_the_block_was_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Then the borrowers had no grace to give anything back."""
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with ConnectionPool(MemoryNetwork()) as pool:
                tasks.start_soon(borrow, pool, 60)
                await anyio.sleep(1)
                scope.cancel()
                await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert not warned(caplog)


async def test_a_task_that_waits_for_itself_is_told() -> None:
    """A timeout says how many of the connections the waiting task holds, and nobody else's."""
    async with (
        ConnectionPool(MemoryNetwork(), max_size=3) as pool,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(borrow, pool, 5)
        await anyio.sleep(1)
        async with pool.acquire(), pool.acquire():
            with pytest.raises(AcquireTimeout) as caught:
                await pool.acquire(timeout=1)
        assert caught.value.held == 2
        assert str(caught.value).endswith(
            "; the waiting task itself holds 2 of those in use: give them back first"
        )


async def test_a_holding_is_counted_again_when_it_has_changed() -> None:
    """What a task gave back or borrowed since the last timeout is in the count of the next."""
    async with ConnectionPool(MemoryNetwork(), max_size=2) as pool:
        counts: list[int] = []

        async def run_out_of_time() -> None:
            with pytest.raises(AcquireTimeout) as caught:
                await pool.acquire(timeout=1)
            counts.append(caught.value.held)

        async with pool.acquire() as first, anyio.create_task_group() as tasks:
            async with pool.acquire():
                await run_out_of_time()
            tasks.start_soon(borrow, pool, 5)
            await anyio.sleep(1)
            await run_out_of_time()
            await first.aclose()
            tasks.start_soon(borrow, pool, 5)
            await anyio.sleep(1)
            await run_out_of_time()
    assert counts == [2, 1, 0]


async def test_a_borrower_is_forgotten_when_it_has_given_back() -> None:
    """An idle connection doesn't keep the task alive that used it last."""
    async with ConnectionPool(MemoryNetwork()) as pool:
        seen: list[weakref.ref[Any]] = []

        async def use() -> None:
            async with pool.acquire() as connection:
                entry = connection._entry  # pyright: ignore[reportPrivateUsage]
                seen.append(weakref.ref(cast("Any", entry.borrower)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use)
        await anyio.sleep(1)
        gc.collect()
        assert seen[0]() is None


NEGLECT = """
import asyncio, gc, warnings
from anyconnpool import ConnectionPool, PoolManager
warnings.simplefilter("always")

def never_leave(make):
    async def enter():
        await make().__aenter__()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(enter())
    # As asyncio.run() does; it would also end the block, with an error.
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.wait(tasks))

{}
gc.collect()
"""


@table(
    "deed, warning",
    [
        (
            'ConnectionPool(("127.0.0.1", 9))',
            "<ConnectionPool 'tcp://127.0.0.1:9'> was never entered",
        ),
        ("PoolManager()", "<PoolManager of 0 pools> was never entered"),
        (
            'never_leave(lambda: ConnectionPool(("127.0.0.1", 9)))',
            "<ConnectionPool 'tcp://127.0.0.1:9'> was never left",
        ),
        ("never_leave(PoolManager)", "<PoolManager of 0 pools> was never left"),
    ],
)
def test_a_block_that_is_missing_or_never_ends_is_warned_of(deed: str, warning: str) -> None:
    """A pool that nobody entered or left gives a ResourceWarning when it goes away."""
    done = subprocess.run(
        [sys.executable, "-c", NEGLECT.format(deed)], capture_output=True, text=True, check=False
    )
    assert f'ResourceWarning: {warning}: use it with "async with"' in done.stderr


async def test_who_does_it_right_gets_no_warning() -> None:
    """Neither a pool that was left, nor one of a manager, nor one with wrong settings warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with ConnectionPool(MemoryNetwork()) as pool:
            await fill(pool, 1)
        async with PoolManager() as manager:
            await manager.send_receive_line(MemoryNetwork(), b"x")
        with pytest.raises(ValueError, match="max_size"):
            ConnectionPool(MemoryNetwork(), max_size=0)
        with pytest.raises(ValueError, match="max_size"):
            PoolManager(max_size=0)
        del pool, manager
        gc.collect()
