"""Attempts, checks, pauses and goodbyes that hang hold up nobody while room is there or made."""

from __future__ import annotations

import logging
import math
from operator import attrgetter

import anyio
import pytest
from anyio.abc import TaskGroup

from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection, PoolManager, Retry
from tests.cases import table

from .flaky import STEADY, Remote
from .network import MemoryNetwork, check_books, delayed, fill, hang, number_of, settle


async def hang_first(number: int) -> None:
    """Let the first one hang."""
    if number == 1:
        await hang()


@table("where", ["connecting", "logging in"])
async def test_a_first_attempt_that_hangs_holds_up_its_own_caller_only(where: str) -> None:
    """The callers come one after the other; each of the others is served at once."""

    async def log_in(connection: PooledConnection) -> None:
        await hang_first(number_of(connection))

    connects = where == "connecting"
    network = MemoryNetwork(hang_first if connects else None)
    began = anyio.current_time()
    async with ConnectionPool(network, on_connect=None if connects else log_in) as pool:
        with pytest.raises(AcquireTimeout):
            await pool.acquire(timeout=0.5)
        for _ in range(9):
            await pool.acquire(timeout=0.5)
        assert anyio.current_time() - began == pytest.approx(0.5)
        assert (pool.statistics().in_use, pool.statistics().connecting) == (9, 1)
        with pytest.raises(AcquireTimeout):
            await pool.acquire(timeout=0.5)
        # Its slot is free when it has failed, for nobody.
        await pool.acquire(timeout=40)
        assert anyio.current_time() - began == pytest.approx(30)
        assert pool.statistics().open_failed == 1


async def test_who_comes_soon_after_relies_on_the_attempt_for_a_tenth_of_a_second() -> None:
    """Then it gets one of its own."""
    network = MemoryNetwork(hang_first)
    async with ConnectionPool(network) as pool:
        with anyio.move_on_after(0.04):
            await pool.acquire()
        async with pool.acquire():
            assert anyio.current_time() == pytest.approx(0.1)
        assert network.attempts == 2


async def test_a_newcomer_whose_attempt_succeeds_helps_a_thousand_whose_attempts_hang() -> None:
    """Its connection goes to who has waited longest, and so on: all are served, in order."""
    network, served = (
        MemoryNetwork(lambda number: anyio.sleep(60 if number <= 1000 else 0)),
        list[int](),
    )

    async def ask(number: int) -> None:
        await pool.acquire()
        served.append(number)

    async with ConnectionPool(network, max_size=math.inf, close_timeout=0) as pool:
        async with anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(ask, number)
                await settle(1)
            await anyio.sleep(1)
            tasks.start_soon(ask, 1000)
        assert served == list(range(1001))
        assert anyio.current_time() == pytest.approx(1)


@table("max_size", [10, 11])
async def test_checks_that_hang_cost_a_tenth_of_a_second(max_size: int) -> None:
    """Behind a firewall that has forgotten them: with room one is opened beside, or one gives way.

    The one that has rested longest goes without a farewell, which nobody would hear.
    """
    network = MemoryNetwork(on_close=hang)
    async with ConnectionPool(network, check=lambda _: hang(), max_size=max_size) as pool:
        await fill(pool, 10)
        await anyio.sleep(60)
        gone = list[int]()
        for turn in range(3):
            began = anyio.current_time()
            connection = await pool.acquire(timeout=1)
            assert not connection.reused
            assert anyio.current_time() - began == pytest.approx(0.1)
            gone = [peer.number for peer in network.peers if peer.client.closed]
            assert gone == [*range(1, turn + 12 - max_size)]
        assert pool.statistics().closed == {"gave_way": len(gone)}
        assert network.most_open == max_size


async def test_one_request_has_one_connection_checked() -> None:
    """A request now and then keeps none of the others alive: they expire."""
    network, asked = MemoryNetwork(), list[int]()

    async def ping(connection: PooledConnection) -> None:
        asked.append(number_of(connection))

    async with ConnectionPool(network, check=ping, check_after=10, max_idle_time=50) as pool:
        await fill(pool, 8)
        for request in range(4):
            await anyio.sleep(11)
            await pool.send_receive_line(b"a")
            assert len(asked) == request + 1
        await anyio.sleep(11)
        assert pool.statistics().idle == 1
        assert pool.statistics().closed == {"max_idle_time": 7}


async def test_a_pause_of_one_remote_leaves_the_room_to_the_others() -> None:
    """Though its callers wait on, and pay no attention to how long the pause is."""
    down, up = Remote(), MemoryNetwork()
    retry = Retry(math.inf, interval=60, jitter=0)

    async def ask() -> None:
        with pytest.raises(AcquireTimeout):
            await manager.acquire(down.network, timeout=40)

    async with PoolManager(max_total=1, connect_retry=retry) as manager:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
            await settle()
            assert await manager.send_receive(up, b"ping", 4, timeout=1) == b"ping"
            assert anyio.current_time() == 0
        assert down.dialled_at == [0]


async def test_a_newcomer_does_not_wait_out_the_pause_of_others() -> None:
    """The server is back: it is served at once, and so are those who wait."""
    remote = Remote()
    retry = Retry(math.inf, interval=60, jitter=0)
    async with remote.pool(retry) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(pool.send_receive_line, b"a")
        await anyio.sleep(5)
        remote.down = False
        await pool.send_receive_line(b"b", timeout=1)
        assert anyio.current_time() == pytest.approx(5)
        await settle()
        assert pool.statistics().tasks_waiting == 0


@table("how", ["retire", "give way"])
async def test_nobody_waits_for_a_goodbye(how: str) -> None:
    """Of a peer that is frozen: whoever needs the slot gets it at once."""
    frozen, well = MemoryNetwork(on_close=hang), MemoryNetwork()
    async with PoolManager(max_total=2, close_timeout=9) as manager:
        await fill(manager.pool(frozen), 2)
        if how == "retire":
            manager.pool(frozen).retire()
            await anyio.sleep(1)
            assert frozen.closed == 0, "nobody needs the room yet"
        began = anyio.current_time()
        async with manager.acquire(well, timeout=1):
            assert frozen.closed == 1
        async with manager.acquire(frozen, timeout=1), manager.acquire(well, timeout=1):
            assert anyio.current_time() == began


async def test_what_is_closed_is_not_kept() -> None:
    """Neither to be hurried, nor else: a pool that lives for long doesn't grow."""
    network = MemoryNetwork(on_close=delayed(1))
    async with ConnectionPool(network) as pool:
        await fill(pool, 3)
        pool.retire()
        await settle()
        graces: dict[object, object] = attrgetter("_leasing._connection_tasks._graces")(pool)
        graceful: dict[object, object] = attrgetter("_machine._group.graceful")(pool)
        assert len(graces) == len(graceful) == 3
        await anyio.sleep(2)
        assert not graces
        assert not graceful


async def hold_up(manager: PoolManager, tasks: TaskGroup, network: MemoryNetwork) -> None:
    """Have a caller wait for an attempt that hangs."""

    async def ask() -> None:
        with pytest.raises(AcquireTimeout):
            await manager.acquire(network, timeout=20)

    tasks.start_soon(ask)
    await settle()


async def test_attempts_of_one_remote_that_hang_leave_the_rest_of_the_room() -> None:
    """Each holds one place of ``max_total``; what is left serves the others."""
    stuck, well = MemoryNetwork(hang), MemoryNetwork()
    async with PoolManager(max_total=3) as manager, anyio.create_task_group() as tasks:
        await hold_up(manager, tasks, stuck)
        await hold_up(manager, tasks, stuck)
        for _ in range(3):
            async with manager.acquire(well, timeout=1):
                assert anyio.current_time() == 0
        # A third one makes the idle connection give way, and the next place that is free is ours.
        await hold_up(manager, tasks, stuck)
        await anyio.sleep(15)
        async with manager.acquire(well, timeout=16):
            assert anyio.current_time() == pytest.approx(30)


async def test_a_lowered_maximum_counts_what_hangs() -> None:
    """Attempts hold their slots until they end; raised again, it lets the next one through."""
    network = MemoryNetwork(hang)
    async with ConnectionPool(network, max_size=2, connect_timeout=5) as pool:
        for _ in range(2):
            with pytest.raises(AcquireTimeout):
                await pool.acquire(timeout=0.5)
        network.on_connect = None
        pool.max_size = 1
        with pytest.raises(AcquireTimeout):
            await pool.acquire(timeout=0.5)
        pool.max_size = 3
        async with pool.acquire(timeout=0.5):
            assert anyio.current_time() == pytest.approx(1.5)
        pool.max_size = 1
        await anyio.sleep(5)
        await check_books(pool, network)


async def test_who_waits_for_readiness_is_served_beside_callers_whose_attempts_hang() -> None:
    """What was opened for those is no spare, and what hangs is none of its errors."""
    network = MemoryNetwork(hang_first)
    async with (
        ConnectionPool(network, connect_timeout=9) as pool,
        anyio.create_task_group() as tasks,
    ):
        with anyio.move_on_after(1):
            await pool.acquire()
        tasks.start_soon(pool.wait_ready)
        await pool.send_receive_line(b"a", timeout=0.1)
        await pool.wait_ready()
        assert anyio.current_time() == pytest.approx(1)


async def hanging(connection: PooledConnection) -> None:
    await hang()


async def test_with_connect_retry_a_check_that_hangs_holds_up_no_attempt() -> None:
    """While attempts take turns, it counts as one for a tenth of a second."""
    remote = Remote(down=False)
    async with remote.pool(STEADY, check=hanging, max_size=3) as pool:
        await fill(pool, 2)
        await anyio.sleep(60)
        remote.down = True
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(remote.be_back_after, 1.5)
            async with pool.acquire():
                # After a tenth of a second, one and two seconds: it is back before the last.
                assert anyio.current_time() - began == pytest.approx(2.1)


async def test_spares_that_a_server_ends_after_a_while_are_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An idle timeout of twenty seconds is normal life: they are replaced, without a warning."""
    network = MemoryNetwork()
    with caplog.at_level(logging.INFO):
        async with ConnectionPool(network, min_idle=2) as pool:
            await pool.wait_ready()
            for _ in range(3):
                await anyio.sleep(20)
                for peer in network.peers:
                    peer.hang_up()
                await anyio.sleep(5.1)
                await pool.wait_ready()
            assert network.opened == 8
    assert [record.message for record in caplog.records if record.levelno >= logging.INFO] == []
