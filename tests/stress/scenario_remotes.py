"""The remotes of scenarios: the oracle's server, the same in memory, and by AnyIO's own streams."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from random import Random
from typing import Any, TypeAlias

import anyio
from anyio import TCPConnectable
from anyio.abc import ByteStreamConnectable
from anyio.streams.tls import TLSConnectable

from anyconnpool import FramedStream, PoolStatistics, Replicas, Retry
from anyconnpool.testing import MemoryConnectable
from tests.certificates import client_context

from .oracle_process import Endpoint, OracleServer
from .oracle_wire import GREETING, HEADER, NEWS, PACKAGE_START, PUSH, Manners, Request, parse
from .scenario_hooks import HookError, MoodyConnectable, await_something_cancelled
from .scenario_plan import RemotePlan, ReplicasPlan, ServerPlan


class Remote:
    """What a pool connects to, on the oracle's server.

    :param endpoint: the server
    :param target: what the pool is given
    """

    def __init__(self, endpoint: Endpoint, target: Any) -> None:
        self._endpoint = endpoint
        self.target = target
        #: the kind of its sockets, as far as deeds care
        self.kind = "tcp" if endpoint.kind.startswith("tcp") else endpoint.kind

    def last_news(self) -> int:
        """Return the number of the last news that have left the server."""
        return self._endpoint.last_news()

    def most(self) -> int:
        """Return how many connections the server has seen at once."""
        return self._endpoint.figures()["most"]

    def leftovers(self) -> list[str]:
        """Return what is left at the end of the pool's block, as far as it is known here."""
        return []


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

    def leftovers(self) -> list[str]:
        """Return what is left at the end of the pool's block, as far as it is known here."""
        return []

    async def leave_and_return(self) -> None:
        """Refuse new connections for the time of which the manners say so."""
        for _ in range(self._manners.times):
            await anyio.sleep(self._manners.away_at / 1e6)
            self.connectable.refuse()
            if self._manners.dies:
                self.connectable.cut()
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
        for piece in self._manners.split(request):
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


class ReplicaGroup:
    """Several servers that stand in for one.

    :param plan: how they do
    :param servers: the servers
    :param seed: what chance is drawn from
    """

    def __init__(self, plan: ReplicasPlan, servers: list[Remote | MemoryServer], seed: str) -> None:
        self._servers = servers
        self._rng = Random(f"{seed}, discovery")
        self._findings = cycle(plan.findings)
        # Of mixed kinds, that of which least arrives at once.
        self.kind = "memory" if len({each.kind for each in servers}) > 1 else servers[0].kind
        self._targets = [each.target for each in servers]
        shortest, longest = plan.rest
        self._finds = bool(plan.findings)
        #: whether the pool may have had other replicas than now
        self._changes = self._finds
        self.target = Replicas(
            self._find if self._finds else self._targets,
            order=plan.order,
            rest=Retry(math.inf, interval=shortest, max_interval=longest),
            refresh=plan.refresh,
        )

    def last_news(self) -> int:
        """Return the number of the last news: these servers tell none."""
        return 0

    def most(self) -> int:
        """Return how many connections one of the servers has seen at once."""
        return max(each.most() for each in self._servers)

    def leftovers(self) -> list[str]:
        """Return what is left at the end of the pool's block."""
        states = self.target.states().values()
        return [f"left: {s}" for s in states if s.connections or s.in_use]

    def change(self, rng: Random) -> None:
        """Replace the replicas by some of them, if they aren't found by a function."""
        if not self._finds:
            self._changes = True
            self.target.set(rng.sample(self._targets, rng.randrange(1, len(self._targets) + 1)))

    def all_rest(self) -> bool:
        """Return whether no replica may be connected to that somebody has not asked for."""
        return all(state.resting for state in self.target.states().values())

    def check(self, statistics: PoolStatistics) -> Iterator[str]:
        """Say in what the replicas' states and the pool's statistics don't agree."""
        states = self.target.states().values()
        shown = (sum(s.connections for s in states), sum(s.in_use for s in states))
        counted = (statistics.size - statistics.closing, statistics.in_use)
        fewer = all(some <= most for some, most in zip(shown, counted, strict=True))
        if not fewer or (shown != counted and not self._changes):
            yield f"the states say {shown}, the statistics {counted}: {states}, {statistics}"
        if any(s.in_use > s.connections or min(s.in_use, s.failures) < 0 for s in states):
            yield f"the states make no sense: {states}"

    async def _find(self) -> list[Any]:
        finding = next(self._findings)
        if finding == "raise":
            raise HookError("the discovery failed")
        if finding == "hang":
            await anyio.sleep_forever()
        if finding == "cancelled":
            await await_something_cancelled()
        if finding == "nothing":
            return []
        some = self._rng.sample(self._targets, self._rng.randrange(1, len(self._targets) + 1))
        return {"twice": [*some, *some], "all": self._targets}.get(finding, some)


AnyRemote: TypeAlias = "Remote | MemoryServer | ReplicaGroup"


@asynccontextmanager
async def open_remote(
    server: OracleServer, plan: RemotePlan, seed: str
) -> AsyncGenerator[AnyRemote]:
    """Open a remote: a server, or several that stand in for one."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(_open(server, each)) for each in plan.servers]
        yield opened[0] if plan.replicas is None else ReplicaGroup(plan.replicas, opened, seed)


@asynccontextmanager
async def _open(server: OracleServer, plan: ServerPlan) -> AsyncGenerator[Remote | MemoryServer]:
    """Have a server behave as it is told, and return what connects to it."""
    kind, manners, moods = plan.kind, plan.manners, plan.moods
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
