"""A process out of file descriptors: the caller is told, and the pool goes on.

The server is a process of its own: it needs descriptors to accept.
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from anyconnpool import AcquireTimeout, ConnectionPool, Retry
from tests.sockets.checks import ask, ask_next

_SERVER = Path(__file__).parents[2] / "examples" / "echo_server.py"


@pytest.fixture
def remote() -> Iterator[tuple[str, int]]:
    """Start the example's echo server."""
    command = [sys.executable, os.fspath(_SERVER), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            _, _, port = server.stdout.readline().rpartition(":")
            yield "127.0.0.1", int(port)
        finally:
            server.terminate()


@contextmanager
def no_descriptor_left() -> Generator[None]:
    """Take every descriptor that this process may still open."""
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def root_of(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


async def test_a_caller_is_told_that_no_descriptor_is_left(remote: tuple[str, int]) -> None:
    """ConnectionFailed comes from EMFILE; what is open still serves, and later all is well."""
    async with ConnectionPool(remote) as pool:
        async with pool.acquire() as connection:
            with no_descriptor_left():
                for _ in range(3):
                    with pytest.raises(anyio.ConnectionFailed) as caught:
                        await pool.acquire()
                    root = root_of(caught.value)
                    assert isinstance(root, OSError)
                    assert root.errno == errno.EMFILE
                await ask(connection)
            assert not await ask_next(pool)
        assert await ask_next(pool)
        assert pool.statistics().size == 2
        assert pool.statistics().open_failed == 3


async def test_a_caller_who_waits_is_told_in_the_text(remote: tuple[str, int]) -> None:
    """With connect_retry the deadline ends the waiting; its text names the system's own error."""
    retry = Retry(1000, interval=0.01, max_interval=0.01)
    async with ConnectionPool(remote, connect_retry=retry) as pool:
        with no_descriptor_left(), pytest.raises(AcquireTimeout, match="Too many open files"):
            await pool.acquire(timeout=1)
        assert not await ask_next(pool)
