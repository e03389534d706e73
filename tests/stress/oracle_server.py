"""The oracle's server, a process of its own: it answers late, in pieces, or not at all.

It is told its directory (certificate, UNIX socket), writes a line with its ports, and then obeys
the lines that it reads: each names a kind of socket, whose figures it answers with and forgets.
It ends at the end of that input, so also when the process that started it is gone.
"""

from __future__ import annotations

import asyncio
import json
import select
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from .oracle_wire import HEADER, PACKAGE_START, PUSH, Request, parse

_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL
_VERSIONS = {"tls12": ssl.TLSVersion.TLSv1_2, "tls13": ssl.TLSVersion.TLSv1_3}


class Listener:
    """What the server knows of one kind of socket."""

    def __init__(self) -> None:
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
            poll.register(descriptor, select.POLLRDHUP)
        gone = sum(bool(events & _GONE) for _, events in poll.poll(0))
        count = len(self.open) - gone
        self.most = max(self.most, count)
        return count

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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport: asyncio.Transport = transport
        self._descriptor = transport.get_extra_info("socket").fileno()
        self._listener.open[self._descriptor] = self
        self._listener.count()

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
        self._transport.write(request.framed_reply[request.cut :])
        if request.ending == "after":
            self._hang_up()
        elif request.ending == "abort":
            self._transport.abort()
        else:
            if request.ending == "push":
                self._after(request.pause, self._push, request)
            self._answer_next()

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
    loop = asyncio.get_running_loop()
    listeners = {kind: Listener() for kind in ("tcp", "tls12", "tls13", "unix")}
    remotes: dict[str, int | str] = {}
    for kind, listener in listeners.items():

        def converse(listener: Listener = listener) -> Conversation:
            return Conversation(listener)

        if kind == "unix":
            remotes[kind] = path = str(directory / "oracle")
            await loop.create_unix_server(converse, path, backlog=128)
        else:
            context = _context(kind, directory / "certificate.pem")
            server = await loop.create_server(converse, "127.0.0.1", 0, ssl=context, backlog=128)
            remotes[kind] = server.sockets[0].getsockname()[1]
    _say(remotes)
    ended = asyncio.Event()
    threading.Thread(target=_obey, args=(loop, listeners, ended), daemon=True).start()
    await ended.wait()


def _obey(
    loop: asyncio.AbstractEventLoop, listeners: dict[str, Listener], ended: asyncio.Event
) -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(_tell_figures, listeners[line.strip()])
    loop.call_soon_threadsafe(ended.set)


def _tell_figures(listener: Listener) -> None:
    _say(listener.figures())


def _say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
