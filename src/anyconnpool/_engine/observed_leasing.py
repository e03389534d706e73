"""Acquire and release as ever, and notify the observers of a pool of it."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, TypeVar

from anyconnpool._core.health import Replica
from anyconnpool._core.states import PoolEntry, State
from anyconnpool._engine.connection import AcquireContext, PooledConnection, entry_of
from anyconnpool._engine.leaks import find_call_site
from anyconnpool._engine.leasing import Leasing
from anyconnpool._engine.replay import Attempt
from anyconnpool._exceptions import AcquireTimeout
from anyconnpool._statistics import CloseReason
from anyconnpool._streams.exchanges import Exchange
from anyconnpool._streams.transport import Transport
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool.events import (
    AcquireTimedOut,
    ConnectionAcquired,
    ConnectionReleased,
    PoolEvent,
    notify,
)

T = TypeVar("T")


class ObservedLeasing(Leasing):
    """Acquire and release, notify observers of it, and note where acquire() was called.

    A class of its own, so that a pool without observers pays nothing for them.
    """

    @defer_interrupts
    async def acquire(
        self,
        timeout: float,
        context: AcquireContext[Any] | None = None,
        kind: type[PooledConnection[Any]] = PooledConnection,
        avoided: Collection[Replica] = (),
    ) -> PooledConnection[Any]:
        """Acquire an idle connection, or wait for one; see :meth:`Leasing.acquire`."""
        call_site = self._find_call_site()
        began = self.now()
        try:
            connection = await super().acquire(timeout, context, kind, avoided)
        except AcquireTimeout:
            self._notify(AcquireTimedOut(self.settings.name, self.now() - began))
            raise
        self._note_acquired(connection, self.now() - began, call_site)
        return connection

    @defer_interrupts
    def acquire_nowait(self) -> PooledConnection[Any]:
        """Acquire an idle connection; see :meth:`Leasing.acquire_nowait`."""
        call_site = self._find_call_site()
        began = self.now()
        connection = super().acquire_nowait()
        self._note_acquired(connection, self.now() - began, call_site)
        return connection

    @defer_interrupts
    def release(self, entry: PoolEntry[Transport], reason: CloseReason | None) -> None:
        """Take a connection back; see :meth:`Leasing.release`."""
        events = self._release_of(entry)
        super().release(entry, reason)
        self._notify(*events)

    @defer_interrupts
    def detach(self, entry: PoolEntry[Transport]) -> bool:
        """Take a connection out of the pool for good; see :meth:`Leasing.detach`."""
        events = self._release_of(entry)
        mine = super().detach(entry)
        self._notify(*events)
        if mine:
            self._connection_tasks.notify_closed(entry)
        return mine

    @defer_interrupts
    def seize(self, entry: PoolEntry[Transport]) -> None:
        """Close a connection that somebody still holds; see :meth:`Leasing.seize`."""
        # If it was granted in this very moment, nobody was notified of that.
        events = () if entry.connection is None else self._release_of(entry)
        super().seize(entry)
        self._notify(*events)

    @defer_interrupts
    async def exchange(
        self, exchange: Exchange[T], timeout: float, acquire_timeout: float, attempt: Attempt | None
    ) -> T:
        """Do an exchange by the general way, which notifies; see :meth:`Leasing.exchange`."""
        return await self._exchange_in_turn(exchange, timeout, acquire_timeout, attempt)

    def _note_acquired(
        self, connection: PooledConnection[Any], wait_time: float, call_site: str
    ) -> None:
        entry = entry_of(connection)
        if entry.state is not State.IN_USE:
            # Seized on its way to the borrower.
            return
        entry.call_site = call_site
        name = self.settings.name
        try:
            self._notify(ConnectionAcquired(name, wait_time, reused=connection.reused))
        except BaseException:
            # The caller won't get it.
            connection.discard()
            raise

    def _find_call_site(self) -> str:
        return find_call_site() if self.settings.leak_after < math.inf else ""

    def _release_of(self, entry: PoolEntry[Transport]) -> tuple[ConnectionReleased, ...]:
        """Return the event that ends a borrow, unless the connection was seized before."""
        if entry.state is not State.IN_USE:
            return ()
        return (ConnectionReleased(self.settings.name, self.now() - entry.acquired_at),)

    def _notify(self, *events: PoolEvent) -> None:
        for event in events:
            notify(self.settings.observers, event)
