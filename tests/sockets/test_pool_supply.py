"""Servers that refuse late are not flooded, and who needs a slot waits for no goodbye."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from anyio import ConnectionFailed, fail_after
from anyio.lowlevel import checkpoint

from anyconnpool import AcquireTimeout, PooledConnection, PoolManager
from anyconnpool._engine import housekeeper
from tests.certificates import client_context
from tests.streams.tls_peers import server_context

from .checks import LIMIT, eventually
from .conftest import Serve
from .servers import Peer, Server, only_tls

pytestmark = pytest.mark.usefixtures("no_socket_left")


# On trio nothing tells of a death but the sweep, which refills just afterwards.
by_event = pytest.mark.parametrize("anyio_backend", ["asyncio", "asyncio+uvloop"], indirect=True)


class Refuser(Server):
    """A server that wants a certificate of its clients; of TLS 1.3, they have begun by then."""

    def _wrap(self, accepted: socket.socket) -> ssl.SSLSocket:
        context = server_context("1.3", wants_certificate=True)
        return context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)


def hang_up(peer: Peer) -> None:
    """Hang up at once."""


@by_event
@pytest.mark.parametrize("how", ["tls12", "tls13", "certificate"])
async def test_a_server_that_ends_what_nobody_has_used_is_left_alone_until_the_next_sweep(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That is a failure to connect, told once in the log and to who waits for readiness."""
    monkeypatch.setattr(housekeeper, "_SWEEP_INTERVAL", 3600)
    caplog.set_level(logging.INFO)
    new = Refuser("tls13", tmp_path, hang_up) if how == "certificate" else None
    with new or Server(how, tmp_path, hang_up) as server, fail_after(20):
        server.hold = True
        async with server.pool(min_idle=2) as pool:
            await eventually(lambda: len(server.peers) == 2)
            server.peers[0].gate.set()
            with pytest.raises(ConnectionFailed, match="before the new connection was used"):
                await pool.wait_ready()
            server.admit()
            await eventually(lambda: pool.statistics().closed.get("peer_closed") == 2)
            assert len(server.peers) == 2
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "hung up before the new connection was used" in record.message


@only_tls
async def test_nobody_waits_for_the_goodbye_of_a_frozen_peer(serve: Serve) -> None:
    """It gives way, or is retired: who needs the slot gets it at once."""
    frozen, well = serve(None), serve()
    manager = PoolManager(max_total=1, tls=True, ssl_context=client_context(), close_timeout=60)
    async with manager:
        with fail_after(LIMIT):
            for remote in (frozen.remote, well.remote, frozen.remote):
                async with manager.acquire(remote):
                    pass
            manager.pool(frozen.remote).retire()
            # The goodbye is under way, and waits for its answer.
            for _ in range(20):
                await checkpoint()
            assert manager.pool(frozen.remote).statistics().closing == 1
            async with manager.acquire(frozen.remote):
                pass
        # At the end, too, nobody answers.
        frozen.stop()


@only_tls
async def test_nobody_waits_for_a_goodbye_in_a_pool_by_itself(serve: Serve) -> None:
    """The slot of what was retired is free at once."""
    frozen = serve(None)
    async with frozen.pool(max_size=1, close_timeout=600) as pool:
        with fail_after(LIMIT):
            for _ in range(2):
                async with pool.acquire():
                    pass
                pool.retire()
        frozen.stop()
    assert pool.statistics().opened == 2


def answer_from_the_second_on(server: list[Server]) -> Callable[[Peer], None]:
    """Make a script that never answers on the first connection."""

    def script(peer: Peer) -> None:
        silent = peer is server[0].peers[0]
        while line := peer.receive_line():
            if not silent:
                peer.send(line + b"\n")

    return script


async def ask(connection: PooledConnection) -> None:
    assert await connection.send_receive_line(b"hello") == b"hello"


async def test_a_server_that_starts_up_holds_up_the_first_caller_only(serve: Serve) -> None:
    """Its login hangs; all later ones are answered at once."""
    servers: list[Server] = []
    servers.append(serve(answer_from_the_second_on(servers)))
    async with servers[0].pool(on_connect=ask, max_size=3, connect_timeout=600) as pool:
        with pytest.raises(AcquireTimeout):
            await pool.acquire(timeout=0.5)
        for _ in range(3):
            async with pool.acquire(timeout=LIMIT) as connection:
                await ask(connection)
                connection.discard()
        assert pool.statistics().connecting == 1


def answer_once(peer: Peer) -> None:
    """Answer one request, then fall silent, as a firewall does that has forgotten a connection."""
    peer.send(peer.receive_line() + b"\n")
    while peer.receive_line():
        pass


@pytest.mark.parametrize("max_size", [3, 5])
async def test_connections_that_a_firewall_has_forgotten_hold_up_nobody(
    serve: Serve, max_size: int
) -> None:
    """Their checks hang: another connection is opened beside them, or in the place of one."""
    server = serve(answer_once)
    pool = server.pool(check=ask, check_after=0, check_timeout=600, max_size=max_size)
    async with pool:
        held = [await pool.acquire() for _ in range(3)]
        for connection in held:
            await ask(connection)
            await connection.aclose()
        async with pool.acquire(timeout=LIMIT) as connection:
            await ask(connection)
        assert pool.statistics().opened == 4
