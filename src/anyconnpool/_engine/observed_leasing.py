"""A lender that is watched: it tells observers of borrows, and notes where they are made.

A class of its own, so that a pool without observers pays nothing for them.
"""

from __future__ import annotations

import math

from anyconnpool._core.states import PoolEntry, State
from anyconnpool._engine.connection import AcquireContext, PooledConnection, entry_of
from anyconnpool._engine.leaks import place_of_acquire
from anyconnpool._engine.leasing import Lender
from anyconnpool._exceptions import AcquireTimeout
from anyconnpool._observing import tell
from anyconnpool._statistics import CloseReason
from anyconnpool._streams.transport import Transport
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool.events import AcquireTimedOut, ConnectionAcquired, ConnectionReleased, PoolEvent


class ObservedLender(Lender):
    """Lend and take back, and tell; see :class:`Lender` for the parameters."""

    @defer_interrupts
    async def lend(self, timeout: float, context: AcquireContext | None = None) -> PooledConnection:
        """Borrow an idle connection, or wait for one; see :meth:`Lender.lend`."""
        place = self._place()
        began = self.now()
        try:
            connection = await super().lend(timeout, context)
        except AcquireTimeout:
            self._tell(AcquireTimedOut(self.settings.name, self.now() - began))
            raise
        self._tell_acquired(connection, self.now() - began, place)
        return connection

    @defer_interrupts
    def lend_nowait(self) -> PooledConnection:
        """Borrow an idle connection; see :meth:`Lender.lend_nowait`."""
        place = self._place()
        began = self.now()
        connection = super().lend_nowait()
        self._tell_acquired(connection, self.now() - began, place)
        return connection

    @defer_interrupts
    def take_back(
        self, entry: PoolEntry[Transport], reason: CloseReason | None, unsure: bool
    ) -> None:
        """Take a connection back; see :meth:`Lender.take_back`."""
        events = self._release_of(entry)
        super().take_back(entry, reason, unsure)
        self._tell(*events)

    @defer_interrupts
    def let_go(self, entry: PoolEntry[Transport]) -> bool:
        """Give a connection away for good; see :meth:`Lender.let_go`."""
        events = self._release_of(entry)
        mine = super().let_go(entry)
        self._tell(*events)
        if mine:
            self._connection_tasks.tell_closed(entry)
        return mine

    @defer_interrupts
    def seize(self, entry: PoolEntry[Transport]) -> None:
        """Close a connection under its borrower's hands; see :meth:`Lender.seize`."""
        events = self._release_of(entry)
        super().seize(entry)
        self._tell(*events)

    def _tell_acquired(self, connection: PooledConnection, wait_time: float, place: str) -> None:
        entry_of(connection).place = place
        try:
            self._tell(ConnectionAcquired(self.settings.name, wait_time, reused=connection.reused))
        except BaseException:
            # The caller won't get it.
            connection.discard()
            raise

    def _place(self) -> str:
        return place_of_acquire() if self.settings.leak_after < math.inf else ""

    def _release_of(self, entry: PoolEntry[Transport]) -> tuple[ConnectionReleased, ...]:
        """Return the event that ends a borrow, unless the connection was seized before."""
        if entry.state is not State.IN_USE:
            return ()
        return (ConnectionReleased(self.settings.name, self.now() - entry.acquired_at),)

    def _tell(self, *events: PoolEvent) -> None:
        for event in events:
            tell(self.settings.observers, event)
