"""Open one connection: within its time limit, logged in, and again if that is asked for.

While the remote is down, one attempt serves all who want a connection: they share its failure,
and the pause before the next, so that a pool doesn't dial once per waiter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from anyio import (
    BrokenResourceError,
    ConnectionFailed,
    EndOfStream,
    Lock,
    move_on_after,
    sleep,
)
from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import PoolEntry
from anyconnpool._engine.connection import run_hook
from anyconnpool._engine.replay import is_retryable
from anyconnpool._settings import Settings
from anyconnpool._streams.transport import Transport, force_close
from anyconnpool._util.cancellation import fence
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.log import OutageLog
from anyconnpool.events import ConnectionOpened, OpenFailed, notify

_logger = logging.getLogger("anyconnpool.pool")

_STREAM_METHODS = ("send", "receive", "aclose")


class Connector:
    """Open connections to one remote.

    :param connectable: what to connect to
    :param settings: the pool's settings
    :param now: returns the time, in seconds
    :param machine: told of every attempt that failed, asked whether a connection is still wanted,
        and told of what happens to idle connections
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
        self._turn = Lock()
        #: failed attempts since the last success, and ever
        self._failures: int = 0
        self._all_failures: int = 0
        self._retry_at = 0.0
        self._last_error: Exception = ConnectionFailed()

    async def open(self, entry: PoolEntry[Transport]) -> None:
        """Open a connection and put it into the entry; a cancellation leaves nothing open.

        :raises ~anyio.ConnectionFailed: if connecting fails or takes too long, after as many
            repeats as ``connect_retry`` asks for, or as soon as no connection is needed any more
        :raises Exception: what ``on_connect`` raised
        """
        retry = self._settings.connect_retry
        repeats = 0
        while True:
            try:
                return await self._try_in_turn(entry)
            except Exception as error:
                repeats += 1
                hopeless = retry is None or repeats > retry.count or not is_retryable(error)
                if hopeless or not self._machine.wanted():
                    raise

    async def _try_in_turn(self, entry: PoolEntry[Transport]) -> None:
        if not self._failures or self._settings.connect_retry is None:
            return await self._try(entry)
        known = self._all_failures
        await sleep(max(self._retry_at - self._now(), 0))
        async with self._turn:
            # Whoever wakes later than others shares the failure of the one who dialled.
            if self._all_failures > known or not self._machine.wanted():
                raise self._last_error
            return await self._try(entry)

    async def _try(self, entry: PoolEntry[Transport]) -> None:
        known = self._failures
        began = self._now()
        try:
            await self._open_in_time(entry)
        except Exception as error:
            self._notify(OpenFailed(self._settings.name, self._now() - began, error))
            self._last_error = error
            self._machine.attempt_failed(error)
            self._outage.failed(error, self._now())
            # An error that a retry can't help doesn't count as an outage.
            if self._failures == known and is_retryable(error):
                self._count_failure()
            raise
        self._failures = 0
        self._outage.succeeded(self._now())

    def _count_failure(self) -> None:
        self._failures += 1
        self._all_failures += 1
        if self._settings.connect_retry is not None:
            self._retry_at = self._now() + self._settings.connect_retry.pause(self._failures)

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
                await run_hook(entry, self._settings, self._now, hook, greeting=True)
            self._notify(ConnectionOpened(self._settings.name, self._now() - began))
        except BaseException:
            with suppress(Exception), fence("closing", RuntimeError):
                await force_close(stream)
            raise

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
            raise ConnectionFailed(
                f"error connecting to {self._settings.name}: {str(error) or type(error).__name__}"
            ) from error
