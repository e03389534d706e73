"""Servers that greet who connects, and end their lines with CR LF: seen, and understood if told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anyconnpool.command import main
from tests.cases import table
from tests.sockets.servers import Peer, Script, Server, echo_lines

from .programs import finish, start

SHORT = ("--requests", "40", "--tasks", "4", "--connections", "1,2")
# What serves each format, and how the commands are told of it.
FORMATS = {
    "line": (b"HELLO\nv1\r\n", b"\r\n", ("--newline", "crlf")),
    "package": (b"\x00\x05HELLO", b"", ("--format", "package")),
    "raw": (b"HELLO", b"", ("--format", "raw")),
}


def greet(greeting: bytes, end: bytes) -> Script:
    """Send a greeting, then send back what comes, and see that lines end as they should."""

    def script(peer: Peer) -> None:
        peer.send(greeting)
        while data := peer.socket.recv(65_536):
            assert data.endswith(end)
            ends = data.count(b"\n") if end == b"\r\n" else 0
            assert data.count(b"\r") == data.count(b"\r\n") == ends
            peer.send(data)

    return script


def url_of(server: Server) -> str:
    return "tcp://{}:{}".format(*server.remote)


@table("format", [*FORMATS])
def test_a_load(format: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With --greeting each reply is that of its request, and connections are reused."""
    greeting, end, options = FORMATS[format]
    with Server("tcp", tmp_path, greet(greeting, end)) as server:
        assert main(["load", url_of(server), *SHORT, *options, "--greeting", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    for point in (*told["pooled"], told["unpooled"]):
        assert (point["answered"], point["errors"], point["closed"]) == (40, {}, {})
        sent, received = point["bytes_per_second"].values()
        assert sent == received, "a greeting would be shorter"
    assert [point["reused_share"] for point in told["pooled"]] == [1, 1]


def test_a_load_on_several_servers_that_share(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Greetings are received on each server, and where requests share a connection."""
    for name in "one", "other":
        (tmp_path / name).mkdir()
    greeting, end, options = FORMATS["line"]
    script = greet(greeting, end)
    with (
        Server("tcp", tmp_path / "one", script) as one,
        Server("tcp", tmp_path / "other", script) as other,
    ):
        urls = [url_of(one), url_of(other)]
        shared = (*options, *SHORT, "--pipeline", "4")
        assert main(["load", *urls, *shared, "--greeting", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    for point in (*told["pooled"], told["unpooled"]):
        assert (point["answered"], point["errors"]) == (40, {})
        sent, received = point["bytes_per_second"].values()
        assert sent == received


def test_a_load_that_does_not_know(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without --greeting nothing is measured: each reply would be that of the request before."""
    with Server("tcp", tmp_path, greet(b"HELLO v1\r\n", b"\n")) as server:
        url = url_of(server)
        assert main(["load", url, *SHORT]) == 1
    told = f"anyconnpool: {url}: it sends 10 bytes to who connects, before it is asked: try --greet"
    assert capfd.readouterr() == ("", f"{told}ing\n")


def test_a_greeting_of_two_messages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What comes behind the greeting is no reply either."""
    with Server("tcp", tmp_path, greet(b"HELLO\nv1\n", b"\n")) as server:
        assert main(["load", url_of(server), *SHORT, "--greeting"]) == 1
    told = ": 3 bytes came behind its greeting, unasked: is --format right?\n"
    assert capfd.readouterr().err.endswith(told)


def test_replies_of_two_messages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A server that always says more than is asked for gets no advice, and the code is 1."""

    def answer_twice(peer: Peer) -> None:
        while line := peer.receive_line():
            peer.send(line + b"\n" + line + b"\n")

    with Server("tcp", tmp_path, answer_twice) as server:
        assert main(["load", url_of(server), *SHORT, "--no-unpooled", "--json"]) == 1
    output, errors = capfd.readouterr()
    told = json.loads(output)
    lost = told["pooled"][0]["closed"]["unread_data"]
    assert lost > 20
    assert told["advice"]["max_size"] is None
    text = f"with max_size 1, {lost} connections were closed since more came over them than"
    assert told["advice"]["text"].startswith(f"No advice: {text}")
    assert errors.startswith(f"anyconnpool: {text}")
    assert "try --greeting; otherwise, is --format right?\n" in errors


def test_an_echo(tmp_path: Path, backend: str) -> None:
    """The client shows the greeting, then the replies, without the ends of their lines."""
    greeting, end, options = FORMATS["line"]
    with Server("tcp", tmp_path, greet(greeting, end)) as server:
        client = start("echo-client", url_of(server), "--greeting", *options, "--backend", backend)
        # A file of such a system has lines of the same kind.
        assert finish(client, "one\r\ntwo\n") == (0, "HELLO\nv1\none\ntwo\n", "")


def test_a_payload_from_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The end of its line is left out, in either form."""
    greeting, end, options = FORMATS["line"]
    path = tmp_path / "payload"
    with Server("tcp", tmp_path, greet(greeting, end)) as server:
        for ending in b"\n", b"\r\n", b"":
            path.write_bytes(b"ping" + ending)
            given = (*options, "--greeting", "--payload-file", str(path), "--json")
            assert main(["load", url_of(server), *SHORT, *given]) == 0
            assert json.loads(capfd.readouterr().out)["payload_bytes"] == 4


@table("command", ["load", "echo-client"])
def test_a_server_that_does_not_greet(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where no greeting comes, that is said, rather than that a reply is missing."""
    with Server("tcp", tmp_path, echo_lines) as server:
        message = ["hi"] if command == "echo-client" else []
        options = ("--greeting", "--timeout", "0.5")
        assert main([command, url_of(server), *message, *options]) == 1
    told = "; no such greeting came: leave --greeting out if the server waits to be asked, or is -"
    assert told in capfd.readouterr().err
