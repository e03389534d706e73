"""An open connection as the pool sees it: its stream, how to probe it, settle it and close it."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import Any

from anyio import (
    CancelScope,
    aclose_forcefully,
    create_task_group,
    get_cancelled_exc_class,
    move_on_after,
)
from anyio.abc import AnyByteStream, ByteStream, SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSStream

from anyconnpool._keepalive import KeepAlive
from anyconnpool._streams.probes import TLSProbe, attributes_of, probe_for
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.liveness import Liveness

_logger = logging.getLogger("anyconnpool.pool")

_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_CHUNK = 262_144
# What waits in user space is received within one turn of the event loop, or a few with TLS. It is
# turns that count: a deadline may pass before the task gets its turn.
_TURNS = 10
# Session tickets are read within a few turns; 2 ms were too few on a busy machine. If the loop is
# so busy that it doesn't get to them, the probe is unsure again, in the end for good.
_SETTLE_TICKETS = 0.02
_PATIENCE = 3


class Transport:
    """Hold an open stream and what was learned about it once, when it was opened.

    :param stream: the stream
    :param keepalive: how the kernel is to find out about a dead peer
    :param pool: name of the pool, for logs
    """

    __slots__ = (
        "early",
        "local_address",
        "never_read",
        "pool",
        "probe",
        "remote_address",
        "stream",
    )

    def __init__(self, stream: ByteStream, keepalive: KeepAlive | None, pool: str) -> None:
        self.pool = pool
        attributes = attributes_of(stream)
        self.stream = stream
        self.probe = probe_for(attributes)
        self.local_address: Any = None
        self.remote_address: Any = None
        if SocketAttribute.local_address in attributes:
            self.local_address = attributes[SocketAttribute.local_address]()
        if SocketAttribute.remote_address in attributes:
            self.remote_address = attributes[SocketAttribute.remote_address]()
        family = attributes.get(SocketAttribute.family)
        if keepalive is not None and family is not None and family() in _TCP_FAMILIES:
            keepalive.apply(attributes[SocketAttribute.raw_socket]())
        #: bytes that were received while nobody had borrowed the connection
        self.early = b""
        #: whether session tickets may still be on their way
        self.never_read = isinstance(self.probe, TLSProbe)

    def __repr__(self) -> str:
        return f"{self.local_address} -> {self.remote_address}"

    def look(self, *, borrowed: bool) -> Liveness:
        """Look without waiting; what can't be looked at counts as closed.

        :param borrowed: whether it ever had a borrower
        """
        if self.early:
            return Liveness.UNREAD
        try:
            return self.probe() if borrowed else self.probe.first()
        except Exception:
            _logger.exception("pool %s: probing %s failed", self.pool, self)
            return Liveness.CLOSED

    async def settle(self, *, borrowed: bool) -> Liveness:
        """Find out about a connection that no probe can judge, by receiving for a moment.

        :param borrowed: whether it ever had a borrower
        """
        if self.never_read:
            self.never_read = False
            liveness = await self._receive_for(_SETTLE_TICKETS)
        else:
            liveness = await self._receive_queued()
        for _ in range(_PATIENCE):
            if liveness is Liveness.ALIVE:
                liveness = self.probe() if borrowed else self.probe.first()
            if liveness is not Liveness.UNSURE:
                return liveness
            liveness = await self._receive_for(_SETTLE_TICKETS)
        return Liveness.CLOSED

    async def _receive_queued(self) -> Liveness:
        """Receive what the event loop has taken from the kernel already, however busy it is."""
        found: list[Liveness] = []
        async with create_task_group() as tasks:
            tasks.start_soon(self._receive_into, found)
            for _ in range(_TURNS):
                await checkpoint()
            tasks.cancel_scope.cancel()
        return found[0] if found else Liveness.ALIVE

    @defer_interrupts
    async def _receive_into(self, found: list[Liveness]) -> None:
        found.append(await self._receive())

    async def _receive_for(self, seconds: float) -> Liveness:
        with move_on_after(seconds):
            return await self._receive()
        return Liveness.ALIVE

    async def _receive(self) -> Liveness:
        try:
            self.early += await self.stream.receive(_CHUNK)
        except Exception as error:
            _logger.debug("pool %s: %s turned out dead: %r", self.pool, self, error)
            return Liveness.CLOSED
        return Liveness.UNREAD

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
        if isinstance(bottom, SocketStream):
            # It never waits for the peer. On asyncio, the descriptor is closed one turn of the loop
            # later; its slot must not be free before that.
            await bottom.aclose()
            await checkpoint()
        await aclose_forcefully(stream)
