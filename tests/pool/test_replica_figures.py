"""What several servers behind one pool promise in figures, under the load of fifty tasks."""

from __future__ import annotations

import math

import anyio
import pytest
from anyio import ConnectionFailed, create_task_group

from anyconnpool import Retry

from .network import settle
from .service import Service, ask, work


async def test_a_kill_costs_no_exchange_that_may_be_repeated() -> None:
    """With retry, nothing fails while one of three is dead for seconds and comes back."""
    service = Service()
    async with service.pool(max_size=20) as pool:

        async def kill() -> None:
            await anyio.sleep(1)
            service.servers[0].die()
            await anyio.sleep(4)
            service.servers[0].mood = "well"

        async with create_task_group() as tasks:
            tasks.start_soon(kill)
            await work(pool, 11, retry=Retry(2), use=0.1)
        assert sorted(service.sizes()) == [6, 7, 7]


async def test_a_kill_costs_at_most_what_was_in_flight() -> None:
    """Without retry, only exchanges fail that the dead server had."""
    service = Service()
    server = service.servers[0]
    errors: list[BaseException] = []
    in_flight = 0
    async with service.pool(max_size=20) as pool, create_task_group() as tasks:
        tasks.start_soon(lambda: work(pool, 5, note=errors.append))
        await anyio.sleep(0.5)
        # What it is asked now, it never answers.
        server.mood = "silent"
        await anyio.sleep(0.005)
        in_flight = service.in_use()[0]
        server.die()
        await anyio.sleep(2)
        server.mood = "well"
    assert 0 < len(errors) <= in_flight <= 7


async def test_an_outage_of_all_is_over_soon_after_their_return() -> None:
    """Within two seconds all exchanges succeed, whatever the rests have grown to."""
    service = Service(rest=Retry(0, interval=1, max_interval=30, jitter=0))
    failed_at: list[float] = []
    async with service.pool(max_size=20) as pool:

        async def one() -> None:
            while anyio.current_time() < 12:
                try:
                    await ask(pool, timeout=1)
                except Exception:
                    failed_at.append(anyio.current_time())
                await anyio.sleep(0.05)

        async with create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(one)
            for died_at, back_at in ((1, 3), (5, 7)):
                await anyio.sleep_until(died_at)
                for server in service.servers:
                    server.die()
                await anyio.sleep_until(back_at)
                for server in service.servers:
                    server.mood = "well"
                await anyio.sleep(0.01)
                assert failed_at
                failed_at.clear()
                await anyio.sleep_until(back_at + 2)
                # In fact, at once.
                assert [moment for moment in failed_at if moment > back_at + 0.2] == []
    assert pool.statistics().failing_for is None


async def test_a_black_hole_costs_few_exchanges() -> None:
    """A server that accepts and never answers: max_size and eight more in a minute, at most."""
    service = Service(rest=Retry(math.inf, interval=1, max_interval=30))
    errors: list[BaseException] = []
    async with service.pool(max_size=20) as pool:

        async def swallow() -> None:
            await anyio.sleep(1)
            service.servers[1].mood = "silent"

        async with create_task_group() as tasks:
            tasks.start_soon(swallow)
            await work(pool, 61, note=errors.append, timeout=0.5, use=0.4)
    assert {type(error) for error in errors} == {TimeoutError}
    assert 0 < len(errors) <= 28


async def test_a_black_hole_from_the_start_costs_few_exchanges() -> None:
    """The same if it has never answered."""
    service = Service(rest=Retry(math.inf, interval=1, max_interval=30))
    service.servers[0].mood = "silent"
    errors: list[BaseException] = []
    async with service.pool(max_size=20) as pool:
        await work(pool, 60, note=errors.append, timeout=0.5, use=0.4)
    assert 0 < len(errors) <= 28


async def test_shares_are_alike_under_steady_load() -> None:
    """Within a fifth of each other, by the exchanges that each server has answered."""
    service = Service()
    async with service.pool(max_size=20) as pool:
        await work(pool, 3, tasks=12)
        requests = [server.requests for server in service.servers]
        assert min(requests) > 0.8 * max(requests)
        for server in service.servers:
            server.requests = 0
        await work(pool, 6, use=0.05)
        requests = [server.requests for server in service.servers]
        assert min(requests) > 0.8 * max(requests)


async def test_nobody_waits_while_another_replica_would_answer() -> None:
    """Attempts that hang hold up only who waits for nothing else."""
    service = Service()
    service.servers[0].mood = "swallowing"
    async with service.pool(max_size=9, connect_timeout=5) as pool:
        async with create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(ask, pool)
            await settle()
        assert anyio.current_time() < 0.2


async def test_without_any_server_each_caller_has_an_error_soon() -> None:
    """The whole pool never hangs on what refuses."""
    service = Service()
    for server in service.servers:
        server.mood = "refusing"
    failed = 0

    async with service.pool() as pool:

        async def one() -> None:
            nonlocal failed
            with pytest.raises(ConnectionFailed):
                await ask(pool)
            failed += 1

        async with create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(one)
        assert (failed, anyio.current_time()) == (50, 0)
