"""Give the tests here a server, a signal that is heard, and the option lists of commands."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyconnpool.command._run import BACKENDS
from tests.sockets.servers import Server, echo_lines


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serve lines, which are answered with "> " and themselves, over TCP."""
    with Server("tcp", tmp_path, echo_lines) as server:
        yield server


@pytest.fixture
def url(server: Server) -> str:
    """Return the URL of the server."""
    host, port = server.remote
    return f"tcp://{host}:{port}"


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Return a backend as the command line calls it."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return str(request.param)


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """Undo that the tests may have been started where Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
