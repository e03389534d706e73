"""What a pool reports about itself: gauges, counters, and why connections were closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn


class CloseReason(str, Enum):
    """Why a connection left the pool: the keys of ``PoolStatistics.closed``."""

    #: whether the connection was good, so that it is closed in an orderly way; in the other cases
    #: it is closed at once, without the closing handshake of TLS
    orderly: bool

    def __new__(cls, value: str, orderly: bool) -> CloseReason:
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.orderly = orderly
        return reason

    #: it was idle for ``max_idle_time``
    IDLE_TIME = "max_idle_time", True
    #: it reached its (jittered) ``max_lifetime``
    LIFETIME = "max_lifetime", True
    #: it came back from its ``max_uses``-th borrow
    USES = "max_uses", True
    #: :meth:`ConnectionPool.retire` was called while it was open, or its replica is gone, or one
    #: that comes first in order is well again
    RETIRED = "retired", True
    #: the peer hung up while nobody was using it
    PEER_CLOSED = "peer_closed", False
    #: the ``check`` hook failed or took too long
    CHECK_FAILED = "check_failed", False
    #: the ``on_release`` hook failed, took too long or left it unfit
    RELEASE_FAILED = "release_failed", False
    #: bytes that nobody asked for were waiting on it, or the ``on_unread`` hook failed to read them
    UNREAD_DATA = "unread_data", False
    #: its borrower left it in doubt: an operation failed or was cancelled, the body raised,
    #: or a reply was still owed
    UNCLEAN = "unclean", False
    #: its borrower called :meth:`PooledConnection.discard`, or closed what
    #: :meth:`ConnectionPool.connect` had returned
    DISCARDED = "discarded", False
    #: ``max_size`` was lowered
    SURPLUS = "surplus", True
    #: another pool of the manager, or another one of several :class:`Replicas`, needed the room for
    #: a connection of its own
    GAVE_WAY = "gave_way", True
    #: its replica has begun to rest, because it didn't answer in time
    RESTING = "resting", False
    #: the pool's block ended
    POOL_CLOSED = "pool_closed", True
    #: it was still borrowed ``close_timeout`` after the pool's block had ended
    SEIZED = "seized", False
    #: its borrower called :meth:`PooledConnection.detach`: open, but no longer the pool's
    DETACHED = "detached", False


class _Counts(dict[str, int]):
    """A dict that can't be changed; unlike a view of one, it can be copied, pickled and dumped."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("statistics are read-only: copy them with dict() to change the copy")

    # Methods of a dict that check types as strictly as this can't be overridden to refuse.
    if not TYPE_CHECKING:
        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return _Counts, (dict(self),)


def freeze_counts(counts: Mapping[CloseReason, int]) -> Mapping[str, int]:
    """Return a read-only copy of the counts, by the reasons' values."""
    # Copied first, in one step: a finalizer that runs meanwhile may cause another count.
    return _Counts({reason.value: count for reason, count in dict(counts).items()})


def _no_closes() -> Mapping[str, int]:
    return freeze_counts({})


@dataclass(frozen=True)
class ConnectionInfo:
    """What :meth:`ConnectionPool.retire` shows of a connection to the function that chooses."""

    #: the address at this end, as AnyIO gives it: ``(host, port)``, or a path; ``None`` if the
    #: connection is not a socket
    local_address: Any
    #: the address of the peer, in the same form
    remote_address: Any
    #: how long ago the connection was opened, in seconds
    age: float
    #: what ``on_connect`` returned; ``None`` without it, and until it has returned
    session: Any
    #: where it leads to: the pool's remote, or one of several, as it was given
    remote: Any = None


@dataclass(frozen=True)
class PoolStatistics:
    """What a pool is doing at one moment, and what it has done since it was entered.

    ``opened`` is always ``idle + in_use + in_hook + closing + sum(closed.values())``.

    The peaks are the highest values of ``in_use`` and ``tasks_waiting``, also between two looks.
    Reading changes nothing, so that several readers don't disturb each other; only
    :meth:`ConnectionPool.reset_peaks` begins them anew.
    """

    #: the pool's name
    name: str
    #: most sockets at once
    max_size: float
    #: sockets now: ``idle + in_use + connecting + closing``
    size: int = 0
    #: connections ready to be borrowed
    idle: int = 0
    #: connections with a borrower, or shared by exchanges
    in_use: int = 0
    #: connections being opened, and open ones that a hook is at work on
    connecting: int = 0
    #: connections whose socket is being closed
    closing: int = 0
    #: tasks that wait in acquire, including those for which a connection is being opened
    tasks_waiting: int = 0
    #: exchanges that have a place on a shared connection, including those that were given up after
    #: they had been sent; see ``pipeline``
    in_flight: int = 0
    #: for how long connecting has failed, in seconds; ``None`` if the last attempt that has ended
    #: was a success, and outside the pool's block
    failing_for: float | None = None
    #: borrows granted
    acquired: int = 0
    #: borrows granted of a connection that had been borrowed before
    reused: int = 0
    #: connections opened
    opened: int = 0
    #: attempts to connect that failed
    open_failed: int = 0
    #: connections that left the pool, by :class:`CloseReason` value
    closed: Mapping[str, int] = field(default_factory=_no_closes)
    #: acquires that ran out of time
    timed_out: int = 0
    #: acquires that were cancelled while they waited
    cancelled: int = 0
    #: exchanges repeated on another connection
    replayed: int = 0
    #: acquires refused at once: ``max_waiting`` tasks were waiting already, or the pool was failing
    #: fast (``fail_fast_after``); including the tasks that waited when that began
    refused: int = 0
    #: the part of ``connecting`` that is open, and that a hook is at work on (``check``,
    #: ``on_release``, ``on_unread``)
    in_hook: int = 0
    #: most connections with a borrower at once, since the pool was entered
    peak_in_use: int = 0
    #: most tasks that waited in acquire at once, since the pool was entered
    peak_waiting: int = 0
