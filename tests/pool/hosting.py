"""Pools and managers that a task runs: what the tests of ``serve`` and ``open`` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from anyio.abc import TaskGroup

from anyconnpool import ConnectionPool, PoolClosed, PoolManager
from tests.cases import table

from .network import MemoryNetwork

Owner: TypeAlias = ConnectionPool | PoolManager


def make_pool(network: MemoryNetwork, **settings: Any) -> ConnectionPool:
    return ConnectionPool(network, name="hosted", **settings)


def make_manager(network: MemoryNetwork, **settings: Any) -> PoolManager:
    return PoolManager(**settings)


Make: TypeAlias = Callable[..., Owner]
each_kind = table("make", [make_pool, make_manager])


asyncio_only = pytest.mark.usefixtures("on_asyncio")


async def ask(owner: Owner, network: MemoryNetwork) -> None:
    """Do one exchange, by a pool or a manager."""
    if isinstance(owner, PoolManager):
        assert await owner.send_receive_line(network, b"ping") == b"ping"
    else:
        assert await owner.send_receive_line(b"ping") == b"ping"


def acquire(owner: Owner, network: MemoryNetwork) -> Any:
    return owner.acquire(network) if isinstance(owner, PoolManager) else owner.acquire()


async def check_ended(owner: Owner, network: MemoryNetwork) -> None:
    """Assert that everything is closed, and that who uses it is told so."""
    assert network.open_now == 0
    with pytest.raises(PoolClosed, match=r"has been closed: aclose\(\) was called.*loop has ended"):
        await ask(owner, network)


async def start(owner: Owner, tasks: TaskGroup, how: str) -> None:
    """Begin a block in one of the ways that ``aclose()`` ends."""
    begun = await (owner.open() if how == "open" else tasks.start(owner.serve))
    assert begun is owner
