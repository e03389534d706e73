"""The servers that the examples of the documentation talk to, as one program.

Each is a few lines, at the port that the pages name. The tests of the documentation run its
examples against this program.
"""

from __future__ import annotations

import argparse
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
from anyio.abc import AnyByteStream, ByteStream, Listener, SocketAttribute
from anyio.streams.tls import TLSListener

from anyconnpool import ExchangeError, FramedStream, PackageFormat

# Text before a certificate is ignored by those who read it, and shows that the file is ours.
_MARK: Final = b"# made by python -m anyconnpool.testing, which may write it anew\n"
_PACKAGES: Final = PackageFormat(4, max_size=1_000_000)
_COMMANDS: Final = {
    b"PING": b"PONG",
    b"LOGIN alice": b"OK",
    b"LOGIN alice secret": b"OK",
    b"SELECT 3": b"OK",
}


async def _echo(stream: FramedStream) -> None:
    while True:
        await stream.send(b"> " + await stream.receive())


async def _echo_packages(stream: FramedStream) -> None:
    while True:
        await stream.send_package(await stream.receive_package(_PACKAGES), _PACKAGES)


async def _echo_lines(stream: FramedStream) -> None:
    while True:
        await stream.send_line(b"> " + await stream.receive_line())


async def _answer_commands(stream: FramedStream) -> None:
    while True:
        line = await stream.receive_line()
        await stream.send_line(_COMMANDS.get(line, b"> " + line))


async def _greet_and_answer(stream: FramedStream) -> None:
    await stream.send_line(b"READY")
    await _answer_commands(stream)


async def _answer_once(stream: FramedStream) -> None:
    await stream.send_line(b"> " + await stream.receive_line())


async def _say_nothing(stream: FramedStream) -> None:
    while True:
        await stream.receive()


class _Server(NamedTuple):
    """What a server does with each connection, and how that is announced."""

    serve: Callable[[FramedStream], Awaitable[None]]
    manner: str


_TLS_PORT: Final = 9443
SERVERS: Final = {
    8999: _Server(_echo, 'answers what it gets with the same after "> "'),
    9000: _Server(_echo_packages, "answers a package (header of four bytes) with the same"),
    9001: _Server(_answer_commands, "answers lines in this way, and knows PING, LOGIN and SELECT"),
    9002: _Server(_answer_once, "answers one line, then hangs up"),
    9003: _Server(_greet_and_answer, "greets with READY, then does what 9001 does"),
    9004: _Server(_say_nothing, "reads, and never answers"),
    _TLS_PORT: _Server(_echo_lines, 'answers lines after "> ", over TLS'),
}


class _QuietTLSListener(TLSListener):
    """A listener for TLS to which a handshake that fails is no news."""

    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: AnyByteStream) -> None:
        await anyio.aclose_forcefully(stream)
        if not isinstance(exc, (*ExchangeError, ssl.SSLError)):
            raise exc


async def _serve_client(server: _Server, accepted: ByteStream) -> None:
    """Serve one client until it is gone; however it leaves, the others don't notice."""
    with suppress(*ExchangeError, ValueError):
        async with FramedStream(accepted) as stream:
            await server.serve(stream)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class FilesError(Exception):
    """Raised when the certificates can't be made or written; the text says why."""


def _write(path: Path, content: bytes) -> None:
    """Write a file, unless there is one that somebody else has made."""
    if path.exists() and not path.read_bytes().startswith(_MARK):
        raise FilesError(f"{path} is there already: give --tls another directory")
    path.write_bytes(_MARK + content)


def _make_certificates(directory: Path) -> ssl.SSLContext:
    """Make an authority, what it certifies, and the files that the examples read.

    :param directory: gets ``ca.pem`` and ``client.pem``
    :return: the server's context
    :raises FilesError: if trustme is missing, or a file can't be written
    """
    try:
        import trustme
    except ImportError as error:
        raise FilesError("--tls needs trustme: pip install trustme") from error
    # Not all of its methods are typed as pyright wants it.
    authority: Any = trustme.CA()
    client = authority.issue_cert("client").private_key_and_cert_chain_pem.bytes()
    try:
        _write(directory / "ca.pem", authority.cert_pem.bytes())
        _write(directory / "client.pem", client)
    except OSError as error:
        raise FilesError(f"--tls: {error}") from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def _serve(context: ssl.SSLContext | None, any_port: bool) -> None:
    """Serve until cancelled, at all ports that are free; if there is none, return.

    :param context: how to speak TLS, if at all
    :param any_port: whether to let the system choose the ports
    """
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        count = 0
        for port, server in SERVERS.items():
            if port == _TLS_PORT and context is None:
                continue
            try:
                listener = await anyio.create_tcp_listener(
                    local_host="127.0.0.1", local_port=0 if any_port else port
                )
            except OSError as error:
                _say(f"127.0.0.1:{port}  left out: {error}")
                continue
            await stack.enter_async_context(listener)
            count += 1
            bound = listener.extra(SocketAttribute.local_port)
            instead = f" (instead of {port})" if any_port else ""
            _say(f"127.0.0.1:{bound}{instead}  {server.manner}")
            serving: Listener[Any] = listener
            if port == _TLS_PORT and context is not None:
                serving = _QuietTLSListener(listener, context, standard_compatible=False)
            tasks.start_soon(serving.serve, partial(_serve_client, server))
        if count:
            _say("Ctrl-C ends them")
            await anyio.sleep_forever()


async def _serve_until_signal(context: ssl.SSLContext | None, any_port: bool) -> bool:
    """Serve until Ctrl-C or SIGTERM.

    :return: whether there was one; if not, no port is free
    """
    interrupted = False

    async def cancel_at_signal(received: AsyncIterator[signal.Signals]) -> None:
        nonlocal interrupted
        async for _ in received:
            interrupted = True
            tasks.cancel_scope.cancel()

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_at_signal, received)
            await _serve(context, any_port)
            tasks.cancel_scope.cancel()
    return interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and serve until interrupted.

    :param arguments: instead of those of the program
    :return: the exit status
    """
    parser = argparse.ArgumentParser(
        prog="python -m anyconnpool.testing",
        description="Run the servers that the examples of the documentation talk to, on loopback.",
    )
    parser.add_argument(
        "--tls",
        metavar="DIRECTORY",
        type=Path,
        help=f"serve TLS at port {_TLS_PORT} too, and write ca.pem and client.pem to a directory, "
        "for examples that are run there; needs trustme",
    )
    parser.add_argument(
        "--any-port", action="store_true", help="let the system choose the ports; they are printed"
    )
    given = parser.parse_args(arguments)
    try:
        context = None if given.tls is None else _make_certificates(given.tls)
        # Windows has no signals for event loops; there, Ctrl-C is an exception.
        serve = _serve if sys.platform == "win32" else _serve_until_signal
        interrupted = anyio.run(serve, context, given.any_port)
    except FilesError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        interrupted = True
    return 0 if interrupted else 1
