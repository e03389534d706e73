"""The remotes of scenarios: the oracle's server, the same in memory, and by AnyIO's own streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio import TCPConnectable
from anyio.abc import ByteStreamConnectable
from anyio.streams.tls import TLSConnectable

from anyconnpool import FramedStream
from anyconnpool.testing import MemoryConnectable
from tests.certificates import client_context

from .oracle_process import Endpoint, OracleServer
from .oracle_wire import GREETING, HEADER, NEWS, PACKAGE_START, PUSH, Manners, Request, parse
from .scenario_hooks import MoodyConnectable


class Remote:
    """What a pool connects to, on the oracle's server.

    :param endpoint: the server
    :param target: what the pool is given
    """

    def __init__(self, endpoint: Endpoint, target: Any) -> None:
        self._endpoint = endpoint
        self.target = target
        #: the kind of its sockets, as far as deeds care
        self.kind = "tcp" if endpoint.kind == "tcp2" else endpoint.kind
        self.tells_at_once = True

    def last_news(self) -> int:
        """Return the number of the last news that have left the server."""
        return self._endpoint.last_news()

    def most(self) -> int:
        """Return how many connections the server has seen at once."""
        return self._endpoint.figures()["most"]


class MemoryServer:
    """The oracle's server in memory.

    :param manners: how it treats connections
    """

    kind = "memory"

    def __init__(self, manners: Manners, moods: tuple[str, ...]) -> None:
        self._manners = manners
        self._accepted = self._loose = 0
        self._last_news = 0
        self._telling = anyio.Lock()
        self._most = 0
        self._refused: set[int] = set()
        self.connectable = MemoryConnectable(self._converse)
        self.target = MoodyConnectable(self.connectable, moods) if any(moods) else self.connectable

    def last_news(self) -> int:
        """Return the number of the last news that it has told."""
        return self._last_news

    def most(self) -> int:
        """Return how many connections there were at once."""
        return self._most

    async def leave_and_return(self) -> None:
        """Refuse new connections for the time of which the manners say so."""
        await anyio.sleep(self._manners.away_at / 1e6)
        self.connectable.refuse()
        await anyio.sleep(self._manners.away_for / 1e6)
        self.connectable.admit()

    async def _converse(self, stream: FramedStream) -> None:
        treatment = self._manners.treatment(self._accepted)
        self._accepted += 1
        self._most = max(self._most, self.connectable.open_now - self._loose)
        if treatment in ("hang up", "reset"):
            return
        if treatment == "deaf":
            await anyio.sleep_forever()
        if self._manners.greets:
            await anyio.sleep(self._manners.greets_after / 1e6)
            await stream.send(GREETING)
        request = parse(await self._receive_text(stream))
        first = b""
        try:
            while await self._answer(stream, request):
                if treatment == "half close":
                    await stream.send_eof()
                    await anyio.sleep_forever()
                if self._manners.news_after and request.ending != "loose":
                    first = await self._tell_in_silence(stream)
                request = parse(await self._receive_text(stream, first))
        finally:
            self._loose -= request.ending == "loose"

    async def _tell_in_silence(self, stream: FramedStream) -> bytes:
        """Tell news if nothing comes for some time, or return the first byte of what comes."""
        with anyio.move_on_after(self._manners.news_after / 1e6):
            return await stream.receive_exactly(1)
        if not stream.buffer:
            async with self._telling:
                await stream.send(b"%s%d\n" % (NEWS, self._last_news + 1))
                self._last_news += 1
        return b""

    async def _receive_text(self, stream: FramedStream, first: bytes = b"") -> bytes:
        first = first or await stream.receive_exactly(1)
        if first[0] == PACKAGE_START:
            header = first + await stream.receive_exactly(HEADER - 1)
            return await stream.receive_exactly(int.from_bytes(header, "big"))
        return first + await stream.receive_line()

    async def _answer(self, stream: FramedStream, request: Request) -> bool:
        """Answer a request; tell whether the conversation goes on."""
        await anyio.sleep(request.delay / 1e6)
        if self._refuses(request, "instead"):
            return False
        if request.cut:
            await stream.send(request.framed_reply[: request.cut])
            await anyio.sleep(request.pause / 1e6)
        if self._refuses(request, "within"):
            return False
        self._loose += request.ending == "loose"
        for piece in self._manners.split(request.framed_reply[request.cut :]):
            await stream.send(piece)
        if request.ending == "push":
            await anyio.sleep(request.pause / 1e6)
            await stream.send(PUSH)
        return request.ending not in ("after", "abort")

    def _refuses(self, request: Request, ending: str) -> bool:
        if request.ending != ending or request.key in self._refused:
            return False
        self._refused.add(request.key)
        return True


class ForeignTCP(TCPConnectable):
    """A connectable that a pool doesn't take apart: it gets streams of AnyIO's."""


def make_foreign(endpoint: Endpoint) -> ByteStreamConnectable:
    """Return what connects by AnyIO's own streams."""
    host, port = endpoint.remote
    plain = ForeignTCP(host, port)
    if not endpoint.kind.startswith("tls"):
        return plain
    return TLSConnectable(plain, hostname=host, ssl_context=client_context())


@asynccontextmanager
async def open_remote(
    server: OracleServer, kind: str, manners: Manners, moods: tuple[str, ...]
) -> AsyncGenerator[Remote | MemoryServer]:
    """Make a remote of a kind, and have its server behave as it is told."""
    if kind == "memory":
        memory = MemoryServer(manners, moods)
        async with memory.connectable, anyio.create_task_group() as tasks:
            if manners.away_for:
                tasks.start_soon(memory.leave_and_return)
            yield memory
            tasks.cancel_scope.cancel()
        return
    endpoint = server.endpoint({"foreign": "tcp", "foreign tls": "tls13"}.get(kind, kind))
    endpoint.conduct(manners)
    target = endpoint.remote
    if kind.startswith("foreign"):
        target = MoodyConnectable(make_foreign(endpoint), moods)
    yield Remote(endpoint, target)
    endpoint.conduct(Manners())
