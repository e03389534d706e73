"""Start scripted servers for the tests here, and see that no socket outlives a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from .checks import open_sockets
from .servers import Script, Server, echo_lines

Serve: TypeAlias = Callable[..., Server]


@pytest.fixture
def kind() -> str:
    """Return the kind of socket to serve on, where nothing depends on it."""
    return "tcp"


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


@pytest.fixture
async def no_unix_noise(kind: str, anyio_backend_name: str) -> AsyncIterator[None]:
    """Ignore what AnyIO's UNIX streams on asyncio complain of to the event loop.

    A byte that arrives in the tick in which a receive is cancelled makes its future complain. No
    byte is lost and no task is disturbed.
    """
    if kind != "unix" or anyio_backend_name != "asyncio":
        yield
        return
    loop = asyncio.get_running_loop()
    strict = loop.get_exception_handler()
    assert strict is not None

    def ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), asyncio.InvalidStateError):
            strict(loop, context)

    loop.set_exception_handler(ignore)
    yield
    loop.set_exception_handler(strict)
