"""Ctrl-C ends a program with a pool: at once, with every socket closed and nothing else said."""

from __future__ import annotations

import re
import signal

import anyio
import pytest

from tests.conftest import BACKENDS
from tests.sockets.checks import eventually
from tests.sockets.servers import Server

from .programs import finish, start

_NOISE = (
    *("never awaited", "was destroyed", "unclosed", "never retrieved", "Exception ignored"),
    *("PoolClosed", "PoolError", "ResourceError", "RuntimeError", "AssertionError"),
)
# Where trio raises the interrupt between a call and its await, no code can help what Python says.
_CALLED_IN_VAIN = re.compile(
    r"Exception ignored in: <coroutine object .*\n"
    r"(?: .*\n|Traceback .*\n)*"
    r"RuntimeWarning: coroutine '.*' was never awaited\n"
)


@pytest.mark.parametrize("anyio_backend", list(BACKENDS))
def test_an_interrupted_program_leaves_nothing(server: Server, anyio_backend: str) -> None:
    """Nothing but the interrupt comes out, no warning, and the server sees all closed."""
    process = start("interrupted", *server.remote[1:], anyio_backend)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, errors = finish(process)
    assert process.returncode in (1, -signal.SIGINT)
    # On Python 3.10, AnyIO leaves it at the cancellation that asyncio makes of the interrupt.
    assert re.search("KeyboardInterrupt|CancelledError", errors), errors
    if anyio_backend == "trio":
        errors = _CALLED_IN_VAIN.sub("", errors)
    assert not [word for word in _NOISE if word in errors], errors
    anyio.run(eventually, lambda: server.open == 0)
