"""What functions do that read the replies of exchanges: most do so, some misbehave.

What no pool can know is left out: one that ends as if all was well, and has read a part of its
reply, or of another's, while more is on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import anyio
from anyio import ClosedResourceError, get_cancelled_exc_class

from anyconnpool import LineFormat, PackageFormat, PooledConnection
from anyconnpool._engine.connection import entry_of

from .oracle_dialog import Report
from .oracle_wire import HEADER, Request
from .scenario_hooks import await_something_cancelled

#: what they do; "" for what they are for
READINGS = (
    *("raise first", "raise within", "raise", "harmless", "harmless", "nothing", "chunk", "cut"),
    *("send", "discard", "keep"),
)
#: what doesn't end by itself where nothing follows
LASTING = ("too much", "hang", "cancelled")

LINE = LineFormat()
PACKAGE = PackageFormat(HEADER, max_size=1 << 20)

#: whose reply is read, as a variable of its caller's context
_caller: ContextVar[int] = ContextVar("caller")


class ReadError(Exception):
    """What a function raises that reads a reply.

    :param key: of its request
    """

    def __init__(self, key: int) -> None:
        super().__init__(f"the reply to {key} was not good")
        self.key = key


class HarmlessError(ReadError):
    """One that says nothing about the connection: it comes after the whole reply."""


class Reading:
    """Read the reply to one request, in a way.

    :param request: the request
    :param way: one of the readings above, or ""
    :param report: where the faults go
    :param where: seed and step, for the faults
    :param busy: the connections on which somebody is reading
    :param may_end: returns whether a connection may be closed while somebody reads
    """

    def __init__(
        self,
        request: Request,
        way: str,
        report: Report,
        where: str,
        busy: set[object],
        may_end: Callable[[], bool],
    ) -> None:
        self._request, self._way = request, way
        self._report, self._where, self._busy = report, f"{where}, reading {way}", busy
        self._may_end = may_end
        self._kept: PooledConnection[Any] | None = None
        _caller.set(request.key)

    async def __call__(self, connection: PooledConnection[Any]) -> bytes:
        entry = entry_of(connection)
        if entry in self._busy:
            self._fault("two read on one connection at once")
        if _caller.get(None) != self._request.key:
            self._fault("read in the context of another caller")
        self._busy.add(entry)
        try:
            return await self._read(connection)
        except get_cancelled_exc_class():
            if self._way != "cancelled" and not self._may_end():
                self._fault("cancelled, although others wait behind it")
            raise
        finally:
            self._busy.discard(entry)

    async def _read(self, connection: PooledConnection[Any]) -> bytes:
        request, way, key = self._request, self._way, self._request.key
        whole = request.framed_reply
        nbytes = {"raise first": 0, "raise within": 5, "too much": len(whole) + 1}.get(way)
        if nbytes is not None:
            received = await connection.receive_exactly(nbytes) if nbytes else b""
            self._compare(whole[:nbytes], received[: len(whole)])
            raise ReadError(key)
        if way == "nothing":
            return b""
        if way == "chunk":
            return await self._read_chunk(connection)
        if way == "cut":
            with anyio.move_on_after(0.001):
                return await self._read_whole(connection)
            return b""
        await self._misbehave(connection)
        reply = await self._read_whole(connection)
        if way in ("raise", "harmless"):
            raise ReadError(key) if way == "raise" else HarmlessError(key)
        self._kept = connection if way == "keep" else None
        return reply

    async def _misbehave(self, connection: PooledConnection[Any]) -> None:
        if self._way == "hang":
            await anyio.sleep_forever()
        if self._way == "cancelled":
            await await_something_cancelled()
        if self._way in ("send", "discard"):
            # It may go on as if nothing had happened.
            with suppress(*[RuntimeError] if self._request.key % 2 else []):
                await self._overstep(connection)

    async def _read_chunk(self, connection: PooledConnection[Any]) -> bytes:
        """Take what has come for the reply, unless it is more or less than that."""
        whole = self._request.framed_reply
        received = await connection.receive()
        self._compare(whole[: len(received)], received[: len(whole)])
        if received != whole:
            raise ReadError(self._request.key)
        header = HEADER if self._request.form == "package" else 0
        return received[header:][: self._request.size]

    async def _overstep(self, connection: PooledConnection[Any]) -> None:
        if self._way == "send":
            await connection.send(b"late\n")
        else:
            connection.discard()
        self._fault("a function that reads could do more than that")

    async def _read_whole(self, connection: PooledConnection[Any]) -> bytes:
        form, by_format = self._request.form, self._request.key % 3 == 0
        if form == "line":
            reading = connection.receive_frame(LINE) if by_format else connection.receive_line()
            return await reading
        if form == "package":
            if by_format:
                return await connection.receive_frame(PACKAGE)
            return await connection.receive_package()
        return await connection.receive_exactly(self._request.size)

    async def judge(self, reply: bytes) -> None:
        """See that the caller has got what was read for it, and that nothing more can be read."""
        if reply or self._way not in ("nothing", "cut"):
            self._report.check(self._request, reply, self._where)
        if self._way in ("raise first", "raise within", "too much", "raise", "harmless", "hang"):
            self._fault("the caller has got a reply instead of the error")
        if self._kept is not None:
            with suppress(ClosedResourceError):
                await self._kept.receive_exactly(1)
                self._fault("a connection could be read from after the reply")

    def may_raise(self, error: Exception) -> bool:
        """Return whether an error is one that this has raised."""
        if isinstance(error, ReadError):
            return error.key == self._request.key
        return type(error) is RuntimeError and self._way in ("send", "discard")

    def _compare(self, expected: bytes, received: bytes) -> None:
        self._report.compare(expected, received, self._where)

    def _fault(self, text: str) -> None:
        self._report.faults.append(f"{self._where}: {text}")
