"""Cancel all who wait, few or many: what that costs for each of them."""

from __future__ import annotations

from time import process_time
from typing import Any

from anyio import create_task_group, sleep_forever
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from benchmarks.bench import Bench
from benchmarks.borrowers import Body, Borrower, OurPool, hold
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, Turn
from benchmarks.standins import StandInConnectable

_SIZE = 10
_FEW, _MANY = 100, 10_000
#: turns of the event loop until everybody waits
_SETTLING = 10


class _WaitForEver:
    """Lends nothing to anybody: what the cancelling of tasks costs by itself."""

    async def repeat(self, count: int, body: Body | None = None) -> None:
        await sleep_forever()


async def cancel(bench: Bench) -> list[Figure]:
    """Cancel tasks that wait while all 10 connections are borrowed.

    Only ours: other pools may lose connections by it, and then nobody gets one any more.
    """
    async with ConnectionPool(StandInConnectable(), max_size=_SIZE) as pool:
        ours = OurPool(pool)
        figures: list[Figure] = []

        async def measure() -> None:
            contestants = [
                Contestant(f"ours, {_MANY} waiters", _cancelling(ours, _MANY), _MANY),
                Contestant(f"ours, {_FEW} waiters", _cancelling(ours, _FEW), 10 * _FEW),
                Contestant(f"no pool, {_MANY} tasks", _cancelling(_WaitForEver(), _MANY), _MANY),
                Contestant(f"no pool, {_FEW} tasks", _cancelling(_WaitForEver(), _FEW), 10 * _FEW),
            ]
            figures.extend(await bench.keeper.compare("cancel", "waiter", contestants, seconds=8))

        await hold(ours, _SIZE, measure)
    return figures


def _cancelling(borrower: Borrower, waiters: int) -> Turn:
    async def turn(count: int) -> float:
        return sum([await _cancel_once(borrower, waiters) for _ in range(count // waiters)])

    return turn


async def _cancel_once(borrower: Borrower, waiters: int) -> float:
    begun = 0.0
    async with create_task_group() as tasks:
        for _ in range(waiters):
            tasks.start_soon(borrower.repeat, 1, _unexpected)
        for _ in range(_SETTLING):
            await checkpoint()
        begun = process_time()
        tasks.cancel_scope.cancel()
    return process_time() - begun


async def _unexpected(connection: Any) -> None:
    raise RuntimeError("a waiter got a connection although all are borrowed")
