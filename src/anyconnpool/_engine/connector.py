"""Open one connection: within its time limit, and logged in."""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from anyio import (
    BrokenResourceError,
    ConnectionFailed,
    EndOfStream,
    move_on_after,
)
from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import EARLY, PoolEntry
from anyconnpool._engine.connection import run_hook
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason
from anyconnpool._streams.transport import Transport, force_close
from anyconnpool._util.cancellation import fence
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.log import OutageLog
from anyconnpool.events import ConnectionOpened, OpenFailed, notify

_logger = logging.getLogger("anyconnpool.pool")

# What OpenSSL says, by its version, of an answer that isn't TLS.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
_STREAM_METHODS = ("send", "receive", "aclose")


class Connector:
    """Open connections to one remote.

    :param connectable: what to connect to
    :param settings: the pool's settings
    :param now: returns the time, in seconds
    :param machine: is told what happens to idle connections
    """

    def __init__(
        self,
        connectable: ByteStreamConnectable,
        settings: Settings,
        now: Callable[[], float],
        machine: PoolStateMachine[Transport],
    ) -> None:
        self._connectable = connectable
        self._settings = settings
        self._now = now
        self._machine = machine
        self._outage = OutageLog(_logger, settings.name, "connecting")
        self._notify = partial(notify, settings.observers)
        self._ended_early_at = -math.inf

    async def open(self, entry: PoolEntry[Transport]) -> None:
        """Open a connection and put it into the entry; a cancellation leaves nothing open.

        :raises ~anyio.ConnectionFailed: if connecting fails or takes too long
        :raises Exception: what ``on_connect`` raised
        """
        began = self._now()
        try:
            await self._open_in_time(entry)
        except Exception as error:
            self._notify(OpenFailed(self._settings.name, self._now() - began, error))
            self._outage.failed(error, self._now())
            raise
        # One that can be opened may still come to nothing as the last one did.
        if self._now() - self._ended_early_at >= EARLY:
            self._outage.succeeded(self._now())

    def count_early_end(self, entry: PoolEntry[Transport]) -> ConnectionFailed:
        """Log that a connection came to nothing before anybody had used it; return the error."""
        text = self._describe_end(entry.close_reason, "the new connection was used")
        error = ConnectionFailed(text)
        self._ended_early_at = self._now()
        self._outage.failed(error, self._ended_early_at)
        return error

    async def _open_in_time(self, entry: PoolEntry[Transport]) -> None:
        limit = self._settings.connect_timeout
        subject = f"connecting to {self._settings.name}"
        with fence(subject, ConnectionFailed), move_on_after(limit):
            return await self._open(entry)
        raise ConnectionFailed(f"{subject} took longer than connect_timeout, {limit:g} s")

    async def _open(self, entry: PoolEntry[Transport]) -> None:
        began = self._now()
        stream = await self._connect()
        # From here on the stream is ours: whatever happens, close it or put it into the entry.
        try:
            self._take_up(entry, stream)
            hook = self._settings.on_connect
            if hook is not None:
                entry.session = await run_hook(
                    entry, self._settings, self._now, hook, greeting=True
                )
                self._refuse_unasked(entry)
            self._notify(ConnectionOpened(self._settings.name, self._now() - began))
        except BaseException:
            with suppress(Exception), fence("closing", RuntimeError):
                await force_close(stream)
            raise

    def _refuse_unasked(self, entry: PoolEntry[Transport]) -> None:
        """Refuse a connection on which something waits that the hook has not read.

        What the hook has left in its buffer is for the first borrower.
        """
        fault = entry.fault(entry.look()) if entry.spoken else None
        if fault is not None:
            raise ConnectionFailed(self._describe_end(fault, "on_connect had ended"))

    def _describe_end(self, fault: CloseReason, before: str) -> str:
        ended = fault is CloseReason.PEER_CLOSED
        what = "hung up" if ended else "sent something that nobody had asked for"
        return f"{self._settings.name} {what} before {before}"

    def _take_up(self, entry: PoolEntry[Transport], stream: ByteStream) -> None:
        """Put a stream that was opened into its entry."""
        if not all(callable(getattr(stream, name, None)) for name in _STREAM_METHODS):
            raise TypeError(
                f"the connectable of {self._settings.name} returned "
                f"{type(stream).__name__}, which is not a byte stream"
            )
        try:
            transport = Transport(stream, self._settings.keepalive, self._settings.name)
        except (AttributeError, ValueError, OSError) as error:
            # Of a stream that is not our own, uvloop's socket is gone when the peer has hung up.
            raise ConnectionFailed(f"{self._settings.name} hung up at once") from error
        entry.transport = transport
        entry.look = transport.look
        entry.opened_at = self._now()
        if transport.own is not None:
            transport.own.on_event = partial(self._notice, entry)
            entry.tells = transport.own.tells

    @defer_interrupts
    def _notice(self, entry: PoolEntry[Transport]) -> None:
        self._machine.notice(entry, self._now())

    async def _connect(self) -> ByteStream:
        try:
            return await self._connectable.connect()
        except ConnectionFailed:
            raise
        except (OSError, BrokenResourceError, EndOfStream) as error:
            text = str(error) or type(error).__name__
            raise ConnectionFailed(
                f"error connecting to {self._settings.name}: {text}{_advise(error)}"
            ) from error


def _advise(error: Exception) -> str:
    """Say what to do about an error whose own text doesn't."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "; if this is the right server, give an ssl_context that trusts its certificate, or "
            "the tls_hostname that stands in it"
        )
    if isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS:
        return "; the server doesn't seem to speak TLS at this port"
    if isinstance(error, (BrokenResourceError, EndOfStream)):
        # A TCP connection that is made has no other way to fail before it is the pool's.
        return (
            "; it hung up in the handshake: check that it speaks TLS at this port, in a version "
            "that the ssl_context takes"
        )
    if isinstance(error, FileNotFoundError) and "/" not in str(error.filename):
        return "; if this is a host, write (host, port)"
    return ""
