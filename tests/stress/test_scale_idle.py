"""Thousands of idle connections in memory: exact counts, sweeps in slices, an end in time."""

from __future__ import annotations

import random
from collections.abc import Callable

import anyio
import pytest

from anyconnpool import ConnectionPool
from tests.pool.conftest import anyio_backend as anyio_backend
from tests.pool.network import MemoryNetwork, check_books, fill, hang, settle

from .soak import CostMeter, assert_flat

# The long form takes minutes where other things load the machine.
pytestmark = pytest.mark.timeout(600)

SWEEP_INTERVAL = 5.0

Harm = Callable[[MemoryNetwork], None]


def no_harm(network: MemoryNetwork) -> None:
    """Let all be well."""


def hang_up_some(network: MemoryNetwork) -> None:
    for peer in network.peers[::10]:
        peer.hang_up()


async def test_a_sweep_finds_those_that_hung_up_and_those_that_expired(
    many: int, seed: int
) -> None:
    """Exactly the idle connections go that should; the others stay good."""
    hung_up = many * 3 // 10
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=many, max_idle_time=60) as pool:
        await fill(pool, many)
        assert pool.statistics().idle == network.open_now == many
        gone = random.Random(seed).sample(network.peers, hung_up)
        for peer in gone:
            peer.hang_up()
        await anyio.sleep(2 * SWEEP_INTERVAL)
        await check_books(pool, network)
        assert all(peer.client.closed for peer in gone), f"seed {seed}"
        assert pool.statistics().closed == {"peer_closed": hung_up}, f"seed {seed}"
        await fill(pool, many // 10)
        await anyio.sleep_until(62)
        await check_books(pool, network)
        assert pool.statistics().idle == many // 10
        expired = many - hung_up - many // 10
        assert pool.statistics().closed == {"peer_closed": hung_up, "max_idle_time": expired}
    assert network.open_now == 0


async def test_thousands_of_connections_are_closed_together_at_the_end(many: int) -> None:
    """The end of the block closes all at once, and forces those that don't end in time."""
    network = MemoryNetwork(on_close=lambda number: anyio.sleep(1 if number % 2 else 1000))
    async with ConnectionPool(network, max_size=many, close_timeout=2) as pool:
        await fill(pool, many)
        begun = anyio.current_time()
    assert 2 <= anyio.current_time() - begun < 2.5
    assert network.open_now == 0
    assert network.forced == many // 2
    assert pool.statistics().closed == {"pool_closed": many}


@pytest.mark.parametrize(
    ("harm", "max_idle_time", "good"),
    [
        pytest.param(no_harm, 600, 1.0, id="all-are-good"),
        pytest.param(hang_up_some, 600, 0.9, id="some-hung-up"),
        pytest.param(no_harm, SWEEP_INTERVAL, 0.0, id="all-expired"),
    ],
)
async def test_no_turn_of_a_sweep_grows_with_the_idle_connections(
    harm: Harm, max_idle_time: float, good: float, many: int, meter: CostMeter
) -> None:
    """A sweep of thousands does no more in one turn of the event loop than one of some hundred.

    A copy of the list of entries is not counted: it is made at the speed of memory.
    """

    async def longest(count: int) -> int:
        network = MemoryNetwork()
        async with ConnectionPool(network, max_size=count, max_idle_time=max_idle_time) as pool:
            begun = anyio.current_time()
            await fill(pool, count)
            harm(network)
            await anyio.sleep_until(begun + SWEEP_INTERVAL - 0.1)
            looks = network.looks
            with meter:
                await anyio.sleep_until(begun + SWEEP_INTERVAL)
                turn = await meter.longest_turn(
                    lambda: (
                        network.open_now == good * count
                        and (not good or network.looks >= looks + count)
                    )
                )
        return turn - count

    few = await longest(300)
    assert_flat({"a turn": few}, {"a turn": await longest(many)})


async def test_connections_that_expire_one_by_one_do_not_have_all_others_probed(
    many: int,
) -> None:
    """Idle connections are looked at once per sweep interval, however often one of them expires."""
    network = MemoryNetwork()
    count = many // 10
    async with ConnectionPool(network, max_size=count, max_idle_time=60) as pool:
        connections = [await pool.acquire() for _ in range(count)]
        for connection in connections:
            await connection.aclose()
            await anyio.sleep(0.05)
        looks, begun = network.looks, anyio.current_time()
        await anyio.sleep_until(60 + count * 0.05 + 1)
        assert pool.statistics().closed == {"max_idle_time": count}
        sweeps = (anyio.current_time() - begun) / SWEEP_INTERVAL + 2
        assert network.looks - looks <= count * sweeps


async def test_one_event_costs_the_same_among_any_number_of_idle_connections(
    many: int, meter: CostMeter
) -> None:
    """A borrow, a replacement, a discard or a smaller pool costs no more among thousands."""

    async def costs_among(count: int) -> dict[str, int]:
        costs: dict[str, int] = {}
        network = MemoryNetwork()
        async with ConnectionPool(network, max_size=count) as pool:
            await fill(pool, count)
            with meter:
                await pool.send_receive_line(b"ping")
            costs["borrow"] = meter.count
            network.peers[-1].hang_up()
            with meter:
                await pool.send_receive_line(b"ping")
                await settle()
            costs["replace"] = meter.count
            with meter:
                pool.acquire_nowait().discard()
                await settle()
            costs["discard"] = meter.count
            with meter:
                pool.max_size = count - 2
                await settle()
            costs["one too many"] = meter.count
            with meter:
                pool.statistics()
            costs["statistics"] = meter.count
        return costs

    assert_flat(await costs_among(100), await costs_among(many))


async def test_who_stops_waiting_for_readiness_is_no_work_for_the_others(
    many: int, meter: CostMeter
) -> None:
    """To cancel one `wait_ready()` costs the same among thousands of others."""

    async def cost(count: int) -> int:
        network = MemoryNetwork(hang)
        async with (
            ConnectionPool(network, min_idle=1, connect_timeout=1000) as pool,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(count):
                tasks.start_soon(pool.wait_ready)
            await settle(5)
            async with anyio.create_task_group() as last:
                last.start_soon(pool.wait_ready)
                await settle(5)
                with meter:
                    last.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await settle(5)
            tasks.cancel_scope.cancel()
        return meter.count

    assert_flat({"cancel": await cost(100)}, {"cancel": await cost(many)})
