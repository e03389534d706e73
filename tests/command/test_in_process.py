"""The echo server, the echo client's input and the live progress, within this process."""

from __future__ import annotations

import os
import re
import ssl
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from anyio import BrokenResourceError, ConnectionFailed, connect_tcp, create_task_group

from anyconnpool import ConnectionPool
from anyconnpool.command import main
from anyconnpool.command._echo_server import EchoServer
from anyconnpool.command._framing import Framing, package_format
from anyconnpool.command._reasons import CommandError
from tests.cases import table
from tests.certificates import client_context
from tests.sockets.checks import eventually
from tests.sockets.servers import server_context


class Announced:
    """Wait for the URL that a server announces."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def _announced(self) -> re.Match[str] | None:
        self._text += self._capsys.readouterr().out
        return re.search(r"listening on (\S+),", self._text)

    def has(self, pattern: str) -> bool:
        """Tell whether something has been announced so far."""
        self._text += self._capsys.readouterr().out
        return re.search(pattern, self._text) is not None

    async def url(self) -> str:
        await eventually(self._announced)
        announced = self._announced()
        assert announced
        return announced[1]


def echo_server(
    format: str, *, path: str | None = None, delay: float = 0, verbose: bool = False
) -> EchoServer:
    framing = Framing(format, package_format(4 if verbose else 2))
    return EchoServer("127.0.0.1", 0, path, framing, delay, None, None, "asyncio", verbose)


@table("format", ["line", "package", "raw"])
@table("tls", [False, True])
async def test_serving(format: str, tls: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The server echoes messages of its format, one after the other, on many connections."""
    server = echo_server(format, delay=0.001)
    async with create_task_group() as tasks:
        tasks.start_soon(server.serve, server_context("tls13") if tls else None)
        url = await Announced(capsys).url()
        context = client_context() if tls else None
        async with ConnectionPool.from_url(url, ssl_context=context) as pool:

            async def ask(message: bytes) -> None:
                framing = Framing(format, package_format(2), reply_bytes=len(message))
                for _ in range(3):
                    assert await pool.run(framing.exchange, message, timeout=20) == message

            async with create_task_group() as asking:
                for number in range(5):
                    asking.start_soon(ask, b"message %d" % number)
        tasks.cancel_scope.cancel()


async def test_a_handshake_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    """A client that does not trust the server costs it nothing, not even a line of log."""
    async with create_task_group() as tasks:
        tasks.start_soon(echo_server("line").serve, server_context("tls13"))
        url = await Announced(capfd).url()
        context = ssl.create_default_context()
        async with ConnectionPool.from_url(url, ssl_context=context) as pool:
            with pytest.raises(ConnectionFailed):
                await pool.send_receive_line(b"hi", timeout=20)
        async with ConnectionPool.from_url(url, ssl_context=client_context()) as pool:
            assert await pool.send_receive_line(b"hi", timeout=20) == b"hi"
        tasks.cancel_scope.cancel()
    assert not capfd.readouterr().err


@table(
    "format, data, end",
    [
        ("line", b"one\ntw", "ended after 1 message: the client closed it within a message"),
        ("line", b"\x16\x03\x01", "ended after 0 messages: it looks like TLS, which this server"),
        (
            "line",
            b"x" * 1_048_578,
            "ended after 0 messages: a line is too long: is --format right?",
        ),
        (
            "package",
            b"\xff" * 4,
            "ended after 0 messages: a package is too large: are --format",
        ),
        ("line", b"", "closed by the client after 0 messages"),
    ],
)
async def test_a_verbose_server_says_why_a_connection_has_ended(
    format: str, data: bytes, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a client did wrong is told in words, without anything of what it sent."""
    server = echo_server(format, verbose=True)
    async with create_task_group() as tasks:
        tasks.start_soon(server.serve, None)
        announced = Announced(capsys)
        port = int((await announced.url()).rpartition(":")[2])
        async with await connect_tcp("127.0.0.1", port) as client:
            with suppress(BrokenResourceError):
                await client.send(data)
                await client.send_eof()
            await eventually(lambda: announced.has(rf"connection 1: {re.escape(end)}"))
        tasks.cancel_scope.cancel()


async def test_a_place_that_is_taken(tmp_path: Path) -> None:
    """A server that can't listen says where and why."""
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(CommandError, match=f"can't listen on {path}: address already in use"):
        await echo_server("line", path=str(path)).serve(None)


@contextmanager
def standard_input(fd: int) -> Generator[None]:
    """Let a descriptor, which is closed at the end, be the standard input."""
    before = sys.stdin
    with os.fdopen(fd) as sys.stdin:
        yield
    sys.stdin = before


@table("source", ["pipe", "file"])
def test_standard_input(
    source: str, url: str, backend: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Lines are read from a pipe as from a file, whatever the event loop thinks of files."""
    text = b"one\n\nlast"
    if source == "pipe":
        fd, writing = os.pipe()
        os.write(writing, text)
        os.close(writing)
    else:
        (tmp_path / "file").write_bytes(text)
        fd = os.open(tmp_path / "file", os.O_RDONLY)
    with standard_input(fd):
        assert main(["echo-client", url, "--backend", backend]) == 0
    assert capfdbinary.readouterr() == (b"> one\n> \n> last\n", b"")


def test_an_input_line_that_cannot_be_sent(
    url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line that is too long ends the client with code 2, and says how long lines may be."""
    (tmp_path / "file").write_bytes(b"x" * 1_048_577)
    with standard_input(os.open(tmp_path / "file", os.O_RDONLY)):
        assert main(["echo-client", url]) == 2
    assert "1048576 bytes at most" in capfd.readouterr().err


def test_live_progress(
    url: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, standard error shows the state of the pool while it is measured."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    options = ["--duration", "0.2", "--tasks", "4", "--connections", "1,2"]
    assert main(["load", url, *options]) == 0
    output, errors = capfd.readouterr()
    assert "\x1b[" in output
    for shown in ("max_size 1", "max_size 2", "no pool", "in use", "waiting"):
        assert shown in errors
