"""Failures to connect reach the caller as what they are, and leave nothing behind."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
from anyio import ConnectionFailed, create_task_group, fail_after

from anyconnpool import ConnectionPool
from tests.cases import table
from tests.certificates import client_context

from .checks import LIMIT, ask_next, eventually
from .conftest import Serve
from .servers import Peer, Server, every_kind, only_tls

pytestmark = pytest.mark.usefixtures("no_socket_left")


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


async def fails_to_connect(pool: ConnectionPool) -> str:
    """See that a borrow fails as it should and that nothing is left of it; return the text."""
    async with pool:
        with fail_after(LIMIT), pytest.raises(ConnectionFailed) as caught:
            await pool.acquire()
        statistics = pool.statistics()
        assert statistics.size == statistics.tasks_waiting == 0
        assert statistics.open_failed == 1
        with pytest.raises(ConnectionFailed):
            async with pool.acquire():
                raise AssertionError("borrowed from nobody")
    return str(caught.value)


@table("tls", [False, True])
async def test_a_refused_port_is_a_failed_connection(tls: bool) -> None:
    """Nobody listens."""
    port = free_port()
    text = await fails_to_connect(ConnectionPool(("127.0.0.1", port), tls=tls))
    assert text == f"connecting to 127.0.0.1:{port} failed: Connection refused"


async def test_a_missing_path_is_a_failed_connection(tmp_path: Path) -> None:
    """There is no such UNIX socket."""
    text = await fails_to_connect(ConnectionPool(str(tmp_path / "nowhere")))
    assert "nowhere" in text
    # Whoever means a host writes it like this.
    text = await fails_to_connect(ConnectionPool("nowhere.example"))
    assert text.endswith("; if this is a host, write (host, port)")


async def test_a_path_that_is_no_socket_is_a_failed_connection(tmp_path: Path) -> None:
    """There is a file, but nobody listens on it."""
    path = tmp_path / "file"
    path.touch()
    await fails_to_connect(ConnectionPool(path))


@only_tls
async def test_an_untrusted_certificate_is_a_failed_connection(serve: Serve) -> None:
    """The text tells that it is the certificate."""
    pool = ConnectionPool(serve().remote, tls=True)
    text = await fails_to_connect(pool)
    assert "certificate verify failed" in text.lower()
    assert "give an ssl_context that trusts its certificate" in text


@only_tls
async def test_a_certificate_for_another_name_is_a_failed_connection(serve: Serve) -> None:
    """The name that was asked for is checked."""
    pool = ConnectionPool(
        serve().remote, tls=True, ssl_context=client_context(), tls_hostname="example.org"
    )
    assert "example.org" in await fails_to_connect(pool)


async def test_tls_to_a_plain_server_is_a_failed_connection(serve: Serve) -> None:
    """The server answers the handshake with something else."""

    def plain(peer: Peer) -> None:
        peer.send(b"220 this is no TLS at all\r\n")
        peer.socket.recv(1)

    text = await fails_to_connect(ConnectionPool(serve(plain).remote, tls=True))
    assert text.endswith("; the server doesn't seem to speak TLS at this port")


@table("end", ["hang_up", "reset"])
async def test_an_end_within_the_handshake_is_a_failed_connection(serve: Serve, end: str) -> None:
    """The server accepts and goes away."""

    def go_away(peer: Peer) -> None:
        peer.socket.recv(1)
        getattr(peer, end)()

    text = await fails_to_connect(ConnectionPool(serve(go_away).remote, tls=True))
    assert "check that it speaks TLS at this port" in text


@only_tls
async def test_a_handshake_that_takes_too_long_is_a_failed_connection(serve: Serve) -> None:
    """The text names the limit, and afterwards the server finds its connection closed."""
    server = serve()
    server.hold = True
    text = await fails_to_connect(server.pool(connect_timeout=0.05))
    assert "connect_timeout, 0.05 s" in text
    await eventually(lambda: server.open == 0)


@table("tls", [False, True])
async def test_a_connect_that_takes_too_long_is_a_failed_connection(tls: bool) -> None:
    """A full backlog leaves the client waiting: the text names the limit."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            remote = listener.getsockname()
            text = await fails_to_connect(ConnectionPool(remote, tls=tls, connect_timeout=0.05))
        finally:
            for filler in fillers:
                filler.close()
    assert "connect_timeout, 0.05 s" in text


@every_kind
async def test_a_server_that_comes_back_serves_the_next_request(serve: Serve) -> None:
    """A failure to connect is no lasting state."""
    server = serve()
    async with server.pool(max_size=2) as pool:
        await ask_next(pool)
        server.stop()
        for _ in range(3):
            with pytest.raises(ConnectionFailed):
                await ask_next(pool)
        server.start()
        assert not await ask_next(pool)
        assert await ask_next(pool)
        assert pool.statistics().open_failed == 3


async def test_each_waiter_gets_an_attempt_of_its_own(serve: Serve) -> None:
    """With one slot and nobody to connect to, all waiters get the error, none waits for ever."""
    server = serve()
    server.stop()
    failures = 0

    async def fail(pool: ConnectionPool) -> None:
        nonlocal failures
        with pytest.raises(ConnectionFailed):
            await pool.acquire()
        failures += 1

    async with server.pool(max_size=1) as pool:
        with fail_after(LIMIT):
            async with create_task_group() as task_group:
                for _ in range(10):
                    task_group.start_soon(fail, pool)
        assert pool.statistics().open_failed == 10
    assert failures == 10


@only_tls
async def test_a_bad_tls_context_is_told_apart_from_a_bad_server(serve: Serve) -> None:
    """Two ends that have no version of TLS in common give a failed connection, too."""
    server: Server = serve()
    context = ssl.create_default_context()
    if server.kind == "tls12":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    else:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    pool = ConnectionPool(server.remote, tls=True, ssl_context=context)
    text = await fails_to_connect(pool)
    assert "ssl" in text.lower() or "tls" in text.lower()
