"""The oracle itself: one borrower's view of a connection, every byte of which must be its own."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
from anyio.abc import SocketAttribute

from anyconnpool import PooledConnection

from .oracle_wire import GREETING, NEWS, PUSH, Request

_LOOKS = 50
_ROOM = 1 << 21
_SHOWN = 60


@dataclass
class Report:
    """What came of a run."""

    counts: Counter[str] = field(default_factory=Counter[str])
    #: what should not have happened, each with its seed and step
    faults: list[str] = field(default_factory=list[str])
    #: what exchanges have failed with
    errors: list[BaseException] = field(default_factory=list[BaseException])

    def check(self, request: Request, received: bytes, where: str) -> None:
        """Compare a reply with what the request has to be answered with."""
        self.counts["replies"] += 1
        self.compare(request.reply, received, where)

    def compare(self, expected: bytes, received: bytes, where: str) -> None:
        """Note a fault if bytes are not those expected."""
        if received != expected:
            at = _first_difference(expected, received)
            self.faults.append(
                f"{where}: foreign bytes from byte {at} on: {len(received)} bytes "
                f"{received[at:][:_SHOWN]!r} for {len(expected)} bytes {expected[at:][:_SHOWN]!r}"
            )


def _first_difference(expected: bytes, received: bytes) -> int:
    differs = (ours != theirs for ours, theirs in zip(expected, received, strict=False))
    return [*differs, True].index(True)


class NewsCame(Exception):
    """News came while the connection was borrowed: nobody could know, and the body leaves."""


class Dialog:
    """Requests and replies on one borrowed connection.

    :param connection: the connection
    :param report: where the faults go
    :param where: seed and step, for the faults
    :param old_news: the last news that had left the server when the connection was asked for, if
        it tells any: these must never be read
    """

    def __init__(
        self,
        connection: PooledConnection,
        report: Report,
        where: str,
        old_news: int | None = None,
    ) -> None:
        self.connection = connection
        self._report = report
        self._where = where
        self._old_news = old_news
        self._owed = b""

    async def ask(self, request: Request) -> None:
        """Send a request."""
        self._owed += request.framed_reply
        if request.form == "package":
            await self.connection.send_package(request.text)
        else:
            await self.connection.send_line(request.text)

    async def be_greeted(self) -> None:
        """Receive the greeting that a new connection begins with."""
        self._owed = GREETING
        self._take(await self.connection.receive_exactly(len(GREETING)))

    async def read(self, request: Request) -> None:
        """Receive the whole reply to a request."""
        if request.form == "line":
            received = await self.connection.receive_line()
        elif request.form == "package":
            received = await self.connection.receive_package()
        else:
            received = await self.connection.receive_exactly(request.size)
        self._leave_at_news(request.reply, received)
        self._report.check(request, received, self._where)
        self._owed = self._owed[len(request.framed_reply) :]

    async def read_piece(self, nbytes: int) -> None:
        """Receive exactly so many bytes of what is owed."""
        self._take(await self.connection.receive_exactly(nbytes))

    async def read_some(self, nbytes: int) -> None:
        """Receive what there is, at most so many bytes."""
        self._take(await self.connection.receive(nbytes))

    async def read_burst(self) -> None:
        """Receive until the line falls silent."""
        self._take(await self.connection.receive_available())

    async def ask_until_silence(self, request: Request) -> None:
        """Send a request and receive what comes until the line falls silent."""
        self._owed += request.framed_reply
        self._take(await self.connection.send_receive(request.text + b"\n"))

    async def read_rest(self) -> None:
        """Receive what is still owed."""
        if self._owed:
            self._take(await self.connection.receive_exactly(len(self._owed)))

    def _take(self, received: bytes) -> None:
        expected = self._owed[: len(received)]
        self._leave_at_news(expected, received)
        self._report.compare(expected, received, self._where)
        self._owed = self._owed[len(received) :]

    def _leave_at_news(self, expected: bytes, received: bytes) -> None:
        """Leave if news come, or their beginning, where something else is due."""
        if self._old_news is None or received == expected:
            return
        rest = received[_first_difference(expected, received) :]
        if rest[: len(NEWS)] != NEWS[: len(rest)]:
            return
        number = rest[len(NEWS) :].partition(b"\n")[0]
        if number.isdigit() and int(number) <= self._old_news:
            self._report.faults.append(f"{self._where}: {rest!r} is old news")
        raise NewsCame

    def own_pushes(self) -> None:
        """Count what the server says unasked to what is the borrower's own."""
        self._owed += PUSH

    def look_at_buffer(self) -> None:
        """See that what is buffered, but not read, is the borrower's own as well."""
        if self._old_news is not None:
            # The news may have been read in part.
            return
        buffered = self.connection.buffer
        self._report.compare(self._owed[: len(buffered)], buffered, self._where)

    def make_room(self) -> None:
        """Let the kernel take a large reply while nobody receives."""
        raw_socket = self._raw_socket()
        if raw_socket is not None:
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)

    def _raw_socket(self) -> Any:
        """Return the socket, if there is one and it is open."""
        try:
            raw_socket = self.connection.extra(SocketAttribute.raw_socket, None)
        except ValueError:
            # What AnyIO says of a stream on uvloop whose peer has hung up.
            return None
        return raw_socket if raw_socket is not None and raw_socket.fileno() >= 0 else None

    async def all_arrived(self, nbytes: int) -> bool:
        """Wait until so many bytes have arrived and nobody has received them; not for ever.

        They are in the kernel, with the overhead of TLS's records, and in the stream, which on
        asyncio and uvloop reads all the time.
        """
        for _ in range(_LOOKS):
            if self._unread() >= nbytes:
                return True
            await anyio.sleep(0.001)
        return False

    def _unread(self) -> int:
        stream = vars(cast("object", vars(self.connection)["_stream"]))
        raw_socket = self._raw_socket()
        if raw_socket is None:
            return len(stream["_incoming"].data) if "_incoming" in stream else 0
        unread = fcntl.ioctl(raw_socket.fileno(), termios.FIONREAD, bytes(4))
        held = stream.get("_size", 0) + len(stream.get("_plaintext", b""))
        return int(struct.unpack("i", unread)[0] + held)
