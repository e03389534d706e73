"""What is closed or opened while nobody asks: the too idle, too old and dead, and the reserve."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from itertools import pairwise
from operator import attrgetter
from typing import NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, PoolClosed
from tests.cases import table

from .network import MemoryNetwork, check_books, delayed, failing, fill, hang, number_of, settle


async def test_connections_idle_for_600_seconds_are_closed() -> None:
    """By default an idle connection lives for 600 seconds from its last return, not longer."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        await fill(pool, 2)
        await anyio.sleep(300)
        async with pool.acquire() as connection:
            assert number_of(connection) == 2
            await anyio.sleep(0.5)
        await anyio.sleep_until(599.99)
        assert pool.statistics().idle == 2
        await anyio.sleep_until(600.05)
        assert pool.statistics().idle == 1
        assert network.peers[0].client.closed
        await anyio.sleep_until(900.49)
        assert pool.statistics().idle == 1
        await anyio.sleep_until(900.55)
        assert pool.statistics().size == 0
        assert pool.statistics().closed == {"max_idle_time": 2}
        assert network.forced == 0
        await check_books(pool, network)


async def test_lifetimes_end_but_not_all_at_once() -> None:
    """Connections opened together end over the last tenth of ``max_lifetime``."""
    network = MemoryNetwork()
    closed: dict[int, float] = {}

    async def on_close(number: int) -> None:
        closed[number] = anyio.current_time()

    network.on_close = on_close
    async with ConnectionPool(network, max_size=60, max_lifetime=1000) as pool:
        held = [await pool.acquire() for _ in range(60)]
        while anyio.current_time() < 1006:
            for connection in held:
                await connection.aclose()
            await settle()
            # Nobody is idle for long enough to be reaped for that.
            held = [pool.acquire_nowait() for _ in range(pool.statistics().idle)]
            await settle()
            await anyio.sleep(1 if anyio.current_time() > 850 else 50)
        assert not held
        assert pool.statistics().closed == {"max_lifetime": 60}
    assert len(closed) == 60
    assert min(closed.values()) >= 900
    assert max(closed.values()) <= 1002
    assert len(set(closed.values())) > 5
    assert max(list(closed.values()).count(moment) for moment in closed.values()) < 20


async def test_idle_lifetimes_end_without_an_acquire() -> None:
    """Old idle connections are closed by the sweep."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_lifetime=100) as pool:
        await fill(pool, 5)
        await anyio.sleep(89)
        assert pool.statistics().idle == 5
        await anyio.sleep(17)
        assert pool.statistics().closed == {"max_lifetime": 5}
        await check_books(pool, network)


@table("end", ["peer_closed", "unread_data"])
async def test_a_server_that_hung_up_is_noticed_within_5_seconds(end: str) -> None:
    """Idle connections that the server closed, or wrote to, don't linger until they expire."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        await fill(pool, 3)
        await anyio.sleep(12.3)
        for peer in network.peers[:2]:
            peer.hang_up() if end == "peer_closed" else peer.push(b"?")
        await anyio.sleep(5.01)
        assert pool.statistics().closed == {end: 2}
        assert pool.statistics().idle == 1
        assert [peer.client.closed for peer in network.peers] == [True, True, False]
        await check_books(pool, network)


async def changes_by_turn(count: Callable[[], int], start: anyio.Event) -> list[int]:
    """Once started, return by how much a count grows from turn to turn, until it stands still."""
    counts = [count()]
    await start.wait()
    while len(set(counts[-20:])) > 1 or len(counts) < 20:
        counts.append(count())
        await checkpoint()
    return [late - early for early, late in pairwise(counts)]


async def test_a_sweep_over_many_gives_the_others_their_turn() -> None:
    """Between two turns of another task few idle connections are looked at."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=2000) as pool:
        await fill(pool, 2000)
        begun = anyio.Event()
        network.on_look = begun.set
        looks = await changes_by_turn(lambda: network.looks, begun)
        assert sum(looks) == 2000
        assert max(looks) <= 150


async def test_reaping_many_gives_the_others_their_turn() -> None:
    """Between two turns of another task few connections are closed."""
    network = MemoryNetwork()
    begun = anyio.Event()

    async def on_close(number: int) -> None:
        begun.set()
        await anyio.sleep(1)

    async with ConnectionPool(network, max_size=2000, max_idle_time=3) as pool:
        await fill(pool, 2000)
        network.on_close = on_close
        closing = await changes_by_turn(lambda: pool.statistics().closing, begun)
        assert anyio.current_time() == pytest.approx(3, abs=0.1)
        assert sum(closing) == 2000
        assert max(closing) <= 200
        await anyio.sleep(2)
        assert pool.statistics().closed == {"max_idle_time": 2000}
        await check_books(pool, network)


async def test_the_housekeeper_survives_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a sweep is logged, and the next sweep does its work."""
    network = MemoryNetwork()

    def fail_once(*args: object) -> NoReturn:
        del machine.reap
        raise RuntimeError("a bug of the books")

    async with ConnectionPool(network) as pool:
        await fill(pool, 2)
        machine = attrgetter("_machine")(pool)
        machine.reap = fail_once
        network.peers[1].hang_up()
        with caplog.at_level(logging.ERROR, "anyconnpool"):
            await anyio.sleep(11)
        assert [record.name for record in caplog.records] == ["anyconnpool.housekeeper"]
        assert "a bug of the books" in caplog.text
        assert pool.statistics().closed == {"peer_closed": 1}
        await check_books(pool, network)


async def test_a_probe_that_raises_costs_no_slot() -> None:
    """Whatever a stream's own probe does, an acquire loses no connection from the books."""
    network = MemoryNetwork(on_close=delayed(0.1))
    async with ConnectionPool(network, max_size=1) as pool:
        await fill(pool, 1)
        network.peers[0].look_error = RuntimeError("a bug of somebody's stream")
        try:
            async with pool.acquire(timeout=1):
                pass
        except RuntimeError:
            pass
        await anyio.sleep(1)
        await check_books(pool, network)
        async with pool.acquire(timeout=1):
            pass


async def test_a_pool_fills_itself_in_the_background() -> None:
    """Nothing opens before the block; then ``min_idle`` connections do, and are kept ready."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, min_idle=3, max_size=5)
    assert network.attempts == 0
    async with pool:
        await settle()
        assert pool.statistics().idle == 3
        async with pool.acquire(), pool.acquire():
            await settle()
            assert (pool.statistics().idle, pool.statistics().size) == (3, 5)
            async with pool.acquire():
                await settle()
                assert (pool.statistics().idle, pool.statistics().size) == (2, 5)
        await check_books(pool, network)
    assert network.open_now == 0
    assert network.most_open == 5


async def test_what_is_lost_is_refilled() -> None:
    """Discarded, dead, retired and expired connections are replaced without anybody asking."""
    network = MemoryNetwork()
    async with ConnectionPool(network, min_idle=2, max_size=3, max_idle_time=60) as pool:
        await settle()
        async with pool.acquire() as connection:
            connection.discard()
        network.peers[0].hang_up()
        await anyio.sleep(5.1)
        assert pool.statistics().idle == 2
        pool.retire()
        await settle()
        assert pool.statistics().idle == 2
        opened = network.opened
        # They have expired five times, and not just now.
        await anyio.sleep(330)
        assert pool.statistics().idle == 2
        assert network.opened == opened + 10
        await check_books(pool, network)


async def test_failing_refills_are_repeated_at_a_bounded_rate() -> None:
    """A remote that is down is tried again every few seconds, and is not hammered."""
    network = MemoryNetwork(failing(ConnectionRefusedError("down")))
    async with ConnectionPool(network, min_idle=3) as pool:
        await anyio.sleep(100)
        assert 10 <= network.attempts <= 3 * 21
        network.on_connect = None
        await anyio.sleep(5.1)
        assert pool.statistics().idle == 3
        assert pool.statistics().open_failed == network.attempts - 3
        await check_books(pool, network)


async def test_wait_ready_returns_when_enough_are_idle() -> None:
    """It waits for ``min_idle`` idle connections, not for fewer."""
    network = MemoryNetwork(delayed(1, 2, 3))
    async with ConnectionPool(network, min_idle=3, max_size=3) as pool:
        await pool.wait_ready()
        assert anyio.current_time() == pytest.approx(3)
        assert pool.statistics().idle == 3
        await pool.wait_ready()
        async with pool.acquire():
            with anyio.move_on_after(1) as scope:
                await pool.wait_ready()
            assert scope.cancelled_caught
        with anyio.fail_after(1):
            await pool.wait_ready()
        await check_books(pool, network)


async def test_wait_ready_has_nothing_to_wait_for_without_min_idle() -> None:
    """With ``min_idle`` 0 it returns at once and opens nothing."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        await pool.wait_ready()
        assert network.attempts == 0


async def test_wait_ready_raises_the_connect_error() -> None:
    """If the remote can't be reached it says so, each time it is called, without a delay."""
    refused = anyio.ConnectionFailed("down")
    network = MemoryNetwork(failing(refused))
    async with ConnectionPool(network, min_idle=2) as pool:
        for _ in range(3):
            with pytest.raises(anyio.ConnectionFailed) as caught:
                await pool.wait_ready()
            assert caught.value is refused
        assert anyio.current_time() == 0
        network.on_connect = delayed(1)
        await pool.wait_ready()
        assert pool.statistics().idle == 2


async def test_all_who_wait_for_readiness_are_told() -> None:
    """Several tasks that wait_ready() return, or raise, together."""
    network = MemoryNetwork(delayed(1))
    done: list[float] = []

    async def wait() -> None:
        await pool.wait_ready()
        done.append(anyio.current_time())

    async with ConnectionPool(network, min_idle=2) as pool, anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(wait)
    assert done == [pytest.approx(1)] * 4


@table("what", ["wait_ready", "acquire"])
async def test_a_pool_that_is_left_tells_those_who_wait(what: str) -> None:
    """Whoever waits when the block ends gets PoolClosed, and so does everybody after that."""
    network = MemoryNetwork(hang)
    pool = ConnectionPool(network, min_idle=1, name="echo")
    methods: dict[str, Callable[[], Awaitable[object]]] = {
        "wait_ready": pool.wait_ready,
        "acquire": pool.connect,
    }
    told: list[str] = []

    async def wait() -> None:
        try:
            await methods[what]()
        except PoolClosed as error:
            told.append(str(error))

    async with anyio.create_task_group() as tasks:
        async with pool:
            for _ in range(3):
                tasks.start_soon(wait)
            await settle()
        assert anyio.current_time() == 0
    assert told == ["pool 'echo' has been left: its async with block has ended"] * 3
    with pytest.raises(PoolClosed, match="has been left"):
        await methods[what]()
    assert network.open_now == 0


async def test_a_cancelled_wait_ready_leaves_nothing_behind() -> None:
    """The refill goes on, and the pool works."""
    network = MemoryNetwork(delayed(2))
    async with ConnectionPool(network, min_idle=1) as pool:
        with anyio.move_on_after(1) as scope:
            await pool.wait_ready()
        assert scope.cancelled_caught
        await anyio.sleep(1.5)
        async with pool.acquire(timeout=0) as connection:
            assert number_of(connection) == 1
        await settle()
        await check_books(pool, network)
