"""The servers of the documentation's examples, which `python -m anyconnpool.testing` runs.

That they answer as the examples want it is shown by tests/test_docs.py.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from anyconnpool.testing import _example_servers
from anyconnpool.testing._example_servers import main
from tests.certificates import authority
from tests.example_servers import certificates, example_servers
from tests.sockets.checks import reset

#: a request to each server that answers over TCP, and its reply
EXCHANGES = {
    8999: (b"hello\n", b"> hello\n"),
    9000: (b"\0\0\0\5hello", b"\0\0\0\5hello"),
    9001: (b"PING\n", b"PONG\n"),
    9002: (b"hello\n", b"> hello\n"),
    9003: (b"PING\n", b"READY\nPONG\n"),
}


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, int]]:
    """Run the servers for all tests of this file."""
    with example_servers("--tls", str(tmp_path_factory.mktemp("tls"))) as ports:
        yield ports


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def exchange(client: socket.socket, port: int) -> None:
    request, reply = EXCHANGES[port]
    client.sendall(request)
    with client.makefile("rb") as received:
        assert received.read(len(reply)) == reply


@pytest.mark.parametrize("port", [*EXCHANGES, 9004, 9443])
def test_a_server_outlives_its_rudest_clients(port: int, ports: dict[int, int]) -> None:
    """Clients that reset their connection, at once or in mid frame, are no news to the next one."""
    with closing(connect(ports[port])) as silent:
        reset(silent)
    with closing(connect(ports[port])) as rude:
        rude.sendall(b"\0\0\0\7half")
        reset(rude)
    if port in EXCHANGES:
        with closing(connect(ports[port])) as talker:
            exchange(talker, port)
            talker.sendall(b"\xff" * 70_000)
            reset(talker)
        with closing(connect(ports[port])) as polite:
            exchange(polite, port)
    else:
        connect(ports[port]).close()


def test_the_files_of_others_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that somebody else has made is not overwritten, one of its own is."""
    with example_servers("--tls", str(tmp_path)):
        first = [path.read_bytes() for path in certificates(tmp_path)]
    with example_servers("--tls", str(tmp_path)):
        second = [path.read_bytes() for path in certificates(tmp_path)]
    assert all(one != other for one, other in zip(first, second, strict=True))
    foreign = authority().cert_pem.bytes()
    certificates(tmp_path)[0].write_bytes(foreign)
    with pytest.raises(SystemExit):
        main(["--any-port", "--tls", str(tmp_path)])
    assert "ca.pem is there already" in capsys.readouterr().err
    assert certificates(tmp_path)[0].read_bytes() == foreign


def test_what_tls_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory that isn't there, and trustme that isn't installed, are errors with a reason."""
    with pytest.raises(SystemExit):
        main(["--tls", str(tmp_path / "nowhere")])
    assert "No such file" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(SystemExit):
        main(["--tls", str(tmp_path)])
    assert "pip install trustme" in capsys.readouterr().err


def test_a_port_that_is_taken_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are served all the same; if none is free, the program ends with status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = _example_servers.SERVERS[8999]
        monkeypatch.setattr(_example_servers, "SERVERS", {port: server})
        assert main([]) == 1
    assert f"127.0.0.1:{port}  left out: " in capsys.readouterr().out


def test_ctrl_c_ends_it_quietly() -> None:
    """Interrupted, it ends with status 0 and without a traceback."""
    command = [sys.executable, "-W", "error", "-m", "anyconnpool.testing", "--any-port"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "Ctrl-C ends them\n":
            pass
        process.send_signal(signal.SIGINT)
        try:
            _, complaints = process.communicate(timeout=50)
        finally:
            process.kill()
    assert (process.returncode, complaints) == (0, "")
