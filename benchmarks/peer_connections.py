"""Connections that do nothing, for the pools that insist on classes of their own."""

from __future__ import annotations

from types import ModuleType
from typing import Any


class RedisConnection:
    """What the pool of redis calls on a connection, which is always ready.

    :param options: what the pool hands on
    """

    retry = None

    def __init__(self, **options: object) -> None:
        pass

    async def connect(self) -> None:
        """Be connected already."""

    async def disconnect(self) -> None:
        """Do nothing."""

    async def can_read(self) -> bool:
        """Have nothing unread."""
        return False

    async def re_auth(self) -> None:
        """Have no credentials to renew."""

    def should_reconnect(self) -> bool:
        """Be good."""
        return False


class AiosocketpoolConnection:
    """What aiosocketpool calls on a connection, which is always alive.

    :param options: what the pool hands on
    """

    def __init__(self, **options: object) -> None:
        pass

    def __lt__(self, other: object) -> bool:
        # Connections of the same age are ordered too.
        return id(self) < id(other)

    async def connect(self) -> bool:
        """Be connected already."""
        return True

    def is_connected(self) -> bool:
        """Be alive."""
        return True

    def matches(self, **options: object) -> bool:
        """Be what is wanted."""
        return True

    def get_lifetime(self) -> float:
        """Be as young as a connection can be."""
        return float("inf")

    def invalidate(self) -> None:
        """Do nothing."""


class _AsyncpgProtocol:
    """What asyncpg's pool asks of a connection's protocol."""

    queries_count = 0

    def _is_cancelling(self) -> bool:
        return False

    def is_connected(self) -> bool:
        return True


def _begin(self: Any) -> None:
    self._protocol = _AsyncpgProtocol()
    self._proxy = self._pool_holder = None
    self._aborted = False
    self._pool_release_ctr = 0


def _do_nothing(self: Any) -> None:
    pass


async def _wait_for_nothing(self: Any, *, timeout: float | None = None) -> None:
    pass


def asyncpg_connection_class(asyncpg: ModuleType) -> Any:
    """Make the subclass of asyncpg's connection that its pool asks for."""
    methods = {
        "__init__": _begin,
        "__del__": _do_nothing,
        "_on_release": _do_nothing,
        "terminate": _do_nothing,
        "reset": _wait_for_nothing,
        "close": _wait_for_nothing,
    }
    return type("StandIn", (asyncpg.Connection,), {"__slots__": (), **methods})
