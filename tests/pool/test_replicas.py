"""Several servers behind one pool: which one gets what, and what a failure of one leads to."""

from __future__ import annotations

import copy
import gc
import math
import pickle
from typing import Any

import anyio
import pytest
from anyio import ConnectionFailed, create_task_group, move_on_after

from anyconnpool import AcquireTimeout, ConnectionPool, PoolManager, Replicas, Retry
from anyconnpool._core.health import Replica
from anyconnpool.events import PoolEvent, PoolObserver, ReplicaBack, ReplicaResting

from .network import MemoryNetwork, peer_of, settle
from .service import Server, Service, ask, give_back, hold, work


async def test_new_connections_go_to_the_replica_with_the_fewest() -> None:
    """Those being opened count; of equals, the one chosen longest ago gets the next."""
    service = Service()
    service.servers[1].slowness = 0.05
    async with service.pool(max_size=20) as pool, create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(pool.acquire().__aenter__)
        await settle()
        assert service.sizes() == [3, 3, 2]
        await anyio.sleep(2)
        assert service.in_use() == [3, 3, 2]


async def test_an_idle_connection_is_lent_from_the_replica_with_the_fewest_in_use() -> None:
    """Of equals, idle_order decides, so that one task alone stays on one replica."""
    for order, alone in (("lifo", [2, 2, 2]), ("fifo", [0, 1, 2])):
        service = Service()
        async with service.pool(idle_order=order) as pool:
            await give_back(await hold(pool, 6))
            numbers: list[int] = []
            for _ in range(3):
                async with pool.acquire() as connection:
                    numbers.append(service.number_of(connection))
            assert numbers == alone
            held = [await pool.acquire() for _ in range(3)]
            assert sorted(map(service.number_of, held)) == [0, 1, 2]
            # One comes back: its replica has the fewest in use.
            number = service.number_of(held[0])
            await held.pop(0).aclose()
            held.append(await pool.acquire())
            assert service.number_of(held[-1]) == number
            await give_back(held)


async def test_what_stands_first_is_not_lent_if_its_replica_has_more_in_use() -> None:
    """Whichever end of the idle ones is the first."""
    for order in ("lifo", "fifo"):
        service = Service(2)
        async with service.pool(max_size=6, idle_order=order) as pool:
            held = await hold(pool, 6)
            busy = [each for each in held if service.number_of(each) == 0]
            free = [each for each in held if service.number_of(each) == 1]
            await give_back([*free[:2], busy[0]] if order == "lifo" else [busy[0], *free[:2]])
            # Of the first, two are in use, and of the second, one.
            lent = await hold(pool, 2)
            assert service.number_of(lent[0]) == 1
            await give_back([*lent, *busy[1:], *free[2:]])


async def test_in_order_the_first_that_does_not_rest_gets_all() -> None:
    """Also of the idle ones, whichever was used last."""
    service = Service(order="in_order")
    async with service.pool(max_size=4) as pool:
        await give_back(await hold(pool, 3))
        assert service.sizes() == [3, 0, 0]
        service.servers[0].mood = "refusing"
        held = await hold(pool, 4)
        assert service.sizes() == [3, 1, 0]
        await give_back(reversed(held))
        async with pool.acquire() as connection:
            assert service.number_of(connection) == 1
        # The others may be the primary's last ones: they serve, too.
        await give_back(await hold(pool, 4))
        assert pool.statistics().reused == 8


async def test_one_line_for_all() -> None:
    """Whatever comes back, to whichever replica, serves who has waited longest."""
    service = Service(2)
    order: list[int] = []
    async with service.pool(max_size=2) as pool, create_task_group() as tasks:
        held = await hold(pool, 2)

        async def wait(number: int) -> None:
            async with pool.acquire():
                order.append(number)
                await anyio.sleep(1)

        for number in range(3):
            tasks.start_soon(wait, number)
            await settle()
        await held[1].aclose()
        await settle()
        assert order == [0]
        await held[0].aclose()
        await anyio.sleep(5)
    assert order == [0, 1, 2]


async def test_a_dead_replica_costs_nobody_an_error() -> None:
    """A connect goes on with the next one; connect_timeout is for each."""
    service = Service()
    service.servers[0].mood = "swallowing"
    service.servers[1].mood = "refusing"
    async with service.pool(connect_timeout=2, max_size=1) as pool:
        await ask(pool)
        assert anyio.current_time() == 2
        assert service.resting() == [True, True, False]
        statistics = pool.statistics()
        assert (statistics.opened, statistics.open_failed, statistics.replayed) == (1, 2, 0)


async def test_if_all_fail_the_error_has_one_of_each() -> None:
    """A ConnectionFailed whose cause is a group; with one replica, the error as it is."""
    service = Service()
    for server in service.servers:
        server.mood = "refusing"
    async with service.pool() as pool:
        with pytest.raises(ConnectionFailed, match="none of the replicas") as caught:
            await ask(pool)
        cause: Any = caught.value.__cause__
        assert [type(error) for error in cause.exceptions] == [ConnectionFailed] * 3
        assert [len(server.asked_at) for server in service.servers] == [1, 1, 1]
    single = Service(1)
    single.servers[0].mood = "refusing"
    async with single.pool() as pool:
        with pytest.raises(ConnectionFailed, match="go away") as caught:
            await ask(pool)
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_on_connect_is_part_of_a_connect_that_fails() -> None:
    """Whatever it raises, the next replica is tried."""
    service = Service(2)

    async def log_in(connection: Any) -> str:
        if connection.remote is service.servers[0].network:
            await connection.send(b"me")
            raise LookupError("unknown")
        return "session"

    async with service.pool(on_connect=log_in) as pool, pool.acquire() as connection:
        assert service.number_of(connection) == 1
        session: object = connection.session
        assert session == "session"
        assert not connection.reused
        assert isinstance(
            service.replicas.states()[service.servers[0].network].last_error, LookupError
        )


async def test_nothing_stays_of_a_replica_on_which_on_connect_has_failed() -> None:
    """Not its session; what the next one says first is a greeting, though nobody spoke to it."""
    service = Service(2)
    seen: list[object] = []

    async def log_in(connection: Any) -> str:
        seen.append(connection.session)
        if connection.remote is service.servers[0].network:
            await connection.send_receive(b"me", 2)
            peer_of(connection).push(b"unasked")
            return "first"
        peer_of(connection).push(b"welcome")
        return "second"

    async with service.pool(on_connect=log_in) as pool, pool.acquire() as connection:
        session: object = connection.session
        assert session == "second"
        assert seen == [None, None]
        assert await connection.receive_exactly(7) == b"welcome"
        assert service.failures() == [1, 0]


async def test_a_burst_of_failures_counts_once() -> None:
    """What was begun before the rest doesn't count, whenever it fails."""
    service = Service(2)
    server = service.servers[0]
    server.mood, server.slowness = "refusing", 0.5
    async with service.pool(max_size=10) as pool, create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(hold, pool, 1)
        await anyio.sleep(0.25)
        server.slowness = 0.6
        for _ in range(4):
            tasks.start_soon(hold, pool, 1)
        await anyio.sleep(1)
        assert len(server.asked_at) > 3
        assert max(server.asked_at) < 0.5
        assert service.failures() == [1, 0]
        assert service.in_use() == [0, 8]


async def test_rests_grow_and_only_the_pools_own_attempts_prolong_them() -> None:
    """One attempt when each rest is over, without anybody asking; no request goes there."""
    service = Service(2)
    server = service.servers[0]
    async with service.pool(max_size=4) as pool:
        server.mood = "refusing"
        await give_back(await hold(pool, 4))
        assert service.sizes() == [0, 4]
        await work(pool, 8, tasks=10)
        assert server.asked_at == [0, 1, 3, 7]
        assert service.failures() == [4, 0]


async def test_a_rest_is_never_so_short_that_time_stands_still() -> None:
    """Added to the time, the interval that was chosen would be nothing."""
    service = Service(2, rest=Retry(0, interval=1e-300, max_interval=1e-300, jitter=0))
    server = service.servers[0]
    server.mood = "refusing"
    async with service.pool() as pool:
        await ask(pool)
        await anyio.sleep(0.05)
        assert 10 < len(server.asked_at) < 60


async def test_what_does_not_count_against_a_replica() -> None:
    """A hang-up on a reused connection, an error after the first byte, a cancellation."""
    service = Service(1)
    async with service.pool(max_size=1) as pool:
        await ask(pool)
        async with create_task_group() as tasks:
            tasks.start_soon(expect, ask, pool)
            # On a reused one.
            service.servers[0].mood = "silent"
            await settle()
            service.servers[0].hang_up()
        assert service.failures() == [0]
        with move_on_after(1):
            await ask(pool)
        assert service.failures() == [0]
        async with create_task_group() as tasks:
            tasks.start_soon(expect, receive_more, pool)
            await settle()
            service.servers[0].hang_up()
        assert service.failures() == [0]
        with pytest.raises(TimeoutError):
            async with pool.acquire():
                # Not the connection's fault.
                raise TimeoutError
        assert service.failures() == [0]


async def expect(function: Any, *args: Any) -> None:
    with pytest.raises((OSError, anyio.EndOfStream, anyio.IncompleteRead)):
        await function(*args)


async def receive_more(pool: ConnectionPool) -> None:
    async with pool.acquire() as connection:
        assert not connection.reused
        await connection.send(b"x")
        peer_of(connection).push(b"y")
        await connection.receive_exactly(2)


async def test_a_hang_up_before_the_first_byte_on_a_new_connection_counts() -> None:
    """Those that the replica has go on serving."""
    service = Service(2)
    server = service.servers[0]
    async with service.pool(max_size=6) as pool:
        held = await hold(pool, 2)
        server.mood = "silent"
        async with create_task_group() as tasks:
            tasks.start_soon(expect, ask, pool)
            await settle()
            # The server accepts and hangs up.
            server.network.peers[-1].hang_up()
            await settle()
            assert service.failures() == [1, 0]
        assert service.sizes() == [1, 1]
        await give_back(held)
        assert service.sizes() == [1, 1]
        assert pool.statistics().closed == {"unclean": 1}


@pytest.mark.parametrize("way", ["exchange", "run", "acquire"])
async def test_after_a_timeout_all_connections_of_the_replica_are_closed(way: str) -> None:
    """Idle ones at once, borrowed ones when they come back."""
    service = Service(2)
    async with service.pool(max_size=8) as pool:
        held = await hold(pool, 6)
        for connection in held:
            await connection.send(b"a")
            await connection.receive()
        idle = [held.pop(), held.pop()]
        await give_back(idle)
        service.servers[0].mood = service.servers[1].mood = "silent"
        # Nothing idle may be taken: all but a new one are held.
        more = await hold(pool, 2)

        async def call(connection: Any) -> None:
            await connection.send(b"b")
            await connection.receive()

        async def run_out_of_time() -> None:
            with pytest.raises(TimeoutError):
                if way == "exchange":
                    await ask(pool, timeout=1)
                elif way == "run":
                    await pool.run(call, timeout=1)
                else:
                    async with pool.acquire() as connection:
                        with anyio.fail_after(1):
                            await call(connection)

        async with create_task_group() as tasks:
            tasks.start_soon(run_out_of_time)
            await anyio.sleep(0.5)
            await give_back(more)
        assert service.failures().count(1) == 1
        number = service.failures().index(1)
        assert service.resting()[number]
        await settle()
        assert pool.statistics().closed == {"unclean": 1, "resting": 1}
        await give_back(held)
        await settle()
        assert service.sizes()[number] == 0
        assert service.sizes()[1 - number] == 3
        assert pool.statistics().closed == {"unclean": 1, "resting": 3}


async def test_a_replica_comes_back_by_one_connection_of_the_pools_own() -> None:
    """Without anybody asking, and without another new one until a reply has come on it."""
    service = Service(2)
    server = service.servers[0]
    async with service.pool(max_size=10) as pool:
        server.mood = "refusing"
        await ask(pool)
        server.mood = "well"
        await anyio.sleep(1)
        await settle()
        assert (server.asked_at, service.sizes()) == ([0, 1], [1, 1])
        assert (service.resting(), service.failures()) == ([False, False], [1, 0])
        held = await hold(pool, 6)
        assert service.in_use() == [1, 5]
        trial = next(each for each in held if service.number_of(each) == 0)
        await trial.send_receive(b"a", 1)
        await trial.aclose()
        assert service.failures() == [0, 0]
        held.remove(trial)
        await give_back(held)
        await anyio.sleep(2)
        assert service.sizes() == [3, 3]


async def test_what_was_only_lent_is_no_reply() -> None:
    """Neither is a connection that nothing was received on, nor what on_connect has read."""
    service = Service(2)
    server = service.servers[0]

    async def log_in(connection: Any) -> None:
        await connection.send_receive(b"me", 2)

    async with service.pool(max_size=10, on_connect=log_in) as pool:
        server.mood = "refusing"
        await ask(pool)
        server.mood = "well"
        await anyio.sleep(1)
        await settle()
        await give_back(await hold(pool, 2))
        assert service.failures() == [1, 0]


@pytest.mark.parametrize("loss", ["cancelled", "idle"])
async def test_a_trial_that_is_lost_is_made_up_for(loss: str) -> None:
    """Where the others suffice, nobody would open another connection to it."""
    service = Service(2)
    server = service.servers[1]
    async with service.pool(max_size=20, max_idle_time=50) as pool:
        server.mood = "refusing"
        await give_back(await hold(pool, 10))
        server.mood = "silent"
        await anyio.sleep(1.5)
        assert service.sizes() == [10, 1]
        if loss == "cancelled":
            with move_on_after(0.1):
                await ask(pool)
        else:
            # Nor does the pool, while nobody uses it, but once.
            await anyio.sleep(300)
            assert service.sizes() == [0, 0]
            assert len(server.asked_at) <= 3
        server.mood = "well"
        await give_back(await hold(pool, 10))
        await work(pool, anyio.current_time() + 5, tasks=5)
        assert service.failures() == [0, 0]
        assert min(service.sizes()) > 2


async def test_a_check_is_a_reply() -> None:
    """The pool's own attempt asks it before anybody is lent the connection; a failure counts."""
    service = Service(2)
    server = service.servers[0]
    answers = [False, True]
    checked: list[int] = []

    async def check(connection: Any) -> bool:
        checked.append(service.number_of(connection))
        await connection.send_receive(b"?", 1)
        return answers.pop(0)

    async with service.pool(check=check) as pool:
        server.mood = "refusing"
        await ask(pool)
        server.mood = "well"
        await anyio.sleep(1)
        await settle()
        assert (service.failures(), service.sizes()) == ([2, 0], [0, 1])
        await anyio.sleep(2)
        await settle()
        assert (service.failures(), service.resting()) == ([0, 0], [False, False])
        assert checked == [0, 0]


async def test_a_check_does_not_take_a_greeting_for_its_answer() -> None:
    """What has come on the new connection is for its first borrower."""
    service = Service(2)
    server = service.servers[0]

    async def check(connection: Any) -> None:
        raise AssertionError("it was asked")

    async with service.pool(check=check) as pool:
        server.mood = "refusing"
        await ask(pool)
        server.mood = "well"
        server.network.greeting = b"READY"
        await anyio.sleep(1)
        await settle()
        assert (service.failures(), service.sizes()) == ([1, 0], [1, 1])
        async with pool.acquire() as connection:
            assert service.number_of(connection) == 0
            assert await connection.receive_exactly(5) == b"READY"
        assert service.failures() == [0, 0]


async def test_a_check_that_hangs_fails_the_attempt() -> None:
    """In check_timeout."""
    service = Service(2)
    server = service.servers[0]

    async def check(connection: Any) -> None:
        await connection.receive()

    async with service.pool(check=check, check_timeout=0.5) as pool:
        server.mood = "refusing"
        await ask(pool)
        server.mood = "silent"
        await anyio.sleep(1.6)
        assert service.failures() == [2, 0]
        last_error = service.replicas.states()[server.network].last_error
        assert "took longer than check_timeout, 0.5 s" in str(last_error)


async def test_in_a_full_pool_an_idle_connection_gives_way_to_the_attempt() -> None:
    """Or the next one that comes back, before those who wait get their turn."""
    for idle in (True, False):
        service = Service(2)
        server = service.servers[0]
        async with service.pool(max_size=3) as pool, create_task_group() as tasks:
            server.mood = "refusing"
            held = await hold(pool, 3)
            server.mood = "well"
            if idle:
                await held.pop().aclose()
            await anyio.sleep(1.5)
            assert service.sizes() == ([1, 2] if idle else [0, 3])
            if not idle:
                tasks.start_soon(ask, pool)
                await settle()
                await held.pop().aclose()
                await settle()
                assert service.sizes() == [1, 2]
                # The waiter has got the new one, and its reply.
                assert service.failures() == [0, 0]
            assert pool.statistics().closed == {"gave_way": 1}
            await give_back(held)


@pytest.mark.parametrize("pipeline", [1, 4])
@pytest.mark.parametrize("size", [1, 2])
async def test_attempts_of_its_own_keep_nobody_waiting_for_long(size: int, pipeline: int) -> None:
    """Where they hold all slots and may hang, one is given up, and its replica rests for longer."""
    service = Service(3, order="in_order", rest=Retry(0, interval=1, max_interval=8, jitter=0))
    dead = service.servers[:size]
    for server in dead:
        server.mood = "swallowing"
    waited: list[float] = []
    async with service.pool(max_size=size, pipeline=pipeline) as pool:
        await pool.send_receive_line(b"a")
        back_at = anyio.current_time() + 40

        async def one() -> None:
            while anyio.current_time() < back_at + 50:
                began = anyio.current_time()
                assert await pool.send_receive_line(b"a") == b"a"
                waited.append(anyio.current_time() - began)
                await anyio.sleep(0.1)

        async with create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(one)
            await anyio.sleep_until(back_at)
            tried = len(dead[0].asked_at)
            assert 4 <= tried <= 8, "the rests grow"
            error = service.replicas.states()[dead[0].network].last_error
            assert "given up" in str(error) or size > 1
            for server in dead:
                server.mood, server.slowness = "well", 0.9
        assert service.sizes() == [size, 0, 0]
    assert max(waited) < 2.5


@pytest.mark.parametrize("limit", ["max_size", "max_connecting"])
async def test_an_attempt_of_its_own_gives_way_to_the_only_one_who_waits(limit: str) -> None:
    """Whether he came before or after it, and whether slots or turns to connect are lacking."""
    service = Service(2)
    async with service.pool(**{limit: 1}) as pool, create_task_group() as tasks:
        held = await hold(pool, 1)
        number = service.number_of(held[0])
        dead = service.servers[1 - number]
        dead.mood = "refusing"
        if limit == "max_connecting":
            held += await hold(pool, 1)
            assert service.number_of(held[1]) == number
        else:
            # Nothing else leads to the other one while there is one slot.
            await held.pop().aclose()
            pool.retire()
            await settle()
            held += await hold(pool, 1)
        dead.mood = "swallowing"
        await anyio.sleep(1.5)
        began = anyio.current_time()
        tasks.start_soon(ask, pool)
        await settle()
        if limit == "max_size":
            await held.pop().aclose()
        await anyio.sleep(1.5)
        assert pool.statistics().tasks_waiting == 0
        assert service.failures()[1 - number] == 2
        assert anyio.current_time() == began + 1.5
        await give_back(held)


async def test_an_attempt_of_its_own_gives_way_to_another_pool_of_a_manager() -> None:
    """Where nobody can use anything of the pool, after a second; not if nobody needs its place."""
    service, single = Service(2), MemoryNetwork()
    service.servers[0].mood = service.servers[1].mood = "swallowing"
    async with PoolManager(max_total=1, connect_timeout=20) as manager:
        with pytest.raises(AcquireTimeout):
            await manager.acquire(service.replicas, timeout=1)
        # 40 s for who has asked, 1 s of rest; then its own attempt.
        await anyio.sleep_until(55)
        assert sum(service.failures()) == 2
        assert sum(server.open_now for server in service.servers) == 1
        await manager.send_receive(single, b"a", 1)
        assert anyio.current_time() <= 56
        assert sum(service.failures()) == 3


async def test_while_all_rest_the_one_whose_rest_ends_first_is_tried() -> None:
    """At once for whoever asks, and then the others, one attempt at a time for each."""
    service = Service(2)
    first, second = service.servers
    async with service.pool(max_size=10) as pool:
        first.mood = second.mood = "refusing"
        await expect(ask, pool)
        await anyio.sleep(0.2)
        second.mood = "well"
        assert service.resting() == [True, True]
        second.slowness = 0.05
        async with create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask, pool)
        assert (first.asked_at, second.asked_at[:2]) == ([0, 0.2], [0, 0.2])
        assert anyio.current_time() < 0.5
        # What was tried for somebody who asked prolongs no rest.
        assert service.failures() == [1, 0]


async def test_those_who_wait_share_the_error_of_a_round() -> None:
    """One attempt for each replica, however many ask; each gets an error of its own."""
    service = Service(2)
    errors: list[BaseException] = []
    async with service.pool(max_size=10) as pool:
        for server in service.servers:
            server.mood, server.slowness = "refusing", 0.05
        await expect(ask, pool)
        began = anyio.current_time()

        async def one() -> None:
            with pytest.raises(ConnectionFailed) as caught:
                await ask(pool)
            errors.append(caught.value)

        async with create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)
        assert [len(server.asked_at) for server in service.servers] == [2, 2]
        assert anyio.current_time() < began + 0.2
        assert len(set(map(id, errors))) == 20


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", ["pool", "manager"])
async def test_where_all_hang_it_takes_the_time_of_each(count: int, kind: str) -> None:
    """Their own attempts, of which one is always under way, keep nobody waiting."""
    service = Service(count, rest=Retry(0, interval=1, max_interval=30))
    for server in service.servers:
        server.mood = "swallowing"
    host: Any = PoolManager(connect_timeout=10)
    if kind == "pool":
        host = service.pool(connect_timeout=10)
    async with host:
        pool = host.pool(service.replicas) if kind == "manager" else host
        for _ in range(3):
            began = anyio.current_time()
            with pytest.raises(ConnectionFailed, match="none of the replicas"):
                await ask(pool)
            assert anyio.current_time() - began <= 10 * count + 1


async def test_a_newcomer_waits_for_no_attempt_that_hangs() -> None:
    """What was tried before somebody asks is tried again for him, each replica once."""
    service = Service(2)
    first, second = service.servers
    first.mood, second.mood = "swallowing", "refusing"
    async with service.pool(connect_timeout=5) as pool:
        await expect(ask, pool)
        # The pool's own attempts: one hangs, the other fails.
        await anyio.sleep(1.5)
        assert (len(first.asked_at), len(second.asked_at)) == (2, 2)
        async with create_task_group() as tasks:
            tasks.start_soon(ask, pool)
            await settle()
            assert len(second.asked_at) == 3
            await anyio.sleep(0.3)
            assert len(second.asked_at) == 3
            second.mood = "well"
            tasks.start_soon(ask, pool)
        # Both are served.
        assert anyio.current_time() == pytest.approx(6.8)


async def test_no_error_for_those_who_can_be_served_by_another_replica() -> None:
    """While one is on trial, an attempt that fails elsewhere is nobody's error."""
    service = Service(2)
    first, second = service.servers
    async with service.pool(max_size=10) as pool:
        first.mood = second.mood = "refusing"
        await expect(ask, pool)
        second.mood = "well"
        async with create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask, pool)
        assert service.failures() == [1, 0]


async def test_a_returned_replica_gets_its_share_under_load() -> None:
    """The whole difference within two seconds of the end of its rest."""
    service = Service()
    async with service.pool(max_size=20) as pool:
        await work(pool, 1)
        assert sorted(service.sizes()) == [6, 7, 7]
        service.servers[1].die()
        await work(pool, 1.9, retry=Retry(2))
        assert service.sizes() == [10, 0, 10]
        service.servers[1].mood = "well"
        back_at = service.servers[1].asked_at[-1] + 1
        await work(pool, back_at + 2)
        assert sorted(service.sizes()) == [6, 7, 7]
        assert pool.statistics().closed["gave_way"] < 10


@pytest.mark.parametrize("way", ["connect", "detach"])
async def test_what_leaves_the_pool_tells_of_its_replica_too(way: str) -> None:
    """A reply on it is a reply: a replica that is back gets its share. So is a hang-up on it."""
    service = Service(2)
    first = service.servers[0]

    async def use(pool: ConnectionPool) -> None:
        if way == "connect":
            async with await pool.connect() as connection:
                await connection.send(b"a")
                await connection.receive()
                await anyio.sleep(0.05)
        else:
            async with pool.acquire() as connection:
                await connection.send_receive(b"a", 1)
                detached = connection.detach()
            await anyio.sleep(0.05)
            await detached.aclose()

    async def work_so(pool: ConnectionPool, until: float) -> None:
        while anyio.current_time() < until:
            await use(pool)

    async with service.pool(max_size=6) as pool, create_task_group() as tasks:
        first.mood = "refusing"
        for _ in range(8):
            tasks.start_soon(work_so, pool, 6)
        await anyio.sleep(1.5)
        assert service.failures() == [2, 0]
        first.mood = "well"
        await anyio.sleep(3.6)
        assert service.failures() == [0, 0]
        assert way == "detach" or min(service.sizes()) >= 2
    if way == "connect":
        first.mood = "silent"
        async with service.pool(max_size=2) as pool:
            with move_on_after(1):
                await use(pool)
            assert service.failures() == [0, 0], "a cancellation says nothing"
            await use(pool)
            with pytest.raises(TimeoutError):
                async with await pool.connect() as connection:
                    with anyio.fail_after(1):
                        await connection.send(b"a")
                        await connection.receive()
            assert service.failures() == [1, 0]


async def test_a_returned_primary_gets_back_what_stand_bys_have() -> None:
    """Half of it in each interval, idle ones at once, others when they come back."""
    service = Service(2, order="in_order")
    primary = service.servers[0]
    async with service.pool(max_size=8) as pool:
        primary.mood = "refusing"
        held = await hold(pool, 8)
        assert service.sizes() == [0, 8]
        await give_back(held[:4])
        primary.mood = "well"
        await anyio.sleep(1)
        await settle()
        # One idle one has given way; not before a reply do more of them go.
        assert service.sizes() == [1, 7]
        await ask(pool)
        await anyio.sleep(0.1)
        assert service.sizes() == [1, 4]
        await give_back(held[4:6])
        assert service.sizes() == [1, 3]
        await anyio.sleep(1)
        await settle()
        assert service.sizes() == [1, 2]
        await give_back(held[6:])
        await anyio.sleep(2)
        assert service.sizes() == [1, 0]
        assert pool.statistics().closed == {"gave_way": 1, "retired": 7}


async def test_not_more_than_half_of_them_come_back_from_a_stand_by_at_once() -> None:
    """However long they were borrowed, and however many come back together."""
    service = Service(2, order="in_order")
    service.servers[0].mood = "refusing"
    async with service.pool(max_size=10) as pool:
        held = await hold(pool, 9)
        assert service.sizes() == [0, 9]
        service.servers[0].mood = "well"
        await anyio.sleep(1.1)
        await ask(pool)
        await anyio.sleep(5.3)
        await give_back(held)
        await settle()
        sizes = [service.sizes()]
        for _ in range(4):
            await anyio.sleep(1)
            sizes.append(service.sizes())
        assert sizes == [[1, 4], [1, 2], [1, 1], [1, 0], [1, 0]]


@pytest.mark.parametrize("order", ["balanced", "in_order"])
async def test_nothing_is_closed_for_a_replica_that_has_failed_again(order: Any) -> None:
    """What was to make way for it serves on when it comes back."""
    service = Service(2, order=order)
    first = service.servers[0]
    async with service.pool(max_size=8) as pool:
        first.mood = "refusing"
        held = await hold(pool, 8)
        first.mood = "well"
        await anyio.sleep(1.1)
        await held.pop().aclose()
        await settle()
        await ask(pool)
        # Half of the others or more are to leave for it, as soon as they come back.
        await anyio.sleep(1.8)
        assert service.sizes() == [1, 7]
        await held.pop().aclose()
        await settle()
        first.die()
        await settle()
        held += await hold(pool, 8 - len(held))
        assert service.failures() == [1, 0]
        await give_back(held)
        await settle()
        assert service.sizes() == [0, 8]


async def test_a_repeat_goes_to_another_replica() -> None:
    """To an idle connection or a new one there; in the line it takes what comes."""
    service = Service(2)
    first, second = service.servers
    for connections in (2, 0):
        async with service.pool(max_size=4, idle_order="fifo") as pool:
            await give_back(await hold(pool, connections))
            asked = second.requests
            first.mood = "silent"

            async def hang_up() -> None:
                await settle()
                first.hang_up()

            async with create_task_group() as tasks:
                tasks.start_soon(hang_up)
                await ask(pool, retry=Retry(1))
            assert second.requests == asked + 1
            assert pool.statistics().replayed == 1
            first.mood = "well"
            await anyio.sleep(5)


async def test_a_repeat_of_run_goes_elsewhere_too() -> None:
    """A new connection is opened there although one of the failed replica is idle."""
    service = Service(2)
    tried: list[int] = []

    async def call(connection: Any) -> bytes:
        tried.append(service.number_of(connection))
        await connection.send(b"a")
        if len(tried) == 1:
            peer_of(connection).hang_up()
            peer_of(connection).client.unread = b""
        reply: bytes = await connection.receive_exactly(1)
        return reply

    async with service.pool(max_size=4) as pool:
        await give_back(await hold(pool, 1))
        held = await hold(pool, 2)
        await held.pop().aclose()
        await held.pop().aclose()
        await pool.run(call, retry=Retry(1))
    assert len(set(tried)) == 2


async def test_a_share_is_given_in_two_seconds_however_large() -> None:
    """In a pool that nobody uses, too."""
    service = Service(2)
    other = Server()
    async with service.pool(max_size=120) as pool:
        await give_back(await hold(pool, 120))
        service.replicas.set([*(server.network for server in service.servers), other.network])
        await anyio.sleep(2)
        assert service.sizes() == [40, 40, 40]


async def test_a_replica_that_is_taken_out_gets_nothing_more() -> None:
    """Idle connections are closed at once, the others when they come back; new ones get a share."""
    service = Service(2)
    other = Service(1).servers[0]
    async with service.pool(max_size=8) as pool:
        held = await hold(pool, 8)
        await give_back(held[:4])
        await settle()
        service.replicas.set([service.servers[1].network, other.network])
        await settle()
        states = service.replicas.states()
        assert list(states) == [service.servers[1].network, other.network]
        assert service.servers[0].open_now == 2
        await give_back(held[4:])
        await settle()
        assert service.servers[0].open_now == 0
        assert pool.statistics().closed["retired"] == 4
        await work(pool, 2, tasks=20)
        assert (service.servers[1].open_now, other.open_now) == (4, 4)
        assert service.servers[0].requests == 0


async def test_a_new_replica_is_tried_at_once() -> None:
    """The pauses after failures are for those that have failed: nobody waits for their end."""
    service, other = Service(1), Server()
    service.servers[0].die()
    both = [service.servers[0].network, other.network]
    retry = Retry(math.inf, interval=20, jitter=0)
    async with service.pool(connect_retry=retry) as pool, create_task_group() as tasks:
        tasks.start_soon(ask, pool)
        await anyio.sleep(3)
        service.replicas.set(both)
        await settle()
        assert other.requests == 1
    service.replicas.set(both[:1])
    async with service.pool(min_idle=2) as pool:
        await settle()
        service.replicas.set(both)
        await settle()
        assert pool.statistics().idle == other.open_now == 2


async def test_an_attempt_at_a_replica_that_has_left_serves_nobody() -> None:
    """What is being connected then is closed when it is open."""
    service = Service(2)
    service.servers[0].slowness = 0.05
    async with service.pool() as pool, create_task_group() as tasks:
        tasks.start_soon(ask, pool)
        await settle()
        service.replicas.set([service.servers[1].network])
        await anyio.sleep(1)
        assert (service.servers[0].open_now, service.servers[1].open_now) == (0, 1)


async def test_observers_hear_of_rests_and_returns() -> None:
    """Of each rest and each time it is prolonged, and of the first reply after it."""
    service = Service(2)
    server = service.servers[0]
    seen: list[PoolEvent] = []

    class Observer(PoolObserver):
        def resting(self, event: ReplicaResting) -> None:
            seen.append(event)

        def back(self, event: ReplicaBack) -> None:
            seen.append(event)

    async with service.pool(observers=[Observer()], name="pool") as pool:
        server.mood = "refusing"
        await ask(pool)
        await anyio.sleep(2)
        server.mood = "well"
        await anyio.sleep(2)
        assert len(seen) == 2
        await work(pool, 5, tasks=4)
    assert [type(event) for event in seen] == [ReplicaResting, ReplicaResting, ReplicaBack]
    first, second, back = seen
    assert isinstance(first, ReplicaResting)
    assert isinstance(second, ReplicaResting)
    assert isinstance(back, ReplicaBack)
    assert (first.pool, first.remote, first.pause) == ("pool", server.network, 1)
    assert (second.pause, type(second.error)) == (2, ConnectionFailed)
    assert (back.remote, back.rested) == (server.network, 4)


async def test_failing_fast_counts_the_time_in_which_all_rest() -> None:
    """Its own attempts are those of the replicas, and end it."""
    service = Service(2)
    async with service.pool(fail_fast_after=1.5) as pool:
        for server in service.servers:
            server.mood = "refusing"
        await expect(ask, pool)
        await anyio.sleep(1)
        assert pool.statistics().failing_for == 1
        await expect(ask, pool)
        await anyio.sleep(1)
        asked = [len(server.asked_at) for server in service.servers]
        with pytest.raises(ConnectionFailed, match="refuses at once"):
            await ask(pool)
        assert [len(server.asked_at) for server in service.servers] == asked
        service.servers[1].mood = "well"
        await anyio.sleep(1.1)
        await ask(pool)
        assert pool.statistics().failing_for is None


async def test_retire_sees_the_remote() -> None:
    """So all connections to one replica can be replaced."""
    service = Service(2)
    async with service.pool() as pool:
        await give_back(await hold(pool, 4))
        pool.retire(where=lambda info: info.remote is service.servers[0].network)
        await settle()
        assert service.sizes() == [0, 2]


async def test_two_pools_cannot_use_the_same_replicas_at_once() -> None:
    """One after the other, they can; nothing is remembered from the one before."""
    service = Service(2)
    service.servers[0].mood = "refusing"
    async with service.pool() as pool:
        await ask(pool)
        with pytest.raises(RuntimeError, match="another pool"):
            async with service.pool():
                raise AssertionError
        await ask(pool)
    service.servers[0].mood = "well"
    async with service.pool() as pool:
        await give_back(await hold(pool, 2))
        assert service.sizes() == [1, 1]


async def test_replicas_that_are_used_cannot_be_copied() -> None:
    """What a pool knows of them is its own; others can."""
    service = Service(1)
    copy.copy(service.replicas)
    async with service.pool():
        for way in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="while a pool uses it: make a Replicas for each"):
                way(service.replicas)


async def test_a_list_is_short_for_replicas() -> None:
    """The default name joins those of the remotes."""
    networks = [MemoryNetwork(), MemoryNetwork()]
    async with ConnectionPool([*networks]) as pool:
        await give_back(await hold(pool, 2))
    assert [network.opened for network in networks] == [1, 1]
    assert ConnectionPool([("a", 1), ("b", 2)]).name == "tcp://a:1,tcp://b:2"
    assert ConnectionPool(Replicas([("a", 1), "/s"]), tls=True, tls_hostname="c").name == (
        "tls://a:1,tls+unix:///s"
    )


async def test_a_manager_takes_replicas_as_a_remote() -> None:
    """They are one remote; its other pools and their limit go on as ever."""
    service = Service(2)
    single = MemoryNetwork()
    async with PoolManager(max_total=4) as manager:
        for _ in range(3):
            await manager.send_receive(service.replicas, b"a", 1)
            await manager.send_receive(single, b"a", 1)
        pool = manager.pool(service.replicas)
        held = await hold(pool, 4)
        assert service.in_use() == [2, 2]
        with pytest.raises(AcquireTimeout):
            await manager.acquire(single, timeout=1)
        await give_back(held)
        assert manager.statistics()[service.replicas].opened == 4
        assert pool is manager.pool(service.replicas)


async def test_a_replica_comes_back_in_a_manager_that_is_full() -> None:
    """Its attempt waits for room that nobody needs more, or is made for somebody who waits."""
    service = Service(2)
    single = MemoryNetwork()
    server = service.servers[0]
    async with PoolManager(max_total=3) as manager:
        server.mood = "refusing"
        held = await hold(manager.pool(service.replicas), 2)
        other = await manager.acquire(single)
        server.mood = "well"
        await anyio.sleep(2)
        assert service.sizes() == [0, 2]
        await other.aclose()
        async with create_task_group() as tasks:
            tasks.start_soon(manager.send_receive, service.replicas, b"a", 1)
            await anyio.sleep(1)
        assert service.sizes() == [1, 2]
        assert service.failures() == [0, 0]
        await give_back(held)


async def test_a_replica_comes_back_in_a_manager_whose_limit_it_uses_up() -> None:
    """A connection that comes back, or an idle one, gives way to its attempt."""
    service = Service(2)
    server = service.servers[1]
    for tasks in (10, 0):
        async with PoolManager(max_total=4) as manager:
            pool = manager.pool(service.replicas)
            server.mood = "refusing"
            await give_back(await hold(pool, 4))
            assert service.sizes() == [4, 0]
            server.mood = "well"
            await work(pool, anyio.current_time() + 5, tasks=tasks)
            await anyio.sleep(3)
            assert service.sizes() == ([2, 2] if tasks else [3, 1])


@pytest.mark.parametrize("fail_fast_after", [math.inf, 10])
@pytest.mark.parametrize("way", ["swallowing", "silent", "hangs up", "hangs in on_connect"])
async def test_what_a_manager_tries_by_itself_keeps_no_pool(
    way: str, fail_fast_after: float
) -> None:
    """A pool that nobody has asked for max_idle_time is dropped, and its places are free."""
    service = Service(2, rest=Retry(0, interval=1, max_interval=30, jitter=0))
    single = MemoryNetwork()
    settings: dict[str, Any] = {"max_idle_time": 60, "fail_fast_after": fail_fast_after}

    async def log_in(connection: Any) -> None:
        if way == "hangs in on_connect":
            await connection.receive()

    async with create_task_group() as tasks:

        async def hang_up(number: int) -> None:
            tasks.start_soon(end_soon)

        async def end_soon() -> None:
            await anyio.sleep(6)
            for server in service.servers:
                server.hang_up()

        moods: dict[str, Any] = {"swallowing": "swallowing", "hangs in on_connect": "well"}
        for server in service.servers:
            server.mood = moods.get(way, "silent")
            if way == "hangs up":
                server.network.on_connect = hang_up
        async with PoolManager(max_total=2, on_connect=log_in, **settings) as manager:
            with pytest.raises((TimeoutError, anyio.IncompleteRead)):
                await manager.send_receive(service.replicas, b"a", 1, timeout=10)
            asked_at = anyio.current_time()
            # The attempt for who has asked goes on: with two replicas, for twice connect_timeout.
            while service.replicas in manager.statistics():
                await anyio.sleep(1)
                assert anyio.current_time() < asked_at + 85
            assert anyio.current_time() >= asked_at + 50
            assert [server.open_now for server in service.servers] == [0, 0]
            await anyio.sleep(100)
            attempts = [server.network.attempts for server in service.servers]
            await anyio.sleep(100)
            assert [server.network.attempts for server in service.servers] == attempts
            way = "well"
            held = await hold(manager.pool(single), 2)
            await give_back(held)
            # Asked for again, it is what it was.
            for server in service.servers:
                server.mood, server.network.on_connect = "well", None
            assert await manager.send_receive(service.replicas, b"a", 1) == b"a"
        tasks.cancel_scope.cancel()


async def test_who_asks_a_pool_that_has_given_up_is_served() -> None:
    """What is interrupted since nobody asks leaves nothing behind, and keeps nobody waiting."""
    for turns in range(12):
        service = Service(2)
        for server in service.servers:
            server.mood = "swallowing"
        async with PoolManager(max_total=2, max_idle_time=60) as manager:
            pool = manager.pool(service.replicas)
            began = anyio.current_time()
            with pytest.raises(AcquireTimeout):
                await pool.acquire(timeout=5)
            await anyio.sleep_until(began + 60 + 5 * turns / 2)
            for server in service.servers:
                server.mood = "well"
            await settle(turns)
            # Attempts may be under way that hang.
            with anyio.fail_after(31):
                assert await pool.send_receive(b"a", 1) == b"a"
            assert len(manager.statistics()) == 1


async def test_replicas_that_have_left_are_forgotten() -> None:
    """However many come and go, and fail meanwhile."""
    service = Service(1)
    stays = service.servers[0].network
    gone: list[Any] = []
    async with service.pool(max_size=40) as pool:
        for _ in range(20):
            fails = Server()
            fails.mood = "refusing"
            gone.append(fails.network)
            service.replicas.set([stays, fails.network])
            await hold(pool, 2)
            assert service.resting() == [False, True]
        service.replicas.set([stays])
        gc.collect()
        # Other tests have some, too.
        kept = [each.target for each in gc.get_objects() if isinstance(each, Replica)]
        assert len([target for target in kept if target and target.remote in gone]) < 5


async def test_an_attempt_at_a_replica_that_leaves_is_given_up() -> None:
    """Who relied on it has another one made at once, and its slot is free."""
    service = Service(1)
    hangs, follows = service.servers[0], Server()
    hangs.mood = "swallowing"
    async with service.pool(max_size=1) as pool, create_task_group() as tasks:
        tasks.start_soon(ask, pool)
        await anyio.sleep(1)
        service.replicas.set([follows.network])
        await settle()
        assert (hangs.open_now, follows.requests) == (0, 1)
    assert anyio.current_time() == 1


async def test_without_a_pool_a_replica_is_tried_when_its_rest_is_over() -> None:
    """A success ends its failures; in order, the first gets all again."""
    servers = [Server() for _ in range(2)]
    replicas = Replicas(
        [server.network for server in servers],
        order="in_order",
        rest=Retry(0, interval=1, jitter=0),
    )
    servers[0].mood = "refusing"
    for _ in range(3):
        await (await replicas.connect()).aclose()
    assert [len(server.asked_at) for server in servers] == [1, 3]
    servers[0].mood = "well"
    await anyio.sleep(1.1)
    for _ in range(2):
        await (await replicas.connect()).aclose()
    assert [len(server.asked_at) for server in servers] == [3, 3]
    assert replicas.states()[servers[0].network].failures == 0
