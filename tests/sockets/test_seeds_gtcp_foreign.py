"""The six ways in which gtcp hands one user's bytes to the next: one test each, over real sockets.

Each docstring says what gtcp does, and then what holds here; test_pool_foreign_bytes.py has the
variations.
"""

from __future__ import annotations

import threading

import anyio
import pytest
from anyio import move_on_after

from .checks import ask, ask_next, expect_closed
from .conftest import Serve
from .servers import echo_when_told

pytestmark = pytest.mark.usefixtures("no_socket_left")

_SHORT = 0.02


@pytest.fixture
def kind() -> str:
    """Return the kind of socket that gtcp was observed on."""
    return "tcp"


async def test_gtcp_foreign_bytes_timeout_and_used_again(serve: Serve) -> None:
    """gtcp: a PoolConn used again after a timeout shifts the replies of all later users by one.

    Here its borrower gets the late reply, who asked for it; the next user gets a new connection.
    """
    gate = threading.Event()
    async with serve(echo_when_told(gate)).pool() as pool:
        async with pool.acquire() as connection:
            await connection.send_line(b"slow-1")
            with move_on_after(_SHORT):
                await connection.receive_line()
            gate.set()
            assert await connection.send_receive_line(b"req-02") == b"> slow-1"
        assert not await ask_next(pool, b"req-03")
        await expect_closed(pool, unclean=1)


async def test_gtcp_foreign_bytes_timeout_and_good_send(serve: Serve) -> None:
    """gtcp: a Send that succeeds after a timeout makes the connection count as healthy.

    Here a timeout is never made up for.
    """
    gate = threading.Event()
    async with serve(echo_when_told(gate)).pool() as pool:
        async with pool.acquire() as connection:
            with pytest.raises(TimeoutError):
                await connection.send_receive_line(b"slow-1", timeout=_SHORT)
            await connection.send_line(b"bye")
            gate.set()
        assert not await ask_next(pool, b"req-2")
        await expect_closed(pool, unclean=1)


async def test_gtcp_foreign_bytes_send_without_recv(serve: Serve) -> None:
    """gtcp: a Send without a Recv leaves its reply to the next user; here it is dropped."""
    async with serve().pool() as pool:
        await pool.send_line(b"first")
        assert not await ask_next(pool, b"second")
        await expect_closed(pool, unclean=1)


async def test_gtcp_foreign_bytes_part_of_a_reply(serve: Serve) -> None:
    """gtcp: Recv(5) of a reply of 12 bytes leaves 7 to the next user; here they are dropped."""
    async with serve().pool() as pool:
        async with pool.acquire() as connection:
            assert await connection.send_receive(b"012345678\n", 5) == b"> 012"
        assert not await ask_next(pool, b"AB")
        await expect_closed(pool, unread_data=1)


async def test_gtcp_foreign_bytes_second_segment(serve: Serve) -> None:
    """gtcp: of a reply in two segments the second goes to the next user; here it is noticed.

    It is dropped with its connection if it has come when the next user does. docs/limits.rst says
    why no pool can promise more of a reply that was not read to its end.
    """
    server = serve(None)
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            await connection.send_line(b"one")
            peer = await server.peer(0)
            peer.send(b"> ")
            assert await connection.receive_available() == b"> "
        peer.send(b"one\n")
        async with pool.acquire() as connection:
            assert not connection.reused
            (await server.peer(1)).send(b"> two\n")
            assert await connection.send_receive_line(b"two") == b"> two"
        await expect_closed(pool, unread_data=1)


async def test_gtcp_foreign_bytes_double_close(serve: Serve) -> None:
    """gtcp: a second Close closes the next user's socket; here an old reference reaches nothing."""
    async with serve().pool(max_size=1) as pool:
        first = await pool.acquire()
        await ask(first)
        await first.aclose()
        async with pool.acquire() as second:
            await second.send_line(b"mine")
            await first.aclose()
            with pytest.raises(anyio.ClosedResourceError):
                await first.receive_line()
            assert await second.receive_line() == b"> mine"
            assert second.reused
