"""Lend a connection to one of the pool's hooks, and see in what state it comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from anyio import ConnectionFailed

from anyconnpool._core.states import PoolEntry
from anyconnpool._engine.connection import PooledConnection
from anyconnpool._exceptions import PoolError
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason
from anyconnpool._streams.framed import FrameDefaults
from anyconnpool._streams.transport import Transport


def _given_away() -> PoolError:
    return PoolError("the hook gave the connection away: it should only use it")


class _HookOwner:
    """The owner of a connection that is lent to one of the pool's hooks."""

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        self.settings = settings
        self.frame_defaults = FrameDefaults(settings.package_format, settings.max_line_bytes)
        self.now = now

    def take_back(
        self, entry: PoolEntry[Transport], reason: CloseReason | None, unsure: bool
    ) -> None:
        """Do nothing: a hook can't give back what was not borrowed."""

    def let_go(self, entry: PoolEntry[Transport]) -> bool:
        """Refuse.

        :raises PoolError: always
        """
        raise _given_away()


class _HookConnection(PooledConnection):
    """A connection in the hands of a hook."""

    def finish(self, *, greeting: bool) -> None:
        """Refuse the connection if it is unfit.

        :param greeting: whether what the hook left unread, or has yet to come, is for the first
            borrower
        :raises ~anyio.ConnectionFailed: if the connection is unfit
        :raises PoolError: if the hook gave it back, discarded or detached it
        """
        if self._ended:
            raise _given_away()
        fault = self._find_fault()
        if fault is not None and (self._unfinished or not greeting):
            raise ConnectionFailed(f"the hook left the connection unfit: {fault.value}")
        self._entry.transport.early = self.buffer


async def lend_to_hook(
    entry: PoolEntry[Transport],
    settings: Settings,
    now: Callable[[], float],
    hook: Callable[[PooledConnection], Awaitable[object]],
    *,
    greeting: bool,
) -> None:
    """Lend a connection to ``on_connect`` or ``check``, and see in what state it comes back.

    :param greeting: whether what the hook left unread, or has yet to come, is for the first
        borrower
    :raises ~anyio.ConnectionFailed: if the hook left the connection unfit
    :raises PoolError: if the hook gave it away
    :raises Exception: what the hook raised
    """
    connection = _HookConnection(_HookOwner(settings, now), entry)
    try:
        await hook(connection)
        connection.finish(greeting=greeting)
    finally:
        await connection.aclose()
