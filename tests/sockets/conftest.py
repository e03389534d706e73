"""Start scripted servers for the tests here, and see that no socket outlives a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from .servers import KINDS, Script, Server, echo_lines, open_sockets

Serve: TypeAlias = Callable[..., Server]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of socket to serve on."""
    return str(request.param)


@pytest.fixture
def serve(kind: str, tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts a server, which ends with the test."""
    with ExitStack() as stack:

        def start(script: Script | None = echo_lines) -> Server:
            return stack.enter_context(Server(kind, tmp_path, script))

        yield start


@pytest.fixture
def no_socket_left() -> Iterator[None]:
    """Fail if a test leaves a socket open, its own or the pool's."""
    before = open_sockets()
    yield
    assert open_sockets() == before
