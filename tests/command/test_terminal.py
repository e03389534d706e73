"""What reaches a terminal, and what becomes of streams that are closed, full or gone."""

from __future__ import annotations

import errno
import io
import os
import pty
import socket
import sys
from pathlib import Path

import anyio
import pytest

from anyconnpool.command import main
from anyconnpool.command._echo_client import StandardInput
from anyconnpool.command._output import readable
from anyconnpool.command._reasons import CommandError, reason
from tests.cases import table
from tests.sockets.servers import Peer, Server

from .programs import echo_server, finish, start

# Title and colour of the terminal, C1, NUL, a byte order mark that is none, a change of direction,
# half a character, a carriage return.
HOSTILE = (
    b"\x1b]0;owned\x07\x1b[31mred \xc2\x9b31m \x00 \xff\xfe "
    b"\xe2\x80\xaedrow \xe2\x80 over\rwrite\r\n"
)
SHOWN = (
    r"\x1b]0;owned\x07\x1b[31mred \x9b31m \x00 \xff\xfe "
    r"\u202edrow \xe2\x80 over\rwrite" + "\r\n"
)


@table(
    "data, shown",
    [
        (HOSTILE[:-1], SHOWN[:-2]),
        ("wörld 😀 日本".encode(), "wörld 😀 日本"),
        (b"two\tcolumns\r\nand lines\n", "two\tcolumns\nand lines\n"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),
        ("\u2028\u2066\ufeff\u00ad".encode(), r"\u2028\u2066\ufeff\xad"),
        (b"x" * 1_000_000, "x" * 1_000_000),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(data: bytes, shown: str) -> None:
    """What is printable, newlines and tabs are left as they are."""
    assert readable(data) == shown


def send_hostile_bytes(peer: Peer) -> None:
    while True:
        peer.receive_line()
        peer.send(HOSTILE)


@pytest.mark.parametrize("output", ["terminal", "pipe"])
def test_a_hostile_reply(output: str, tmp_path: Path) -> None:
    """It is escaped on a terminal; a program that reads a pipe gets every byte."""
    with Server("tcp", tmp_path, send_hostile_bytes) as server:
        url = "tcp://{}:{}".format(*server.remote)
        master, slave = pty.openpty() if output == "terminal" else os.pipe()
        try:
            client = start("echo-client", url, "hi", stdout=slave)
            os.close(slave)
            code, _, errors = finish(client)
            shown = os.read(master, 10_000)
        finally:
            os.close(master)
    assert (code, errors) == (0, "")
    assert shown == (SHOWN.encode() if output == "terminal" else HOSTILE)


def test_an_error_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever was typed, or said by a peer."""
    assert main(["echo-client", "tcp://127.0.0.1:1", "--\x1b[31m\nbad\udcff"]) == 2
    assert r"arguments: --\x1b[31m\nbad\udcff (see" in capsys.readouterr().err
    assert reason(OSError("\x1b[31m\n")) == r"OSError: \x1b[31m\n"


def test_ctrl_c_while_a_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the program as at any other moment, without a traceback."""

    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stderr", Interrupted())
    assert main(["dance"]) == 130


# Linux has this device, on which every write fails; nothing else does so at will.
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@table("arguments", [("echo-client", "hi"), ("load", "--json"), ("load",), ("echo-server",)])
def test_output_that_cannot_be_written(arguments: tuple[str, ...], url: str) -> None:
    """Is told in one line; Python adds nothing when it ends."""
    command, *rest = arguments
    options = {
        "echo-server": ("--port", 0),
        "load": (url, "--duration", 0.1, "--connections", 1),
        "echo-client": (url,),
    }[command]
    with open("/dev/full", "w", encoding="utf-8") as full:
        process = start(command, *options, *rest, stdout=full.fileno())
    error = "anyconnpool: can't write to standard output: no space left on device\n"
    code, _, errors = finish(process)
    assert (code, errors) == (1, error)


_CLOSE = """\
import os, sys
for fd in 0, 1, 2: os.close(fd)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
"""
_RUN = "import sys; from anyconnpool.command import main; sys.exit(main())"


def test_streams_that_are_closed(url: str) -> None:
    """What is written there goes nowhere, and nothing can be read: no failure."""
    for rest in (["echo-client", url, "hi"], ["echo-client", url], ["load", url, "--json"]):
        options = ["--duration", "0.1"] if rest[0] == "load" else []
        process = start(_RUN, *rest, *options, program=_CLOSE)
        assert finish(process) == (0, "", "")
    assert finish(start(_RUN, "dance", program=_CLOSE)) == (2, "", "")


def test_what_a_locale_cannot_show(tmp_path: Path) -> None:
    """An announcement in ASCII escapes the rest of its path."""
    path = tmp_path / "sockét"
    process = start("echo-server", "--unix", path, env={"PYTHONIOENCODING": "ascii"}, program=_RUN)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(rf"listening on unix://{tmp_path}/sock\xe9t,")
    finally:
        process.terminate()
        assert finish(process) == (0, "", "")


def test_a_line_of_input_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with code 2 before it fills the memory."""
    with open("/dev/zero", encoding="utf-8") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(CommandError, match="more than 16777215 bytes") as raised:
            anyio.run(StandardInput().next_line)
    assert raised.value.code == 2


def test_input_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told in words; that there is nothing after all, is none of that."""
    failures: list[OSError] = [BlockingIOError(), OSError(errno.EIO, "Input/output error")]

    def fail(fd: int, nbytes: int) -> bytes:
        raise failures.pop(0)

    with open("/dev/null", encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(os, "read", fail)
        with pytest.raises(CommandError, match="can't read standard input: input/output error"):
            anyio.run(StandardInput().next_line)
    assert not failures


# Windows has no limit that a process can set for itself.
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_server_without_descriptors(backend: str) -> None:
    """It waits until some are free, instead of ending; who connects then is served."""
    program = (
        "import resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, hard))\n" + _RUN
    )
    with echo_server("--backend", backend, program=program) as url:
        port = int(url.rpartition(":")[2])
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        for client in clients[:5]:
            client.settimeout(20)
            client.sendall(b"hi\n")
            assert client.recv(3) == b"hi\n"
        for client in clients:
            client.close()
        assert finish(start("echo-client", url, "hi")) == (0, "hi\n", "")
