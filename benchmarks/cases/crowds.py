"""Many tasks over few connections: what waiting in line costs, and how much gets through."""

from __future__ import annotations

import dataclasses
from contextlib import AsyncExitStack
from typing import Any

from anyio import create_task_group
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.borrowers import Body, Borrower, NoPool, OurPool, hold
from benchmarks.cases.exchanges import exchange_on
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, timed
from benchmarks.standins import StandIn, StandInConnectable

_SIZE = 10
#: of ours to the fastest peer, by the number of tasks
_GOALS = {100: 1.3, 10_000: 1.0}
#: operations of a turn: with as many tasks as there can be, one each
_BORROWS = {100: 1_000, 10_000: 10_000}
#: asyncio's slowest would take longer than all others together
_TOO_SLOW = {10_000: (peers.GENERIC,)}

_THROUGHPUT_TASKS = 64
_THROUGHPUT_SIZE = 16
_EXCHANGES = 20 * _THROUGHPUT_TASKS


async def crowd(bench: Bench, *, tasks: int) -> list[Figure]:
    """Have tasks borrow, let the others have a turn, and give back; over 10 connections."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(ConnectionPool(StandInConnectable()))
        borrowers: dict[str, Borrower] = {"ours": OurPool(pool), "no pool": NoPool()}
        if bench.on_asyncio:
            rivals = peers.all_peers(_stand_in)
            for name in (peers.AIOSOCKETPOOL, *_TOO_SLOW.get(tasks, ())):
                # aiosocketpool opens more connections instead of waiting.
                rivals.pop(name, None)
            borrowers.update(await peers.enter_all(stack, rivals))
        for borrower in borrowers.values():
            await hold(borrower, _SIZE, checkpoint)
        contestants = [
            _crowding(name, borrower, tasks, _BORROWS[tasks], _let_others)
            for name, borrower in borrowers.items()
        ]
        figures = await bench.keeper.compare(
            f"tasks-{tasks}", "borrow", contestants, seconds=6 if tasks == 100 else 16
        )
    return _with_goal_for_fastest_peer(figures, _GOALS[tasks])


async def throughput(bench: Bench) -> list[Figure]:
    """Have 64 tasks exchange 64 bytes over 16 connections, as often as they can."""
    async with AsyncExitStack() as stack:

        async def open_one() -> ByteStream:
            return await stack.enter_async_context(await bench.remotes.connect())

        remote = bench.remotes.connectable("tcp")
        pool = await stack.enter_async_context(ConnectionPool(remote, max_size=_THROUGHPUT_SIZE))
        borrowers: dict[str, Borrower] = {"ours": OurPool(pool)}
        if bench.on_asyncio:
            rivals = peers.generic_peers(_THROUGHPUT_SIZE, open_one)
            borrowers.update(await peers.enter_all(stack, rivals))
        for borrower in borrowers.values():
            await hold(borrower, _THROUGHPUT_SIZE, checkpoint)
        contestants = [
            _crowding(name, borrower, _THROUGHPUT_TASKS, _EXCHANGES, exchange_on)
            for name, borrower in borrowers.items()
        ]
        held = NoPool(*[await open_one() for _ in range(_THROUGHPUT_SIZE)])
        contestants.append(
            _crowding("16 tasks, held streams", held, _THROUGHPUT_SIZE, _EXCHANGES, exchange_on)
        )
        return await bench.keeper.compare("throughput", "exchange", contestants, seconds=6)


def _crowding(name: str, borrower: Borrower, tasks: int, count: int, body: Body) -> Contestant:
    async def repeat(count: int) -> None:
        async with create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(borrower.repeat, count // tasks, body)

    return Contestant(name, timed(repeat), count)


def _with_goal_for_fastest_peer(figures: list[Figure], goal: float) -> list[Figure]:
    rivals = [figure for figure in figures if figure.name in peers.PEERS]
    fastest = min(rivals, key=lambda figure: figure.value.median, default=None)
    return [
        dataclasses.replace(figure, goal=goal) if figure is fastest else figure
        for figure in figures
    ]


async def _let_others(connection: Any) -> None:
    await checkpoint()


async def _stand_in() -> StandIn:
    return StandIn()
