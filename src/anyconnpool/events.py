"""What a pool tells its observers: an event for each thing that happens to its connections.

An observer is anything that can be called with one :class:`PoolEvent`: a function, or a
:class:`PoolObserver`, which has a method for each kind of event. Pools are given theirs by
``observers=``. They are called in the pool's event loop, in the middle of its work: they must not
block, and should not use the pool. What they raise is logged and goes no further.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from anyconnpool._statistics import CloseReason, PoolStatistics

_logger = logging.getLogger("anyconnpool.observers")

__all__ = [
    "AcquireTimedOut",
    "CloseReason",
    "ConnectionAcquired",
    "ConnectionClosed",
    "ConnectionOpened",
    "ConnectionReleased",
    "ExchangeReplayed",
    "Observer",
    "OpenFailed",
    "PoolEnded",
    "PoolEvent",
    "PoolObserver",
    "PoolStarted",
]


@dataclass(frozen=True)
class PoolEvent:
    """Something that happened in a pool.

    All durations are in seconds, by the clock of the event loop, which on uvloop goes in steps of a
    millisecond.

    :ivar pool: the pool's name
    """

    pool: str


@dataclass(frozen=True)
class PoolStarted(PoolEvent):
    """A pool was entered, or its manager has started it.

    :ivar statistics: returns the pool's statistics, at any time and from any thread
    :ivar min_idle: how many connections it keeps ready
    """

    statistics: Callable[[], PoolStatistics]
    min_idle: int


@dataclass(frozen=True)
class PoolEnded(PoolEvent):
    """A pool has ended, and all its connections are closed.

    :ivar statistics: what its :class:`PoolStarted` told; it equals that, and so tells which of
        several pools of the name has ended
    """

    statistics: Callable[[], PoolStatistics]


@dataclass(frozen=True)
class ConnectionOpened(PoolEvent):
    """A connection was opened.

    :ivar connect_time: how long the attempt took, TLS handshake and ``on_connect`` included
    """

    connect_time: float


@dataclass(frozen=True)
class OpenFailed(PoolEvent):
    """An attempt to open a connection failed; each attempt of a ``connect_retry`` is told.

    :ivar connect_time: how long the attempt took
    :ivar error: why it failed
    """

    connect_time: float
    error: Exception


@dataclass(frozen=True)
class ConnectionAcquired(PoolEvent):
    """A caller has got a connection.

    :ivar wait_time: how long the acquire took
    :ivar reused: whether anybody had borrowed the connection before
    """

    wait_time: float
    reused: bool


@dataclass(frozen=True)
class ConnectionReleased(PoolEvent):
    """A borrowed connection came back, was detached, or was closed as the pool ended.

    :ivar use_time: how long it was borrowed
    """

    use_time: float


@dataclass(frozen=True)
class ConnectionClosed(PoolEvent):
    """A connection that had been opened was closed, or was detached from the pool.

    :ivar reason: why
    :ivar age: how long it had been open
    """

    reason: CloseReason
    age: float


@dataclass(frozen=True)
class AcquireTimedOut(PoolEvent):
    """A caller's acquire ran out of time.

    :ivar wait_time: how long it had waited
    """

    wait_time: float


@dataclass(frozen=True)
class ExchangeReplayed(PoolEvent):
    """An exchange of the pool is repeated on another connection.

    :ivar error: what went wrong
    """

    error: Exception


Observer: TypeAlias = Callable[[PoolEvent], object]


class PoolObserver:
    """An observer with a method for each kind of event; each does nothing until it is overridden.

    Events of kinds that later versions may add do nothing either.
    """

    def __call__(self, event: PoolEvent) -> None:
        """Hand an event to its method."""
        match event:
            case ConnectionAcquired():
                self.acquired(event)
            case ConnectionReleased():
                self.released(event)
            case ConnectionOpened():
                self.opened(event)
            case ConnectionClosed():
                self.closed(event)
            case OpenFailed():
                self.open_failed(event)
            case AcquireTimedOut():
                self.timed_out(event)
            case ExchangeReplayed():
                self.replayed(event)
            case PoolStarted():
                self.started(event)
            case PoolEnded():
                self.ended(event)
            case _:
                pass

    def started(self, event: PoolStarted) -> None:
        """Be told that a pool was entered."""

    def ended(self, event: PoolEnded) -> None:
        """Be told that a pool has ended."""

    def opened(self, event: ConnectionOpened) -> None:
        """Be told that a connection was opened."""

    def open_failed(self, event: OpenFailed) -> None:
        """Be told that an attempt to open a connection failed."""

    def acquired(self, event: ConnectionAcquired) -> None:
        """Be told that a caller has got a connection."""

    def released(self, event: ConnectionReleased) -> None:
        """Be told that a connection came back."""

    def closed(self, event: ConnectionClosed) -> None:
        """Be told that a connection was closed."""

    def timed_out(self, event: AcquireTimedOut) -> None:
        """Be told that an acquire ran out of time."""

    def replayed(self, event: ExchangeReplayed) -> None:
        """Be told that an exchange is repeated."""


def notify(observers: Iterable[Observer], event: PoolEvent) -> None:
    """Call each observer with an event, one after the other; an error is logged.

    To be called where nothing would be lost if an observer ended the program.
    """
    for observer in observers:
        try:
            observer(event)
        except Exception:
            _logger.exception("pool %s: an observer failed at %s", event.pool, type(event).__name__)
