"""Carry out the ledger's orders: open, check and close connections, each in a task of the pool."""

from __future__ import annotations

from collections.abc import Callable

from anyio.abc import TaskGroup

from anyconnpool._connector import Connector
from anyconnpool._entry import Entry, Liveness, Order
from anyconnpool._ledger import Ledger
from anyconnpool._statistics import CloseReason
from anyconnpool._transport import Transport

# Connections that are known to be good deserve an orderly end. The others have nobody to talk to.
_GRACEFUL = frozenset(
    {
        CloseReason.IDLE_TIME,
        CloseReason.LIFETIME,
        CloseReason.RETIRED,
        CloseReason.SURPLUS,
        CloseReason.POOL_CLOSED,
    }
)


class Workers:
    """Run the tasks that connections need.

    :param ledger: whose orders to carry out
    :param connector: opens connections
    :param clock: returns the time, in seconds
    :param close_timeout: limit of an orderly close, in seconds
    :param tasks: the group for opening and checking, cancelled when the pool's block ends
    :param closers: the group for closing, which the pool's block waits for
    """

    def __init__(
        self,
        ledger: Ledger[Transport],
        connector: Connector,
        clock: Callable[[], float],
        close_timeout: float,
        tasks: TaskGroup,
        closers: TaskGroup,
    ) -> None:
        self._ledger = ledger
        self._connector = connector
        self._clock = clock
        self._close_timeout = close_timeout
        self._tasks = tasks
        self._closers = closers

    def carry_out(self) -> None:
        """Start a task for every order."""
        orders = self._ledger.orders
        while orders:
            order, entry = orders.popleft()
            if order is Order.OPEN:
                self._tasks.start_soon(self._open, entry)
            elif order is Order.CHECK:
                self._tasks.start_soon(self._check, entry)
            else:
                self._closers.start_soon(self._close, entry)

    async def _open(self, entry: Entry[Transport]) -> None:
        try:
            # Cancelled here, the connector leaves nothing open.
            transport = await self._connector.open()
        except Exception as error:
            self._ledger.open_failed(entry, error)
        except BaseException:
            self._ledger.open_cancelled(entry)
            raise
        else:
            self._ledger.opened(entry, transport, self._clock(), unsure=transport.never_read)
        finally:
            self.carry_out()

    async def _check(self, entry: Entry[Transport]) -> None:
        liveness = Liveness.CLOSED
        try:
            liveness = await entry.link.settle(borrowed=entry.borrows > 0)
        finally:
            # Cancelled above, the connection is in doubt for good.
            self._ledger.checked(entry, liveness, self._clock())
            self.carry_out()

    async def _close(self, entry: Entry[Transport]) -> None:
        try:
            grace = self._close_timeout if entry.close_reason in _GRACEFUL else 0
            await entry.link.close(grace)
        finally:
            self._ledger.closed(entry)
            self.carry_out()
