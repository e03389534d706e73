"""The server's machine reboots while the cable is cut, and knows nothing of its connections."""

from __future__ import annotations

from anyio import BrokenResourceError, create_task_group

from anyconnpool import ConnectionPool, KeepAlive, Retry
from tests.sockets.checks import ask, ask_next, eventually, expect_closed

from .cable import Cable, counters
from .conftest import Serve
from .far_server import FarServer


def reboot(cable: Cable, server: FarServer) -> None:
    """Let the server forget its connections without the client's kernel hearing of it."""
    cable.cut()
    server.restart(reset=True)
    cable.mend()


async def use(pool: ConnectionPool, count: int) -> None:
    """Have the pool open some connections, make an exchange on each, and keep them idle."""
    connections = [await pool.acquire() for _ in range(count)]
    for connection in connections:
        await ask(connection)
        await connection.aclose()
    await eventually(lambda: pool.statistics().idle == count)


async def test_a_repeatable_request_is_not_lost(cable: Cable, serve: Serve, kind: str) -> None:
    """Each connection that turns out dead is replaced at once, without counting as a try.

    If the kernel was late to acknowledge what the server had said last, one may have ended before.
    """
    server = serve(kind)
    async with server.pool() as pool:
        await use(pool, 3)
        reboot(cable, server)
        replies: list[bytes] = []

        async def exchange(line: bytes) -> None:
            replies.append(await pool.send_receive_line(line, retry=Retry(0)))

        async with create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(exchange, b"%d" % number)
        assert sorted(replies) == [b"> 0", b"> 1", b"> 2"]
        statistics = pool.statistics()
        assert statistics.closed.get("unclean", 0) == statistics.replayed
        assert statistics.replayed or statistics.closed["peer_closed"] == 3


async def test_a_request_that_may_not_be_repeated_is_not(
    cable: Cable, serve: Serve, kind: str
) -> None:
    """It was sent, so its caller learns that the connection broke; the next request works.

    If the kernel was late to acknowledge what the server had said last, that acknowledgement has
    been answered by a reset already: then nothing is sent on the connection.
    """
    server = serve(kind)
    async with server.pool() as pool:
        await use(pool, 1)
        reboot(cable, server)
        reason = "peer_closed"
        try:
            await pool.send_receive_line(b"once")
        except BrokenResourceError:
            reason = "unclean"
        await eventually(lambda: pool.statistics().closed)
        assert pool.statistics().closed == {reason: 1}
        assert not await ask_next(pool)
        assert pool.statistics().replayed == 0


async def test_keepalive_finds_out_first(cable: Cable, serve: Serve) -> None:
    """An idle connection is reset because of its own probe, and costs no request."""
    server = serve()
    async with server.pool(keepalive=KeepAlive(idle=1)) as pool:
        await use(pool, 3)
        reboot(cable, server)
        await eventually(lambda: counters()["Tcp.EstabResets"] == 3)
        assert not await ask_next(pool)
        await expect_closed(pool, peer_closed=3)
