"""Hooks, observers and connectables, some of which misbehave in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count, cycle

import anyio
from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool import PooledConnection, PoolStatistics
from anyconnpool._engine.connection import entry_of
from anyconnpool._streams.connect import on_trio
from anyconnpool.events import PoolEvent, PoolStarted

from .oracle_dialog import Dialog, Report
from .oracle_wire import Request


class HookError(Exception):
    """What hooks, observers and connectables of the scenarios raise."""


async def await_something_cancelled() -> None:
    """Wait for what somebody else has cancelled; on trio there is no such thing."""
    if on_trio():
        raise HookError("nothing can be cancelled like this on trio")
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


class Hook:
    """A hook that makes an exchange, or what its moods say.

    :param moods: what becomes of its calls, in turn; "" for the exchange
    :param report: where foreign bytes go
    :param where: the scenario, for the faults
    :param greeted: whether the server's greeting is still to come
    :param last_news: the last news that have left the server, if it tells any
    """

    def __init__(
        self,
        moods: tuple[str, ...],
        report: Report,
        where: str,
        *,
        greeted: bool = False,
        last_news: Callable[[], int] | None = None,
    ) -> None:
        self._moods = cycle(moods)
        self._report = report
        self._where = where
        self._greeted = greeted
        self._last_news = last_news
        self._keys = count(1_000_000)
        #: connections that it has refused: kept, so that nothing else gets their identity
        self.refused: dict[int, object] = {}

    async def __call__(self, connection: PooledConnection) -> bool:
        mood = next(self._moods)
        if mood:
            transport = entry_of(connection).transport
            self.refused[id(transport)] = transport
        old_news = self._last_news() if self._last_news is not None else None
        dialog = Dialog(connection, self._report, f"{self._where}, hook {mood}", old_news)
        if self._greeted:
            await dialog.be_greeted()
        ending = "within" if mood == "hang up" else "stay"
        request = Request(next(self._keys), "line", ending=ending)
        await dialog.ask(request)
        if mood == "read in part":
            await dialog.read_piece(5)
        if mood in ("", "hang up"):
            await dialog.read(request)
        await self._misbehave(mood, connection)
        return mood != "return False"

    async def _misbehave(self, mood: str, connection: PooledConnection) -> None:
        if mood == "raise":
            raise HookError("the hook failed")
        if mood == "hang":
            await anyio.sleep_forever()
        if mood == "cancelled":
            await await_something_cancelled()
        if mood == "discard":
            connection.discard()
        if mood == "hang up":
            raise HookError("the server didn't hang up")

    def has_refused(self, connection: PooledConnection) -> bool:
        """Return whether a connection must not be lent any more."""
        return id(entry_of(connection).transport) in self.refused


class MoodyObserver:
    """An observer that raises, or looks at the pool's statistics.

    :param mood: which of them
    :param look: is given the statistics
    """

    def __init__(self, mood: str, look: Callable[[PoolStatistics], object]) -> None:
        self._mood = mood
        self._look = look
        self._pools: dict[str, Callable[[], PoolStatistics]] = {}

    def __call__(self, event: PoolEvent) -> None:
        if isinstance(event, PoolStarted):
            self._pools[event.pool] = event.statistics
        if self._mood == "raise":
            raise HookError("the observer failed")
        self._look(self._pools[event.pool]())


class MoodyConnectable(ByteStreamConnectable):
    """A connectable that makes streams of AnyIO's, unless it misbehaves.

    :param connect: connects
    :param moods: what becomes of its calls, in turn
    """

    def __init__(self, connectable: ByteStreamConnectable, moods: tuple[str, ...]) -> None:
        self._connectable = connectable
        self._moods = cycle(moods)

    async def connect(self) -> ByteStream:
        mood = next(self._moods)
        if mood == "raise":
            raise HookError("the connectable failed")
        if mood == "refuse":
            raise OSError("the connectable has refused")
        if mood == "cancelled":
            await await_something_cancelled()
        if mood == "hang":
            await anyio.sleep_forever()
        return await self._connectable.connect()
