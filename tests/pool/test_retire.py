"""Connections that are replaced: which ones, and when."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionInfo, ConnectionPool, PooledConnection, PoolManager

from .network import MemoryNetwork, check_books, fill, hang, number_of, settle


async def test_where_chooses_among_all_that_is_open() -> None:
    """Idle ones are closed now, those in use when they come back; the others stay."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        connections: list[PooledConnection] = []
        for _ in range(4):
            connections.append(await pool.acquire())
            await anyio.sleep(1)
        for connection in connections[2:]:
            await connection.aclose()
        seen: list[ConnectionInfo] = []

        def is_old(info: ConnectionInfo) -> bool:
            seen.append(info)
            return info.age in (4, 2)

        pool.retire(where=is_old)
        expected = [ConnectionInfo(None, None, age, None, network) for age in (4.0, 3.0, 2.0, 1.0)]
        assert sorted(seen, key=lambda info: -info.age) == expected
        await settle()
        assert pool.statistics().closed == {"retired": 1}
        for connection in connections[:2]:
            await connection.aclose()
        await settle()
        assert pool.statistics().closed == {"retired": 2}
        assert [peer.client.closed for peer in network.peers] == [True, False, True, False]
        await check_books(pool, network)


async def test_where_sees_what_hooks_are_at_work_on() -> None:
    """What is chosen is closed when the hook is done, and whoever waits gets another one."""
    network = MemoryNetwork()
    gate = anyio.Event()

    async def wait(connection: PooledConnection) -> None:
        await gate.wait()

    async def acquire(numbers: list[int]) -> None:
        async with pool.acquire() as connection:
            numbers.append(number_of(connection))

    async with ConnectionPool(
        network, max_size=2, on_connect=wait, check=wait, check_after=0, connect_timeout=100
    ) as pool:
        numbers: list[int] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(acquire, numbers)
            await settle()
            pool.retire(where=lambda info: True)
            gate.set()
        assert numbers == [2]
        assert pool.statistics().closed == {"retired": 1}
        gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(acquire, numbers)
            await settle()
            assert pool.statistics().connecting == 1
            pool.retire(where=lambda info: True)
            await settle()
            assert pool.statistics().closed == {"retired": 1}
            gate.set()
        assert numbers == [2, 3]
        assert pool.statistics().closed == {"retired": 2}


async def test_what_is_being_connected_has_no_address_to_be_judged_by() -> None:
    """Retired without a choice, it is replaced too, as ever."""
    gate = anyio.Event()

    async def connect(number: int) -> None:
        await gate.wait()

    network = MemoryNetwork(connect)
    async with ConnectionPool(network, max_size=1) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(fill, pool, 1)
        await settle()
        pool.retire(where=lambda info: pytest.fail("nothing is open"))
        gate.set()
        await settle()
        assert pool.statistics().idle == 1
        assert pool.statistics().closed == {}


async def test_what_is_being_closed_is_not_asked_about() -> None:
    """It leaves the pool in any case."""
    network = MemoryNetwork(on_close=hang)
    async with ConnectionPool(network) as pool:
        await fill(pool, 2)
        pool.retire()
        await settle()
        assert pool.statistics().closing == 2
        pool.retire(where=lambda info: pytest.fail("nothing is open"))


async def test_where_runs_without_the_lock() -> None:
    """Another thread can read the statistics meanwhile, and the function may use the pool."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        await fill(pool, 2)
        with ThreadPoolExecutor(1) as thread:

            def choose(info: ConnectionInfo) -> bool:
                assert thread.submit(pool.statistics).result(10).size
                pool.acquire_nowait().discard()
                return True

            pool.retire(where=choose)
        await settle()
        # What the function has closed itself is not retired besides.
        assert pool.statistics().closed == {"discarded": 2}
        await check_books(pool, network)


@pytest.mark.parametrize("error", [KeyError("mine"), SystemExit(3)])
async def test_what_where_raises_reaches_the_caller_and_retires_nothing(
    error: BaseException,
) -> None:
    """The very object, after any number of connections was chosen."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        await fill(pool, 3)
        left = 2

        def choose(info: ConnectionInfo) -> bool:
            nonlocal left
            left -= 1
            if left < 0:
                raise error
            return True

        with pytest.raises(type(error)) as caught:
            pool.retire(where=choose)
        assert caught.value is error
        await settle()
        async with pool.acquire():
            pass
        assert (pool.statistics().idle, pool.statistics().closed) == (3, {})


async def test_within_spreads_the_closing_of_idle_ones() -> None:
    """Each has an equal part of the time for itself; none is closed before or after that."""
    network = MemoryNetwork()
    async with ConnectionPool(network, min_idle=10) as pool:
        await pool.wait_ready()
        began = anyio.current_time()
        pool.retire(within=20)
        ends: list[float] = []
        while len(ends) < 10:
            await anyio.sleep(0.05)
            closed = pool.statistics().closed.get("retired", 0)
            ends += [anyio.current_time() - began] * (closed - len(ends))
        for place, moment in enumerate(ends):
            assert 2 * place <= moment <= 2 * place + 2.2, ends
        # Not in step: one process of many that has a single connection closes it at any moment.
        assert len({round(moment % 2, 1) for moment in ends}) > 2
        await anyio.sleep(100)
        assert (pool.statistics().idle, pool.statistics().opened) == (10, 20)
        assert pool.statistics().closed == {"retired": 10}


async def test_one_that_is_lent_meanwhile_is_closed_when_it_comes_back() -> None:
    """However long it is in use, and whether or not its time has come."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        await fill(pool, 2)
        pool.retire(where=lambda info: True, within=100)
        for number, hold in ((2, 0), (1, 200)):
            async with pool.acquire() as connection:
                assert number_of(connection) == number
                await anyio.sleep(hold)
            await settle()
            assert network.peers[number - 1].client.closed
        assert pool.statistics().closed == {"retired": 2}
        async with pool.acquire() as connection:
            assert number_of(connection) == 3
        await anyio.sleep(100)
        assert pool.statistics().idle == 1


async def test_the_earlier_end_counts_and_others_are_left_alone() -> None:
    """A second call hurries what it chooses, and nothing else."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        await fill(pool, 1)
        await anyio.sleep(1)
        async with pool.acquire():
            await fill(pool, 1)
        pool.retire(where=lambda info: info.age == 1, within=50)
        pool.retire(where=lambda info: info.age == 0)
        await settle()
        assert [peer.client.closed for peer in network.peers] == [False, True]
        pool.retire(within=5000)
        await anyio.sleep(50)
        assert [peer.client.closed for peer in network.peers] == [True, True]


async def test_leaving_the_block_waits_for_nothing() -> None:
    """What has not been closed by then is closed with the rest."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        await fill(pool, 3)
        pool.retire(within=1000)
    assert anyio.current_time() == 0
    assert network.open_now == 0
    assert pool.statistics().closed == {"pool_closed": 3}


async def test_arguments_that_make_no_sense_are_refused() -> None:
    """Before anything is retired; an async function would choose everything."""

    async def choose(info: ConnectionInfo) -> bool:
        return False

    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        (
            {"where": choose},
            TypeError,
            "where must be a plain function or None, not the async function ",
        ),
        ({"where": 3}, TypeError, "where must be a plain function or None, not 3"),
        ({"within": -1}, ValueError, "within must be 0 or more seconds"),
        ({"within": math.inf}, ValueError, "within must be finite"),
        ({"within": "3"}, TypeError, "within must be a number of seconds"),
    ]
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool, PoolManager() as manager:
        await fill(pool, 1)
        await fill(manager.pool(network), 1)
        for arguments, kind, text in wrong:
            for retire in (pool.retire, manager.retire):
                with pytest.raises(kind, match=text):
                    retire(**arguments)
        await checkpoint()
        assert pool.statistics().idle == manager.statistics()[network].idle == 1


async def test_a_manager_retires_in_all_pools_or_in_none() -> None:
    """It takes both arguments, and asks for every pool before anything changes."""
    networks = [MemoryNetwork() for _ in range(3)]
    async with PoolManager() as manager:
        for network in networks:
            await fill(manager.pool(network), 2)
            await anyio.sleep(1)
        asked = 0

        def fail_at_last(info: ConnectionInfo) -> bool:
            nonlocal asked
            asked += 1
            if asked == 6:
                raise KeyError("mine")
            return True

        with pytest.raises(KeyError, match="mine"):
            manager.retire(where=fail_at_last)
        await settle()
        assert [manager.statistics()[network].idle for network in networks] == [2, 2, 2]
        for network in networks:
            async with manager.acquire(network):
                pass
        assert [manager.statistics()[network].idle for network in networks] == [2, 2, 2]
        manager.retire(where=lambda info: info.age >= 2, within=10)
        await settle()
        await anyio.sleep(10.1)
        assert [manager.statistics()[network].idle for network in networks] == [0, 0, 2]
        manager.retire()
        await settle()
        assert [manager.statistics()[network].idle for network in networks] == [0, 0, 0]
