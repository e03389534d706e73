"""How a manager's pools come and go, and how its block ends."""

from __future__ import annotations

import gc
from weakref import ref

import anyio
import pytest
from anyio import get_running_tasks

from anyconnpool import PoolClosed, PoolManager, Replicas, Retry
from anyconnpool.events import PoolEnded, PoolEvent
from tests.cases import table

from .network import MemoryNetwork, delayed, failing, fill, hang, settle


async def test_an_unused_pool_is_dropped_after_max_idle_time_and_made_again_on_use() -> None:
    """Its tasks end with it; a pool that is open, borrowed or waited for stays."""
    networks = [MemoryNetwork() for _ in range(3)]
    async with PoolManager(max_idle_time=100, max_size=1) as manager:
        await settle()
        # One task is for the alarms of all pools.
        alone = len(get_running_tasks()) + 1
        for network in networks:
            await fill(manager.pool(network), 1)
        await settle()
        assert len(get_running_tasks()) == alone + 3
        async with manager.acquire(networks[0]):
            # 100 s until the connection expires, 100 s until the pool does.
            await anyio.sleep(190)
            assert len(manager.statistics()) == 3
            await anyio.sleep(40)
            assert len(manager.statistics()) == 1
            assert len(get_running_tasks()) == alone + 1
        assert await manager.send_receive(networks[1], b"ping", 4) == b"ping"
        assert (networks[1].opened, len(manager.statistics())) == (2, 2)


async def test_a_pool_that_was_used_again_in_time_is_not_dropped() -> None:
    """Having nothing open counts from the last time that anything was."""
    network = MemoryNetwork()
    async with PoolManager(max_idle_time=100) as manager:
        for _ in range(2):
            async with manager.acquire(network) as connection:
                await anyio.sleep(10)
                connection.discard()
            await anyio.sleep(70)
        await anyio.sleep(20)
        assert manager.statistics()[network].opened == 2
        await anyio.sleep(20)
        assert manager.statistics() == {}


async def test_a_pool_that_is_kept_is_started_again_on_use() -> None:
    """Its user needn't know that it was dropped, and the manager knows it as the same one."""
    network = MemoryNetwork()
    async with PoolManager(max_idle_time=10) as manager:
        pool = manager.pool(network)
        pool.max_size = 3
        for _ in range(3):
            await anyio.sleep(60)
            assert manager.statistics() == {}
            assert manager.pool(network) is pool
            assert await pool.send_receive(b"ping", 4) == b"ping"
            assert manager.statistics()[network].max_size == 3
    assert network.open_now == 0


@pytest.mark.parametrize("pipeline", [1, 2])
async def test_a_dropped_pool_that_nobody_keeps_is_forgotten(pipeline: int) -> None:
    """A manager of many remotes that are used once doesn't grow."""
    network = MemoryNetwork()
    async with PoolManager(max_idle_time=10, max_total=9, pipeline=pipeline) as manager:
        pool = manager.pool(network)
        assert await pool.send_receive_line(b"?") == b"?"
        dropped, remote = ref(pool), ref(network)
        del pool, network
        await anyio.sleep(60)
        gc.collect()
        assert dropped() is None
        assert remote() is None, "nor is anything else of it"


@pytest.mark.parametrize("pipeline", [1, 2])
async def test_a_dropped_pool_is_forgotten_whatever_was_to_be_done_later(pipeline: int) -> None:
    """What a pool has planned for tomorrow keeps nothing of it."""
    day = 86_400
    network, other = MemoryNetwork(), MemoryNetwork()
    replicas = Replicas([network, other], rest=Retry(0, interval=day, max_interval=day))
    async with PoolManager(max_idle_time=10, pipeline=pipeline, stall_timeout=day) as manager:
        pool = manager.pool(replicas)
        for each in (network, other):
            each.on_connect = failing(ConnectionRefusedError("no"))
        with pytest.raises(anyio.ConnectionFailed):
            await pool.send_receive_line(b"?")
        for each in (network, other):
            each.on_connect = None
        assert await pool.send_receive_line(b"?", timeout=day) == b"?"
        pool.retire(within=day)
        remotes = [ref(network), ref(other)]
        del pool, network, other, each, replicas
        await anyio.sleep(60)
        gc.collect()
        assert [remote() for remote in remotes] == [None, None]


async def test_a_pool_with_a_waiter_is_not_dropped() -> None:
    """Nothing is open while a remote is down for hours, and still somebody waits."""
    network = MemoryNetwork(on_connect=delayed(25))
    async with PoolManager(max_idle_time=1) as manager, anyio.create_task_group() as tasks:
        tasks.start_soon(manager.pool(network).wait_ready)
        assert await manager.send_receive(network, b"ping", 4) == b"ping"
        assert anyio.current_time() == pytest.approx(25)


@table("error", [ValueError("of the body"), KeyboardInterrupt()])
async def test_the_bodys_exception_leaves_as_the_same_object(error: BaseException) -> None:
    """It is not wrapped, and everything is closed."""
    networks = [MemoryNetwork(), MemoryNetwork()]
    with pytest.raises(type(error)) as caught:
        async with PoolManager() as manager:
            for network in networks:
                await fill(manager.pool(network), 2)
            raise error
    assert caught.value is error
    assert [network.open_now for network in networks] == [0, 0]


@pytest.mark.parametrize("fails", [False, True])
async def test_leaving_gives_the_borrowers_of_all_pools_one_grace(fails: bool) -> None:
    """Who gives back in time is not disturbed, then force is used; nobody gets a new pool."""
    networks = [MemoryNetwork(answer=lambda data: b"") for _ in range(2)]
    outcomes: list[tuple[float, str]] = []

    async def borrow(network: MemoryNetwork, seconds: float) -> None:
        try:
            async with manager.acquire(network) as connection:
                with anyio.move_on_after(seconds):
                    await connection.receive()
                connection.discard()
                with pytest.raises(PoolClosed, match="has been left"):
                    manager.pool(MemoryNetwork())
                with pytest.raises(PoolClosed, match="has been left"):
                    manager.pool(networks[0])
        except anyio.ClosedResourceError:
            outcomes.append((anyio.current_time(), "lost"))
        else:
            outcomes.append((anyio.current_time(), "had it"))

    manager = PoolManager(close_timeout=3)
    async with anyio.create_task_group() as tasks:
        try:
            async with manager:
                for network in networks:
                    tasks.start_soon(borrow, network, 2)
                    tasks.start_soon(borrow, network, 100)
                await settle()
                if fails:
                    raise RuntimeError("of the body")
        except RuntimeError:
            assert fails
        assert anyio.current_time() == pytest.approx(3)
        assert [network.open_now for network in networks] == [0, 0]
    assert [outcome for _, outcome in outcomes] == ["had it", "had it", "lost", "lost"]


async def test_a_cancelled_exit_hurries() -> None:
    """No grace for borrowers, nor for closing; nothing is left open."""
    networks = [MemoryNetwork(on_close=hang) for _ in range(2)]
    manager = PoolManager()

    async def borrow(network: MemoryNetwork) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            async with manager.acquire(network) as connection:
                await connection.receive()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with manager:
                for network in networks:
                    tasks.start_soon(borrow, network)
                    await fill(manager.pool(network), 2)
                    await settle()
                scope.cancel()
                await anyio.sleep(1)
        assert scope.cancelled_caught
        assert anyio.current_time() == 0
    assert [network.open_now for network in networks] == [0, 0]


async def test_waiters_of_all_pools_are_told_when_the_block_ends() -> None:
    """Also those who wait for the room of others."""
    networks = [MemoryNetwork(), MemoryNetwork()]
    told: list[str] = []

    async def wait(network: MemoryNetwork) -> None:
        try:
            async with manager.acquire(network):
                raise AssertionError("there is no room")
        except PoolClosed as error:
            told.append(str(error))

    manager = PoolManager(max_total=1, close_timeout=1)
    async with anyio.create_task_group() as tasks:
        async with manager:
            await manager.acquire(networks[0])
            for network in networks:
                tasks.start_soon(wait, network)
            await settle()
        assert len(told) == 2
    assert len(told) == 2
    assert all("has been left" in text for text in told)
    assert networks[1].attempts == 0


async def test_a_block_can_end_in_the_turn_in_which_pools_are_dropped() -> None:
    """Each pool ends once, by the one or by the other."""
    for seconds in range(1, 61):
        ended: list[str] = []

        def observe(event: PoolEvent, ended: list[str] = ended) -> None:
            if isinstance(event, PoolEnded):
                ended.append(event.pool)

        began = anyio.current_time()
        async with PoolManager(max_idle_time=20, observers=[observe]) as manager:
            for _ in range(4):
                network = MemoryNetwork()
                await fill(manager.pool(network), 1)
                manager.pool(network).retire()
            await anyio.sleep_until(began + seconds)
        assert len(ended) == 4
        assert anyio.current_time() == began + seconds


async def test_a_pool_can_be_waited_for_in_the_turn_in_which_it_is_dropped() -> None:
    """It is started again, as by any other use."""
    for number in range(12):
        async with PoolManager(max_idle_time=0.5) as manager:
            pool = manager.pool(MemoryNetwork())
            await anyio.sleep(0.125 * number)
            await pool.wait_ready()
