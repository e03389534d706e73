"""What acquire() returns: to be entered, or to be awaited."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Protocol

from anyconnpool._connection import PooledConnection
from anyconnpool._interrupts import defer_interrupts


class Lender(Protocol):
    """Whom an acquisition asks for a connection."""

    async def lend(
        self, timeout: float, acquisition: Acquisition | None = None
    ) -> PooledConnection:
        """Borrow an idle connection, or wait for one.

        :param acquisition: what is to give it back
        """
        ...


class Acquisition:
    """What :meth:`ConnectionPool.acquire` returns: enter it, or await it.

    ``async with`` gives the connection back at the end of the block. Awaited, it returns the
    connection, which then has to be given back with :meth:`PooledConnection.aclose`, or by an
    ``async with`` of its own.
    """

    __slots__ = ("_lender", "_timeout", "connection")

    def __init__(self, lender: Lender, timeout: float) -> None:
        self._lender = lender
        self._timeout = timeout
        #: what was borrowed by entering
        self.connection: PooledConnection | None = None

    # Not a coroutine function itself: one coroutine a borrow is enough.
    def __aenter__(self) -> Coroutine[Any, Any, PooledConnection]:
        if self.connection is not None:
            raise RuntimeError("this acquire() is entered already: call acquire() once a borrow")
        return self._lender.lend(self._timeout, self)

    @defer_interrupts
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.give_back(exc_type is not None)

    def __await__(self) -> Generator[Any, Any, PooledConnection]:
        return self._lender.lend(self._timeout).__await__()
