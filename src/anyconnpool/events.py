"""The events that a pool notifies its observers of: one for each thing that happens in it.

An observer is anything that can be called with one :class:`PoolEvent`: a function, or a
:class:`PoolObserver`, which has a method for each kind of event. Pools are given theirs by
``observers=``. They are called in the pool's event loop, in the middle of its work: they must not
block, and should not use the pool. An exception that they raise is logged and goes no further.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from anyconnpool._statistics import CloseReason, PoolStatistics
from anyconnpool._util.cancellation import ends_program

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
    """A pool was entered, or was started by its manager.

    :ivar statistics: returns the pool's statistics, at any time and from any thread
    :ivar min_idle: how many connections it keeps ready
    """

    statistics: Callable[[], PoolStatistics]
    min_idle: int


@dataclass(frozen=True)
class PoolEnded(PoolEvent):
    """A pool has ended, and all its connections are closed.

    :ivar statistics: equal to that of its :class:`PoolStarted`, which shows which of several pools
        of the same name has ended
    """

    statistics: Callable[[], PoolStatistics]


@dataclass(frozen=True)
class ConnectionOpened(PoolEvent):
    """A connection was opened.

    :ivar connect_time: how long the attempt took, TLS handshake and ``on_connect`` included, in
        seconds
    """

    connect_time: float


@dataclass(frozen=True)
class OpenFailed(PoolEvent):
    """An attempt to open a connection failed; each attempt of a ``connect_retry`` is an event.

    :ivar connect_time: how long the attempt took, in seconds
    :ivar error: why it failed
    """

    connect_time: float
    error: Exception


@dataclass(frozen=True)
class ConnectionAcquired(PoolEvent):
    """A caller has got a connection.

    :ivar wait_time: how long the acquire took, in seconds
    :ivar reused: whether the connection had been borrowed before
    """

    wait_time: float
    reused: bool


@dataclass(frozen=True)
class ConnectionReleased(PoolEvent):
    """A borrowed connection came back, was detached, or was closed as the pool ended.

    :ivar use_time: how long it was borrowed, in seconds
    """

    use_time: float


@dataclass(frozen=True)
class ConnectionClosed(PoolEvent):
    """A connection that had been opened was closed, or was detached from the pool.

    :ivar reason: why
    :ivar age: how long it had been open, in seconds
    """

    reason: CloseReason
    age: float


@dataclass(frozen=True)
class AcquireTimedOut(PoolEvent):
    """A caller's acquire ran out of time.

    :ivar wait_time: how long it had waited, in seconds
    """

    wait_time: float


@dataclass(frozen=True)
class ExchangeReplayed(PoolEvent):
    """An exchange of the pool is repeated on another connection.

    :ivar error: what went wrong
    """

    error: Exception


#: What a pool calls with each event, in its event loop: it must not block. What it returns is
#: ignored, and what it raises is logged.
Observer: TypeAlias = Callable[[PoolEvent], object]


class PoolObserver:
    """An observer with a method for each kind of event; each does nothing until it is overridden.

    Events of kinds that later versions may add do nothing either.
    """

    def __call__(self, event: PoolEvent) -> None:
        """Call the method for the kind of event."""
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
        """Handle the start of a pool."""

    def ended(self, event: PoolEnded) -> None:
        """Handle the end of a pool."""

    def opened(self, event: ConnectionOpened) -> None:
        """Handle a connection that was opened."""

    def open_failed(self, event: OpenFailed) -> None:
        """Handle a failed attempt to open a connection."""

    def acquired(self, event: ConnectionAcquired) -> None:
        """Handle a connection that was acquired."""

    def released(self, event: ConnectionReleased) -> None:
        """Handle a connection that came back."""

    def closed(self, event: ConnectionClosed) -> None:
        """Handle a connection that was closed."""

    def timed_out(self, event: AcquireTimedOut) -> None:
        """Handle an acquire that ran out of time."""

    def replayed(self, event: ExchangeReplayed) -> None:
        """Handle an exchange that is repeated."""


def notify(observers: Iterable[Observer], event: PoolEvent) -> None:
    """Call each observer with an event, one after the other; an error is logged.

    Call it only where nothing is lost if an observer raises what ends the program.
    """
    for observer in observers:
        try:
            observer(event)
        except BaseException as error:
            if ends_program(error):
                raise
            _logger.exception("pool %s: an observer failed at %s", event.pool, type(event).__name__)
