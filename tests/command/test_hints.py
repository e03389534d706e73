"""Hints: what may be wrong with the command when TLS meets plain, or a format doesn't fit."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from anyio.lowlevel import checkpoint

from anyconnpool.command import main
from anyconnpool.command._framing import Framing, package_format
from anyconnpool.command._hints import misfit
from tests.cases import table
from tests.certificates import authority
from tests.sockets.servers import Peer, Script, Server, echo_lines

USE_TLS = "the server speaks TLS: use tls://, or --tls"


def hang_up(peer: Peer) -> None:
    """Read what comes first, and end the connection."""
    peer.socket.recv(1000)


@contextmanager
def demanding_server(directory: Path) -> Generator[str]:
    """Run a server of TLS 1.2 that refuses who has no certificate; return its URL."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    certificate = authority().issue_cert("127.0.0.1")
    certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    context.verify_mode = ssl.CERT_REQUIRED

    def refuse(peer: Peer) -> None:
        with suppress(OSError), context.wrap_socket(peer.socket, server_side=True) as wrapped:
            wrapped.recv(1000)

    with Server("tcp", directory, refuse) as server:
        yield "tls://{}:{}".format(*server.remote)


@pytest.fixture(params=["load", "echo-client"])
def command(request: pytest.FixtureRequest) -> list[str]:
    """Return a command that makes an exchange, without its URL."""
    made = {
        "load": ["load", "--requests", "1", "--connections", "1"],
        "echo-client": ["echo-client"],
    }
    return made[request.param]


@pytest.mark.parametrize("kind", ["tls12", "tls13"])
def test_plain_meets_tls(
    kind: str, command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A server that speaks TLS is found out, whatever it did with what it got."""
    with Server(kind, tmp_path, echo_lines) as server:
        name, *options = command
        url = "tcp://{}:{}".format(*server.remote)
        # A record of TLS begins with five bytes: of fewer, a server waits for more.
        message = ["hello, server"] if name == "echo-client" else []
        assert main([name, url, *message, *options]) == 1
    output, errors = capfd.readouterr()
    assert not output
    assert errors.startswith(f"anyconnpool: {url}: the ")
    assert errors.endswith(f"; {USE_TLS}\n")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("script", [None, echo_lines, hang_up], ids=["silent", "echo", "closes"])
def test_tls_meets_plain(
    script: Script | None, command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A server that doesn't take the handshake is told from one that can't be connected to."""
    name, *options = command
    message = ["hello"] if name == "echo-client" else []
    with Server("tcp", tmp_path, script) as server:
        url = "tls://{}:{}".format(*server.remote)
        assert main([name, url, *message, *options, "--timeout", "0.5"]) == 1
    assert capfd.readouterr().err.endswith(
        "; it accepts connections, but not the handshake of TLS: try tcp://\n"
    )
    assert main([name, url, *message, *options]) == 1
    assert capfd.readouterr().err.endswith("connection refused: nothing listens there\n")


def test_a_server_that_does_not_understand(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where nothing at all is answered, the format may be wrong."""
    name, *options = command
    message = ["hello"] if name == "echo-client" else []
    with Server("unix", tmp_path, hang_up) as server:
        assert main([name, f"unix://{server.remote}", *message, *options]) == 1
    assert "perhaps it did not understand the message: is --format right?" in capfd.readouterr().err


def test_a_server_that_has_understood_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """After an exchange that went well, a failure says nothing about the format."""

    def answer_once(peer: Peer) -> None:
        peer.send(peer.receive_line() + b"\n")
        peer.receive_line()

    with Server("tcp", tmp_path, answer_once) as server:
        url = "tcp://{}:{}".format(*server.remote)
        assert main(["echo-client", url, "one", "two"]) == 1
    output, errors = capfd.readouterr()
    assert output == "one\n"
    assert re.fullmatch(rf"anyconnpool: {url}: the [^;\n]*\n", errors)


def test_tls_that_is_not_trusted(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody is sent away from TLS because of a certificate."""
    name, *options = command
    message = ["hello"] if name == "echo-client" else []
    with Server("tls13", tmp_path, echo_lines) as server:
        assert main([name, "tls://{}:{}".format(*server.remote), *message, *options]) == 1
    errors = capfd.readouterr().err
    assert "certificate is not trusted" in errors
    assert "tcp://" not in errors


def test_tls_that_wants_a_certificate(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the server says in an alert of TLS is all that is told."""
    name, *options = command
    message = ["hello"] if name == "echo-client" else []
    with demanding_server(tmp_path) as url:
        assert main([name, url, *message, *options, "--insecure"]) == 1
    errors = capfd.readouterr().err
    assert re.fullmatch(r"anyconnpool: tls://\S+: TLS: [^;\n]*alert[^;\n]*\n", errors)


def test_plain_meets_tls_that_wants_a_certificate(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A server that refuses in the language of TLS speaks it."""
    with demanding_server(tmp_path) as url:
        assert main(["echo-client", url.replace("tls", "tcp"), "hello, server"]) == 1
    assert capfd.readouterr().err.endswith(f"; {USE_TLS}\n")


def test_an_alert_that_comes_late(
    command: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TLS 1.3 brings it after the handshake, where it is no matter of the format either."""
    name, *options = command
    message = ["hello"] if name == "echo-client" else []

    async def fail(*_: object) -> bytes:
        error = ssl.SSLError(1, "alert")
        error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        await checkpoint()
        raise error

    monkeypatch.setattr(Framing, "exchange", fail)
    with Server("tls13", tmp_path, echo_lines) as server:
        url = "tls://{}:{}".format(*server.remote)
        assert main([name, url, *message, *options, "--insecure"]) == 1
    told = f"anyconnpool: {url}: TLS: tlsv13 alert certificate required\n"
    assert capfd.readouterr().err == told


def test_an_alert_that_is_taken_for_a_reply(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A server of TLS that says in its own language what it thinks of a line is known by that."""

    def send_alert_once(peer: Peer) -> None:
        if len(server.peers) == 1:
            peer.receive_line()
            peer.send(b"\x15\x03\x01\x00\x02\x02\x46")

    with Server("tcp", tmp_path, send_alert_once) as server:
        url = "tcp://{}:{}".format(*server.remote)
        assert main(["echo-client", url, "hi"]) == 1
    assert capfd.readouterr().err.endswith(f"; {USE_TLS}\n")


def test_a_message_is_not_sent_again(tmp_path: Path) -> None:
    """Who looks whether the server speaks TLS sends it no message."""
    received: list[bytes] = []

    def note(peer: Peer) -> None:
        peer.socket.settimeout(20)
        received.append(peer.socket.recv(1000))

    with Server("tcp", tmp_path, note) as server:
        url = "tcp://{}:{}".format(*server.remote)
        assert main(["echo-client", url, "INCR n"]) == 1
    assert received[0] == b"INCR n\n"
    assert all(data.startswith(b"\x16\x03") for data in received[1:])


@table(
    "options, reply, hint",
    [
        (["--format", "line"], b"\x00\x02ok", "--format package --header-size 2"),
        (["--format", "line"], b"no end", "6 bytes came, and no newline: is --format right?"),
        (["--format", "line"], b"", "perhaps it did not understand the message"),
        (["--format", "package"], b"+PONG\r\n", "what came looks like a line: try --format line"),
        (["--format", "package"], b"\x00\x09ok", "4 bytes came, less than their header announces"),
        (["--format", "raw", "--reply-bytes", "9"], b"ok", "2 bytes came, instead of 9"),
    ],
)
def test_a_format_that_does_not_fit(
    options: list[str],
    reply: bytes,
    hint: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What came instead of a reply says which format may be right, on real sockets."""

    def script(peer: Peer) -> None:
        peer.socket.recv(1000)
        peer.send(reply)
        peer.socket.shutdown(socket.SHUT_WR)
        # What is closed before all has been read is reset, and the reply may be lost.
        while peer.socket.recv(1000):
            pass

    with Server("tcp", tmp_path, script) as server:
        url = "tcp://{}:{}".format(*server.remote)
        for command in (["echo-client", url, "hi"], ["load", url]):
            assert main([*command, *options]) == 1
            assert hint in capfd.readouterr().err


def test_a_server_that_waits_for_more(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where nothing comes in time, the server may not know that the message is complete."""
    with Server("unix", tmp_path, echo_lines) as server:
        options = ["--format", "raw", "--timeout", "5"]
        assert main(["echo-client", f"unix://{server.remote}", "no end", *options]) == 1
    told = (
        "no reply in time (see --timeout); perhaps it waits for the rest of the message: is --form"
    )
    assert told in capfd.readouterr().err


@table(
    "framing, received, hint",
    [
        (Framing("line", package_format(2)), b"\x00\x00\x00\x01x", "--header-size 4"),
        (Framing("line", package_format(2)), b"\x01x", "--header-size 1"),
        (Framing("package", package_format(4)), b"\x00\x01x", "--header-size 2"),
        (Framing("raw", package_format(2), 64), b"\x00\x02ok", "--format package --header-size 2"),
        (Framing("raw", package_format(2), 64), b"OK\n", "try --format line"),
        # An empty package is nothing to go by.
        (Framing("line", package_format(2)), b"\x00\x00", "2 bytes came, and no newline"),
    ],
)
def test_what_bytes_look_like(framing: Framing, received: bytes, hint: str) -> None:
    """Packages and lines are recognised where the command expects something else."""
    assert hint in misfit(framing, received)
