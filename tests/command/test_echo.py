"""The echo server and client, on every backend, over TCP, TLS and UNIX sockets."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from anyconnpool.command import main
from tests.cases import table
from tests.certificates import authority

from .programs import echo_server, finish, start


def write_certificates(directory: Path) -> Path:
    """Write the certificates of the authority and of a server; return the latter's file."""
    ca, cert = directory / "ca.pem", directory / "cert.pem"
    authority().cert_pem.write_to_path(str(ca))
    authority().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(cert))
    return cert


@contextmanager
def tls_server(directory: Path, *arguments: object) -> Generator[tuple[str, Path]]:
    """Run an echo server with TLS; return its URL and the file of the authority."""
    cert = write_certificates(directory)
    with echo_server("--tls-cert", cert, *arguments) as url:
        yield url, directory / "ca.pem"


def test_echo(backend: str) -> None:
    """Messages come back one by one, in real processes, and both programs end with code 0."""
    with echo_server("--backend", backend) as url:
        client = start("echo-client", url, "hello", "wörld", "--backend", backend)
        assert finish(client) == (0, "hello\nwörld\n", "")


def test_lines_of_standard_input(backend: str) -> None:
    """Without messages, the lines of standard input are sent, also a last one without an end."""
    with echo_server() as url:
        client = start("echo-client", url, "--backend", backend)
        assert finish(client, "one\n\nthree\nlast") == (0, "one\n\nthree\nlast\n", "")


@table(
    "options, messages, replies",
    [
        (("--format", "package", "--header-size", "4"), ("two\nlines", ""), b"two\nlines\n\n"),
        (("--format", "raw"), ("two\nlines",), b"two\nlines\n"),
        (("--format", "raw", "--reply-bytes", "3"), ("one", "two"), b"one\ntwo\n"),
    ],
)
def test_formats(
    options: tuple[str, ...],
    messages: tuple[str, ...],
    replies: bytes,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """A message with a newline, or with nothing, comes back whole in a format that can carry it."""
    served_as = [option for option in options if option not in ("--reply-bytes", "3")]
    with echo_server(*served_as) as url:
        assert main(["echo-client", url, *messages, *options]) == 0
    assert capfdbinary.readouterr().out == replies


def test_tls(tmp_path: Path, backend: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """TLS works with the authority, with --tls as with tls://, and with no check at all."""
    with tls_server(tmp_path, "--backend", backend) as (url, ca):
        assert url.startswith("tls://127.0.0.1:")
        options = ["--backend", backend, "hi"]
        assert main(["echo-client", url, "--ca", str(ca), *options]) == 0
        plain = url.replace("tls", "tcp")
        assert main(["echo-client", plain, "--tls", "--insecure", *options]) == 0
    assert capfdbinary.readouterr().out == b"hi\nhi\n"


def test_unix_socket(tmp_path: Path, backend: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A UNIX socket works, and its file is gone when the server has ended."""
    path = tmp_path / "socket"
    with echo_server("--unix", path, "--backend", backend) as url:
        assert url == f"unix://{path}"
        assert main(["echo-client", url, "hi", "--backend", backend]) == 0
    assert capfd.readouterr().out == "hi\n"
    assert not path.exists()


def test_a_client_that_breaks_the_format() -> None:
    """A line without end costs the client its connection, and nobody else anything."""
    with echo_server() as url:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as hostile:
            hostile.settimeout(20)
            with pytest.raises(ConnectionError):
                for _ in range(1000):
                    hostile.sendall(b"x" * 65_536)
        assert main(["echo-client", url, "hi"]) == 0


def narrated(*clients: Callable[[str], None], options: Sequence[object] = ()) -> list[str]:
    """Run a verbose server, then clients one after the other; return what it tells of them."""
    server = start("echo-server", "--port", 0, "--verbose", *options)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[2].rstrip(",")
        told: list[str] = []
        for client in clients:
            client(url)
            while not told or not re.search(r": (closed|ended)", told[-1]):
                told.append(server.stdout.readline())
            told.append("")
    finally:
        server.terminate()
        assert finish(server) == (0, "", "")
    return [re.sub(r":\d+$", ":PORT", line.rstrip("\n")) for line in told if line]


def send(data: bytes) -> Callable[[str], None]:
    """Return a client that sends something and hangs up when the server has read it."""

    def client(url: str) -> None:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20) as sending:
            sending.sendall(data)
            sending.shutdown(socket.SHUT_WR)
            while sending.recv(1000):
                pass

    return client


def test_a_verbose_server_shows_reuse(backend: str) -> None:
    """It tells who connects, which messages come over the same connection, and who leaves."""

    def two_messages(url: str) -> None:
        assert finish(start("echo-client", url, "one", "three"))[0] == 0

    def one_message(url: str) -> None:
        assert finish(start("echo-client", url, "two"))[0] == 0

    assert narrated(two_messages, one_message, options=("--backend", backend)) == [
        "connection 1: opened by 127.0.0.1:PORT",
        "connection 1: message 1, 3 bytes",
        "connection 1: message 2, 5 bytes, over the same connection",
        "connection 1: closed by the client after 2 messages",
        "connection 2: opened by 127.0.0.1:PORT",
        "connection 2: message 1, 3 bytes",
        "connection 2: closed by the client after 1 message",
    ]


def test_a_verbose_server_of_tls(tmp_path: Path) -> None:
    """A client that speaks no TLS, or trusts no authority, is told of; the others are served."""

    def trusting(url: str) -> None:
        options = ("--ca", tmp_path / "ca.pem")
        assert finish(start("echo-client", url, "hi", *options)) == (0, "hi\n", "")

    def suspicious(url: str) -> None:
        assert finish(start("echo-client", url, "hi"))[0] == 1

    cert = write_certificates(tmp_path)
    told = narrated(send(b"hello\n"), suspicious, trusting, options=("--tls-cert", cert))
    assert told[1] == "connection 1: ended after 0 messages: TLS: the other end does not speak it"
    assert told[3].startswith("connection 2: ended after 0 messages: TLS: ")
    assert told[4:] == [
        "connection 3: opened by 127.0.0.1:PORT",
        "connection 3: message 1, 2 bytes",
        "connection 3: closed by the client after 1 message",
    ]


def test_a_verbose_server_that_cannot_tell(tmp_path: Path) -> None:
    """It ends quietly when its reader has gone, as any program does."""
    path = tmp_path / "socket"
    reading, writing = os.pipe()
    server = start("echo-server", "--unix", path, "-v", stdout=writing)
    os.close(writing)
    try:
        assert os.read(reading, 1000).startswith(b"listening on ")
        os.close(reading)
        client = start("echo-client", f"unix://{path}", "hi")
        finish(client)
        assert server.wait(40) == 1
    finally:
        ended = finish(server)
    code, _, errors = ended
    assert (code, errors) == (1, "")
    assert not path.exists()


def test_a_reader_that_has_had_enough() -> None:
    """Whose reader goes away, as in `| head -1`, ends quietly with code 1."""
    with echo_server() as url:
        client = start("echo-client", url)
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("one\n")
        client.stdin.flush()
        assert client.stdout.readline() == "one\n"
        client.stdout.close()
        client.stdin.write("two\n")
        client.stdin.close()
        with client:
            assert client.wait(40) == 1
            assert client.stderr is not None
            assert client.stderr.read() == ""
