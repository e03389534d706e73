"""The oracle's server, a process of its own: it answers late, in pieces, or not at all.

It is told its directory (certificate, UNIX socket), writes a line with its ports, and then obeys
the lines that it reads: each names a kind of socket, whose figures it answers with and forgets.
With manners in JSON behind the name, it ends the connections that there are, and treats new ones in
that way. It ends at the end of that input, so also when the process that started it is gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mmap
import os
import select
import socket
import ssl
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .oracle_wire import GREETING, HEADER, NEWS, PACKAGE_START, PUSH, Manners, Request, parse

_RDHUP = getattr(select, "POLLRDHUP", 0x2000)  # PyPy doesn't name it
_GONE = _RDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL
_VERSIONS = {"tls12": ssl.TLSVersion.TLSv1_2, "tls13": ssl.TLSVersion.TLSv1_3}


class News:
    """Number the news, and write the number of the last that the kernel has into a file.

    :param path: of the file, which clients map as well
    """

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 8)
        self._last = 0

    def tell(self, transport: asyncio.Transport) -> None:
        """Write news, if they reach the kernel at once."""
        with suppress(AttributeError):
            # On Python 3.10 an SSL transport that was cut can't tell.
            if transport.get_write_buffer_size():
                return
            self._last += 1
            transport.write(b"%s%d\n" % (NEWS, self._last))
            self._shared[:] = struct.pack("q", self._last)


class Listener:
    """What the server knows of one kind of socket.

    :param kind: the kind
    :param directory: for the certificate and the UNIX socket
    :param news: what it tells
    """

    def __init__(self, kind: str, directory: Path, news: News) -> None:
        self._path = str(directory / "oracle") if kind == "unix" else ""
        self._context = _context(kind, directory / "certificate.pem")
        # Bound, but never listening: it keeps the port while the server is away.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._holder.bind(("127.0.0.1", 0))
        self._away: asyncio.Task[None] | None = None
        self.news = news
        self.manners = Manners()
        self.accepted = 0
        #: connections made (with TLS: shaken hands on) and not seen to end, by descriptor;
        #: without the loose ones
        self.open: dict[int, Conversation] = {}
        self.forget()

    def forget(self) -> None:
        self.most = self.requests = 0
        #: keys that were answered with a hang-up: when they are sent again, they get a reply
        self.refused: set[int] = set()

    def count(self) -> int:
        """Count the clients' sockets, as the kernel knows them, and remember the most."""
        poll = select.poll()
        for descriptor in self.open:
            poll.register(descriptor, _RDHUP)
        gone = sum(bool(events & _GONE) for _, events in poll.poll(0))
        count = len(self.open) - gone
        self.most = max(self.most, count)
        return count

    async def start(self) -> int | str:
        """Listen, after :meth:`stop` at the same address again, and return it."""
        loop = asyncio.get_running_loop()
        if self._path:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            self._server = await loop.create_unix_server(
                lambda: Conversation(self), self._path, backlog=128
            )
            return self._path
        port: int = self._holder.getsockname()[1]
        self._server = await loop.create_server(
            lambda: Conversation(self),
            *("127.0.0.1", port),
            ssl=self._context,
            backlog=128,
            reuse_port=True,
        )
        return port

    async def conduct(self, manners: Manners) -> None:
        """End the connections that there are, and treat new ones in another way."""
        if self._away is not None:
            self._away.cancel()
            await asyncio.wait([self._away])
            self._away = None
        if not self._server.is_serving():
            await self.start()
        self._abort_all()
        self.manners, self.accepted = manners, 0
        if manners.away_for:
            self._away = asyncio.create_task(self._stay_away())

    def _abort_all(self) -> None:
        for conversation in list(self.open.values()):
            conversation.abort()
        self.open.clear()

    async def _stay_away(self) -> None:
        for _ in range(self.manners.times):
            await asyncio.sleep(self.manners.away_at / 1e6)
            self._server.close()
            if self.manners.dies:
                self._abort_all()
            await asyncio.sleep(self.manners.away_for / 1e6)
            await self.start()

    def figures(self) -> dict[str, int]:
        figures = {"open": self.count(), "most": self.most, "requests": self.requests}
        self.forget()
        return figures


class Conversation(asyncio.Protocol):
    """One connection: requests are answered in their order."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._requests: deque[Request] = deque()
        self._received = b""
        self._busy = False
        self._answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport: asyncio.Transport = transport
        self._descriptor = transport.get_extra_info("socket").fileno()
        self._listener.open[self._descriptor] = self
        self._listener.count()
        self._manners = manners = self._listener.manners
        self._treatment = manners.treatment(self._listener.accepted)
        self._listener.accepted += 1
        if self._treatment == "hang up":
            self._hang_up()
        elif self._treatment == "reset":
            self._reset()
        elif self._treatment == "deaf":
            self._transport.pause_reading()
        elif manners.greets:
            self._loop.call_later(manners.greets_after / 1e6, self._greet)

    def _greet(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(GREETING)

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    def _reset(self) -> None:
        self._leave()
        if self._transport.get_extra_info("socket").family != socket.AF_UNIX:
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (text := self._take_text()) is not None:
            self._listener.requests += 1
            self._requests.append(parse(text))
        if not self._busy:
            self._answer_next()

    def _take_text(self) -> bytes | None:
        received = self._received
        if received and received[0] == PACKAGE_START:
            end = HEADER + int.from_bytes(received[:HEADER], "big")
            if len(received) < max(end, HEADER):
                return None
            self._received = received[end:]
            return received[HEADER:end]
        text, newline, rest = received.partition(b"\n")
        if not newline:
            return None
        self._received = rest
        return text

    def _answer_next(self) -> None:
        self._busy = bool(self._requests)
        if self._busy:
            request = self._requests.popleft()
            self._after(request.delay, self._answer, request)

    def _after(self, microseconds: int, step: Callable[[Request], None], request: Request) -> None:
        if microseconds:
            self._loop.call_later(microseconds / 1e6, step, request)
        else:
            step(request)

    def _answer(self, request: Request) -> None:
        if self._refuses(request, "instead"):
            self._hang_up()
        elif request.cut:
            self._transport.write(request.framed_reply[: request.cut])
            self._after(request.pause, self._complete, request)
        else:
            self._complete(request)

    def _complete(self, request: Request) -> None:
        if self._refuses(request, "within"):
            self._hang_up()
            return
        if request.ending == "loose":
            self._leave()
        pieces = deque(self._manners.split(request))
        self._send_pieces(request, pieces)

    def _send_pieces(self, request: Request, pieces: deque[bytes]) -> None:
        self._transport.write(pieces.popleft())
        if pieces:
            # In a later turn, so that the kernel gets it as a segment of its own.
            self._loop.call_soon(self._loop.call_soon, self._send_pieces, request, pieces)
        else:
            self._finish(request)

    def _finish(self, request: Request) -> None:
        self._answered += 1
        if request.ending == "after":
            self._hang_up()
        elif request.ending == "abort":
            self._transport.abort()
        elif self._treatment == "half close":
            self._leave()
            if self._transport.can_write_eof():
                with suppress(OSError):  # The client may be gone.
                    self._transport.write_eof()
            else:
                self._transport.close()
        else:
            if request.ending == "push":
                self._after(request.pause, self._push, request)
            if self._manners.news_after and request.ending != "loose":
                self._loop.call_later(self._manners.news_after / 1e6, self._tell, self._answered)
            self._answer_next()

    def _tell(self, answered: int) -> None:
        if answered == self._answered and not self._busy and not self._transport.is_closing():
            self._listener.news.tell(self._transport)

    def _push(self, request: Request) -> None:
        self._transport.write(PUSH)

    def _refuses(self, request: Request, ending: str) -> bool:
        refused = self._listener.refused
        if request.ending != ending or request.key in refused:
            return False
        refused.add(request.key)
        return True

    def _hang_up(self) -> None:
        self._leave()
        self._transport.close()

    def _leave(self) -> None:
        if self._listener.open.get(self._descriptor) is self:
            del self._listener.open[self._descriptor]


def _context(kind: str, certificate: Path) -> ssl.SSLContext | None:
    if kind not in _VERSIONS:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = _VERSIONS[kind]
    # Its records have a known size: clients can tell when all of a reply has arrived.
    context.set_ciphers("ECDHE+AESGCM")
    context.load_cert_chain(certificate)
    return context


async def _serve(directory: Path) -> None:
    news = News(directory / "news")
    kinds = ("tcp", "tcp2", "tcp3", "tls12", "tls13", "unix")
    listeners = {kind: Listener(kind, directory, news) for kind in kinds}
    _say({kind: await listener.start() for kind, listener in listeners.items()})
    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[str] = asyncio.Queue()
    threading.Thread(target=_hear, args=(loop, orders), daemon=True).start()
    while order := await orders.get():
        kind, _, manners = order.partition(" ")
        listener = listeners[kind]
        if manners:
            await listener.conduct(Manners(**json.loads(manners)))
        _say(listener.figures())


def _hear(loop: asyncio.AbstractEventLoop, orders: asyncio.Queue[str]) -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(orders.put_nowait, line.strip())
    loop.call_soon_threadsafe(orders.put_nowait, "")


def _say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # To write to who has hung up is nothing to complain of.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    asyncio.run(_serve(Path(sys.argv[1])))
