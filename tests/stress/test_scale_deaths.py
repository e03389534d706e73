"""Many idle connections that die in one moment, over real sockets."""

from __future__ import annotations

import socket

import anyio
import pytest
from anyio import create_task_group

from anyconnpool import ConnectionPool
from anyconnpool._engine import housekeeper
from anyconnpool._statistics import CloseReason
from anyconnpool.events import ConnectionClosed, PoolEvent
from tests.sockets.checks import eventually

from .soak import CostMeter


@pytest.mark.parametrize("anyio_backend", ["asyncio", "asyncio+uvloop"], indirect=True)
async def test_deaths_at_once_cost_each_the_same(
    meter: CostMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in calls and steps: among many, one costs what it costs among few."""
    # The event loop tells of the deaths; the housekeeper would come too late to help.
    monkeypatch.setattr(housekeeper, "_SWEEP_INTERVAL", 3600)
    costs = {many: await cost_of_deaths(many, meter) / many for many in (50, 400)}
    assert 0 < costs[400] < costs[50] * 1.2, costs


async def cost_of_deaths(many: int, meter: CostMeter) -> int:
    """Let so many idle connections die in one moment, and count what the pool does about it."""
    reasons: list[CloseReason] = []

    def observe(event: PoolEvent) -> None:
        if isinstance(event, ConnectionClosed):
            reasons.append(event.reason)

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        remote = listener.getsockname()
        async with ConnectionPool(remote, max_size=many, observers=[observe]) as pool:
            ends = await fill_from(pool, listener, many)
            assert pool.statistics().idle == many
            with meter:
                for end in ends:
                    end.close()
                await eventually(lambda: len(reasons) == many)
            assert reasons == [CloseReason.PEER_CLOSED] * many
            assert pool.statistics().size == 0
    return meter.count


async def fill_from(
    pool: ConnectionPool, listener: socket.socket, many: int
) -> list[socket.socket]:
    """Borrow so many connections at once and give them back; return the server's ends."""
    all_in = anyio.Event()
    here = 0

    async def borrow() -> None:
        nonlocal here
        async with pool.acquire():
            here += 1
            if here == many:
                all_in.set()
            await all_in.wait()

    ends: list[socket.socket] = []
    async with create_task_group() as group:
        for _ in range(many):
            group.start_soon(borrow)
        for _ in range(many):
            await anyio.wait_readable(listener)
            ends.append(listener.accept()[0])
    return ends
