"""Count the calls that all-day operations make: it shows when work is added to their path."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import Any

import pytest
from anyio import create_task_group, wait_all_tasks_blocked

from anyconnpool import AcquireTimeout, ConnectionPool, FramedStream, PackageFormat, PoolManager
from tests.pool.conftest import anyio_backend as anyio_backend
from tests.pool.network import MemoryNetwork, fill

from .soak import CostMeter

Operation = Callable[[ConnectionPool], Awaitable[object]]

# Other interpreters report calls that these make without a function.
_SLACK = 0 if (3, 12) <= sys.version_info < (3, 14) else 3


async def borrow(pool: ConnectionPool) -> None:
    async with pool.acquire():
        pass


async def borrow_at_once(pool: ConnectionPool) -> None:
    await pool.acquire_nowait().aclose()


async def exchange(pool: ConnectionPool) -> None:
    async with pool.acquire() as connection:
        await connection.send(b"x" * 64)
        await connection.receive_exactly(64)


async def exchange_in_one_call(pool: ConnectionPool) -> None:
    await pool.send_receive(b"x" * 64, 64)


async def exchange_in_time(pool: ConnectionPool) -> None:
    await pool.send_receive(b"x" * 64, 64, timeout=9)


@pytest.mark.parametrize(
    ("operation", "most"),
    [
        *((borrow, 25), (borrow_at_once, 25)),
        *((exchange, 45), (exchange_in_one_call, 61), (exchange_in_time, 68)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_operation_makes_no_more_calls_than_it_did(
    operation: Operation, most: int, meter: CostMeter
) -> None:
    """Calls that the package's modules make or receive, of Python functions and of C's."""
    async with ConnectionPool(MemoryNetwork()) as pool:
        await fill(pool, 2)
        await operation(pool)
        with meter:
            await operation(pool)
    assert meter.count <= most + _SLACK


@pytest.mark.parametrize("managed", [False, True])
async def test_what_every_exchange_uses_has_few_attributes(managed: bool) -> None:
    """CPython keeps up to 29 attributes with the object itself, where it finds them fastest."""
    network = MemoryNetwork()
    leasing, machine, group = (attrgetter(name) for name in ("_leasing", "_machine", "_group"))
    async with PoolManager(max_total=2, pipeline=2) as manager, ConnectionPool(network) as alone:
        await manager.send_receive(network, b"x", 1)
        pool = manager.pool(network) if managed else alone
        async with pool.acquire() as connection:
            inner: list[Any] = [leasing(pool), machine(pool), group(machine(pool))]
            for used in (pool, connection, *inner):
                assert len(vars(used)) < 30, used


async def test_replicas_cost_a_borrow_few_calls(meter: CostMeter) -> None:
    """Those that choose the idle connection, under the lock, whether or not others are in use."""
    networks = [MemoryNetwork() for _ in range(3)]
    for in_use in (0, 4):
        async with ConnectionPool([*networks]) as pool:
            await fill(pool, 9)
            held = [await pool.acquire() for _ in range(in_use)]
            await borrow(pool)
            meter.count = 0
            with meter:
                await borrow(pool)
            for connection in held:
                await connection.aclose()
        assert meter.count <= 30 + _SLACK


async def test_a_borrow_in_turn_makes_no_more_calls_than_it_did(meter: CostMeter) -> None:
    """To join the line, to be handed a connection, and to give it back."""
    async with ConnectionPool(MemoryNetwork(), max_size=1) as pool, create_task_group() as tasks:
        held = await pool.acquire()
        with meter:
            tasks.start_soon(borrow, pool)
            await wait_all_tasks_blocked()
            await held.aclose()
            await wait_all_tasks_blocked()
    assert pool.statistics().reused == 1
    assert meter.count <= 59 + _SLACK


@pytest.mark.parametrize("crowd", [50, 500])
async def test_a_crowd_out_of_time_counts_the_borrowers_once(crowd: int, meter: CostMeter) -> None:
    """The work for one of many that run out of time doesn't grow with the connections in use."""
    async with ConnectionPool(MemoryNetwork(), max_size=crowd) as pool:
        held = [await pool.acquire() for _ in range(crowd)]

        async def run_out_of_time() -> None:
            with pytest.raises(AcquireTimeout):
                await pool.acquire(timeout=1)

        with meter:
            async with create_task_group() as tasks:
                for _ in range(crowd):
                    tasks.start_soon(run_out_of_time)
        for connection in held:
            await connection.aclose()
    assert meter.count / crowd < 64


async def test_a_buffered_package_makes_no_more_calls_than_it_did(meter: CostMeter) -> None:
    """A package or a line that is in the buffer is read without asking the stream."""
    network = MemoryNetwork()
    stream = FramedStream(await network.connect())
    stream.feed_data(PackageFormat().pack(b"x" * 64) * 3 + b"line\n" * 3)
    await stream.receive_package()
    with meter:
        await stream.receive_package()
    package = meter.count
    await stream.receive_package()
    await stream.receive_line()
    with meter:
        await stream.receive_line()
    await stream.aclose()
    assert package <= 5
    assert meter.count <= 4
