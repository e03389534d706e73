"""Connects that fail or take long: who is told, who waits, and how often they are repeated."""

from __future__ import annotations

import math

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection, Retry
from tests.cases import table

from .flaky import STEADY, Remote
from .network import MemoryNetwork, check_books, failing, fill, hang, number_of, settle


async def borrow(pool: ConnectionPool, numbers: list[int], hold: float = 0) -> None:
    async with pool.acquire() as connection:
        numbers.append(number_of(connection))
        await anyio.sleep(hold)


@table("every", [1, 2, 3])
@table("max_size", [1, 10, 50])
async def test_nobody_hangs_when_connects_fail(every: int, max_size: int) -> None:
    """Fifty waiters are all served or told, whatever share of the connects fails."""
    refused = ConnectionRefusedError("no")
    network = MemoryNetwork(failing(refused, only=lambda number: number % every == 0))
    served = failed = 0

    async def ask() -> None:
        nonlocal served, failed
        try:
            async with pool.acquire() as connection:
                served += 1
                await checkpoint()
                connection.discard()
        except anyio.ConnectionFailed:
            failed += 1

    async with ConnectionPool(network, max_size=max_size) as pool:
        with anyio.fail_after(1):
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(ask)
        assert served + failed == 50
        # One that fails when whoever waited for it has been served already fails for nobody.
        assert failed <= pool.statistics().open_failed >= 50 // every - every
        await settle()
        await check_books(pool, network)
    assert network.open_now == 0
    assert network.most_open <= max_size


async def test_errors_of_connecting_stay_themselves() -> None:
    """What AnyIO or the connectable raises reaches the caller as it is, or as its cause."""
    network = MemoryNetwork()
    async with ConnectionPool(network, name="echo") as pool:
        for error in (anyio.ConnectionFailed("down"), RuntimeError("a bug of the connectable")):
            network.on_connect = failing(error)
            with pytest.raises(type(error)) as caught:
                await pool.acquire()
            assert caught.value is error
        reset = ConnectionResetError("reset")
        network.on_connect = failing(reset)
        with pytest.raises(anyio.ConnectionFailed, match="connecting to echo: reset") as caught_os:
            await pool.acquire()
        assert caught_os.value.__cause__ is reset
        assert pool.statistics().open_failed == 3
        await check_books(pool, network)


async def test_a_connect_has_a_time_limit() -> None:
    """An attempt that takes longer than ``connect_timeout`` fails with a text that names it."""
    network = MemoryNetwork(hang)
    async with ConnectionPool(network, name="echo") as pool:
        with pytest.raises(anyio.ConnectionFailed, match=r"longer than connect_timeout, 30 s$"):
            await pool.acquire()
        assert anyio.current_time() == pytest.approx(30)
        await check_books(pool, network)


async def test_what_failed_is_not_held_against_the_remote() -> None:
    """After a failure the next acquire connects at once."""
    network = MemoryNetwork(failing(OSError("down")))
    async with ConnectionPool(network, max_size=1) as pool:
        for _ in range(3):
            with pytest.raises(anyio.ConnectionFailed):
                await pool.acquire()
        network.on_connect = None
        async with pool.acquire(timeout=0.5):
            assert anyio.current_time() == 0


async def test_a_request_waits_out_an_outage() -> None:
    """It completes at the first dial after the remote is back, by the schedule of the Retry."""
    remote = Remote()
    retry = Retry(math.inf, interval=1, jitter=0, max_interval=5)
    async with remote.pool(retry) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(remote.be_back_after, 14)
        assert await pool.send_receive_line(b"a") == b"a"
        assert remote.dialled_at == pytest.approx([0, 1, 3, 7, 12, 17])
        assert (pool.statistics().open_failed, pool.statistics().replayed) == (5, 0)
        await check_books(pool, remote.network)


async def test_after_an_outage_the_pauses_start_anew() -> None:
    """What the last outage took is not held against the remote."""
    remote = Remote()
    async with remote.pool(Retry(9, interval=1, jitter=0)) as pool:
        for _ in range(2):
            remote.dialled_at.clear()
            began = anyio.current_time()
            remote.down = True
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(remote.be_back_after, 4)
                async with pool.acquire() as connection:
                    connection.discard()
            assert [when - began for when in remote.dialled_at] == pytest.approx([0, 1, 3, 7])


async def test_callers_one_after_the_other_have_the_pauses_of_their_own_schedule() -> None:
    """However long the outage: the tenth waits as long for its error as the first."""
    remote = Remote()
    async with remote.pool(Retry(2, interval=1, jitter=0)) as pool:
        for number in range(10):
            with pytest.raises(anyio.ConnectionFailed):
                await pool.acquire()
            assert anyio.current_time() == pytest.approx(3 * (number + 1))
    assert len(remote.dialled_at) == 30


async def test_a_caller_finds_the_remote_back_however_long_the_outage_was() -> None:
    """By its own schedule, not after a pause that callers before it have left behind."""
    remote = Remote()
    async with remote.pool(Retry(math.inf, interval=0.1, jitter=0)) as pool:
        for _ in range(100):
            with pytest.raises(AcquireTimeout):
                await pool.acquire(timeout=2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(remote.be_back_after, 0.5)
            assert await pool.send_receive_line(b"a", timeout=2) == b"a"


@pytest.mark.parametrize("max_size", [1, 5, 60, math.inf])
@pytest.mark.parametrize("come", ["before", "later", "one by one"])
async def test_an_outage_is_dialled_once_per_pause_whatever_the_number_of_waiters(
    max_size: float, come: str
) -> None:
    """Only the first to come, before anything is known, may dial together.

    Those who come during a pause don't wait it out before their first try: all who are there make
    it together.
    """
    remote, served = Remote(), list[int]()

    async def ask(number: int) -> None:
        async with pool.acquire() as connection:
            served.append(number)
            assert await connection.send_receive_line(b"%d" % number) == b"%d" % number

    async with remote.pool(max_size=max_size) as pool, anyio.create_task_group() as tasks:
        if come != "before":
            tasks.start_soon(ask, -1)
            await settle()
        for number in range(50):
            tasks.start_soon(ask, number)
            if come == "one by one":
                await anyio.sleep(0.01)
        await settle()
        first = sum(when < 0.9 for when in remote.dialled_at)
        assert first == {"before": min(max_size, 50), "later": 2, "one by one": 51}[come]
        await anyio.sleep(10.5 - anyio.current_time())
        assert pool.statistics().tasks_waiting == 50 + (come != "before")
        # The pauses begin when a dial failed, which took no time.
        assert remote.dialled_at[first:] == pytest.approx(range(1, 11))
        remote.down = False
    assert len(served) == 50 + (come != "before")


@table("max_size", [1, 5, 60])
async def test_when_the_remote_is_back_the_waiters_are_served_in_order_and_without_a_stampede(
    max_size: int,
) -> None:
    """Those that waited dial one after the other; each connection serves the next in line."""
    remote, served_at = Remote(connect_time=0.1), dict[int, float]()

    async def ask(number: int) -> None:
        async with pool.acquire():
            served_at[number] = anyio.current_time()
            await anyio.sleep(0.05)

    async with remote.pool(max_size=max_size) as pool:
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(ask, number)
                await settle(3)
            await anyio.sleep(3)
            remote.down, remote.most_dials = False, 0
        times = [served_at[number] for number in range(50)]
        assert times == sorted(times)
        assert remote.most_dials == 1
        await anyio.sleep(1)
        assert remote.network.opened <= 30
        assert remote.network.most_open <= max_size
        await check_books(pool, remote.network)


async def test_a_remote_that_fails_again_at_once_is_not_dialled_by_all_in_turn() -> None:
    """It was back for one connect: the others share the next failure and its pause."""
    remote = Remote()

    async def hold() -> None:
        async with pool.acquire():
            remote.down = True
            await anyio.sleep_forever()

    async with remote.pool(max_size=10) as pool, anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(hold)
        await anyio.sleep(2.5)
        remote.down = False
        remote.dialled_at.clear()
        await anyio.sleep(3)
        assert remote.dialled_at == pytest.approx([3, 3, 4, 5])
        assert pool.statistics().in_use == 1
        tasks.cancel_scope.cancel()


async def test_a_waiter_fails_by_its_deadline_with_the_last_connect_error() -> None:
    """The text tells what the newest dial said."""
    remote = Remote()
    async with remote.pool() as pool:
        # The second comes during a pause, and has a try at once.
        for timeout, dials in ((3.5, 4), (0.2, 5)):
            began = anyio.current_time()
            with pytest.raises(AcquireTimeout, match=rf"connect error.* dial {dials}") as caught:
                await pool.send_receive_line(b"a", timeout=timeout)
            assert anyio.current_time() - began == pytest.approx(timeout)
            assert isinstance(caught.value.last_connect_error, anyio.ConnectionFailed)


@pytest.mark.parametrize("max_size", [1, 3, 20])
@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_finite_count_gives_every_waiter_its_error(max_size: int, count: int) -> None:
    """After that many repeats; nobody is forgotten."""
    remote, failed, times = Remote(), list[int](), list[float]()
    retry = Retry(count, interval=1, backoff=1, jitter=0)

    async def ask(number: int) -> None:
        with pytest.raises(anyio.ConnectionFailed, match="down, dial"):
            await pool.acquire()
        failed.append(number)
        times.append(anyio.current_time())

    async with remote.pool(retry, max_size=max_size) as pool:
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(ask, number)
                await settle(3)
        assert sorted(failed) == list(range(10))
        assert times[0] == pytest.approx(count)
        assert pool.statistics().open_failed == len(remote.dialled_at)
        await check_books(pool, remote.network)


async def test_one_round_of_waiters_shares_a_finite_count() -> None:
    """All get their errors together if there is room for all: one dial and pause for each try."""
    remote = Remote()

    async def ask() -> None:
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        assert anyio.current_time() == pytest.approx(2)

    async with remote.pool(Retry(2, interval=1, backoff=1, jitter=0), max_size=10) as pool:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask)
        assert remote.dialled_at == pytest.approx([0] * 10 + [1, 2])


@table("ended_by", ["cancellation", "timeout"])
async def test_it_gives_up_when_nobody_waits_any_more(ended_by: str) -> None:
    """Then no dial follows, until somebody asks again."""
    remote = Remote()
    async with remote.pool(max_size=3) as pool:
        for _ in range(2):
            remote.dialled_at.clear()
            with anyio.move_on_after(2.5 if ended_by == "cancellation" else 9):
                with pytest.raises(AcquireTimeout):
                    await pool.acquire(timeout=2.5 if ended_by == "timeout" else 99)
            assert len(remote.dialled_at) in (2, 3)
            remote.dialled_at.clear()
            await anyio.sleep(60)
            assert not remote.dialled_at
            assert pool.statistics().size == 0
        await check_books(pool, remote.network)
        remote.down = False
        assert await pool.send_receive_line(b"a") == b"a"


async def test_a_refill_goes_on_until_the_remote_is_back() -> None:
    """``min_idle`` connections are owed, though nobody waits; and dialled for as sparingly."""
    remote = Remote()
    retry = Retry(math.inf, interval=1, jitter=0, max_interval=8)
    async with remote.pool(retry, min_idle=3) as pool:
        await anyio.sleep(16)
        assert remote.dialled_at == pytest.approx([0, 0, 0, 1, 3, 7, 15])
        remote.down = False
        await anyio.sleep(6.9)
        assert pool.statistics().opened == 0
        await anyio.sleep(0.2)
        assert remote.dialled_at[7:] == pytest.approx([23, 23, 23])
        assert pool.statistics().idle == 3
        await check_books(pool, remote.network)


async def test_wait_ready_waits_out_an_outage_or_tells_its_end() -> None:
    """With a finite count, the error reaches who waits for the pool to be ready."""
    remote = Remote()
    async with remote.pool(Retry(2, interval=1, backoff=1, jitter=0), min_idle=2) as pool:
        with pytest.raises(anyio.ConnectionFailed):
            await pool.wait_ready()
        assert anyio.current_time() == pytest.approx(2)


async def test_a_program_that_waits_for_readiness_again_finds_the_remote_back() -> None:
    """It doesn't wait for the next sweep, whichever try it is."""
    remote = Remote()
    retry = Retry(1, interval=0.5, jitter=0)
    async with remote.pool(retry, min_idle=1) as pool:
        for number in range(3):
            with pytest.raises(anyio.ConnectionFailed):
                await pool.wait_ready()
            assert anyio.current_time() == pytest.approx(0.5 * (number + 1))
        remote.down = False
        await pool.wait_ready()
        assert anyio.current_time() == pytest.approx(1.5)


@table("where", ["remote", "on_connect"])
async def test_what_a_repeat_cannot_mend_reaches_the_callers_at_once(where: str) -> None:
    """An error that says nothing of the remote is not repeated, nor does it make others wait."""
    error = ValueError("wrong password")

    async def refuse(connection: PooledConnection) -> None:
        raise error

    network = MemoryNetwork(failing(error) if where == "remote" else None)
    hook = refuse if where == "on_connect" else None
    async with ConnectionPool(network, connect_retry=STEADY, on_connect=hook) as pool:
        for _ in range(3):
            with pytest.raises(ValueError, match="wrong password") as caught:
                await pool.acquire()
            assert caught.value is error
        assert anyio.current_time() == 0
        assert network.attempts == pool.statistics().open_failed == 3
        assert pool.statistics().size == network.open_now == 0


async def test_an_attempt_that_takes_too_long_is_repeated() -> None:
    """``connect_timeout`` is for each attempt, and its end one of the failures to repeat."""
    network = MemoryNetwork(hang)
    async with ConnectionPool(network, connect_retry=STEADY, connect_timeout=4) as pool:
        with anyio.move_on_after(7):
            await pool.acquire()
        assert network.attempts == 2
        network.on_connect = None
        # The second attempt hangs still. It was not begun for this one.
        await pool.send_receive_line(b"a")
        assert anyio.current_time() == pytest.approx(7)


async def test_an_idle_connection_is_lent_during_an_outage() -> None:
    """Backing off concerns those who need a new one only."""
    remote = Remote(down=False)
    async with remote.pool(max_size=2) as pool, anyio.create_task_group() as tasks:
        await fill(pool, 1)
        remote.down = True
        async with pool.acquire():
            tasks.start_soon(pool.send_receive_line, b"b")
            await anyio.sleep(5)
            assert pool.statistics().tasks_waiting == 1
        await settle()
        assert pool.statistics().tasks_waiting == 0
        assert pool.statistics().idle == 1


async def test_leaving_the_block_ends_an_outage() -> None:
    """The connects that pause are given up, and nothing is dialled afterwards."""
    remote = Remote()
    async with remote.pool(min_idle=3):
        await anyio.sleep(2.5)
    assert anyio.current_time() == pytest.approx(2.5)
    assert len(remote.dialled_at) == 5
    assert remote.network.open_now == 0
