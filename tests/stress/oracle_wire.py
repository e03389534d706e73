"""What the oracle's clients and its server say to each other.

A request tells the server how to answer, so that chance is drawn in one place, by the client. The
reply repeats the request's key from its first byte to its last: any part of it shows whose it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

#: bytes of the length that a package begins with
HEADER = 4
#: what tells a package from a line: its length is less than 16 MiB
PACKAGE_START = 0

FORMS = ("line", "package", "raw")


@dataclass(frozen=True)
class Request:
    """One request, and what becomes of its reply."""

    key: int
    #: a line, a package, or just bytes
    form: str = "line"
    #: of the reply, in bytes, without its frame
    size: int = 32
    #: how long the server waits before it answers, in microseconds
    delay: int = 0
    #: after how many bytes the server pauses; 0 if it doesn't
    cut: int = 0
    #: for how long, in microseconds
    pause: int = 0
    #: "stay"; hang up "after" the reply, or "abort" then (without TLS's closing handshake), or
    #: "instead" of it, or "within" it, at the cut; "push" a line that nobody asks for, after the
    #: pause; "surplus", the same in one piece with the end of the reply; "loose": the connection
    #: is about to leave the pool and doesn't count any more
    ending: str = "stay"

    @cached_property
    def text(self) -> bytes:
        """What is sent, without its frame."""
        words = (self.key, self.form, self.size, self.delay, self.cut, self.pause, self.ending)
        return " ".join(map(str, words)).encode()

    @property
    def framed_text(self) -> bytes:
        """What is sent."""
        if self.form == "package":
            return len(self.text).to_bytes(HEADER, "big") + self.text
        return self.text + b"\n"

    @cached_property
    def reply(self) -> bytes:
        """What has to come back, without its frame."""
        mark = b"<%d>" % self.key
        return (mark * (self.size // len(mark) + 1))[: self.size]

    @cached_property
    def framed_reply(self) -> bytes:
        """What has to come back, byte by byte."""
        if self.form == "line":
            return self.reply + b"\n"
        if self.form == "package":
            return self.size.to_bytes(HEADER, "big") + self.reply
        return self.reply


#: what the server says without being asked
PUSH = b"by the way\n"
#: what it says to new connections, where it greets
GREETING = b"welcome\n"
#: how a line begins that it says when nothing is asked; a number follows, which only ever grows
NEWS = b"news "


@dataclass(frozen=True)
class Manners:
    """How the server treats connections; times are in microseconds."""

    #: what becomes of the connections, in turn: "serve"; "hang up" or "reset" at once, "deaf" (it
    #: never reads) or "half close" after the first reply
    receives: tuple[str, ...] = ("serve",)
    #: whether it greets, and how long after it was connected to
    greets: bool = False
    greets_after: int = 0
    #: into how many pieces replies are split
    pieces: int = 1
    #: how long after a reply it tells the news; 0 if it never does
    news_after: int = 0
    #: when it stops to listen, and for how long; 0 if it always listens
    away_at: int = 0
    away_for: int = 0
    #: whether the connections that there are end when it stops to listen, and how often it stops
    dies: bool = False
    times: int = 1

    def treatment(self, number: int) -> str:
        """Return what becomes of a connection, counted from 0."""
        return self.receives[number % len(self.receives)]

    def split(self, request: Request) -> list[bytes]:
        """Return the pieces of what is sent for a request, after its first cut."""
        reply = request.framed_reply[request.cut :]
        size = max(-(-len(reply) // self.pieces), 1)
        pieces = [reply[at : at + size] for at in range(0, len(reply) or 1, size)]
        if request.ending == "surplus":
            pieces[-1] += PUSH
        return pieces


def parse(text: bytes) -> Request:
    """Make a request of what was sent."""
    key, form, size, delay, cut, pause, ending = text.decode().split()
    return Request(int(key), form, int(size), int(delay), int(cut), int(pause), ending)
