"""Find out whether an idle connection is alive, closed or has unread bytes, without waiting.

Only public API is used. While nobody receives, AnyIO leaves everything that arrives in the kernel,
so that the kernel knows best: one registered ``select.poll`` object per connection answers in about
a microsecond. The SSL object knows what is in user space already (decrypted or undecrypted TLS
records).
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeAlias, cast

from anyio import TypedAttributeSet, typed_attribute
from anyio.abc import AnyByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute

from anyconnpool._util.liveness import ALIVE, Liveness

_POLLRDHUP: int = getattr(select, "POLLRDHUP", 0)

# The largest chunk that one turn of uvloop hands over; a chunk this large may have siblings that
# wait in the stream's own queue, where no probe sees them. asyncio's chunks are larger still and
# never have siblings, but asking once more about those does no harm.
_FULL_CHUNK = 256_000
# TLSStream takes 64 KiB of records at a time from the stream below, which keeps the rest queued.
# What was decrypted shows how much was taken, except for the record that is not complete yet.
_TLS_CHUNK = 65_536
_TLS_RECORD = 16_640
_TLS_OVERHEAD = 100


class SocketProbe:
    """Probe a plain socket.

    :param raw_socket: the socket, which must stay the stream's own
    """

    __slots__ = ("_fd", "_fileno", "_poll", "keeps_surplus")

    def __init__(self, raw_socket: Any) -> None:
        #: True where the event loop reads ahead of :meth:`receive`, into a queue of its own
        self.keeps_surplus = not isinstance(raw_socket, socket.socket)
        self._fileno: Callable[[], int] = raw_socket.fileno
        self._fd = raw_socket.fileno()
        self._poll = _poll_function(self._fd)

    def __call__(self) -> Liveness:
        """Look without waiting and without consuming anything."""
        if self._fileno() != self._fd:
            return Liveness.CLOSED
        ready = self._poll(0)
        if not ready:
            return ALIVE
        return Liveness.UNREAD if ready[0][1] == select.POLLIN else Liveness.CLOSED

    def first(self) -> Liveness:
        """Look at a connection that nobody has borrowed yet."""
        return self()

    def may_hide(self, received: int, chunks: int, last_chunk: int) -> bool:
        """Return whether bytes may be queued between the kernel and the stream's reader.

        :param received: bytes received since the last time the connection was known to be clean
        :param chunks: in how many chunks
        :param last_chunk: size of the last chunk received, in bytes
        """
        return self.keeps_surplus and last_chunk >= _FULL_CHUNK


class TLSProbe:
    """Probe a TLS stream over a socket.

    A connection that has never been read is readable although nothing was sent to it: session
    tickets of TLS 1.3. Only a receive can distinguish them from data.

    :param socket_probe: probe of the socket below
    :param ssl_object: the stream's SSL object
    """

    __slots__ = ("_socket_probe", "_ssl_object")

    def __init__(self, socket_probe: SocketProbe, ssl_object: ssl.SSLObject) -> None:
        self._socket_probe = socket_probe
        self._ssl_object = ssl_object

    def __call__(self) -> Liveness:
        """Look without waiting; a byte of left-over plaintext may be consumed and is reported."""
        below = self._socket_probe()
        if below is Liveness.CLOSED:
            return Liveness.CLOSED
        try:
            plaintext = self._ssl_object.read(1)
        except ssl.SSLWantReadError:
            return Liveness.UNSURE if below is Liveness.UNREAD else Liveness.ALIVE
        except (ssl.SSLError, OSError):
            return Liveness.CLOSED
        return Liveness.UNREAD if plaintext else Liveness.CLOSED

    def first(self) -> Liveness:
        """Look at a connection that nobody has borrowed yet, without touching its plaintext."""
        below = self._socket_probe()
        return Liveness.UNSURE if below is Liveness.UNREAD else below

    def may_hide(self, received: int, chunks: int, last_chunk: int) -> bool:
        """Return whether bytes of TLS may be queued below; see :meth:`SocketProbe.may_hide`."""
        taken = received + chunks * _TLS_OVERHEAD + _TLS_RECORD
        return self._socket_probe.keeps_surplus and taken >= _TLS_CHUNK


class Look(Protocol):
    """Looks at a stream without waiting and without consuming anything."""

    def __call__(self) -> Liveness:
        """Return what there is to see."""
        ...


class LivenessAttribute(TypedAttributeSet):
    """Let streams that are not sockets answer for themselves."""

    #: the stream's own probe
    probe: Look = typed_attribute()


class OwnProbe:
    """Ask a stream that is not a socket; one without a probe is taken to be alive.

    :param look: the stream's own probe
    """

    __slots__ = ("_look",)

    def __init__(self, look: Callable[[], Liveness] = lambda: Liveness.ALIVE) -> None:
        self._look = look

    def __call__(self) -> Liveness:
        """Ask the stream."""
        return self._look()

    def first(self) -> Liveness:
        """Look at a connection that nobody has borrowed yet."""
        return self._look()

    def may_hide(self, received: int, chunks: int, last_chunk: int) -> bool:
        """Return false: nothing is hidden."""
        return False


def _poll_function(fd: int) -> Callable[[int], list[tuple[int, int]]]:
    if not hasattr(select, "poll"):
        return partial(_select, fd)
    poll = select.poll()
    poll.register(fd, select.POLLIN | _POLLRDHUP)
    return poll.poll


def _select(fd: int, timeout: int) -> list[tuple[int, int]]:
    """Ask where poll is missing (Windows): a hang-up looks like data there; both are unfit."""
    return [(fd, select.POLLIN) for fd in select.select([fd], [], [], timeout)[0]]


def plain_socket_probe(stream: AnyByteStream) -> SocketProbe | None:
    """Make a probe for a stream that is a plain socket, and none for any other.

    :param stream: the stream
    """
    try:
        probe = probe_for(attributes_of(stream))
    except (AttributeError, ValueError, OSError):
        # uvloop's socket is gone as soon as the transport has closed itself.
        return None
    return probe if isinstance(probe, SocketProbe) else None


Probe: TypeAlias = SocketProbe | TLSProbe | OwnProbe


def attributes_of(stream: AnyByteStream) -> Mapping[Any, Callable[[], Any]]:
    """Return a stream's typed attributes with a type that checkers can follow.

    :param stream: the stream
    """
    attributes = stream.extra_attributes  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast("Mapping[Any, Callable[[], Any]]", attributes)


def probe_for(attributes: Mapping[Any, Callable[[], Any]]) -> Probe:
    """Choose the probe for a stream by its typed attributes.

    :param attributes: the stream's ``extra_attributes``
    """
    if LivenessAttribute.probe in attributes:
        return OwnProbe(attributes[LivenessAttribute.probe]())
    if SocketAttribute.raw_socket not in attributes:
        return OwnProbe()
    probe = SocketProbe(attributes[SocketAttribute.raw_socket]())
    if TLSAttribute.ssl_object not in attributes:
        return probe
    return TLSProbe(probe, attributes[TLSAttribute.ssl_object]())
