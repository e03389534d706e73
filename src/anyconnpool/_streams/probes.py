"""Look at a stream without waiting, to tell whether it is alive, closed or holds unread bytes.

Streams of our own say so themselves, exactly, by :attr:`LivenessAttribute.probe`, and so can any
stream. Of other streams on a socket, AnyIO's above all, the kernel knows what has come, except what
AnyIO has taken out of it already: that is asked of AnyIO's queue and of the SSL object. What AnyIO
wraps around a stream is looked into, layer by layer. Where nobody can tell whether bytes are data,
they count as data.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sized
from typing import Any, TypeAlias, cast

from anyio import TypedAttributeSet, typed_attribute
from anyio.abc import AnyByteReceiveStream, AnyByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

from anyconnpool._streams.kernel import KernelLook
from anyconnpool._util.liveness import ALIVE, UNREAD, Liveness

#: looks at a stream without waiting and without consuming anything that could still be used
Look: TypeAlias = Callable[[], Liveness]


class LivenessAttribute(TypedAttributeSet):
    """Lets streams that are not sockets answer for themselves."""

    #: the stream's own look, a :data:`Look`; the key is of no type that checkers know
    probe: Any = typed_attribute()


def attributes_of(
    stream: AnyByteStream | AnyByteReceiveStream,
) -> Mapping[Any, Callable[[], Any]]:
    """Return a stream's typed attributes with a type that checkers can follow.

    :param stream: the stream
    """
    attributes = stream.extra_attributes  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast("Mapping[Any, Callable[[], Any]]", attributes)


def look_for(stream: AnyByteStream | AnyByteReceiveStream) -> Look:
    """Choose how to look at a stream; one that says nothing of itself is taken to be alive.

    :param stream: an open stream
    :raises AttributeError, ValueError, OSError: if its socket is closed already
    """
    if isinstance(stream, StapledByteStream):
        return look_for(stream.receive_stream)
    if isinstance(stream, BufferedByteReceiveStream):
        return BufferLook(look_for(stream.receive_stream), stream)
    attributes = attributes_of(stream)
    if isinstance(stream, TLSStream):
        below = look_for(stream.transport_stream)
        return TLSLook(below, stream, attributes[TLSAttribute.ssl_object]())
    if LivenessAttribute.probe in attributes:
        return cast("Look", attributes[LivenessAttribute.probe]())
    if SocketAttribute.raw_socket not in attributes:
        return _seem_alive
    look = SocketLook(attributes[SocketAttribute.raw_socket](), stream)
    if TLSAttribute.ssl_object not in attributes:
        return look
    return TLSLook(look, stream, attributes[TLSAttribute.ssl_object]())


def _seem_alive() -> Liveness:
    return ALIVE


class SocketLook:
    """Look at a stream on a socket that is not of our own.

    While nobody receives, AnyIO leaves what arrives in the kernel. What it has read ahead of a
    receive, on uvloop above all, stands in a queue of its own.

    :param raw_socket: the socket, or what an event loop gives out as one
    :param stream: the stream that reads from it
    """

    __slots__ = ("_kernel", "_queue")

    def __init__(self, raw_socket: Any, stream: object) -> None:
        self._kernel = KernelLook(raw_socket).look
        protocol: object = getattr(stream, "_protocol", None)
        self._queue: Sized = getattr(protocol, "read_queue", ())

    def __call__(self) -> Liveness:
        """Look without waiting and without consuming anything."""
        found = self._kernel()
        return UNREAD if found is ALIVE and len(self._queue) else found


class BufferLook:
    """Look at a stream that reads ahead into a buffer of its own.

    :param below: looks at the stream below
    :param stream: the stream with the buffer
    """

    __slots__ = ("_below", "_stream")

    def __init__(self, below: Look, stream: BufferedByteReceiveStream) -> None:
        self._below = below
        self._stream = stream

    def __call__(self) -> Liveness:
        """Look without waiting and without consuming anything."""
        found = self._below()
        return UNREAD if found is ALIVE and self._stream.buffer else found


class TLSLook:
    """Look at a TLS stream of AnyIO's.

    Records that have come may be session tickets of TLS 1.3, which are no data. Only receiving
    could tell: they are taken for data.

    :param below: looks at the stream below
    :param stream: the TLS stream
    :param ssl_object: its SSL object
    """

    __slots__ = ("_below", "_incoming", "_ssl_object")

    def __init__(self, below: Look, stream: object, ssl_object: ssl.SSLObject) -> None:
        self._below = below
        self._ssl_object = ssl_object
        self._incoming: ssl.MemoryBIO | None = getattr(stream, "_read_bio", None)

    def __call__(self) -> Liveness:
        """Look without waiting and without consuming anything."""
        below = self._below()
        if below is not ALIVE:
            return below
        undecrypted = 0 if self._incoming is None else self._incoming.pending
        return UNREAD if undecrypted or self._ssl_object.pending() else ALIVE
