"""Many tasks over few connections: what waiting in line costs."""

from __future__ import annotations

import dataclasses
from contextlib import AsyncExitStack
from typing import Any

from anyio import create_task_group
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.borrowers import Borrower, NoPool, OurPool, hold
from benchmarks.goals import FASTEST_PEER, goal_of
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, worked
from benchmarks.standins import StandIn, StandInConnectable

_SIZE = 10
#: operations of a turn: with as many tasks as there can be, one each
_BORROWS = {100: 1_000, 10_000: 10_000}
#: the slowest takes longer than all others together, and aiosocketpool opens more connections
#: instead of waiting
_LEFT_OUT = (peers.GENERIC, peers.AIOSOCKETPOOL)


async def crowd(bench: Bench, *, tasks: int) -> list[Figure]:
    """Have tasks borrow, let the others have a turn, and give back; over 10 connections."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(ConnectionPool(StandInConnectable()))
        borrowers: dict[str, Borrower] = {"ours": OurPool(pool), "no pool": NoPool()}
        if bench.on_asyncio:
            rivals = peers.all_peers(_stand_in)
            for name in _LEFT_OUT:
                rivals.pop(name, None)
            borrowers.update(await peers.enter_all(stack, rivals))
        for borrower in borrowers.values():
            await hold(borrower, _SIZE, checkpoint)
        contestants = [
            _crowding(name, borrower, tasks, _BORROWS[tasks])
            for name, borrower in borrowers.items()
        ]
        figures = await bench.keeper.compare(
            f"tasks-{tasks}", "borrow", contestants, seconds=6 if tasks == 100 else 16
        )
    return _with_goal_for_fastest_peer(figures, bench.backend)


def _crowding(name: str, borrower: Borrower, tasks: int, count: int) -> Contestant:
    async def repeat(count: int) -> None:
        async with create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(borrower.repeat, count // tasks, _let_others)

    return Contestant(name, worked(repeat), count)


def _with_goal_for_fastest_peer(figures: list[Figure], backend: str) -> list[Figure]:
    rivals = [(one.ratio.median, one) for one in figures if one.ratio and one.name in peers.PEERS]
    _, fastest = max(rivals, key=lambda rival: rival[0], default=(0, None))
    goal = goal_of(figures[0].case, FASTEST_PEER, backend)
    return [
        dataclasses.replace(figure, goal=goal) if figure is fastest else figure
        for figure in figures
    ]


async def _let_others(connection: Any) -> None:
    await checkpoint()


async def _stand_in() -> StandIn:
    return StandIn()
