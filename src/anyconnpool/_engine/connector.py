"""Open one connection: within its time limit, and logged in."""

from __future__ import annotations

import math
import ssl
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from anyio import (
    BrokenResourceError,
    ConnectionFailed,
    EndOfStream,
    fail_after,
    move_on_after,
)
from anyio.abc import ByteStream

from anyconnpool._core.replica_rules import ReplicaRules
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import EARLY, PoolEntry
from anyconnpool._engine.connection import run_hook
from anyconnpool._engine.discovery import Discovery
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason
from anyconnpool._streams.connectable import Target
from anyconnpool._streams.transport import Transport, force_close
from anyconnpool._util.cancellation import fence
from anyconnpool._util.errors import copy_for_caller
from anyconnpool._util.functions import call_async
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.liveness import Liveness
from anyconnpool._util.log import GuardedLogger, OutageLog, describe_error
from anyconnpool.events import ConnectionOpened, OpenFailed, notify

if sys.version_info < (3, 11):
    # AnyIO depends on it.
    from exceptiongroup import ExceptionGroup

_logger = GuardedLogger("anyconnpool.pool")

# What OpenSSL says, by its version, of an answer that isn't TLS.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
_STREAM_METHODS = ("send", "receive", "aclose")


class Connector:
    """Open connections to one remote, or to the replicas that the machine chooses.

    :param target: what to connect to, if that is one remote
    :param settings: the pool's settings
    :param now: returns the time, in seconds
    :param machine: is told what happens to idle connections
    :param discovery: finds the replicas, if they were not given
    """

    def __init__(
        self,
        target: Target | None,
        settings: Settings,
        now: Callable[[], float],
        machine: PoolStateMachine[Transport],
        discovery: Discovery | None = None,
    ) -> None:
        self._target = target
        self._discovery = discovery
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
        try:
            if self._target is not None:
                await self._try(entry, self._target)
            elif (replicas := self._machine.replicas) is not None:
                await self._try_replicas(entry, replicas)
        except Exception as error:
            # That one of several replicas fails is logged as its rest.
            if not entry.own:
                self._outage.failed(error, self._now())
            raise
        # One that can be opened may still come to nothing as the last one did.
        if self._now() - self._ended_early_at >= EARLY:
            self._outage.succeeded(self._now())

    def count_early_end(self, entry: PoolEntry[Transport]) -> ConnectionFailed:
        """Log that a connection came to nothing before anybody had used it; return the error."""
        text = self._describe_end(entry, entry.close_reason, "the new connection was used")
        error = ConnectionFailed(text)
        self._ended_early_at = self._now()
        self._outage.failed(error, self._ended_early_at)
        return error

    async def _try_replicas(
        self, entry: PoolEntry[Transport], replicas: ReplicaRules[Transport]
    ) -> None:
        """Try the replica that was chosen, and go on with others until one can be connected to."""
        if entry.replica is None:
            # Cancelled here, nothing is open yet.
            await self._wait_for_replicas()
            if not replicas.go_on(entry, None, self._now()):
                raise ConnectionFailed(
                    f"each replica of {self._settings.name} is being tried already: try again later"
                )
        while True:
            try:
                return await self._try(entry, _target_of(entry))
            except Exception as error:
                # Not the error itself: whoever is given that would be kept by its traceback.
                if replicas.go_on(entry, copy_for_caller(error), self._now()):
                    continue
                if len(replicas.health.replicas) < 2:
                    raise
                raise sum_up(  # noqa: B904
                    [(each.name, each.last_error or error) for each in replicas.health.replicas]
                )

    async def _wait_for_replicas(self) -> None:
        if self._discovery is not None:
            await self._discovery.wait()

    async def _try(self, entry: PoolEntry[Transport], target: Target) -> None:
        began = self._now()
        try:
            await self._open_in_time(entry, target)
        except Exception as error:
            self._notify(OpenFailed(self._settings.name, self._now() - began, error))
            raise

    async def _open_in_time(self, entry: PoolEntry[Transport], target: Target) -> None:
        limit = self._settings.connect_timeout
        subject = f"connecting to {target.name}"
        # That of a replica that was tried before, perhaps.
        before = getattr(entry, "transport", None)
        with fence(subject, ConnectionFailed), move_on_after(limit):
            return await self._open(entry, target)
        late = f"{subject} took longer than connect_timeout, {limit:g} s"
        if getattr(entry, "transport", None) is not before:
            late += ": it was open by then, but on_connect had not ended"
        raise ConnectionFailed(late)

    async def _open(self, entry: PoolEntry[Transport], target: Target) -> None:
        began = self._now()
        stream = await self._connect(target)
        # From here on the stream is ours: whatever happens, close it or put it into the entry.
        try:
            self._take_up(entry, stream, target)
            hook = self._settings.on_connect
            if hook is not None:
                entry.session = await run_hook(
                    entry, self._settings, self._now, hook, greeting=True
                )
                self._refuse_unasked(entry)
            await self._prove(entry)
            self._notify(ConnectionOpened(self._settings.name, self._now() - began))
        except BaseException:
            with suppress(Exception), fence("closing", RuntimeError):
                await force_close(stream)
            raise

    async def _prove(self, entry: PoolEntry[Transport]) -> None:
        """Have a replica checked whose rest is over, before it is lent to anybody."""
        settings = self._settings
        if settings.check is None or not entry.own or not entry.replica.failures:
            return
        if entry.transport.early or entry.look() is Liveness.UNREAD:
            # Those bytes are for the first borrower, and no hook may read them.
            return
        try:
            with fail_after(settings.check_timeout):
                await run_hook(
                    entry, settings, self._now, settings.check, greeting=False, role="check"
                )
        except TimeoutError as error:
            raise ConnectionFailed(
                f"the check of {entry.replica.name} took longer than check_timeout, "
                f"{settings.check_timeout:g} s"
            ) from error
        self._refuse_unasked(entry)
        entry.proved = True

    def _refuse_unasked(self, entry: PoolEntry[Transport]) -> None:
        """Refuse a connection on which something waits that the hook has not read.

        What the hook has left in its buffer is for the first borrower.
        """
        fault = entry.fault(entry.look()) if entry.spoken else None
        if fault is not None:
            raise ConnectionFailed(self._describe_end(entry, fault, "on_connect had ended"))

    def _describe_end(self, entry: PoolEntry[Transport], fault: CloseReason, before: str) -> str:
        ended = fault is CloseReason.PEER_CLOSED
        what = "hung up" if ended else "sent something that nobody had asked for"
        return f"{self._name_of(entry)} {what} before {before}"

    def _name_of(self, entry: PoolEntry[Transport]) -> str:
        name: str = self._settings.name if entry.replica is None else entry.replica.name
        return name

    def _take_up(self, entry: PoolEntry[Transport], stream: ByteStream, target: Target) -> None:
        """Put a stream that was opened into its entry."""
        # Of a replica that was tried before, nothing may stay.
        entry.session, entry.spoken, entry.remote = None, False, target.remote
        if not all(callable(getattr(stream, name, None)) for name in _STREAM_METHODS):
            raise TypeError(
                f"the connectable of {target.name} returned "
                f"{type(stream).__name__}, which is not a byte stream"
            )
        try:
            transport = Transport(stream, self._settings.keepalive, self._settings.name)
        except (AttributeError, ValueError, OSError) as error:
            # Of a stream that is not our own, uvloop's socket is gone when the peer has hung up.
            raise ConnectionFailed(f"{target.name} hung up at once") from error
        entry.transport = transport
        entry.look = transport.look
        entry.opened_at = self._now()
        if transport.own is not None:
            transport.own.on_event = partial(self._notice, entry)
            entry.tells = transport.own.tells

    @defer_interrupts
    def _notice(self, entry: PoolEntry[Transport]) -> None:
        self._machine.notice(entry, self._now())

    async def _connect(self, target: Target) -> ByteStream:
        try:
            connect = target.connectable.connect
            return await call_async(connect, f"connect() of {target.name}")
        except ConnectionFailed:
            raise
        except (OSError, BrokenResourceError, EndOfStream) as error:
            text = str(error) or type(error).__name__
            raise ConnectionFailed(
                f"error connecting to {target.name}: {text}{_advise(error)}"
            ) from error


def _target_of(entry: PoolEntry[Transport]) -> Target:
    target: Target = entry.replica.target
    return target


def sum_up(errors: Sequence[tuple[str, Exception]]) -> ConnectionFailed:
    """Return one error for all replicas.

    :param errors: their names, and the last error of each
    """
    texts = ", ".join(f"{name} ({describe_error(error)})" for name, error in errors)
    summary = ConnectionFailed(f"none of the replicas can be connected to: {texts}")
    summary.__cause__ = ExceptionGroup(
        "no replica can be connected to", [error for _, error in errors]
    )
    return summary


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
