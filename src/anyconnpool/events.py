"""The events that a pool notifies its observers of: one for each thing that happens in it.

An observer is anything that can be called with one :class:`PoolEvent`: a function, or a
:class:`PoolObserver`, which has a method for each kind of event. Pools are given theirs by
``observers=``. They are called in the pool's event loop, in the middle of its work: they must not
block, and should not use the pool. The context variables are those of the borrower for what a
borrower does, and those of the pool's block for all else. An exception that they raise goes no
further: the first of an observer is logged with its traceback, later ones are counted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from anyconnpool._statistics import CloseReason, PoolStatistics
from anyconnpool._util.cancellation import ends_program
from anyconnpool._util.functions import describe_function, is_async_function
from anyconnpool._util.log import GuardedLogger

_logger = GuardedLogger("anyconnpool.observers")

__all__ = [
    "AcquireTimedOut",
    "CloseReason",
    "ConnectionAcquired",
    "ConnectionClosed",
    "ConnectionOpened",
    "ConnectionReleased",
    "ExchangeReplayed",
    "FailFastBegan",
    "FailFastEnded",
    "HookEnded",
    "Observer",
    "OpenFailed",
    "PoolEnded",
    "PoolEvent",
    "PoolObserver",
    "PoolStarted",
    "ReplicaBack",
    "ReplicaResting",
]


# What is public says where it is to be imported from.
CloseReason.__module__ = __name__


class _StatisticsReader:
    """Read the statistics of a running pool; pickled, return what they were at that moment.

    :param read: reads them
    """

    def __init__(self, read: Callable[[], PoolStatistics]) -> None:
        self._read = read

    @classmethod
    def of(cls, read: Callable[[], PoolStatistics]) -> _StatisticsReader:
        """Make one, unless it is one already."""
        return read if isinstance(read, _StatisticsReader) else cls(read)

    def __call__(self) -> PoolStatistics:
        return self._read()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StatisticsReader) and self._read == other._read

    def __hash__(self) -> int:
        return hash(self._read)

    def __copy__(self) -> _StatisticsReader:
        return self

    def __deepcopy__(self, memo: object) -> _StatisticsReader:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _StatisticsReader, (partial(_return, self()),)


def _return(statistics: PoolStatistics) -> PoolStatistics:
    return statistics


class _ReplicasReader:
    """Read what is known of a running pool's replicas; pickled, know of none.

    A remote may be an object that can't be pickled, and so may an error.

    :param read: reads it, by the remotes
    """

    def __init__(self, read: Callable[[], Mapping[Any, Any]]) -> None:
        self._read = read

    def __call__(self) -> Mapping[Any, Any]:
        return self._read()

    def __copy__(self) -> _ReplicasReader:
        return self

    def __deepcopy__(self, memo: object) -> _ReplicasReader:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _ReplicasReader, (dict,)


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
    :ivar replicas: of a pool with several :class:`~anyconnpool.Replicas`, returns a
        :class:`~anyconnpool.ReplicaState` for each, by its remote, at any time and from any thread;
        else ``None``
    """

    statistics: Callable[[], PoolStatistics]
    min_idle: int
    replicas: Callable[[], Mapping[Any, Any]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "statistics", _StatisticsReader.of(self.statistics))
        if self.replicas is not None and not isinstance(self.replicas, _ReplicasReader):
            object.__setattr__(self, "replicas", _ReplicasReader(self.replicas))


@dataclass(frozen=True)
class PoolEnded(PoolEvent):
    """A pool has ended, and all its connections are closed.

    :ivar statistics: equal to that of its :class:`PoolStarted`, which shows which of several pools
        of the same name has ended
    """

    statistics: Callable[[], PoolStatistics]

    def __post_init__(self) -> None:
        object.__setattr__(self, "statistics", _StatisticsReader.of(self.statistics))


@dataclass(frozen=True)
class ConnectionOpened(PoolEvent):
    """A connection was opened.

    :ivar connect_time: how long the attempt took, TLS handshake and ``on_connect`` included, in
        seconds
    """

    connect_time: float


@dataclass(frozen=True)
class OpenFailed(PoolEvent):
    """An attempt to open a connection failed.

    Each attempt of a ``connect_retry`` is an event, and each of several replicas that is tried.

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


@dataclass(frozen=True)
class FailFastBegan(PoolEvent):
    """A pool has begun to refuse all callers: connecting has failed for ``fail_fast_after``.

    :ivar failing_for: for how long connecting has failed, in seconds
    :ivar error: why it failed the last time
    """

    failing_for: float
    error: Exception


@dataclass(frozen=True)
class FailFastEnded(PoolEvent):
    """A pool has connected, and refuses its callers no more.

    If the pool's block ends before that, there is no such event.

    :ivar duration: for how long it has refused its callers, in seconds
    """

    duration: float


@dataclass(frozen=True)
class HookEnded(PoolEvent):
    """A hook has ended on an open connection.

    A hook that was interrupted makes no event. ``on_connect`` doesn't either, since it is part of
    :class:`ConnectionOpened` or :class:`OpenFailed`.

    :ivar hook: which one: ``check``, ``on_release``, ``on_unread`` or ``on_close``
    :ivar duration: how long it took, in seconds
    :ivar error: why it failed, also if it ran out of time; ``None`` if it returned
    """

    hook: str
    duration: float
    error: Exception | None


@dataclass(frozen=True)
class ReplicaResting(PoolEvent):
    """One of several :class:`~anyconnpool.Replicas` rests from now on, or goes on resting.

    :ivar remote: which one, as it was given
    :ivar error: why: the attempt to connect, or the first exchange on a new connection, has failed
    :ivar pause: how long it rests, in seconds
    """

    remote: Any
    error: Exception
    pause: float


@dataclass(frozen=True)
class ReplicaBack(PoolEvent):
    """One of several :class:`~anyconnpool.Replicas` has answered again, and gets its share.

    :ivar remote: which one, as it was given
    :ivar rested: how long ago its first rest began, in seconds
    """

    remote: Any
    rested: float


#: A function that a pool calls with each event, in its event loop: it must not block. Its result is
#: ignored. Its first exception is logged, later ones are counted. Async functions are refused.
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
                _pass_on_other(self, event)

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

    def fail_fast_began(self, event: FailFastBegan) -> None:
        """Handle a pool that begins to refuse its callers."""

    def fail_fast_ended(self, event: FailFastEnded) -> None:
        """Handle a pool that refuses its callers no more."""

    def hook_ended(self, event: HookEnded) -> None:
        """Handle the end of a hook on an open connection."""

    def resting(self, event: ReplicaResting) -> None:
        """Handle a replica that begins to rest, or goes on resting."""

    def back(self, event: ReplicaBack) -> None:
        """Handle a replica that answers again."""


def _pass_on_other(observer: PoolObserver, event: PoolEvent) -> None:
    """Call the method for an event of those that are less frequent, or do nothing."""
    if isinstance(event, FailFastBegan):
        observer.fail_fast_began(event)
    elif isinstance(event, FailFastEnded):
        observer.fail_fast_ended(event)
    elif isinstance(event, HookEnded):
        observer.hook_ended(event)
    elif isinstance(event, ReplicaResting):
        observer.resting(event)
    elif isinstance(event, ReplicaBack):
        observer.back(event)


class _GuardedObserver:
    """Call an observer, and let none of its errors through: the first is logged, others counted.

    :param observer: the observer
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failures = 0
        #: at how many failures the next line is logged
        self._log_at = 1

    def __call__(self, event: PoolEvent) -> None:
        try:
            result = self._observer(event)
        except BaseException as error:
            if ends_program(error):
                raise
            self._fail(event, "failed", with_traceback=True)
            return
        if inspect.iscoroutine(result):
            # Nobody awaits it, and Python would complain of each.
            result.close()
            self._fail(event, "returned a coroutine, which nobody awaits,", with_traceback=False)

    def _fail(self, event: PoolEvent, how: str, *, with_traceback: bool) -> None:
        self._failures += 1
        if self._failures < self._log_at:
            return
        times = f" {self._failures} times by now, most recently" if self._failures > 1 else ""
        _logger.error(
            "pool %s: the observer %s %s%s at %s; its failures are counted, and next logged at %d",
            event.pool,
            describe_function(self._observer),
            how,
            times,
            type(event).__name__,
            self._log_at * 10,
            exc_info=with_traceback and self._failures == 1,
        )
        self._log_at *= 10


def guard_observer(observer: Observer) -> Observer:
    """Check an observer, and keep its errors from the pool.

    :raises TypeError: if it is an async function, or has methods that are
    """
    if isinstance(observer, _GuardedObserver):
        return observer
    # Only a class has this attribute.
    if PoolObserver in getattr(observer, "__mro__", ()):
        name = describe_function(observer)
        raise TypeError(f"an observer must be an object, not the class itself: write {name}()")
    called = [observer, getattr(type(observer), "__call__", None)]  # noqa: B004
    if isinstance(observer, PoolObserver):
        called += [getattr(observer, method) for method in _METHODS]
    for function in called:
        if is_async_function(function):
            raise TypeError(
                f"an observer must be a plain function, not an async one, which nobody would "
                f"await: {describe_function(function)}; have it put events into a queue, or start "
                f"a task"
            )
    return _GuardedObserver(observer)


_METHODS = [name for name in vars(PoolObserver) if not name.startswith("_")]


def notify(observers: Iterable[Observer], event: PoolEvent) -> None:
    """Call each observer of a pool's settings with an event, one after the other.

    Call it only where nothing is lost if an observer raises what ends the program.
    """
    for observer in observers:
        observer(event)
