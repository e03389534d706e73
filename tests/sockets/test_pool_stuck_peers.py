"""The end of a pool's block when the servers neither read nor close: it is in time all the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from anyio import fail_after, move_on_after

from anyconnpool import ConnectionPool, PooledConnection
from tests.cases import table

from .checks import LIMIT, client_sockets, eventually
from .conftest import Serve
from .servers import every_kind

pytestmark = pytest.mark.usefixtures("no_socket_left")


async def jam(connection: PooledConnection) -> None:
    """Send until nothing moves any more: buffers are full at both ends."""
    with move_on_after(0.05):
        await connection.send(bytes(32 << 20))


async def leave_idle(pool: ConnectionPool) -> None:
    async with pool.acquire():
        pass
    await eventually(lambda: pool.statistics().idle == 1)


async def leave_borrowed(pool: ConnectionPool) -> None:
    await pool.acquire()


async def leave_jammed(pool: ConnectionPool) -> None:
    async with pool.acquire() as connection:
        await jam(connection)


async def leave_jammed_and_borrowed(pool: ConnectionPool) -> None:
    await jam(await pool.acquire())


@every_kind
@table("leave", [leave_idle, leave_borrowed, leave_jammed, leave_jammed_and_borrowed])
@table("close_timeout", [0, 0.05])
async def test_a_peer_that_neither_reads_nor_closes_does_not_hold_up_the_end(
    serve: Serve, leave: Callable[[ConnectionPool], Awaitable[None]], close_timeout: float
) -> None:
    """Also with unsent bytes, and with the closing handshake of TLS never answered."""
    server = serve(None)
    with fail_after(LIMIT):
        async with server.pool(close_timeout=close_timeout) as pool:
            await leave(pool)
    assert client_sockets(server) == 0
    assert pool.statistics().size == 0
