"""The echo server and client, on every backend, over TCP, TLS and UNIX sockets."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anyconnpool.command import main
from tests.cases import table
from tests.certificates import authority

from .programs import echo_server, finish, start


@contextmanager
def tls_server(directory: Path, *arguments: object) -> Generator[tuple[str, Path]]:
    """Run an echo server with TLS; return its URL and the file of the authority."""
    ca, cert = directory / "ca.pem", directory / "cert.pem"
    authority().cert_pem.write_to_path(str(ca))
    authority().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(cert))
    with echo_server("--tls-cert", cert, *arguments) as url:
        yield url, ca


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
