"""Start echo servers, and see that no socket outlives a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.sockets.checks import open_sockets
from tests.sockets.servers import Peer, Script, Server


def echo(peer: Peer) -> None:
    """Answer what comes with itself, until the client ends the stream."""
    while data := peer.socket.recv(65_536):
        peer.send(data)


@pytest.fixture(autouse=True)
def no_socket_left() -> Iterator[None]:
    """Fail if a test leaves a socket open: its own, the pool's or the proxy's."""
    before = open_sockets()
    yield
    assert open_sockets() == before


@pytest.fixture
def serve(tmp_path: Path, no_socket_left: None) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server, which ends with the test."""
    with ExitStack() as stack:

        def start(kind: str = "tcp", script: Script | None = echo) -> Server:
            return stack.enter_context(Server(kind, tmp_path, script))

        yield start


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """Return an echo server on TCP."""
    return serve()
