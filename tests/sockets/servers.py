"""A server on real sockets that tests can script.

The server runs in threads and on blocking sockets, so that it is the same on every backend, and
what a test tells it to do (send, hang up, reset, restart) has reached the client's kernel when the
call returns.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anyio import to_thread

from anyconnpool import ConnectionPool
from tests.certificates import authority, client_context

from .checks import eventually

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from anyconnpool._settings import Hook, PoolOptions

KINDS = ("tcp", "tls12", "tls13", "unix")

#: for tests of what one kind of socket does in another way than the next
every_kind = pytest.mark.parametrize("kind", KINDS)
only_tls = pytest.mark.parametrize("kind", ["tls12", "tls13"])

Script = Callable[["Peer"], None]

_RDHUP: int = getattr(select, "POLLRDHUP", 0x2000)  # PyPy doesn't name it
_GONE = _RDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL
_PATIENCE = 20


@cache
def server_context(kind: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    version = ssl.TLSVersion.TLSv1_2 if kind == "tls12" else ssl.TLSVersion.TLSv1_3
    context.minimum_version = context.maximum_version = version
    certificate = authority().issue_cert("127.0.0.1")
    certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    return context


class Peer:
    """The server's end of one connection."""

    def __init__(self, accepted: socket.socket) -> None:
        accepted.settimeout(_PATIENCE)
        self.socket = accepted
        #: opened when the TLS handshake may begin
        self.gate = threading.Event()
        #: set when the connection is open
        self.ready = threading.Event()
        self.thread: threading.Thread | None = None
        self._buffer = b""
        self._lock = threading.Lock()

    @property
    def hung_up(self) -> bool:
        """Whether the client has ended the connection, or this end has."""
        with self._lock:
            fd = self.socket.fileno()
            if fd < 0:
                return True
            poll = select.poll()
            poll.register(fd, _RDHUP)
            return any(events & _GONE for _, events in poll.poll(0))

    @property
    def has_line(self) -> bool:
        """Whether a line was received together with the last one."""
        return b"\n" in self._buffer

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive_line(self) -> bytes:
        """Return a line without its end.

        :raises EOFError: at the end of the stream
        """
        while b"\n" not in self._buffer:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def next_line(self) -> bytes:
        """Return the next line, from within the event loop."""
        return await to_thread.run_sync(self.receive_line)

    def hang_up(self) -> None:
        """Close with FIN, and for TLS without its closing handshake."""
        self._wake(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Close with RST, where the kind of socket knows one."""
        if self.socket.family != socket.AF_UNIX and self.socket.fileno() >= 0:
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._wake(socket.SHUT_RD)

    def _wake(self, how: int) -> None:
        # Closing alone would not wake a thread that receives, nor be seen by the client before.
        with suppress(OSError):
            socket.socket.shutdown(self.socket, how)
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join(_PATIENCE)
        self.close()

    def close(self) -> None:
        # The descriptor is gone a moment before the client can see it.
        with self._lock:
            self.socket.close()


def echo_lines(peer: Peer) -> None:
    """Answer each line with itself."""
    while True:
        peer.send(b"> " + peer.receive_line() + b"\n")


def one_reply(peer: Peer) -> None:
    """Answer one line, then hang up."""
    peer.send(b"> " + peer.receive_line() + b"\n")


def echo_when_told(gate: threading.Event) -> Script:
    """Answer each line with itself, but one that begins with "slow" only once the gate is open."""

    def script(peer: Peer) -> None:
        while True:
            line = peer.receive_line()
            if line.startswith(b"slow"):
                gate.wait(_PATIENCE)
            peer.send(b"> " + line + b"\n")

    return script


class Server:
    """A listener that counts the sockets it sees open at once.

    :param kind: one of ``KINDS``
    :param directory: for the UNIX socket
    :param script: what a thread does with each connection, which is closed afterwards; without
        one the test does it, with the peers that it gets from :meth:`peer`
    """

    def __init__(self, kind: str, directory: Path, script: Script | None) -> None:
        self.kind = kind
        self.script = script
        self.peers: list[Peer] = []
        self.most = 0
        #: whether TLS handshakes of new connections wait for :meth:`admit`
        self.hold = False
        self._path = str(directory / "socket")
        self._port = 0
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    @property
    def tls(self) -> bool:
        return self.kind.startswith("tls")

    @property
    def remote(self) -> Any:
        return self._path if self.kind == "unix" else ("127.0.0.1", self._port)

    def pool(
        self, on_connect: Hook | None = None, **settings: Unpack[PoolOptions]
    ) -> ConnectionPool[Any]:
        """Make a pool of connections to this server."""
        if self.script is None:
            # Nobody answers the closing handshake of TLS.
            settings.setdefault("close_timeout", 0.05)
        context = client_context() if self.tls else None
        return ConnectionPool(
            self.remote, tls=self.tls, ssl_context=context, on_connect=on_connect, **settings
        )

    @property
    def open(self) -> int:
        """How many connections are open, as the server's kernel knows it."""
        return sum(not peer.hung_up for peer in self.peers.copy())

    async def peer(self, index: int) -> Peer:
        """Return the server's end of a connection, counted from the first one ever."""
        await eventually(lambda: len(self.peers) > index and self.peers[index].ready.is_set())
        return self.peers[index]

    def start(self) -> None:
        """Listen, after :meth:`stop` at the same address again."""
        if self.kind == "unix":
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self._path)
            self._listener.listen(128)
        else:
            self._listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
            self._port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,))
        self._acceptor.start()

    def admit(self) -> None:
        """Let the handshakes go on that were held, and all later ones."""
        self.hold = False
        for peer in self.peers.copy():
            peer.gate.set()

    def stop(self, *, reset: bool = False) -> None:
        """Close everything, the connections by RST if asked for."""
        self.admit()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(_PATIENCE)
        self._listener.close()
        for peer in self.peers:
            if reset:
                peer.reset()
            else:
                peer.hang_up()

    def restart(self, *, reset: bool = False) -> None:
        self.stop(reset=reset)
        self.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            peer = Peer(self._wrap(accepted))
            self.peers.append(peer)
            if not self.hold:
                peer.gate.set()
            self.most = max(self.most, self.open)
            peer.thread = threading.Thread(target=self._serve, args=(peer,))
            peer.thread.start()

    def _wrap(self, accepted: socket.socket) -> socket.socket:
        if self.kind != "unix":
            # What is sent is to be with the client at once, also right after another segment.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.tls:
            return accepted
        return server_context(self.kind).wrap_socket(
            accepted, server_side=True, do_handshake_on_connect=False
        )

    def _serve(self, peer: Peer) -> None:
        served = self.script is not None
        try:
            if isinstance(peer.socket, ssl.SSLSocket):
                peer.gate.wait(_PATIENCE)
                peer.socket.do_handshake()
            peer.ready.set()
            if self.script is not None:
                self.script(peer)
        except EOFError:
            served = True
            _answer_closing(peer.socket)
        except (OSError, ValueError):
            served = True
        finally:
            if served:
                peer.close()


def _answer_closing(accepted: socket.socket) -> None:
    """Make the closing handshake of TLS, if the client is still there to see it."""
    if isinstance(accepted, ssl.SSLSocket):
        with suppress(OSError, ValueError):
            accepted.unwrap()
