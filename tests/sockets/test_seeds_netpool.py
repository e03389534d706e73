"""The netpool of the question "TCP connection pool" of 2012: one test per row, over real sockets.

Each docstring says what was asked or answered there, and then what holds here.
"""

from __future__ import annotations

import pytest
from anyio import create_task_group, to_thread, wait_all_tasks_blocked

from anyconnpool import PackageFormat, PoolFull

from .checks import ask, ask_next, client_sockets, eventually, expect_closed
from .conftest import Serve
from .servers import Peer

pytestmark = pytest.mark.usefixtures("no_socket_left")

FOUR = PackageFormat(4)


async def test_netpool_maximum_connections_reached(serve: Serve) -> None:
    """netpool refuses when all three are out; here that is ``PoolFull``, and waiting possible."""
    served = False

    async def wait() -> None:
        nonlocal served
        served = await ask_next(pool)

    server = serve()
    async with server.pool(max_size=3) as pool, create_task_group() as task_group:
        first, second, third = [await pool.acquire() for _ in range(3)]
        await eventually(lambda: server.most == 3)
        with pytest.raises(PoolFull, match="max_size 3, 3 in use"):
            pool.acquire_nowait()
        task_group.start_soon(wait)
        await wait_all_tasks_blocked()
        await ask(first)
        await first.aclose()
        await eventually(lambda: served)
        await second.aclose()
        await third.aclose()
    assert server.most == 3


async def test_netpool_open_connections_are_tracked(serve: Serve) -> None:
    """netpool forgets a connection that is closed outside it; here each one stays on the books.

    Whatever its borrower does to it, its place is free again once its socket is closed, not before.
    """
    server = serve()
    async with server.pool(max_size=2) as pool:
        for number, spoil in enumerate(("discard", "detach", "send_eof", "hang_up")):
            async with pool.acquire() as connection:
                peer = await server.peer(number)
                if spoil == "discard":
                    connection.discard()
                elif spoil == "detach":
                    await connection.detach().aclose()
                elif spoil == "send_eof":
                    await connection.send_eof()
                else:
                    peer.hang_up()
            await eventually(lambda: client_sockets(server) == pool.statistics().size)
        assert await ask_next(pool) is False
        assert await ask_next(pool) is True
        statistics = pool.statistics()
        assert statistics.opened == statistics.idle + sum(statistics.closed.values())


async def test_netpool_needs_a_lock(serve: Serve) -> None:
    """netpool's author asks for a lock; here the books have one, and threads may read them."""
    done = False

    def read() -> int:
        looks = 0
        while not done or not looks:
            statistics = pool.statistics()
            gauges = (statistics.idle, statistics.in_use, statistics.connecting, statistics.closing)
            assert statistics.size == sum(gauges) <= 3
            looks += 1
        return looks

    async with serve().pool(max_size=3) as pool, create_task_group() as task_group:
        task_group.start_soon(to_thread.run_sync, read)
        async with create_task_group() as borrowers:
            for _ in range(50):
                borrowers.start_soon(ask_next, pool)
        done = True


async def test_netpool_close_idle_connections(serve: Serve) -> None:
    """netpool was asked to close idle connections after a time; here a reaper does."""
    server = serve()
    async with server.pool(max_idle_time=0.05) as pool:
        await ask_next(pool)
        await eventually(lambda: server.open == 0)
        await expect_closed(pool, max_idle_time=1)


async def test_netpool_check_pooled_connection(serve: Serve) -> None:
    """netpool finds a dead connection by using it; here it is looked at before it is lent."""
    server = serve()
    async with server.pool() as pool:
        await ask_next(pool)
        server.peers[0].hang_up()
        assert not await ask_next(pool)
        await expect_closed(pool, peer_closed=1)


async def test_netpool_flush(serve: Serve) -> None:
    """netpool flushes by reading with a deadline of 500 ms, which may pass; here ``drain`` does.

    It isn't needed for the next user's sake: a connection with something left is not lent.
    """
    server = serve(None)
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            peer = await server.peer(0)
            peer.send(b"left over")
            assert await connection.drain(quiet=0.05) == b"left over"
            assert await connection.drain(quiet=0.01) == b""
            peer.send(b"reply\n")
            assert await connection.receive_line() == b"reply"
        async with pool.acquire() as connection:
            assert connection.reused
            peer.send(b"never read")
        async with pool.acquire() as connection:
            assert not connection.reused
        await expect_closed(pool, unread_data=1)


async def test_netpool_four_byte_length(serve: Serve) -> None:
    """netpool's messages are a length of 32 bits and a binary body; here that is a format."""

    def echo(peer: Peer) -> None:
        wire = b""
        while len(wire) < 4 or len(wire) < 4 + int.from_bytes(wire[:4], "big"):
            wire += peer.socket.recv(65536)
        peer.send(wire)

    async with serve(echo).pool(package_format=FOUR) as pool:
        body = bytes(range(256)) * 400
        assert await pool.send_receive_package(body) == body
