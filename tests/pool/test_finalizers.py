"""Finalizers and signal handlers use the pool wherever they interrupt it; nothing is lost by it."""

from __future__ import annotations

import gc
import os
from collections import Counter
from functools import partial
from pathlib import Path

import anyio
import pytest

import anyconnpool
from anyconnpool import ConnectionPool, PooledConnection, PoolManager
from anyconnpool.testing import virtual_clock_backend
from tests.core.interrupter import Interrupter

from .network import MemoryNetwork, settle

# The state machine's own lines are struck in tests/core/test_event_lock.py.
_ENGINE = os.fspath(Path(anyconnpool.__file__).parent / "_engine")


async def exchange(pool: ConnectionPool) -> None:
    assert await pool.send_receive_line(b"hello", timeout=9) == b"hello"


async def use(pool: ConnectionPool) -> None:
    """Do a bit of everything, with more tasks than connections."""
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(exchange, pool)
        with anyio.move_on_after(0):
            await exchange(pool)
    async with pool.acquire() as connection:
        await connection.send_line(b"hello")
        assert await connection.receive_line() == b"hello"
    (await pool.acquire()).discard()
    await (await pool.acquire()).detach().aclose()
    pool.retire()
    pool.max_size = 3
    pool.max_size = 4
    await exchange(pool)


class Visitor:
    """Do what finalizers and signal handlers do.

    :param pool: the pool
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self.held: list[PooledConnection] = []

    def visit(self) -> None:
        facts = self.pool.statistics()
        figures = (facts.idle, facts.in_use, facts.connecting, facts.closing)
        assert min(figures) >= 0
        assert facts.size == sum(figures)
        assert self.pool.describe()
        while self.held:
            self.held.pop().discard()


async def play(step: int, *, managed: bool) -> Interrupter:
    """Use a pool, interrupted at a step."""
    network, other = MemoryNetwork(), MemoryNetwork()
    async with (
        PoolManager(max_size=4, max_total=5, close_timeout=9) as manager,
        ConnectionPool(network, max_size=4, close_timeout=9) as alone,
    ):
        pool = manager.pool(network) if managed else alone
        visitor = Visitor(pool)
        visitor.held = [await pool.acquire() for _ in range(2)]
        if managed:
            visitor.held.append(await manager.pool(other).acquire())
        interrupter = Interrupter(_ENGINE, step, visitor.visit)
        with interrupter:
            await use(pool)
        visitor.visit()
        await settle()
        statistics = pool.statistics()
        assert statistics.in_use == statistics.connecting == statistics.closing == 0
        assert statistics.size == statistics.idle == network.open_now
        assert statistics.closed["discarded"] == 3
        assert other.open_now == 0
    assert network.open_now == 0
    return interrupter


@pytest.mark.newest
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("backend", "managed"),
    [("asyncio", False), ("trio", True)],
    ids=["pool on asyncio", "manager on trio"],
)
def test_the_pool_can_be_used_at_any_line_of_its_own(
    backend: str, managed: bool, long_form: bool
) -> None:
    """The long form interrupts at each step, the short form once at each line."""

    def run(step: int) -> Interrupter:
        name, options = virtual_clock_backend(backend)
        perform = partial(play, step, managed=managed)
        return anyio.run(perform, backend=name, backend_options=options)

    gc.disable()
    try:
        struck: Counter[object] = Counter()
        for step, place in enumerate(run(0).places, 1):
            struck[place] += 1
            if struck[place] > 1 and not long_form:
                continue
            try:
                run(step)
            except BaseException as error:
                raise AssertionError(f"interrupted at {place}, step {step}") from error
    finally:
        gc.enable()
    assert len(struck) > 140
