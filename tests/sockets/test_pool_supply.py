"""Servers that refuse late are not flooded, and who needs a slot waits for no goodbye."""

from __future__ import annotations

import logging
import socket
import ssl
from pathlib import Path

import pytest
from anyio import ConnectionFailed, fail_after
from anyio.lowlevel import checkpoint

from anyconnpool import PoolManager
from anyconnpool._engine import housekeeper
from tests.certificates import client_context
from tests.streams.tls_peers import server_context

from .checks import eventually
from .conftest import Serve
from .servers import Peer, Server, only_tls

pytestmark = pytest.mark.usefixtures("no_socket_left")

#: far above what takes no time, far below the time that closing has
_IN_TIME = 5

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
        with fail_after(_IN_TIME):
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
