"""When connecting fails for long, or much is to be connected at once: who is refused, who tries."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import (
    AcquireTimeout,
    ConnectionPool,
    PooledConnection,
    PoolManager,
    PoolStatistics,
    Retry,
)
from anyconnpool.events import FailFastBegan, FailFastEnded, PoolEvent, PoolObserver
from tests.cases import table

from .network import MemoryNetwork, check_books, delayed, fill, hang, number_of, settle

REFUSED = ConnectionRefusedError("go away")
# Pauses of 1, 2, 4, 4, … seconds.
PLAIN = Retry(0, interval=1, max_interval=4, jitter=0)


class Outage:
    """A remote that refuses until it is told to be up, and notes when it is asked."""

    def __init__(self) -> None:
        self.asked_at: list[float] = []
        self.up = False
        #: how long an attempt takes
        self.slowness = 0.0
        self.network = MemoryNetwork(self._connect)

    async def _connect(self, number: int) -> None:
        self.asked_at.append(anyio.current_time())
        up = self.up
        if self.slowness:
            await anyio.sleep(self.slowness)
        if not up:
            raise REFUSED


async def refused(pool: ConnectionPool) -> anyio.ConnectionFailed:
    """Ask for a connection, which must be refused without any time passing."""
    began = anyio.current_time()
    with pytest.raises(anyio.ConnectionFailed) as caught:
        await pool.acquire()
    assert anyio.current_time() == began
    return caught.value


async def until(moment: float) -> None:
    await anyio.sleep_until(moment)
    await settle()


async def test_no_more_than_max_connecting_attempts_are_under_way() -> None:
    """The hook is part of an attempt; waiters are served in order, refills come after them."""
    busy, most, served = 0, 0, list[tuple[int, float]]()

    async def connect(number: int) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await anyio.sleep(1)

    async def log_in(connection: PooledConnection) -> None:
        nonlocal busy
        await anyio.sleep(1)
        busy -= 1

    async def ask(place: int) -> None:
        await pool.acquire()
        served.append((place, anyio.current_time()))

    network = MemoryNetwork(connect)
    async with ConnectionPool(
        network, on_connect=log_in, max_connecting=2, min_idle=2, close_timeout=0
    ) as pool:
        async with anyio.create_task_group() as tasks:
            for place in range(6):
                tasks.start_soon(ask, place)
                await settle()
        # Those that are served in one moment may run in any order.
        assert sorted(served) == [(0, 2), (1, 2), (2, 4), (3, 4), (4, 6), (5, 6)]
        await anyio.sleep(10)
        assert (most, pool.statistics().idle) == (2, 2)


async def test_to_wait_for_its_turn_is_no_part_of_an_attempts_time() -> None:
    """connect_timeout begins when the attempt does; one that hangs counts as long as it may."""
    network = MemoryNetwork(delayed(1))
    async with ConnectionPool(
        network, max_connecting=1, connect_timeout=1.5, close_timeout=0
    ) as pool:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(pool.acquire().__aenter__)
        assert anyio.current_time() == 5
        network.on_connect = hang
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_late, pool)
            await anyio.sleep(0.7)
            assert (network.attempts, pool.statistics().connecting) == (6, 1)
            with pytest.raises(AcquireTimeout):
                await pool.acquire(timeout=0.6)
            assert (network.attempts, pool.statistics().connecting) == (6, 1)
    assert network.open_now == 0


async def fail_late(pool: ConnectionPool) -> None:
    with pytest.raises(anyio.ConnectionFailed, match=r"longer than connect_timeout, 1\.5 s"):
        await pool.acquire()


async def test_after_so_long_whoever_waits_and_whoever_comes_is_refused() -> None:
    """Each gets an error of his own, which names the last failure and since when."""
    outage = Outage()
    async with ConnectionPool(outage.network, fail_fast_after=3, name="echo") as pool:
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        outage.slowness = 20
        errors: list[Exception] = []

        async def wait(ask: Callable[[], Any]) -> None:
            with pytest.raises(anyio.ConnectionFailed) as caught:
                await ask()
            errors.append(caught.value)
            assert anyio.current_time() == 3

        async with anyio.create_task_group() as tasks:
            for ask in (pool.acquire().__aenter__, pool.acquire().__aenter__):
                tasks.start_soon(wait, ask)
        errors += [await refused(pool), await refused(pool)]
        for error in errors:
            assert str(error) == (
                "pool 'echo' refuses at once, since connecting has failed for 3.0 s, the last time "
                "with ConnectionFailed: error connecting to echo: go away; it goes on trying by "
                "itself"
            )
            assert isinstance(error.__cause__, anyio.ConnectionFailed)
        assert len({id(error) for error in errors}) == len(errors) == 4
        assert len({id(error.__cause__) for error in errors}) == len(errors)
        # Those that were under way go on: nothing is begun beside them.
        assert len(outage.asked_at) == 3


async def test_nobody_is_refused_while_anything_is_open() -> None:
    """Whoever asks waits for what comes back; once it is closed, nobody waits any more."""
    outage = Outage()
    outage.up = True
    async with ConnectionPool(outage.network, fail_fast_after=3, max_size=2) as pool:
        connection = await pool.acquire()
        outage.up = False
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        await anyio.sleep(10)
        asked = outage.asked_at[-1]
        with pytest.raises(anyio.ConnectionFailed, match="error connecting"):
            await pool.acquire()
        assert outage.asked_at[-1] > asked
        await connection.aclose()
        async with pool.acquire() as same:
            assert number_of(same) == 1
            outage.slowness = 5
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(refused_later, pool)
                await settle()
                same.discard()
        assert "refuses at once" in str(await refused(pool))


async def refused_later(pool: ConnectionPool) -> None:
    with pytest.raises(anyio.ConnectionFailed, match="refuses at once"):
        await pool.acquire()


async def test_the_pool_tries_by_itself_one_attempt_at_a_time() -> None:
    """By the schedule of connect_retry, without its count; neither refills nor callers add any."""
    outage = Outage()
    async with ConnectionPool(
        outage.network, fail_fast_after=0, connect_retry=PLAIN, min_idle=3, name="echo"
    ) as pool:
        await settle()
        # The first refill begins three at once: a burst, which counts once.
        assert outage.asked_at == [0, 0, 0]
        for moment in (0.5, 5.5, 12):
            await until(moment)
            await refused(pool)
            with pytest.raises(anyio.ConnectionFailed, match="refuses at once"):
                await pool.wait_ready()
        await until(12)
        assert outage.asked_at[3:] == [1, 3, 7, 11]
        outage.slowness = 6
        await until(40)
        # An attempt of six seconds, and a pause of four.
        assert outage.asked_at[7:] == [15, 25, 35]
        assert pool.statistics().open_failed == 9


async def test_a_pool_that_only_refills_tries_by_itself() -> None:
    """Nobody has ever asked for a connection, and the refills that fail are those of min_idle."""
    outage = Outage()
    async with ConnectionPool(
        outage.network, fail_fast_after=0, connect_retry=PLAIN, min_idle=1
    ) as pool:
        await until(12)
        assert outage.asked_at == [0, 1, 3, 7, 11]
        outage.up = True
        await until(16)
        assert pool.statistics().idle == 1


async def test_without_connect_retry_the_pauses_grow_to_five_seconds() -> None:
    """Each is up to a tenth longer or shorter."""
    outage = Outage()
    async with ConnectionPool(outage.network, fail_fast_after=1) as pool:
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        await anyio.sleep(60)
    # The one that somebody asked for, and the first of the pool's own after a second.
    moments = outage.asked_at
    assert moments[:2] == [0, 1]
    pauses = [after - before for before, after in pairwise(moments[1:])]
    expected = [0.2, 0.4, 0.8, 1.6, 3.2, *[5] * 20]
    assert pauses == [pytest.approx(one, rel=0.11) for one in expected[: len(pauses)]]
    assert len(pauses) > 12


async def test_the_first_success_ends_it_and_serves_whoever_comes_first() -> None:
    """No request is sacrificed to find out, and none has to wait for a connection."""
    outage = Outage()
    async with ConnectionPool(outage.network, fail_fast_after=1, connect_retry=PLAIN) as pool:
        assert pool.statistics().failing_for is None
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        await until(2)
        assert pool.statistics().failing_for == 2
        outage.up = True
        await refused(pool)
        await until(3)
        assert pool.statistics().failing_for is None
        assert pool.statistics().idle == 1
        attempts = len(outage.asked_at)
        async with pool.acquire() as connection:
            assert (number_of(connection), connection.reused) == (1, False)
            assert anyio.current_time() == 3
        assert len(outage.asked_at) == attempts
        # The next outage begins anew.
        outage.up = False
        async with pool.acquire() as connection:
            connection.discard()
        with pytest.raises(anyio.ConnectionFailed, match="error connecting"):
            await pool.acquire()
        await anyio.sleep(1)
        assert "for 1.0 s" in str(await refused(pool))
        assert pool.statistics().failing_for == 1
        await check_books(pool, outage.network)
    assert pool.statistics().failing_for is None


@table("exchanges, pipeline", [(False, 1), (True, 1), (True, 2)])
async def test_a_loop_that_does_nothing_but_ask_starves_nobody(
    exchanges: bool, pipeline: int
) -> None:
    """The attempt that ends it gets its turns, without any time passing."""
    outage = Outage()
    settings: dict[str, Any] = {"fail_fast_after": 0, "connect_retry": Retry(0, interval=0)}
    async with ConnectionPool(outage.network, pipeline=pipeline, **settings) as pool:
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        outage.up = True
        refusals = 0
        while refusals < 10_000:
            try:
                if exchanges:
                    await pool.send_receive_line(b"ask")
                else:
                    await (await pool.acquire()).aclose()
            except anyio.ConnectionFailed:
                refusals += 1
            else:
                break
        assert refusals < 10_000
        # It is not every single refusal that costs a turn.
        assert refusals > 60


async def test_a_hook_that_fails_counts_like_connecting_that_fails() -> None:
    """Whatever it raises, also what is not to be tried again for a caller."""

    async def log_in(connection: PooledConnection) -> None:
        raise LookupError("no such user")

    network = MemoryNetwork()
    async with ConnectionPool(
        network, fail_fast_after=1, on_connect=log_in, connect_retry=PLAIN, name="echo"
    ) as pool:
        with pytest.raises(LookupError):
            await pool.acquire()
        await anyio.sleep(1.5)
        attempts = network.attempts
        assert "the last time with LookupError: no such user" in str(await refused(pool))
        await anyio.sleep(20)
        assert network.attempts > attempts


async def test_who_is_refused_is_no_waiter() -> None:
    """max_waiting doesn't matter, also while an attempt of the pool's own has the only slot."""
    outage = Outage()
    async with ConnectionPool(outage.network, fail_fast_after=0, max_size=1, max_waiting=0) as pool:
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        outage.slowness = 20
        await anyio.sleep(10)
        assert pool.statistics().connecting == 1
        await refused(pool)
        with pytest.raises(anyio.ConnectionFailed, match="refuses at once"):
            await pool.send_receive(b"ping", 4)


async def test_a_schedule_that_fails_is_replaced() -> None:
    """A pause that a subclass of Retry can't say is the pool's own."""

    class Broken(Retry):
        def pause(self, repeat: int, draw: Callable[[], float] = float) -> float:
            raise ZeroDivisionError

    outage = Outage()
    async with ConnectionPool(outage.network, fail_fast_after=0, connect_retry=Broken(3)) as pool:
        with pytest.raises(ZeroDivisionError):
            await pool.acquire()
        await anyio.sleep(60)
        assert 10 < len(outage.asked_at) < 30


async def test_the_end_of_the_block_ends_the_trying() -> None:
    """Attempts and pauses alike; the next block begins anew."""
    outage = Outage()
    pool = ConnectionPool(outage.network, fail_fast_after=0, connect_retry=PLAIN)
    for slowness in (0.0, 10.0):
        async with pool:
            outage.slowness = 0
            with pytest.raises(anyio.ConnectionFailed, match="error connecting"):
                await pool.acquire()
            outage.slowness = slowness
            await anyio.sleep(1.5)
        asked = len(outage.asked_at)
        assert (pool.statistics().failing_for, outage.network.open_now) == (None, 0)
        await anyio.sleep(30)
        assert len(outage.asked_at) == asked


async def test_begin_and_end_are_logged_and_observers_notified(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once each, with the figures."""
    caplog.set_level(logging.INFO, "anyconnpool.pool")
    events: list[PoolEvent] = []

    class Watcher(PoolObserver):
        def fail_fast_began(self, event: FailFastBegan) -> None:
            events.append(event)

        def fail_fast_ended(self, event: FailFastEnded) -> None:
            events.append(event)

    outage = Outage()
    async with ConnectionPool(
        outage.network, fail_fast_after=2, connect_retry=PLAIN, observers=[Watcher()], name="echo"
    ) as pool:
        with pytest.raises(anyio.ConnectionFailed) as caught:
            await pool.acquire()
        await until(2.5)
        await refused(pool)
        outage.up = True
        await until(10)
    assert isinstance(events[0], FailFastBegan)
    error = events[0].error
    assert type(error) is type(caught.value)
    assert events == [FailFastBegan("echo", 2, error), FailFastEnded("echo", 2)]
    lines = [record.getMessage() for record in caplog.records]
    began = "pool echo: connecting has failed for 2.0 s: callers are refused from now on"
    ended = "pool echo: callers wait again, after they were refused for 2.0 s"
    assert [line for line in lines if "refused from" in line or "were refused" in line] == [
        began,
        ended,
    ]


async def test_the_end_of_the_block_is_not_told_as_an_end_of_the_outage() -> None:
    """Also if a connection is still being closed, whose task is the last to end."""
    events: list[PoolEvent] = []
    outage = Outage()
    outage.up = True
    outage.network.on_close = hang
    async with ConnectionPool(
        outage.network, fail_fast_after=0, connect_retry=PLAIN, observers=[events.append]
    ) as pool:
        connection = await pool.acquire()
        outage.up = False
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        pool.retire()
        await connection.aclose()
        await until(2)
        await refused(pool)
        assert pool.statistics().closing == 1
    kinds = [type(event) for event in events]
    assert kinds.count(FailFastBegan) == 1
    assert FailFastEnded not in kinds


async def test_without_the_setting_nobody_is_refused() -> None:
    """Each caller's attempt is made, however long the outage lasts."""
    outage = Outage()
    async with ConnectionPool(outage.network) as pool:
        for _ in range(3):
            with pytest.raises(anyio.ConnectionFailed, match="error connecting"):
                await pool.acquire()
            await anyio.sleep(1000)
        assert pool.statistics().failing_for == 3000
        assert outage.asked_at == [0, 1000, 2000]


def down(manager: PoolManager, network: MemoryNetwork) -> PoolStatistics:
    return manager.statistics()[network]


async def test_in_a_manager_a_pause_holds_no_place() -> None:
    """Another pool has all of max_total; an idle connection of it gives way to an attempt."""
    outage, other = Outage(), MemoryNetwork()
    async with PoolManager(
        max_total=1, max_waiting=0, fail_fast_after=0, connect_retry=PLAIN
    ) as manager:
        with pytest.raises(anyio.ConnectionFailed):
            await manager.acquire(outage.network)
        await until(0.5)
        async with manager.acquire(other):
            assert (anyio.current_time(), len(outage.asked_at)) == (0.5, 1)
            # In use it gives way to nobody, and who asks for the other remote doesn't wait.
            await until(2.5)
            assert outage.asked_at == [0]
            await refused(manager.pool(outage.network))
        await until(2.5)
        assert outage.asked_at == [0, 2.5]
        assert manager.statistics()[other].closed == {"gave_way": 1}
        await until(3)
        await fill(manager.pool(other), 1)
        assert other.opened == 2
        outage.up = True
        await until(4.5)
        assert manager.statistics()[other].closed == {"gave_way": 2}
        async with manager.acquire(outage.network) as connection:
            assert number_of(connection) == 1
            assert anyio.current_time() == 4.5


async def test_a_pool_that_nobody_asks_for_is_dropped_and_tries_no_more() -> None:
    """One that is asked for is kept, though it has nothing open for longer than that."""
    outage = Outage()
    async with PoolManager(max_idle_time=100, fail_fast_after=1, connect_retry=PLAIN) as manager:
        with pytest.raises(anyio.ConnectionFailed):
            await manager.acquire(outage.network)
        for _ in range(5):
            await anyio.sleep(60)
            await refused(manager.pool(outage.network))
        assert down(manager, outage.network).failing_for == 300
        await until(300 + 120)
        assert manager.statistics() == {}
        assert max(outage.asked_at) < 400
        asked = len(outage.asked_at)
        await anyio.sleep(1000)
        assert len(outage.asked_at) == asked


async def test_a_pool_is_dropped_though_an_attempt_is_always_under_way() -> None:
    """No new one is begun when nobody has asked for so long; wait_ready() asks."""
    outage = Outage()
    outage.slowness = 20
    own = Retry(0, interval=0)
    async with PoolManager(
        max_idle_time=100, fail_fast_after=1, connect_retry=own, max_size=1, min_idle=1
    ) as manager:
        with pytest.raises(anyio.ConnectionFailed):
            await manager.acquire(outage.network)
        await until(90)
        with pytest.raises(anyio.ConnectionFailed, match="refuses at once"):
            await manager.pool(outage.network).wait_ready()
        await until(215)
        assert manager.statistics() == {}
        # The second is a refill of a sweep, before the pool fails fast.
        assert outage.asked_at == [*range(0, 190, 20)]


async def test_who_uses_a_connection_counts_as_somebody_who_asks() -> None:
    """The pool goes on trying for max_idle_time after the last connection was closed."""
    outage = Outage()
    outage.up = True
    async with PoolManager(max_idle_time=100, fail_fast_after=1, connect_retry=PLAIN) as manager:
        connection = await manager.acquire(outage.network)
        await until(50)
        outage.up = False
        with pytest.raises(anyio.ConnectionFailed, match="error connecting"):
            await manager.acquire(outage.network)
        await until(200)
        connection.discard()
        await until(290)
        assert down(manager, outage.network).failing_for == 240
        await until(310)
        assert manager.statistics() == {}
        assert 280 < outage.asked_at[-1] < 300


async def test_a_refused_exchange_is_tried_again_as_the_caller_says() -> None:
    """With retry= it waits out a short outage, at its own pace."""
    outage = Outage()
    async with ConnectionPool(outage.network, fail_fast_after=0, connect_retry=PLAIN) as pool:
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        outage.up = True
        patience = Retry(math.inf, interval=0.3, backoff=1, jitter=0)
        assert await pool.send_receive(b"ping", 4, retry=patience) == b"ping"
        assert anyio.current_time() == pytest.approx(1.2)
        assert outage.network.opened == 1
        await checkpoint()
