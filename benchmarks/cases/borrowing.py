"""Borrow and give back, by one task, while connections are idle."""

from __future__ import annotations

import select
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool
from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.borrowers import Borrower, NoPool, OurPool, OwnParts, hold
from benchmarks.goals import OWN_PARTS, PROBING_PEER
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, worked
from benchmarks.standins import StandIn

_SIZE = 10


async def borrow(bench: Bench) -> list[Figure]:
    """Borrow sockets, which our pool probes; the peers have stand-ins and check nothing."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(ConnectionPool(bench.remotes.connectable("tcp")))
        sockets = [
            await stack.enter_async_context(await bench.remotes.connect()) for _ in range(_SIZE)
        ]
        borrowers: dict[str, Borrower] = {
            "ours": OurPool(pool),
            OWN_PARTS: OwnParts(*sockets),
        }
        if bench.on_asyncio:
            borrowers.update(await peers.enter_all(stack, peers.all_peers(_stand_in)))
            if peers.is_installed(peers.ACP):
                borrowers[PROBING_PEER] = await stack.enter_async_context(_probing_peer(sockets))
        return await _compare(bench, borrowers)


async def _compare(bench: Bench, borrowers: dict[str, Borrower]) -> list[Figure]:
    for name, borrower in borrowers.items():
        if name != OWN_PARTS:
            await hold(borrower, _SIZE, checkpoint)
    borrowers["no pool"] = NoPool()
    contestants = [
        Contestant(name, worked(borrower.repeat)) for name, borrower in borrowers.items()
    ]
    return await bench.keeper.compare("borrow", "borrow", contestants, seconds=6)


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
