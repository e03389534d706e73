"""Connections that die while nobody uses them, and those that only look as if they had."""

from __future__ import annotations

import ssl

import pytest
from anyio import create_task_group, fail_after

from tests.cases import table

from .checks import LIMIT, ask, ask_next, client_sockets, eventually, expect_closed
from .conftest import Serve
from .servers import every_kind, one_reply, only_tls

pytestmark = pytest.mark.usefixtures("no_socket_left")


@every_kind
@table("reset", [False, True])
async def test_twenty_restarts_cost_no_request(serve: Serve, reset: bool) -> None:
    """A server that went away and came back while connections were idle is never noticed."""
    server = serve()
    async with server.pool(max_size=3) as pool:
        for number in range(20):
            async with create_task_group() as task_group:
                for _ in range(3):
                    task_group.start_soon(ask_next, pool, b"%d" % number)
            await eventually(lambda: pool.statistics().idle == pool.statistics().size)
            server.restart(reset=reset)
            assert not await ask_next(pool)
        assert pool.statistics().open_failed == 0


@every_kind
@table("end", ["hang_up", "reset"])
async def test_a_connection_that_ended_while_idle_is_not_handed_out(serve: Serve, end: str) -> None:
    """Of several idle connections, the dead ones are dropped and the living one is used."""
    server = serve()
    async with server.pool() as pool:
        async with pool.acquire() as first, pool.acquire() as second, pool.acquire() as third:
            for connection in (first, second, third):
                await ask(connection)
        # The last one released is the first one lent: that is the first one borrowed here.
        for peer in server.peers[:2]:
            getattr(peer, end)()
        assert await ask_next(pool)
        await expect_closed(pool, peer_closed=2)
        assert pool.statistics().opened == 3


@every_kind
async def test_a_connection_that_ends_while_it_is_borrowed_is_not_reused(serve: Serve) -> None:
    """The borrower read all of its reply, and then the server hung up."""
    server = serve(one_reply)
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            await ask(connection)
            await eventually(lambda: server.open == 0)
        assert not await ask_next(pool)


@every_kind
async def test_a_waiter_is_not_handed_a_connection_that_has_just_ended(serve: Serve) -> None:
    """The direct way from a borrower to a waiter is watched, too."""
    server = serve()
    async with (
        server.pool(max_size=1) as pool,
        create_task_group() as task_group,
        pool.acquire() as connection,
    ):
        await ask(connection)
        task_group.start_soon(ask_next, pool)
        await eventually(lambda: pool.statistics().tasks_waiting == 1)
        server.peers[0].hang_up()
    assert pool.statistics().reused == 0


@every_kind
async def test_a_fresh_connection_that_was_never_read_stays_in_the_pool(serve: Serve) -> None:
    """With TLS 1.3 session tickets make it readable, which doesn't mean that it is dirty."""
    server = serve()
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            address = connection.local_address
        for _ in range(3):
            async with pool.acquire() as connection:
                assert connection.reused
                assert connection.local_address == address
        assert await ask_next(pool)
        assert pool.statistics().opened == 1


@every_kind
async def test_a_fresh_connection_that_the_server_closed_does_not_stay(serve: Serve) -> None:
    """Session tickets don't hide the end of the stream behind them."""
    server = serve()
    async with server.pool() as pool:
        async with pool.acquire():
            peer = await server.peer(0)
        peer.hang_up()
        async with pool.acquire() as connection:
            assert not connection.reused
            await ask(connection)
        await expect_closed(pool, peer_closed=1)


@only_tls
@table("read_before", [False, True])
async def test_a_connection_that_tls_alone_has_closed_is_not_handed_out(
    serve: Serve, read_before: bool
) -> None:
    """A closing alert counts, even if the TCP connection below is left open."""
    server = serve(None)
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            peer = await server.peer(0)
            if read_before:
                peer.send(b"hello\n")
                assert await connection.receive_line() == b"hello"
        await eventually(lambda: pool.statistics().idle == 1)
        send_close_notify(peer.socket)
        async with pool.acquire() as connection:
            assert not connection.reused
        # A look on asyncio sees that something has come, and not yet what.
        await eventually(lambda: sum(pool.statistics().closed.values()))
        assert pool.statistics().closed.keys() < {"peer_closed", "unread_data"}


@every_kind
async def test_connections_made_in_advance_are_handed_out(serve: Serve) -> None:
    """What ``min_idle`` has opened is used, not dropped for the session tickets on it."""
    server = serve()
    async with server.pool(min_idle=3, max_size=3) as pool:
        await pool.wait_ready()
        assert pool.statistics().idle == 3
        async with pool.acquire() as first, pool.acquire() as second, pool.acquire() as third:
            for connection in (first, second, third):
                assert not connection.reused
                await ask(connection)
        assert pool.statistics().opened == 3
        assert len(server.peers) == 3


async def test_a_lifetime_ends_while_idle_and_not_while_borrowed(serve: Serve) -> None:
    """A borrower keeps its connection past the lifetime; afterwards it is closed."""
    server = serve()
    async with server.pool(max_lifetime=0.05) as pool:
        async with pool.acquire() as connection:
            await eventually(lambda: connection.age > 0.1)
            await ask(connection)
        with fail_after(LIMIT):
            await eventually(lambda: server.open == 0)
        await expect_closed(pool, max_lifetime=1)


async def test_the_sweep_notices_what_the_server_has_closed(serve: Serve) -> None:
    """No socket stands half closed until somebody asks for it."""
    server = serve()
    async with server.pool(max_idle_time=600, max_lifetime=1) as pool:
        await ask_next(pool)
        server.peers[0].hang_up()
        await eventually(lambda: pool.statistics().size == 0)
        assert client_sockets(server) == 0


async def test_retiring_replaces_every_connection_once(serve: Serve) -> None:
    """Idle ones are closed at once, borrowed ones when they come back."""
    server = serve()
    async with server.pool() as pool:
        async with pool.acquire() as borrowed:
            await ask(borrowed)
            await ask_next(pool)
            pool.retire()
            await eventually(lambda: server.open == 1)
            await ask(borrowed)
        await eventually(lambda: server.open == 0)
        assert not await ask_next(pool)
        assert await ask_next(pool)
        await expect_closed(pool, retired=2)


def send_close_notify(tls_socket: object) -> None:
    """Send the closing alert of TLS without waiting for the answer, nor closing the socket."""
    assert isinstance(tls_socket, ssl.SSLSocket)
    tls_socket.settimeout(0)
    with pytest.raises(ssl.SSLWantReadError):
        tls_socket.unwrap()
