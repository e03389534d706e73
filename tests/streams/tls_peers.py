"""What the tests of TLS need: certificates, a server that says exactly what a test wants."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import trustme
from anyio import (
    BrokenResourceError,
    aclose_forcefully,
    create_task_group,
    fail_after,
    wait_readable,
    wait_writable,
)
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from anyconnpool._streams.connect import on_trio, open_tcp_socket
from anyconnpool._streams.kernel import KernelLook
from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._streams.tls import TLSCodec
from anyconnpool._streams.tls_connect import open_tls_stream
from anyconnpool._util.liveness import Liveness
from tests.certificates import authority, client_context

#: within how many seconds what has to happen must have happened
LIMIT: Final = 20
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def server_context(version: str = "1.3", *, wants_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _certificate().configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    context.minimum_version = context.maximum_version = VERSIONS[version]
    if wants_certificate:
        authority().configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@cache
def _certificate() -> trustme.LeafCert:
    return authority().issue_cert("localhost", "127.0.0.1", "::1", "xn--fa-hia.de")


class Server:
    """The server's end of a connection, without a socket: bytes in, bytes out.

    :param context: its settings of TLS; by default TLS 1.3 and a good certificate
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl_object = (context or server_context()).wrap_bio(
            self._incoming, self._outgoing, server_side=True
        )
        #: whether the handshake is over, well or not
        self.ready = False
        #: whether the client has sent a close_notify
        self.heard_goodbye = False

    def advance(self, data: bytes) -> bytes:
        """Take a part of the client's handshake, return the answer: tickets or an alert at last."""
        self._incoming.write(data)
        try:
            self.ssl_object.do_handshake()
            self.ready = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.ready = True
        return self._outgoing.read()

    def say(self, data: bytes) -> bytes:
        """Return the records of data; at most 16 KiB are one record."""
        self.ssl_object.write(data)
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        """Return a close_notify."""
        with suppress(ssl.SSLError):
            self.ssl_object.unwrap()
        return self._outgoing.read()

    def hear(self, data: bytes) -> bytes:
        """Return the plaintext of the client's records."""
        self._incoming.write(data)
        heard = b""
        while self._incoming.pending and not self.heard_goodbye:
            try:
                chunk = self.ssl_object.read(65_536)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                chunk = b""
            heard += chunk
            self.heard_goodbye = not chunk
        return heard


def begin(codec: TLSCodec) -> bytes:
    """Begin a codec's handshake, and return its first message."""
    codec.start()
    return codec.take()


def establish(codec: TLSCodec, server: Server) -> bytes:
    """Let a client and a server shake hands; return what the server has to say at once: tickets."""
    answer = server.advance(begin(codec))
    while not codec.established:
        assert answer, codec.error
        assert codec.receive(answer) == b""
        answer = server.advance(codec.take())
    return answer


class KeyUpdates:
    """Make records of TLS 1.3 that Python's ssl module can't: key updates that ask for answers.

    :param keylog: the key log of a server that has said nothing yet, except tickets
    :param sent: how many records the server has sent since the handshake
    """

    def __init__(self, keylog: Path, sent: int) -> None:
        lines = (line.split() for line in keylog.read_text().splitlines())
        self._secret = next(
            bytes.fromhex(secret)
            for label, _, secret in (line for line in lines if len(line) == 3)
            if label == "SERVER_TRAFFIC_SECRET_0"
        )
        self._sent = sent

    def record(self) -> bytes:
        """Return a KeyUpdate that asks for one (RFC 8446, sections 4.6.3, 5.2 and 7.2)."""
        key, start = self._expand("key", 32), self._expand("iv", 12)
        nonce = int.from_bytes(start, "big") ^ self._sent
        handshake = bytes([24, 0, 0, 1, 1]) + b"\x16"
        header = bytes([23, 3, 3, 0, len(handshake) + 16])
        body = AESGCM(key).encrypt(nonce.to_bytes(12, "big"), handshake, header)
        self._secret, self._sent = self._expand("traffic upd", 48), 0
        return header + body

    def _expand(self, label: str, length: int) -> bytes:
        name = b"tls13 " + label.encode()
        info = length.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
        return HKDFExpand(SHA384(), length, info).derive(self._secret)


class Wire:
    """The server's end of a real connection; what it sends is in the client's kernel at once.

    :param accepted: the socket, which is the wire's to close
    :param server: who speaks
    """

    def __init__(self, accepted: socket.socket, server: Server) -> None:
        self.sock = accepted
        #: the server's address
        self.address: tuple[str, int] = accepted.getsockname()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server = server
        #: what the server says at the end of the handshake: tickets of TLS 1.3, or an alert
        self.last = b""

    async def shake_hands(self, *, send_last: bool = True) -> None:
        """Do the handshake, and send what comes at its end, or keep it."""
        while not self.server.ready:
            heard = await self.read()
            if not heard:
                return
            answer = self.server.advance(heard)
            if self.server.ready:
                self.last = answer
            if not self.server.ready or send_last:
                self.send(answer)

    async def read(self) -> bytes:
        """Return some bytes that the client has sent; empty at the end."""
        await wait_readable(self.sock)
        try:
            return self.sock.recv(65_536)
        except ConnectionResetError:
            return b""

    async def hear(self, how_much: int) -> bytes:
        """Return so many bytes of plaintext."""
        heard = b""
        while len(heard) < how_much:
            data = await self.read()
            assert data, "the client has hung up"
            heard += self.server.hear(data)
        return heard

    async def hear_goodbye(self) -> bytes:
        """Wait for the client's close_notify, and return the plaintext before it."""
        heard = b""
        while not self.server.heard_goodbye:
            data = await self.read()
            assert data, "the client has hung up without a goodbye"
            heard += self.server.hear(data)
        return heard

    def send(self, data: bytes) -> None:
        """Send raw bytes, few enough for the kernel to take them."""
        assert self.sock.send(data) == len(data)

    def say(self, data: bytes) -> None:
        """Send records."""
        self.send(self.server.say(data))

    async def pour(self, data: bytes) -> None:
        """Send raw bytes, as many as there are."""
        view = memoryview(data)
        while view:
            await wait_writable(self.sock)
            view = view[self.sock.send(view) :]

    def hang_up(self) -> None:
        """End without a close_notify."""
        self.sock.close()

    def reset(self) -> None:
        """End with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class CountingCodec(TLSCodec):
    """Knows how much it has encrypted."""

    def __init__(self, *, standard_compatible: bool = True) -> None:
        super().__init__(client_context(), "localhost", standard_compatible=standard_compatible)
        self.encrypted = 0

    def encrypt(self, data: bytes | memoryview) -> bytes:
        self.encrypted += len(data)
        return super().encrypt(data)


Script: TypeAlias = Callable[[Wire], Coroutine[Any, Any, object]]


@asynccontextmanager
async def listening(
    script: Script, context: ssl.SSLContext | None = None
) -> AsyncGenerator[tuple[str, int], None]:
    """Accept one connection after the other, and run a script on each, while the block lasts."""
    wires: list[Wire] = []

    async def accept(listener: socket.socket) -> None:
        while True:
            await wait_readable(listener)
            wires.append(Wire(listener.accept()[0], Server(context)))
            group.start_soon(script, wires[-1])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        try:
            async with create_task_group() as group:
                group.start_soon(accept, listener)
                yield listener.getsockname()
                group.cancel_scope.cancel()
        finally:
            for wire in wires:
                wire.sock.close()


@asynccontextmanager
async def connected(
    version: str = "1.3",
    *,
    send_last: bool = True,
    standard_compatible: bool = True,
    context: ssl.SSLContext | None = None,
    buffers: int | None = None,
) -> AsyncGenerator[tuple[PoolSocketStream, Wire, CountingCodec], None]:
    """Connect a stream to a wire; after the block no socket of theirs is open.

    :param version: of TLS
    :param send_last: whether the server sends what comes at the end of its handshake
    :param standard_compatible: whether the client insists on goodbyes
    :param context: the server's, for another than the version's
    :param buffers: the size of the kernel's buffers, for another than the system's
    """
    before = open_sockets()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if buffers:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        sock = await open_tcp_socket(*listener.getsockname())
        if buffers:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        wire = Wire(listener.accept()[0], Server(context or server_context(version)))
    codec = CountingCodec(standard_compatible=standard_compatible)
    stream = await _open(sock, codec, partial(wire.shake_hands, send_last=send_last))
    try:
        with fail_after(LIMIT):
            yield stream, wire, codec
    finally:
        wire.sock.close()
        # Many a test ends its connection in a way that closing complains of.
        with suppress(BrokenResourceError):
            await aclose_forcefully(stream)
    assert open_sockets() == before


async def eventually(condition: Callable[[], bool]) -> None:
    """Give turns until a condition holds."""
    with fail_after(LIMIT):
        while not condition():
            await checkpoint()


async def _open(
    sock: socket.socket, codec: TLSCodec, meanwhile: Callable[[], Coroutine[Any, Any, None]]
) -> PoolSocketStream:
    streams: list[PoolSocketStream] = []
    with fail_after(LIMIT):
        async with create_task_group() as group:
            group.start_soon(meanwhile)
            streams.append(await open_tls_stream(sock, codec))
    return streams[0]


async def turns(count: int) -> None:
    """Give so many turns."""
    for _ in range(count):
        await checkpoint()


async def read_by_the_loop(stream: PoolSocketStream) -> None:
    """Give turns until the event loop has read what the kernel had; on trio, a look reads it."""
    if on_trio():
        stream.look()
        return
    sock = stream.extra(SocketAttribute.raw_socket)
    await eventually(lambda: sock.fileno() < 0 or KernelLook(sock).look() is not Liveness.UNREAD)
    # A hang-up is still to be seen: libuv and asyncio find it in the turn after this one.
    await turns(5)


def open_sockets() -> set[str]:
    """Return the sockets that this process has open."""
    return set(_open_sockets().values())


def client_sockets(address: tuple[str, int]) -> int:
    """Count the sockets of this process that are connected to a server."""
    count = 0
    for number in _open_sockets():
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as duplicate:
            count += duplicate.getpeername() == address
    return count


def _open_sockets() -> dict[int, str]:
    links: dict[int, str] = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            links[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return {number: link for number, link in links.items() if link.startswith("socket:")}
