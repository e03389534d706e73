"""The hook ``on_release``: a connection is reset after each borrow, before the next."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, PooledConnection, PoolManager

from .hooks import SPOILERS, Hook, await_cancelled, count, hang, refuse, reset, slow
from .network import MemoryNetwork, check_books, fill, number_of, peer_of, settle


@pytest.mark.parametrize("way", ["acquire", "exchange", "run", "nowait"])
async def test_it_runs_after_each_borrow_and_before_the_next(way: str) -> None:
    """However the connection was borrowed; who comes next finds it reset."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, on_release=reset, max_size=1)

    async def use(connection: PooledConnection) -> bytes:
        return await connection.send_receive_line(b"a")

    async with pool:
        await fill(pool, 1)
        for uses in (1, 2):
            await settle()
            if way == "acquire":
                async with pool.acquire() as connection:
                    await use(connection)
            elif way == "exchange":
                await pool.send_receive_line(b"a")
            elif way == "run":
                await pool.run(use)
            else:
                connection = pool.acquire_nowait()
                await use(connection)
                await connection.aclose()
            await settle()
            assert bytes(network.peers[0].received) == b"RESET\n" + b"a\nRESET\n" * uses
        assert pool.statistics().acquired == 3
        assert pool.statistics().reused == 2
        await check_books(pool, network)


async def test_giving_back_does_not_wait_for_it() -> None:
    """The connection keeps its slot meanwhile, and counts as connecting."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_release=slow(reset, 3), max_size=2) as pool:
        await fill(pool, 1)
        assert anyio.current_time() == 0
        statistics = pool.statistics()
        assert (statistics.size, statistics.idle, statistics.connecting) == (1, 0, 1)
        await anyio.sleep(3.1)
        assert pool.statistics().idle == 1
        await check_books(pool, network)


async def test_who_waits_gets_the_connection_reset() -> None:
    """In order, with one slot."""
    network, served = MemoryNetwork(), list[int]()

    async def ask(number: int) -> None:
        async with pool.acquire() as connection:
            assert bytes(peer_of(connection).received).endswith(b"RESET\n")
            await connection.send_receive_line(b"a")
            served.append(number)

    async with ConnectionPool(network, on_release=slow(reset, 0.01), max_size=1) as pool:
        async with pool.acquire() as connection, anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(ask, number)
                await checkpoint()
            await connection.send_receive_line(b"a")
            await connection.aclose()
        assert served == [0, 1, 2, 3]
        assert network.attempts == 1


async def test_who_waits_is_served_by_what_is_ready_first() -> None:
    """A tenth of a second he relies on the hook, then a connection is opened beside it."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_release=slow(reset, 2), max_size=2) as pool:
        await fill(pool, 1)
        async with pool.acquire() as connection:
            assert number_of(connection) == 2
            assert anyio.current_time() == pytest.approx(0.1)
    network = MemoryNetwork()
    async with ConnectionPool(network, on_release=slow(reset, 0.05), max_size=2) as pool:
        began = anyio.current_time()
        await fill(pool, 1)
        async with pool.acquire() as connection:
            assert number_of(connection) == 1
            assert anyio.current_time() - began == pytest.approx(0.05)
        assert network.attempts == 1


async def test_another_one_that_comes_back_is_lent_before_the_hook_is_done() -> None:
    """Both run through their hooks; the quicker one is first."""
    network = MemoryNetwork()

    async def hook(connection: PooledConnection) -> None:
        await anyio.sleep(5 if number_of(connection) == 1 else 0.01)

    async with ConnectionPool(network, on_release=hook, max_size=2, check_timeout=9) as pool:
        await fill(pool, 2)
        async with pool.acquire() as connection:
            assert number_of(connection) == 2
            assert anyio.current_time() == pytest.approx(0.01)


@pytest.mark.parametrize("spoil", [*SPOILERS, await_cancelled])
async def test_one_that_fails_it_is_closed(spoil: Hook) -> None:
    """By an error, by taking longer than ``check_timeout``, by being left unfit."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_release=spoil, check_timeout=4) as pool:
        await fill(pool, 1)
        await anyio.sleep(3.9)
        assert pool.statistics().connecting == (1 if spoil is hang else 0)
        await anyio.sleep(0.2)
        await settle()
        assert pool.statistics().closed == {"release_failed": 1}
        assert network.forced == network.closed == 1
        assert await pool.send_receive_line(b"a") == b"a"
        await anyio.sleep(5)
        await check_books(pool, network)


async def hang_up_afterwards(connection: PooledConnection) -> None:
    await reset(connection)
    peer_of(connection).hang_up()


async def send_afterwards(connection: PooledConnection) -> None:
    peer_of(connection).push(b"more")


@pytest.mark.parametrize("spoil", [hang_up_afterwards, send_afterwards])
async def test_one_that_is_unfit_after_it_is_closed(spoil: Hook) -> None:
    """Whatever has made it so."""
    async with ConnectionPool(MemoryNetwork(), on_release=spoil) as pool:
        await fill(pool, 1)
        await settle()
        assert pool.statistics().closed == {"release_failed": 1}


async def test_its_failures_are_logged_like_those_of_checks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once a minute."""
    async with ConnectionPool(MemoryNetwork(), on_release=refuse, name="mem") as pool:
        for _ in range(3):
            await fill(pool, 1)
            await settle()
    assert [record.getMessage() for record in caplog.records] == [
        "pool mem: the on_release hook failed: RuntimeError"
    ]


async def test_it_does_not_run_for_what_is_to_be_closed_anyway() -> None:
    """Neither for what is unclean, discarded, retired, surplus or used up."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_release=reset, max_uses=2, max_size=2) as pool:
        connection = await pool.acquire()
        connection.discard()
        connection = await pool.acquire()
        await connection.send(b"no reply read")
        await connection.aclose()
        connection = await pool.acquire()
        pool.retire()
        await connection.aclose()
        connection, other = await pool.acquire(), await pool.acquire()
        pool.max_size = 1
        await connection.aclose()
        await settle()
        assert count(network, b"RESET") == 0
        await other.aclose()
        await settle()
        assert count(network, b"RESET") == 1
        await fill(pool, 1)
        await settle()
        assert count(network, b"RESET") == 1
        connection = await pool.acquire()
        peer_of(connection).hang_up()
        await connection.aclose()
        await settle()
        assert count(network, b"RESET") == 1
        assert pool.statistics().closed == {
            "discarded": 1,
            "unclean": 1,
            "retired": 1,
            "surplus": 1,
            "max_uses": 1,
            "peer_closed": 1,
        }


async def test_what_became_unfit_meanwhile_is_closed_after_it() -> None:
    """Retired in its hook, for example."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_release=slow(reset, 1)) as pool:
        await fill(pool, 1)
        pool.retire()
        await anyio.sleep(1.1)
        assert pool.statistics().closed == {"retired": 1}
        assert count(network, b"RESET") == 1


async def test_it_is_no_use() -> None:
    """The idle time begins with the giving back, and ``max_uses`` counts borrows."""
    network = MemoryNetwork()
    async with ConnectionPool(
        network, on_release=slow(reset, 3), max_idle_time=10, max_uses=2
    ) as pool:
        await fill(pool, 1)
        await anyio.sleep(9.9)
        assert pool.statistics().idle == 1
        await anyio.sleep(0.2)
        assert pool.statistics().closed == {"max_idle_time": 1}
        for _ in range(2):
            await fill(pool, 1)
            await anyio.sleep(4)
        assert pool.statistics().closed == {"max_idle_time": 1, "max_uses": 1}


@pytest.mark.parametrize("begun", [False, True])
async def test_leaving_the_block_does_not_wait_for_it(begun: bool) -> None:
    """It is interrupted, or not even begun; the pool closed the connection, nobody else."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_release=hang) as pool:
        await fill(pool, 1)
        if begun:
            await settle()
    assert anyio.current_time() == 0
    assert network.open_now == 0
    assert pool.statistics().closed == {"pool_closed": 1}
    assert network.forced == (1 if begun else 0)


async def test_the_pools_of_a_manager_have_it_too() -> None:
    """What comes back for another pool's sake gives way without it."""
    one, other = MemoryNetwork(), MemoryNetwork()
    async with PoolManager(max_total=1, on_release=reset) as manager:
        async with manager.acquire(one) as connection, anyio.create_task_group() as tasks:
            tasks.start_soon(manager.send_receive_line, other, b"a")
            await settle()
            await connection.aclose()
        await settle()
        assert count(one, b"RESET") == 0
        assert count(other, b"RESET") == 1
