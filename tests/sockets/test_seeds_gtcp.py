"""What gtcp, the model of this package, does: one test per row of its table, over real sockets.

The observations are those made of GoFrame gf v2 at c8bdbb77. Each docstring says what gtcp does,
and then what holds here. The reads and writes are in test_seeds_gtcp_frames.py, the ways in which
gtcp hands out foreign bytes in test_pool_foreign_bytes.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import (
    BrokenResourceError,
    EndOfStream,
    connect_tcp,
    create_task_group,
    create_tcp_listener,
    fail_after,
)
from anyio.abc import SocketAttribute, SocketStream

from anyconnpool import ConnectionPool, FramedStream, PoolManager, Retry
from tests.core.test_formats import RIGHT_ROWS

from .checks import LIMIT, ask, ask_next, eventually, expect_closed
from .conftest import Serve
from .servers import Server, echo_lines, one_reply, only_tls

pytestmark = pytest.mark.usefixtures("no_socket_left")

SINGLE_ROWS = [row for row in RIGHT_ROWS if "packages_hex" not in row]


async def test_gtcp_example_1(serve: Serve) -> None:
    """gtcp's client keeps its local port while the server answers; so does this one."""
    server = serve()
    ports: set[int] = set()
    async with server.pool() as pool:
        for number in range(5):
            async with pool.acquire() as connection:
                await ask(connection, b"2026-11-21 15:00:0%d" % number)
                ports.add(connection.local_address[1])
                assert connection.remote_address == server.remote
    assert len(ports) == 1


async def test_gtcp_example_2(serve: Serve) -> None:
    """gtcp gets reply, EOF, reply, EOF from a server that hangs up; here it is always a reply."""
    server = serve(one_reply)
    ports: set[int] = set()
    async with server.pool() as pool:
        for number in range(6):
            async with pool.acquire() as connection:
                await ask(connection, b"%d" % number)
                ports.add(connection.local_address[1])
            await eventually(lambda: server.open == 0)
    assert len(ports) == 6


async def test_gtcp_new_pool_conn(serve: Serve) -> None:
    """gtcp keeps a hidden, unlimited pool per address; here they belong to a manager, bounded."""
    first, second = serve(), serve()
    async with PoolManager(max_size=1) as manager:
        for server in (first, second, first):
            assert await manager.send_receive_line(server.remote, b"ping") == b"> ping"
        async with manager.acquire(first.remote) as connection:
            assert connection.reused
            with pytest.raises(TimeoutError):
                await manager.acquire(first.remote, timeout=0.01)
    assert (len(first.peers), len(second.peers)) == (1, 1)


async def test_gtcp_close(serve: Serve) -> None:
    """gtcp's Close gives back or closes, and spoils the pool when called twice; never here."""
    server = serve()
    async with server.pool(max_size=1) as pool:
        first = await pool.acquire()
        await ask(first)
        await first.aclose()
        async with pool.acquire() as second:
            assert second.reused
            await first.aclose()
            with pytest.raises(anyio.ClosedResourceError):
                await first.send(b"from an old reference")
            await ask(second)
            server.peers[0].hang_up()
            with pytest.raises((EndOfStream, BrokenResourceError)):
                await second.receive()
        assert not await ask_next(pool)
        await expect_closed(pool, unclean=1)


async def test_gtcp_send(serve: Serve) -> None:
    """gtcp dials again when a write to a pooled connection fails; here none is made to a dead one.

    Nothing that may have been sent is sent again unless the caller says that it may be.
    """
    server = serve()
    async with server.pool() as pool:
        await ask_next(pool)
        server.restart(reset=True)
        async with pool.acquire() as connection:
            assert not connection.reused
            await ask(connection)
        assert pool.statistics().replayed == 0


async def test_gtcp_send_recv(serve: Serve) -> None:
    """gtcp's SendRecv takes the same lengths as Recv; here one call is one borrow, too."""
    async with serve().pool() as pool:
        assert await pool.send_receive(b"four\n", 7) == b"> four\n"
        assert await pool.send_receive(b"any\n") == b"> any\n"
        assert await pool.send_receive_line(b"line") == b"> line"
        assert pool.statistics().opened == 1


async def test_gtcp_send_recv_with_timeout(serve: Serve) -> None:
    """gtcp's timeout covers the receive alone: a blocked send hung on; here it covers all of it."""
    server = serve(None)
    async with server.pool(min_idle=2) as pool:
        # However busy the machine, the time is to be spent on the exchanges.
        await pool.wait_ready()
        with fail_after(LIMIT), pytest.raises(TimeoutError):
            await pool.send_receive(bytes(64 << 20), timeout=0.1)
        with fail_after(LIMIT), pytest.raises(TimeoutError):
            await pool.send_receive_line(b"nobody answers", timeout=0.05)
        await expect_closed(pool, unclean=2)


async def test_gtcp_retry(serve: Serve) -> None:
    """gtcp's Retry never helps after EOF and writes to the dead socket; here it takes another.

    2000 exchanges with a server that hangs up after each were 1000 replies with gtcp.
    """
    async with serve(one_reply).pool() as pool:
        for number in range(100):
            reply = await pool.send_receive_line(b"%d" % number, retry=Retry(2))
            assert reply == b"> %d" % number
    assert Retry(3).interval == 0.1


async def test_gtcp_conn_methods(serve: Serve) -> None:
    """gtcp leaves a deadline on a connection to its next user; here a deadline is a scope's."""
    server = serve()
    async with server.pool() as pool:
        async with pool.acquire() as connection:
            with fail_after(LIMIT) as scope:
                await ask(connection)
                # The exchange had its time. The next one comes when it is over.
                scope.deadline = over_at = anyio.current_time() + 0.01
            assert connection.local_address[0] == "127.0.0.1"
            assert connection.remote_address == server.remote
        await anyio.sleep_until(over_at + 0.01)
        assert await ask_next(pool)


async def test_gtcp_conn_on_the_server_side() -> None:
    """gtcp's Conn has the framed reads on an accepted connection, too; here FramedStream has."""

    async def answer(accepted: SocketStream) -> None:
        async with FramedStream(accepted) as stream:
            assert await stream.receive_line() == b"hello"
            await stream.send_package(b"a package")
            with pytest.raises(EndOfStream):
                await stream.receive_line()
        task_group.cancel_scope.cancel()

    async with await create_tcp_listener(local_host="127.0.0.1") as listener:
        remote: Any = listener.extra(SocketAttribute.local_address)
        async with create_task_group() as task_group:
            task_group.start_soon(listener.serve, answer)
            async with ConnectionPool(remote) as pool, pool.acquire() as connection:
                await connection.send_line(b"hello")
                assert await connection.receive_package() == b"a package"


async def test_gtcp_package_functions(serve: Serve) -> None:
    """gtcp's Send, SendRecv … of an address dial once and close; a FramedStream does it here."""
    server = serve()
    async with FramedStream(await connect_tcp(*server.remote)) as stream:
        assert await stream.send_receive_line(b"once", timeout=5) == b"> once"
    await eventually(lambda: server.open == 0)


@only_tls
async def test_gtcp_tls(serve: Serve) -> None:
    """gtcp has TLS variants that take key files; here any SSLContext, checked as ssl checks it."""
    async with serve().pool() as pool:
        assert await pool.send_receive_line(b"secret") == b"> secret"
        assert await ask_next(pool)


async def test_gtcp_tls_of_an_unknown_authority(tmp_path: Path) -> None:
    """gtcp's TLS example skips the check of the certificate; here the default refuses."""
    with Server("tls13", tmp_path, echo_lines) as server:
        async with ConnectionPool(server.remote, tls=True) as pool:
            with pytest.raises(anyio.ConnectionFailed):
                await pool.send_receive_line(b"secret")
