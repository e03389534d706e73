"""One deadline covers the whole acquire, and its end says what is the matter."""

from __future__ import annotations

import math

import anyio
import pytest

from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection

from .network import MemoryNetwork, check_books, delayed, failing, fill, hang, number_of, settle


async def fail_check(connection: PooledConnection) -> None:
    raise RuntimeError("no answer")


async def test_the_deadline_covers_dead_connections_checks_and_the_connect() -> None:
    """Whatever an acquire has to do first, it ends when its time is over, not later."""
    network = MemoryNetwork(on_close=delayed(0.3))
    async with ConnectionPool(network, max_size=4, check=fail_check, check_after=0) as pool:
        await fill(pool, 4)
        for peer in network.peers[:2]:
            peer.hang_up()
        network.on_connect = hang
        began = anyio.current_time()
        with pytest.raises(AcquireTimeout) as caught:
            await pool.acquire(timeout=1)
        assert anyio.current_time() - began == pytest.approx(1)
        assert caught.value.timeout == 1
        assert network.attempts > 4
        await check_books(pool, network)


async def test_a_wait_in_line_and_a_failed_reuse_share_the_deadline() -> None:
    """What comes back dead after half the time leaves the other half for the reconnect."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1) as pool:
        connection = await pool.acquire()
        network.on_connect = delayed(0.4, 0.4, 0.6)

        async def give_back_dead() -> None:
            await anyio.sleep(0.5)
            connection.discard()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_back_dead)
            async with pool.acquire(timeout=1) as fresh:
                assert anyio.current_time() == pytest.approx(0.9)
                assert number_of(fresh) == 2
                fresh.discard()
            began = anyio.current_time()
            with pytest.raises(AcquireTimeout):
                await pool.acquire(timeout=0.5)
            assert anyio.current_time() - began == pytest.approx(0.5)
        await anyio.sleep(1)
        assert pool.statistics().idle == 1


async def test_no_time_at_all_is_enough_for_an_idle_connection() -> None:
    """With a timeout of 0, an idle connection is lent, and nothing else is waited for."""
    network = MemoryNetwork(delayed(0.1))
    async with ConnectionPool(network, max_size=2) as pool:
        with pytest.raises(AcquireTimeout):
            await pool.acquire(timeout=0)
        assert anyio.current_time() == 0
        await anyio.sleep(0.2)
        async with pool.acquire(timeout=0) as connection:
            assert number_of(connection) == 1
            with pytest.raises(AcquireTimeout):
                await pool.acquire(timeout=0)
        assert pool.statistics().timed_out == 2
        await check_books(pool, network)


async def test_a_connection_in_time_is_not_lost_to_the_deadline() -> None:
    """Lent in the tick in which time runs out, a connection is either had or back in the pool."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1) as pool:
        connection = await pool.acquire()

        async def give_back() -> None:
            await anyio.sleep(1)
            await connection.aclose()

        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(give_back)
                try:
                    async with pool.acquire(timeout=1):
                        pass
                except AcquireTimeout:
                    pass
            assert pool.statistics().idle == 1
            await check_books(pool, network)
            connection = await pool.acquire()
        await connection.aclose()


async def test_the_default_is_the_setting_and_can_be_overruled() -> None:
    """``acquire_timeout`` holds where no timeout is given."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1, acquire_timeout=7) as pool, pool.acquire():
        with pytest.raises(AcquireTimeout, match="within 7 s"):
            await pool.acquire()
        assert anyio.current_time() == pytest.approx(7)
        with pytest.raises(AcquireTimeout):
            await pool.connect()
        assert anyio.current_time() == pytest.approx(14)
        with pytest.raises(AcquireTimeout):
            await pool.acquire(timeout=90)
        assert anyio.current_time() == pytest.approx(104)
        with anyio.move_on_after(1000) as scope:
            await pool.acquire(timeout=math.inf)
        assert scope.cancelled_caught


async def hold(connection: PooledConnection) -> None:
    await anyio.sleep_forever()


async def test_a_timeout_tells_the_state_and_what_to_do() -> None:
    """The text and the attributes say how full the pool is."""
    network = MemoryNetwork()
    async with (
        ConnectionPool(network, max_size=2, name="echo") as pool,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(2):
            tasks.start_soon(pool.run, hold)
        await settle()
        with pytest.raises(AcquireTimeout) as caught:
            await pool.acquire(timeout=1.5)
        error = caught.value
        assert str(error) == (
            "no connection of pool 'echo' within 1.5 s (max_size 2, 2 in use, 0 idle, "
            "0 connecting, 0 closing, 1 tasks waiting); give connections back sooner or raise "
            "max_size"
        )
        assert isinstance(error, TimeoutError)
        assert (error.timeout, error.last_connect_error) == (1.5, None)
        assert (error.statistics.in_use, error.statistics.tasks_waiting) == (2, 1)
        tasks.cancel_scope.cancel()


async def test_a_timeout_names_the_hooks_that_were_waited_for() -> None:
    """A connection that is open and not ready looks like a server that doesn't answer."""
    gate = anyio.Event()

    async def wait(connection: PooledConnection) -> None:
        await gate.wait()

    async with ConnectionPool(MemoryNetwork(), max_size=1, on_connect=wait) as pool:
        with pytest.raises(AcquireTimeout) as caught:
            await pool.acquire(timeout=0.5)
        assert "1 connecting, of which 1 in on_connect, 0 closing" in str(caught.value)
        assert str(caught.value).endswith("); on_connect had not returned by then")
        assert caught.value.running_hooks == {"on_connect": 1}
        gate.set()
        async with pool.acquire():
            with pytest.raises(AcquireTimeout, match="0 connecting, 0 closing") as caught:
                await pool.acquire(timeout=0.5)
        assert caught.value.running_hooks == {}


async def test_a_timeout_tells_the_last_connect_error() -> None:
    """Who runs out of time because nothing can be connected to gets to know it."""
    network = MemoryNetwork(failing(ConnectionRefusedError("nobody home")))
    async with ConnectionPool(network, max_size=2, name="echo") as pool:
        with pytest.raises(anyio.ConnectionFailed) as refused:
            await pool.acquire()
        network.on_connect = hang
        with pytest.raises(AcquireTimeout) as caught:
            await pool.acquire(timeout=2)
        error = caught.value
        # One of its own, which keeps nothing of whoever was refused.
        assert repr(error.last_connect_error) == repr(refused.value)
        assert "1 connecting" in str(error)
        assert str(error).endswith(f"; last connect error: ConnectionFailed: {refused.value}")
        assert "nobody home" in str(error)
