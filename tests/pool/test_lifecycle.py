"""Promises 7 and 8: leaving never hangs, and the body's exception leaves as it is."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, PoolClosed, PooledConnection
from tests.cases import table

from .network import (
    MemoryNetwork,
    check_books,
    delayed,
    failing,
    fill,
    hang,
    number_of,
    settle,
    slots_of,
)


async def test_a_scope_that_cancels_a_block_cancels_what_is_being_closed_as_well() -> None:
    """The body takes longer than the pool's task, and the scope catches its cancellation."""
    network = MemoryNetwork(on_close=hang)
    with anyio.move_on_after(1) as scope:
        async with ConnectionPool(network) as pool:
            await fill(pool, 2)
            pool.retire()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
    assert scope.cancelled_caught
    assert network.forced == 2


async def test_a_close_that_hangs_is_forced_after_its_timeout() -> None:
    """Its slot is taken for ``close_timeout``, not longer."""
    network = MemoryNetwork(on_close=hang)
    async with ConnectionPool(network, max_size=1, close_timeout=3) as pool:
        await fill(pool, 1)
        pool.retire()
        await anyio.sleep(2.9)
        assert (pool.statistics().closing, network.open_now) == (1, 1)
        await anyio.sleep(0.2)
        assert network.forced == 1
        await check_books(pool, network)
        await fill(pool, 1)
    assert anyio.current_time() == pytest.approx(6.1)
    assert network.open_now == 0


@table("already_waiting", [True, False])
async def test_a_close_takes_no_time_if_anybody_waits_for_its_slot(already_waiting: bool) -> None:
    """Neither one that has begun, nor one that begins while he waits."""
    network, began = MemoryNetwork(on_close=hang), anyio.current_time()
    async with (
        ConnectionPool(network, max_size=1, close_timeout=3) as pool,
        anyio.create_task_group() as tasks,
    ):
        async with pool.acquire():
            if already_waiting:
                tasks.start_soon(fill, pool, 1)
                await settle()
            pool.retire()
        await settle()
        if not already_waiting:
            assert pool.statistics().closing == 1
            await fill(pool, 1)
        await settle()
        assert anyio.current_time() == began
        assert (network.forced, network.opened, network.most_open) == (1, 2, 1)


async def test_close_timeout_0_forces_at_once() -> None:
    """No time is lost on an orderly end."""
    network = MemoryNetwork(on_close=hang)
    async with ConnectionPool(network, close_timeout=0) as pool:
        await fill(pool, 3)
        pool.retire()
        await settle()
        assert (network.open_now, network.forced) == (0, 3)
        await fill(pool, 2)
    assert anyio.current_time() == 0
    assert network.forced == 5


async def test_what_is_not_clean_is_closed_by_force_at_once() -> None:
    """A connection that was left in doubt has nobody to take leave of."""
    network = MemoryNetwork(on_close=hang)
    async with ConnectionPool(network) as pool:
        async with pool.acquire() as connection:
            await connection.send(b"and no reply read")
        async with pool.acquire() as connection:
            connection.discard()
        await settle()
        assert network.forced == 2
        assert anyio.current_time() == 0


async def test_errors_of_closing_reach_nobody() -> None:
    """A close that fails is finished by force, whoever caused it."""
    network = MemoryNetwork(on_close=failing(RuntimeError("no way to close")))
    async with ConnectionPool(network, max_size=2, max_idle_time=10) as pool:
        await fill(pool, 2)
        pool.retire()
        await settle()
        await check_books(pool, network)
        await fill(pool, 2)
        await anyio.sleep(12)
        assert pool.statistics().closed == {"retired": 2, "max_idle_time": 2}
        await fill(pool, 2)
    assert (network.open_now, network.forced) == (0, 6)


async def test_leaving_closes_what_is_idle_in_order() -> None:
    """Idle connections get an orderly close, all at the same time."""
    network = MemoryNetwork(on_close=delayed(2))
    async with ConnectionPool(network, max_size=5) as pool:
        await fill(pool, 5)
    assert anyio.current_time() == pytest.approx(2)
    assert (network.open_now, network.forced) == (0, 0)
    assert pool.statistics().closed == {"pool_closed": 5}


async def test_leaving_gives_borrowers_grace_and_then_uses_force() -> None:
    """Who gives back in time does so undisturbed; the others lose their connection."""
    network = MemoryNetwork(answer=lambda data: b"")
    outcomes: dict[str, float] = {}

    async def borrow(seconds: float) -> None:
        try:
            async with pool.acquire() as connection:
                with anyio.move_on_after(seconds):
                    await connection.receive()
        except anyio.ClosedResourceError:
            outcomes["lost"] = anyio.current_time()
        else:
            outcomes["had it"] = anyio.current_time()

    pool = ConnectionPool(network)
    async with anyio.create_task_group() as tasks:
        async with pool:
            tasks.start_soon(borrow, 2)
            tasks.start_soon(borrow, 100)
            await settle()
        assert anyio.current_time() == pytest.approx(5)
        assert network.open_now == 0
    assert outcomes == pytest.approx({"had it": 2, "lost": 5})
    statistics = pool.statistics()
    assert (statistics.size, statistics.in_use) == (0, 0)
    assert statistics.closed == {"unclean": 1, "seized": 1}


async def test_leaving_ends_as_soon_as_the_last_borrower_is_done() -> None:
    """The grace is a limit, not a delay, and what comes back then is closed."""
    network = MemoryNetwork()

    async def borrow() -> None:
        async with pool.acquire() as connection:
            await anyio.sleep(1)
            await connection.send_line(b"last words")
            await connection.receive_line()

    pool = ConnectionPool(network)
    async with anyio.create_task_group() as tasks:
        async with pool:
            tasks.start_soon(borrow)
            await settle()
        assert anyio.current_time() == pytest.approx(1)
    assert pool.statistics().closed == {"pool_closed": 1}
    assert network.forced == 0


async def test_leaving_with_everything_hanging_takes_bounded_time() -> None:
    """Connects, checks, closes and borrowers that hang cost twice ``close_timeout`` at most."""
    network = MemoryNetwork(on_close=hang)

    async def hang_once(connection: PooledConnection) -> None:
        if number_of(connection) == 3:
            await anyio.sleep_forever()

    pool = ConnectionPool(
        network, max_size=8, min_idle=1, close_timeout=3, check=hang_once, check_after=0
    )
    async with anyio.create_task_group() as tasks:
        async with pool:
            await fill(pool, 4)
            held = [await pool.acquire() for _ in range(2)]
            network.on_connect = hang
            pool.retire()
            for _ in range(5):
                tasks.start_soon(hang_in_acquire, pool)
            await settle()
            began = anyio.current_time()
        assert anyio.current_time() - began <= 6.01
        assert network.open_now == 0
        for connection in held:
            with pytest.raises(anyio.ClosedResourceError):
                await connection.send(b"x")
            await connection.aclose()


async def hang_in_acquire(pool: ConnectionPool) -> None:
    with pytest.raises(PoolClosed):
        await pool.acquire()


@table("in_the_grace", [False, True])
async def test_a_cancelled_block_hurries(in_the_grace: bool) -> None:
    """Cancelled in its body or in its grace, a pool closes all by force, borrowers or not."""
    network = MemoryNetwork(on_close=hang)
    pool = ConnectionPool(network)
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:

        async def borrow() -> None:
            async with pool.acquire():
                await anyio.sleep(3)

        with anyio.move_on_after(2) as scope:
            async with pool:
                await fill(pool, 2)
                tasks.start_soon(borrow)
                await settle()
                if not in_the_grace:
                    await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert anyio.current_time() - began == pytest.approx(2)
        assert (network.open_now, network.forced) == (0, 2)


@table("error", [KeyboardInterrupt(), SystemExit()])
async def test_an_interrupted_body_leaves_no_grace(error: BaseException) -> None:
    """Ctrl-C ends the block at once, whoever has borrowed and however slow a close is."""
    network = MemoryNetwork(on_close=hang)
    pool = ConnectionPool(network)
    with pytest.raises(type(error)) as caught:
        async with pool:
            await fill(pool, 2)
            await pool.acquire()
            raise error
    assert caught.value is error
    assert anyio.current_time() == 0
    assert (network.open_now, network.forced) == (0, 2)


@table("error", [RuntimeError("mine"), KeyboardInterrupt(), anyio.EndOfStream()])
async def test_the_exception_of_the_body_leaves_as_the_same_object(error: BaseException) -> None:
    """It is neither wrapped nor replaced, even if closing fails, and has no strange context."""
    network = MemoryNetwork(on_close=failing(RuntimeError("no way to close")))
    with pytest.raises(type(error)) as caught:
        async with ConnectionPool(network, close_timeout=1) as pool:
            await fill(pool, 2)
            async with pool.acquire() as connection:
                await connection.send(b"x")
                raise error
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    assert network.open_now == 0


async def test_groups_of_the_body_stay_as_they_are() -> None:
    """Exceptions of a task group in the body come out in that group, with nothing around it."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        async with ConnectionPool(MemoryNetwork()) as pool, anyio.create_task_group() as tasks:
            tasks.start_soon(fail_in_borrow, pool)
    group = caught.value
    assert type(group).__name__ == "ExceptionGroup"
    errors: tuple[BaseException, ...] = getattr(group, "exceptions", ())
    assert [type(error) for error in errors] == [LookupError]


async def fail_in_borrow(pool: ConnectionPool) -> None:
    async with pool.acquire():
        raise LookupError


async def test_a_pool_can_be_entered_again_after_its_end() -> None:
    """Each block starts from nothing, with counters of its own."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, max_size=2)
    for number in (1, 2, 3):
        async with pool:
            assert pool.statistics().opened == 0
            async with pool.acquire() as connection:
                assert number_of(connection) == number
            assert slots_of(pool).borrowed_tokens == 1
        assert pool.statistics().opened == 1
        with pytest.raises(PoolClosed, match="has been left"):
            pool.acquire_nowait()
    assert network.open_now == 0


async def test_a_pool_can_be_entered_again_after_a_failure() -> None:
    """A body that raised, or was cancelled, leaves the pool fit for another block."""
    network = MemoryNetwork()
    pool = ConnectionPool(network)
    with pytest.raises(LookupError):
        async with pool, pool.acquire():
            raise LookupError
    with anyio.move_on_after(1):
        async with pool, pool.acquire():
            await anyio.sleep_forever()
    async with pool, pool.acquire(timeout=1):
        pass
    assert network.open_now == 0


async def test_entering_twice_is_refused() -> None:
    """A pool runs once at a time, and the first block goes on."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        with pytest.raises(RuntimeError, match="already been entered"):
            async with pool:
                pass
        async with pool.acquire(timeout=1):
            await checkpoint()
    assert network.open_now == 0
