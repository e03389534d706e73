"""What a pool says of itself in words, and what its tasks are called."""

from __future__ import annotations

import os
import re
import threading
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import anyconnpool
from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection, PoolManager
from anyconnpool.testing import virtual_clock_backend
from tests.core.interrupter import Interrupter

from .hooks import answer_ping, reset, slow
from .network import MemoryNetwork, delayed, fill, hang, settle

SECRET = b"a recognisable secret"


def echo_requests(data: bytes) -> bytes:
    return b"" if data == b"PONG\n" else data


async def hold(pool: ConnectionPool[Any], seconds: float) -> None:
    async with pool.acquire():
        await anyio.sleep(seconds)


def rows(pool: ConnectionPool[Any], limit: float = 100) -> list[str]:
    """Return the lines without the figures and without what they say of addresses."""
    return [
        line.strip().replace("None -> None", "it")
        for line in pool.describe(limit=limit).splitlines()[2:]
    ]


async def test_each_connection_is_described_with_what_it_does_and_for_whom() -> None:
    """State, since when, borrower, age, uses; those first that a reader looks for."""
    network = MemoryNetwork(on_close=delayed(5))
    async with ConnectionPool(network, name="shelf", max_size=4, max_connecting=1) as pool:
        await fill(pool, 3)
        await anyio.sleep(2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold, pool, 3, name="reader")
            await settle()
            await anyio.sleep(1)
            pool.retire(where=lambda info: info.age == 3, within=0)
            await settle()
            network.on_connect = hang
            for number in range(3):
                tasks.start_soon(hold, pool, 1, name=f"late {number}")
                await settle()
            await anyio.sleep(0.5)
            assert pool.describe().splitlines()[:2] == [
                "pool 'shelf': connections: 4 of 4 (0 idle, 1 in use, 1 connecting, 2 closing), "
                "tasks waiting: 3",
                "  peaks: 3 in use, 3 tasks waiting",
            ]
            assert rows(pool) == [
                "in use for 1.5 s by task 'reader': it, open for 3.5 s, borrowed 2 times",
                "being opened for 0.5 s",
                *["being closed: retired: it, open for 3.5 s, borrowed once"] * 2,
                *[f"task 'late {number}' has been waiting for 0.5 s" for number in range(3)],
            ]
            tasks.cancel_scope.cancel()


async def test_an_idle_one_and_hooks_at_work_are_described() -> None:
    """A hook says which one it is; a login shows that the connection itself is there."""

    async def log_in(connection: PooledConnection) -> None:
        await anyio.sleep(7)

    network = MemoryNetwork(answer=echo_requests)
    async with ConnectionPool(
        network,
        on_connect=log_in,
        on_release=slow(reset, 1),
        on_unread=slow(answer_ping, 1),
        check=slow(reset, 1),
        check_after=9,
    ) as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold, pool, 1)
            await anyio.sleep(6.5)
            assert rows(pool) == [
                "being opened for 6.5 s: it, in on_connect",
                f"task {hold.__module__ + '.hold'!r} has been waiting for 6.5 s",
            ]
        await anyio.sleep(0.5)
        assert rows(pool) == ["in on_release for 0.5 s: it, open for 8.5 s, borrowed once"]
        await anyio.sleep(1)
        network.peers[0].push(b"PING\n")
        seen: set[str] = set()
        for _ in range(15):
            # It is the sweep that sees it.
            await anyio.sleep(0.5)
            seen.add(rows(pool)[0][:14])
        assert "in on_unread f" in seen
        (row,) = rows(pool)
        assert re.fullmatch(r"idle for .* s: it, open for .* s, borrowed once", row)


async def test_an_attempt_that_goes_on_at_another_replica_is_in_no_hook() -> None:
    """What on_connect has refused at the first is closed, and the second doesn't answer.

    Who has kept the refused connection can still say what it was.
    """
    kept: list[PooledConnection] = []

    async def refuse(connection: PooledConnection) -> None:
        kept.append(connection)
        raise anyio.ConnectionFailed("not here")

    remotes = [MemoryNetwork(), MemoryNetwork(hang)]
    async with (
        ConnectionPool(remotes, on_connect=refuse) as pool,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(hold, pool, 1)
        await settle()
        assert rows(pool)[0] == "being opened for 0.0 s"
        assert "given back" in repr(kept[0])
        with pytest.raises(AcquireTimeout) as caught:
            await pool.acquire(timeout=1)
        assert caught.value.running_hooks == {}
        tasks.cancel_scope.cancel()


async def test_what_is_not_fit_to_be_read_is_left_out_or_escaped() -> None:
    """Neither data nor sessions nor the texts of hooks' errors; no control character of a name."""

    async def log_in(connection: PooledConnection) -> bytes:
        return SECRET

    async def refuse(connection: PooledConnection) -> bytes:
        raise anyio.EndOfStream(SECRET)

    network, text = MemoryNetwork(), ""
    bad = "evil\x1b[2J\nname"
    async with (
        ConnectionPool(network, name=bad, on_connect=log_in) as pool,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(hold, pool, 1, name=bad)
        async with pool.acquire() as connection:
            await connection.send(SECRET)
            await settle()
            text = pool.describe()
    async with ConnectionPool(network, name=bad, on_connect=refuse) as refused:
        with pytest.raises(anyio.EndOfStream):
            await refused.acquire()
        text = f"{text}\n{refused.describe()}"
    assert "connecting has failed for 0.0 s: EndOfStream" in text
    assert "recognisable" not in text
    assert text.replace("\n", "").isprintable()
    assert len(text.splitlines()) == 7


async def test_where_it_was_borrowed_is_said_if_that_is_noted() -> None:
    """With leak_after, the line of a borrow names the file; of one that is handed on it doesn't."""
    async with (
        ConnectionPool(MemoryNetwork(), max_size=1, leak_after=100) as pool,
        anyio.create_task_group() as tasks,
    ):
        async with pool.acquire():
            assert f" at {__file__}:" in rows(pool)[0]
            tasks.start_soon(hold, pool, 1)
            await settle()
        assert rows(pool)[0].startswith("in use for 0.0 s by a task that is about to run: it")
        await settle()
        assert " in hold: it" in rows(pool)[0]


async def test_a_connection_that_exchanges_share_has_no_borrower() -> None:
    """How many share it is said instead; each of them is a use."""
    network = MemoryNetwork(answer=lambda data: b"")
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        anyio.create_task_group() as tasks,
    ):
        for expected in ("one exchange: it", "2 exchanges that share it: it"):
            tasks.start_soon(pool.send_receive, b"x", 1)
            await settle()
            assert rows(pool)[0].startswith(f"in use for 0.0 s by {expected}")
        network.peers[0].push(b"xx")
        await settle()
        assert rows(pool) == ["idle for 0.0 s: it, open for 0.0 s, used 2 times"]
        tasks.start_soon(partial(hold, pool, 1), name="borrower")
        await settle()
        assert "by task 'borrower': it" in rows(pool)[0]


async def test_a_description_has_a_limit() -> None:
    """Of connections and of tasks so many are shown, and the others are counted."""
    async with ConnectionPool(MemoryNetwork(), max_size=3) as pool:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(hold, pool, 1)
            await settle()
            assert len(rows(pool)) == len(rows(pool, 3)) == 5
            assert len(rows(pool, 2)) == 5
            assert rows(pool, 2)[2] == "and 1 connections more"
            assert rows(pool, 0) == ["and 3 connections more", "and 2 tasks more"]
        for wrong in (-1, 1.5, True, "1"):
            with pytest.raises((TypeError, ValueError), match="limit"):
                pool.describe(limit=wrong)  # type: ignore[arg-type]


async def test_a_pool_can_be_described_at_any_time_and_from_any_thread() -> None:
    """Before, in and after its block."""
    pool = ConnectionPool(MemoryNetwork(), name="shelf")
    seen: list[str] = []

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(pool.describe()))
        thread.start()
        thread.join()

    look()
    async with pool, pool.acquire():
        look()
    look()
    assert seen[0] == "pool 'shelf': not entered"
    assert "\n  in use for" in seen[1]
    assert seen[2].startswith("pool 'shelf': connections: 0 of 10 (0 idle")


async def test_another_thread_never_sees_a_change_half_made() -> None:
    """It waits until the event under way is over."""
    async with ConnectionPool(MemoryNetwork()) as pool:
        machine = pool._machine  # pyright: ignore[reportPrivateUsage]
        assert machine is not None
        seen: list[str] = []
        thread = threading.Thread(target=lambda: seen.append(pool.describe()))
        with machine.event_lock.lock:
            thread.start()
            thread.join(0.1)
            assert thread.is_alive()
        thread.join(30)
        assert seen

        def try_to_interfere() -> bool:
            taken: list[bool] = []
            lock = machine.event_lock.lock
            other = threading.Thread(target=lambda: taken.append(lock.acquire(blocking=False)))
            other.start()
            other.join()
            return taken[0]

        # The lines of the connections are those that the figures speak of.
        _, interfered = machine.snapshot(lambda: 0.0, try_to_interfere)
        assert not interfered


async def test_a_manager_describes_its_pools() -> None:
    """One after the other, with the sum and the maximum before them."""
    first, second = MemoryNetwork(), MemoryNetwork()
    async with PoolManager(max_total=5) as manager:
        assert manager.describe() == "manager: pools: 0, connections: 0 of 5"
        await fill(manager.pool(first), 2)
        await fill(manager.pool(second), 1)
        lines = manager.describe().splitlines()
        assert lines[0] == "manager: pools: 2, connections: 3 of 5"
        assert len([line for line in lines if line.startswith("  idle for")]) == 3
        assert len(manager.describe(limit=1).splitlines()) == 8


async def test_the_tasks_of_a_pool_say_what_they_do() -> None:
    """For which pool, what, and on which connection: whoever lists a program's tasks sees it."""
    network = MemoryNetwork(delayed(1), delayed(1), echo_requests)
    hooks: dict[str, Any] = {
        name: slow(hook, 1)
        for name, hook in (("check", reset), ("on_release", reset), ("on_unread", answer_ping))
    }
    seen: set[str] = set()

    def look() -> None:
        names = [task.name or "" for task in anyio.get_running_tasks()]
        seen.update(name.partition(": ")[2] for name in names if name.startswith("pool "))
        assert all(name.startswith("pool 'shelf\\\\n'") for name in names if "pool " in name)

    async with ConnectionPool(network, name="shelf\n", check_after=3, **hooks) as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold, pool, 1)
            await anyio.sleep(0.5)
            look()
        await anyio.sleep(0.5)
        look()
        await anyio.sleep(10)
        network.peers[0].push(b"PING\n")
        for _ in range(20):
            # It is the sweep that sees it.
            await anyio.sleep(0.5)
            look()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold, pool, 0)
            await anyio.sleep(0.05)
            look()
        await anyio.sleep(3)
        pool.retire()
        await settle()
        look()
    on = "on None -> None"
    assert seen == {
        "housekeeper",
        "waiting for what is due later",
        "opening a connection",
        *(f"running {hook} {on}" for hook in ("check", "on_release", "on_unread")),
        "closing None -> None, retired",
    }


async def test_the_tasks_of_a_manager_say_what_they_do() -> None:
    """Its sweep is told from the tasks of its pools."""
    network = MemoryNetwork()
    async with PoolManager() as manager:
        await fill(manager.pool(network), 1)
        names = [task.name for task in anyio.get_running_tasks()]
        assert "pool 'manager': dropping unused pools" in names
        assert f"pool {manager.pool(network).name!r}: housekeeper" in names


# The state machine's lines, in the middle of which a signal may come.
_CORE = os.fspath(Path(anyconnpool.__file__).parent / "_core")


async def play(step: int) -> Interrupter:
    """Use a pool that is described at a step of its state machine."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=2, on_release=reset) as pool:
        with Interrupter(_CORE, step, pool.describe) as interrupter:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(hold, pool, 1)
                await settle()
                with anyio.move_on_after(0.5):
                    await pool.acquire()
            (await pool.acquire()).discard()
            pool.retire()
            await anyio.sleep(1)
        assert pool.statistics().size == network.open_now == 0
    return interrupter


@pytest.mark.newest
@pytest.mark.timeout(600)
def test_a_signal_handler_can_have_the_pool_described_in_the_middle_of_a_change() -> None:
    """At each line of the state machine, once; nothing is changed by it."""
    name, options = virtual_clock_backend("asyncio")
    places = anyio.run(play, 0, backend=name, backend_options=options).places
    first = {place: step for step, place in reversed([*enumerate(places, 1)])}
    for step in first.values():
        anyio.run(partial(play, step), backend=name, backend_options=options)
    assert len(first) > 150
