"""The shape that was asked for: one test per line of the list, over real sockets."""

from __future__ import annotations

import runpy
import sys
from collections import deque
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import CapacityLimiter, create_task_group, create_tcp_listener
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from anyconnpool import ConnectionPool

from .checks import ask, eventually
from .conftest import Serve

pytestmark = pytest.mark.usefixtures("no_socket_left")

ROOT = Path(__file__).parents[2]


async def test_shape_limiter_and_deque(serve: Serve) -> None:
    """A ``CapacityLimiter`` bounds the sockets; a deque under a lock holds the idle ones."""
    async with serve().pool(max_size=2) as pool:
        slots: CapacityLimiter = attrgetter("_machine._group._slots")(pool)
        idle: deque[Any] = attrgetter("_machine._idle.entries")(pool)
        async with pool.acquire() as connection:
            assert (slots.borrowed_tokens, slots.total_tokens, len(idle)) == (1, 2, 0)
            await ask(connection)
        assert (slots.borrowed_tokens, len(idle)) == (1, 1)
        assert isinstance(idle[0].transport.stream, SocketStream)
        event_lock = attrgetter("_machine.event_lock")(pool)
        assert not event_lock.busy


async def test_shape_reaper(serve: Serve) -> None:
    """A task of the pool's own group closes what is idle for longer than 600 s, by default."""
    server = serve()
    assert attrgetter("_settings.max_idle_time")(server.pool()) == 600
    async with server.pool(max_idle_time=0.05) as pool:
        async with pool.acquire() as connection:
            await ask(connection)
        await eventually(lambda: pool.statistics().closed == {"max_idle_time": 1})


async def test_shape_buffered_stream(serve: Serve) -> None:
    """A borrowed connection is AnyIO's buffered byte receive stream, with line and package reads.

    What was fed to it by hand is read as if it had been received.
    """
    async with serve().pool() as pool, pool.acquire() as connection:
        assert isinstance(connection, BufferedByteReceiveStream)
        connection.feed_data(b"a line\n\x00\x04body")
        assert await connection.receive_line() == b"a line"
        assert await connection.receive_package() == b"body"


async def test_shape_library_import(serve: Serve, anyio_backend_name: str) -> None:
    """The package is imported and used under trio and asyncio alike, and imports neither itself."""
    async with ConnectionPool(serve().remote) as pool:
        assert await pool.send_receive_line(b"hello") == b"> hello"
    code = "import sys, anyconnpool; print([m for m in ('trio', 'uvloop') if m in sys.modules])"
    process = await anyio.run_process([sys.executable, "-c", code])
    assert process.stdout.strip() == b"[]"
    assert anyio_backend_name in sys.modules


async def test_shape_echo_pair(capsys: pytest.CaptureFixture[str]) -> None:
    """The sample client and server talk to each other, over one connection."""
    server = runpy.run_path(str(ROOT / "examples" / "echo_server.py"))
    client = runpy.run_path(str(ROOT / "examples" / "echo_client.py"))
    async with (
        await create_tcp_listener(local_host="127.0.0.1") as listener,
        create_task_group() as task_group,
    ):
        task_group.start_soon(listener.serve, partial(server["echo"], False))
        await client["run"](listener.extra(SocketAttribute.local_port), 3, 0)
        task_group.cancel_scope.cancel()
    replies = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [reply[0] for reply in replies] == [">"] * 3
    assert len({reply[3] for reply in replies}) == 1


def test_shape_top_level() -> None:
    """The files and directories that were asked for are there, and nox runs a matrix of tests."""
    for name in ("pyproject.toml", "README.md", "src/anyconnpool", "tests", "docs", "noxfile.py"):
        assert (ROOT / name).exists()
    noxfile = (ROOT / "noxfile.py").read_text("utf-8")
    assert "@nox.session(python=PYTHONS)\ndef tests" in noxfile
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for package in ("anyio", "trio", "pytest", "pytest-trio"):
        assert f'"{package}>=' in project
