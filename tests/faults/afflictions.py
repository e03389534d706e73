"""What befalls the connections of the tests, and pools that it befalls."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from typing import TYPE_CHECKING

import pytest
from anyio import move_on_after

from anyconnpool import ConnectionPool, Retry
from anyconnpool.testing import FaultProxy, Faults, Flow
from tests.cases import Test, table
from tests.certificates import client_context
from tests.sockets.checks import eventually
from tests.sockets.servers import Server

from .exchanges import Exchange

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from anyconnpool._settings import PoolOptions

KEY = b"my own key"
AMPLE = 20
# Too short for any exchange: used where there will be no reply.
SHORT = 0.02
RETRY = Retry(2, interval=0)
#: with and without a time limit, with and without leave to repeat
WAYS = [(timeout, retry) for timeout in (None, AMPLE) for retry in (None, RETRY)]

DELAYS = {
    "late": Faults.both_ways(Flow(latency=0.005)),
    "one byte at a time": Faults.both_ways(Flow(chunk_size=1)),
    "late, three bytes at a time": Faults(replies=Flow(latency=0.002, chunk_size=3)),
}
ENDS = {
    "request cut": Faults(requests=Flow(cut_after=3)),
    "request reset": Faults(requests=Flow(reset_after=3)),
    "request half-closed": Faults(requests=Flow(half_close_after=3)),
    "reply cut": Faults(replies=Flow(cut_after=3)),
    "reply reset": Faults(replies=Flow(reset_after=3)),
    "reply half-closed": Faults(replies=Flow(half_close_after=3)),
}
IMMEDIATE_ENDS = {
    "cut": Faults(replies=Flow(cut_after=0)),
    "reset": Faults(replies=Flow(reset_after=0)),
    "half-closed": Faults(replies=Flow(half_close_after=0)),
}
SILENCES = {
    "request unread": Faults(requests=Flow(stall_after=0)),
    "request read in part": Faults(requests=Flow(stall_after=3)),
    "no reply": Faults(replies=Flow(stall_after=0)),
    "half a reply": Faults(replies=Flow(stall_after=3)),
    "black hole": Faults.both_ways(Flow(stall_after=0)),
}

used_or_fresh = table("used", [False, True])


def each(faults: dict[str, Faults]) -> Callable[[Test], Test]:
    """Run a test with each of the faults."""
    return table("faults", faults.values())


def of(exchanges: Sequence[Exchange]) -> Callable[[Test], Test]:
    """Run a test with each of the exchanges."""
    return table("exchange", exchanges)


def pairs(exchanges: Sequence[Exchange], faults: dict[str, Faults]) -> pytest.MarkDecorator:
    """Make a case of each fault, with one exchange or other, and of each exchange likewise.

    All products would prove the same: a fault knows nothing of what it meets, and an exchange sees
    an end, a delay or silence.
    """
    count = max(len(exchanges), len(faults))
    rows = list(zip(cycle(exchanges), cycle(faults.items()), range(count)))
    return pytest.mark.parametrize(
        ("exchange", "faults"),
        [(exchange, fault) for exchange, (_, fault), _ in rows],
        ids=[f"{exchange.__name__}, {name}" for exchange, (name, _), _ in rows],
    )


def pool_through(
    proxy: FaultProxy, server: Server, **settings: Unpack[PoolOptions]
) -> ConnectionPool:
    """Make a pool of connections through a proxy to a server."""
    # Nobody may be there to answer the closing handshake of TLS.
    settings.setdefault("close_timeout", 0.05)
    context = client_context() if server.tls else None
    return ConnectionPool(proxy.remote, tls=server.tls, ssl_context=context, **settings)


@asynccontextmanager
async def afflicted(
    server: Server, faults: Faults, *, used: bool, one_way: bool = False
) -> AsyncGenerator[ConnectionPool]:
    """Make a pool whose first connection meets faults; afterwards, see that nothing is left of it.

    All slots are back, and the next exchange gets its own reply.

    :param used: whether the connection had served an exchange before
    """
    async with FaultProxy(server.remote) as proxy:
        async with pool_through(proxy, server, max_size=1, one_way=one_way) as pool:
            if used:
                assert await pool.send_receive_line(b"the first of all") == b"the first of all"
                proxy.connections[0].faults = faults
            else:
                proxy.script(faults)
            yield pool
            # Also for a connection that the proxy has not come to accept yet.
            proxy.script()
            proxy.faults = Faults()
            # The server may be about to hang up on a request that was half-closed.
            reply = await pool.send_receive_line(b"the next", retry=Retry(1))
            assert reply == b"the next"
            await eventually(lambda: pool.statistics().size == pool.statistics().idle == 1)
            await eventually(lambda: len(proxy.connections) == 1)
        assert pool.statistics().size == 0
    assert proxy.connections == ()


async def be_cut_off(exchange: Awaitable[bytes], timeout: float | None) -> None:
    """See that an exchange waits until its own time limit, or else until it is cancelled."""
    with move_on_after(SHORT if timeout is None else AMPLE) as scope:
        with pytest.raises(TimeoutError):
            await exchange
        assert timeout is not None
    assert scope.cancelled_caught is (timeout is None)
