"""Borrow and give back, by one task, while connections are idle."""

from __future__ import annotations

import select
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.borrowers import Borrower, NoPool, OurPool, OwnParts, hold
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, timed
from benchmarks.standins import StandIn, StandInConnectable

_SIZE = 10
_PROBING = f"{peers.ACP}, probing"
_OWN_PARTS = "own parts, straight-line"

_GOALS = {
    _OWN_PARTS: 0.8,
    peers.ACP: 1.0,
    _PROBING: 0.85,
    peers.CONNPOOL: 0.5,
    peers.GENERIC: 0.5,
    peers.REDIS: 0.5,
    peers.ASYNCPG: 0.5,
}


async def borrow_sockets(bench: Bench) -> list[Figure]:
    """Borrow sockets, which our pool probes; the peers have stand-ins and check nothing."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(ConnectionPool(bench.remotes.connectable("tcp")))
        sockets = [
            await stack.enter_async_context(await bench.remotes.connect()) for _ in range(_SIZE)
        ]
        borrowers: dict[str, Borrower] = {
            "ours, probing sockets": OurPool(pool),
            _OWN_PARTS: OwnParts(*sockets),
        }
        if bench.on_asyncio:
            borrowers.update(await peers.enter_all(stack, peers.all_peers(_stand_in)))
            if peers.is_installed(peers.ACP):
                borrowers[_PROBING] = await stack.enter_async_context(_probing_peer(sockets))
        return await _compare(bench, "borrow", borrowers, _GOALS)


async def borrow_stand_ins(bench: Bench) -> list[Figure]:
    """Borrow connections without sockets, from our pool too."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(ConnectionPool(StandInConnectable()))
        borrowers: dict[str, Borrower] = {"ours, nothing to probe": OurPool(pool)}
        if bench.on_asyncio:
            borrowers.update(await peers.enter_all(stack, peers.all_peers(_stand_in)))
        return await _compare(bench, "borrow-standin", borrowers, {})


async def _compare(
    bench: Bench, case: str, borrowers: dict[str, Borrower], goals: Mapping[str, float]
) -> list[Figure]:
    for name, borrower in borrowers.items():
        if name != _OWN_PARTS:
            await hold(borrower, _SIZE, checkpoint)
    borrowers["no pool"] = NoPool()
    contestants = [Contestant(name, timed(borrower.repeat)) for name, borrower in borrowers.items()]
    return await bench.keeper.compare(case, "borrow", contestants, seconds=6, goals=goals)


async def _stand_in() -> StandIn:
    return StandIn()


def _probing_peer(sockets: list[ByteStream]) -> peers.Entering:
    """Have the fastest peer look at sockets, as fast as that can be done."""
    spare = list(map(_Probed, sockets))

    async def open_one() -> _Probed:
        return spare.pop()

    return peers.asyncio_connection_pool(_SIZE, open_one, _Probed.is_closed)


class _Probed:
    """A socket that is probed with a poll object of its own."""

    def __init__(self, connection: ByteStream) -> None:
        self.connection = connection
        poll = select.poll()
        poll.register(connection.extra(SocketAttribute.raw_socket).fileno(), select.POLLIN)
        self._look: partial[Any] = partial(poll.poll, 0)

    def is_closed(self) -> bool:
        """Look without waiting."""
        return bool(self._look())
