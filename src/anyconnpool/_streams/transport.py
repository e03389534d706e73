"""An open connection as the pool sees it: its stream, how to look at it, and how to close it."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from anyio import (
    CancelScope,
    aclose_forcefully,
    get_cancelled_exc_class,
    move_on_after,
)
from anyio.abc import AnyByteStream, ByteStream, SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSStream

from anyconnpool._keepalive import KeepAlive
from anyconnpool._streams.probes import attributes_of, look_for
from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._util.cancellation import ends_program
from anyconnpool._util.checks import make_printable
from anyconnpool._util.liveness import CLOSED, Liveness
from anyconnpool._util.log import GuardedLogger

_logger = GuardedLogger("anyconnpool.pool")

_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Transport:
    """Hold an open stream and what was learned about it once, when it was opened.

    :param stream: the stream
    :param keepalive: how the kernel is to find out about a dead peer
    :param pool: name of the pool, for logs
    :raises AttributeError, ValueError, OSError: if the peer has hung up and the event loop closed
        the socket already
    """

    __slots__ = (
        "_look",
        "early",
        "local_address",
        "look",
        "own",
        "pool",
        "remote_address",
        "stream",
    )

    def __init__(self, stream: ByteStream, keepalive: KeepAlive | None, pool: str) -> None:
        self.pool = pool
        self.stream = stream
        attributes = attributes_of(stream)
        self._look = look_for(stream)
        #: looks at the stream without waiting, and never raises
        self.look = self._look_safely
        #: the stream, if it is of our own
        self.own: PoolSocketStream | None = None
        if isinstance(stream, PoolSocketStream):
            self.own, self.look = stream, stream.look
        self.local_address: Any = None
        self.remote_address: Any = None
        if SocketAttribute.local_address in attributes:
            self.local_address = attributes[SocketAttribute.local_address]()
        if SocketAttribute.remote_address in attributes:
            self.remote_address = attributes[SocketAttribute.remote_address]()
        family = attributes.get(SocketAttribute.family)
        if keepalive is not None and family is not None and family() in _TCP_FAMILIES:
            keepalive.apply(attributes[SocketAttribute.raw_socket]())
        #: what on_connect has received and left unread, for the first borrower
        self.early = b""

    def __repr__(self) -> str:
        try:
            return make_printable(f"{self.local_address} -> {self.remote_address}")
        except Exception:
            # A stream of the user's may have addresses of a class of the user's.
            return "a connection whose addresses have no text"

    def _look_safely(self) -> Liveness:
        """Look; what can't be looked at counts as closed."""
        try:
            return self._look()
        except BaseException as error:
            if ends_program(error):
                raise
            _logger.exception("pool %s: looking at %s failed", self.pool, self)
            return CLOSED

    async def close(self, grace: float) -> None:
        """Close the stream; whatever happens, it is closed afterwards.

        :param grace: how long an orderly end (the closing handshake of TLS) may take, in seconds;
            then, and when this is cancelled, the stream is closed by force
        """
        done = False
        try:
            if grace:
                with move_on_after(grace):
                    await self.stream.aclose()
                    done = True
        except Exception as error:
            _logger.debug("pool %s: closing %s failed: %r", self.pool, self, error)
        finally:
            if not done:
                await force_close(self.stream)


async def force_close(stream: ByteStream) -> None:
    """Close a stream without waiting for the peer, and without complaining; even if cancelled."""
    try:
        await _close_at_once(stream)
    except get_cancelled_exc_class():
        # A native cancellation, which strikes once.
        await _close_at_once(stream)
        raise


async def _close_at_once(stream: ByteStream) -> None:
    bottom: AnyByteStream = stream
    while isinstance(bottom, TLSStream):
        bottom = bottom.transport_stream
    # The shield also keeps the scope of aclose_forcefully() apart from the task group's: else, on
    # asyncio, AnyIO 4.16 takes a native cancellation of the group's own task for that scope's.
    with suppress(Exception), CancelScope(shield=True):
        if isinstance(bottom, SocketStream) and not isinstance(bottom, PoolSocketStream):
            # AnyIO's own never waits for the peer. On asyncio, it closes the descriptor one turn of
            # the event loop later; its slot must not be free before that.
            await bottom.aclose()
            await checkpoint()
        await aclose_forcefully(stream)
