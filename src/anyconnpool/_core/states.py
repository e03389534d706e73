"""The states of a connection, and what the state machine keeps: entries, waiters, totals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from enum import Enum, IntEnum, auto
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from anyconnpool._statistics import CloseReason, freeze_counts
from anyconnpool._util.liveness import Liveness

_UNASKED = (CloseReason.PEER_CLOSED, CloseReason.UNREAD_DATA)
# A lifetime ends up to a tenth early, so that connections opened together don't end together.
_LIFETIME_JITTER = 0.1
#: A new connection that its peer ends so soon, in seconds, came to nothing, as if it had not been
#: opened; the next sweep knows it at last.
EARLY = 10.0

TransportT = TypeVar("TransportT")

# Of any type to checkers, which would narrow that of what it is assigned to.
_NOTHING: Any = None


class State(IntEnum):
    """Where a connection is between the first step of connecting and the end of its socket."""

    #: being opened
    OPENING = 0
    #: open, and in the hands of a hook: ``check``, ``on_release`` or ``on_unread``
    CHECKING = 1
    #: ready to be borrowed
    IDLE = 2
    #: borrowed
    IN_USE = 3
    #: its socket is being closed
    CLOSING = 4
    #: closed, never opened, or detached
    GONE = 5


#: Which states can follow which. ``IN_USE`` follows itself when a connection is handed on.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.OPENING: frozenset({State.IDLE, State.IN_USE, State.CLOSING, State.GONE}),
    State.CHECKING: frozenset({State.IDLE, State.IN_USE, State.CLOSING}),
    State.IDLE: frozenset({State.CHECKING, State.IN_USE, State.CLOSING}),
    State.IN_USE: frozenset({State.IDLE, State.IN_USE, State.CHECKING, State.CLOSING, State.GONE}),
    State.CLOSING: frozenset({State.GONE}),
    State.GONE: frozenset(),
}


# Looking up a member of an enumeration takes longer than looking up a global.
IDLE = State.IDLE
IN_USE = State.IN_USE


class Action(Enum):
    """What the state machine wants to have done with an entry."""

    OPEN = auto()
    #: run a hook: ``check``, ``on_release``, ``on_unread``
    CHECK = auto()
    RESET = auto()
    ANSWER = auto()
    #: send what requests share it
    SHARE = auto()
    #: interrupt the hook that is at work on it
    INTERRUPT = auto()
    CLOSE = auto()
    #: close without a grace what is being closed with one
    HURRY = auto()


class PoolEntry(Generic[TransportT]):
    """One connection from the decision to open it until its socket is closed.

    :param generation: how often ``retire()`` had been called
    """

    __slots__ = (
        "acquired_at",
        "borrower",
        "borrows",
        "call_site",
        "close_reason",
        "connection",
        "ended_early",
        "epoch",
        "expires_at",
        "generation",
        "hook",
        "hurried",
        "idle_number",
        "idle_since",
        "known_failures",
        "lane",
        "look",
        "noticed",
        "number",
        "opened_at",
        "own",
        "parts_well",
        "proved",
        "recheck_at",
        "remote",
        "replica",
        "rest",
        "rested_since",
        "running_hook",
        "session",
        "slow_at",
        "spoken",
        "state",
        "tells",
        "transport",
        "tried",
        "unreset",
    )

    transport: TransportT
    #: looks at it without waiting, and never raises
    look: Callable[[], Liveness]
    close_reason: CloseReason
    #: whether it is good, so that a farewell is in order before it is closed
    parts_well: bool
    #: which hook is at work on it, or was so last
    hook: Action
    #: the name of the hook that is at work on it now, if one is
    running_hook: str | None
    #: its number among all that became idle, of the pool or of the manager's pools
    idle_number: int
    #: since when nobody has used it and no check has asked it
    rested_since: float
    acquired_at: float
    opened_at: float
    idle_since: float
    #: what it is a connection to, as it was given
    remote: Any
    #: which of several replicas that is; None if there is one remote only
    replica: Any
    #: how often that had rested when it was begun to open this one
    epoch: int
    #: whether the pool opens it by itself, because a rest is over or for a share
    own: bool
    #: whether a reply to a check has come on it before anybody has used it
    proved: bool
    #: the replicas that have failed in this attempt to open one
    tried: tuple[Any, ...]

    def __init__(self, generation: int) -> None:
        self.state: State = State.OPENING
        self.generation: int = generation
        self.borrows: int = 0
        #: the task that has borrowed it, of the backend's own kind
        self.borrower: object = None
        #: what the borrower uses it by, if there is such an object
        self.connection: object = None
        #: whether something arrived or ended since it was acquired while nobody received
        self.noticed: bool = False
        #: whether the pool hears of what happens on it while it is idle, without a look
        self.tells: bool = False
        #: what ``on_connect`` returned for it
        self.session: Any = None
        #: whether a hook has sent or received on it
        self.spoken: bool = False
        #: where acquire() was called for it, if that is recorded
        self.call_site: str = ""
        self.acquired_at = self.opened_at = self.idle_since = 0.0
        #: when an idle one has to be looked into, if it is idle for so long
        self.recheck_at: float = 0.0
        self.expires_at: float = 0.0
        #: whether it was used since the on_release hook was called last, if there is one
        self.unreset: bool = False
        #: its number among waiters and attempts to connect, in the order of their beginning
        self.number: int | None = None
        #: when it has been under way for so long that it may hang
        self.slow_at: float = 0.0
        #: how many connects had failed when it was begun; None if it was begun in a pause
        self.known_failures: int | None = None
        #: if it can't be opened, how long to wait before an attempt of the pool's own, in seconds
        self.rest: float = 0.0
        #: whether its peer has ended it, or said something, before anybody had used it
        self.ended_early: bool = False
        #: whether it must not take its time to be closed
        self.hurried: bool = False
        #: what exchanges share it by, if any ever have: a Lane
        self.lane: Any = None
        self.replica, self.remote, self.running_hook = _NOTHING, _NOTHING, None
        self.epoch, self.own, self.proved, self.tried = 0, False, False, ()

    def is_for(self, waiter: Waiter[TransportT]) -> bool:
        """Return whether a task waited already when it was begun to open this one."""
        return self.number is not None and waiter.number < self.number

    def begin_life(self, now: float, lifetime: float, jitter: Callable[[], float]) -> None:
        """Take note that it is open from now on.

        :param lifetime: the longest, in seconds
        :param jitter: returns a random number from 0 to 1
        """
        self.idle_since = now
        self.expires_at = now + lifetime
        if lifetime < math.inf:
            self.expires_at -= lifetime * _LIFETIME_JITTER * jitter()

    def ends_early(self, reason: CloseReason, now: float) -> bool:
        """Return whether its peer ends it, or says something, before anybody has used it; note it.

        :param reason: why it is closed
        """
        if reason in _UNASKED and not self.borrows and now - self.idle_since < EARLY:
            self.ended_early = True
        return self.ended_early

    def age_fault(self, now: float, longest_idle: float) -> CloseReason | None:
        """Return why an idle connection is too old, if it is."""
        # Added as in recheck_at: a difference is rounded in another way.
        if now >= self.idle_since + longest_idle:
            return CloseReason.IDLE_TIME
        return CloseReason.LIFETIME if now >= self.expires_at else None

    def fault(self, liveness: Liveness) -> CloseReason | None:
        """Return why a connection that looks like this has to be closed, if so."""
        if liveness is Liveness.CLOSED:
            return CloseReason.PEER_CLOSED
        if liveness is Liveness.UNREAD and (self.borrows or self.spoken):
            return CloseReason.UNREAD_DATA
        return None


class Waiter(Generic[TransportT]):
    """A task that waits; it is woken once, with an entry or an error.

    A task that watches for enough idle connections is woken with neither when there are enough.

    :param wake: wakes the task; must not call the state machine
    """

    #: whether a place on a shared connection will do
    shares: ClassVar[bool] = False

    __slots__ = (
        "entry",
        "error",
        "failing_since",
        "failures",
        "joined_at",
        "number",
        "seen_at",
        "shares_error",
        "task",
        "wake",
        "warned",
    )

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake: Callable[[], object] = wake
        self.entry: PoolEntry[TransportT] | None = None
        self.error: Exception | None = None
        #: whether another task is given the same error
        self.shares_error: bool = False
        #: since when connecting had failed, if it was refused for that; the error is the last one
        self.failing_since: float | None = None
        #: the task, of the backend's own kind
        self.task: object = None
        #: since when it has been in line
        self.joined_at: float = 0.0
        #: when the housekeeper saw it waiting for the first time, and whether it warned of it
        self.seen_at: float | None = None
        self.warned: bool = False
        #: its number among all waiters and attempts of a pool or manager
        self.number: int = 0
        #: how many attempts have failed for it
        self.failures: int = 0

    def take_error(self) -> Exception:
        """Return the error, and forget it: its traceback will lead to the frame that waited."""
        error, self.error = self.error, None
        assert error is not None
        return error


class Totals:
    """What a pool has counted since it was entered; see :class:`PoolStatistics`."""

    __slots__ = (
        "cancelled",
        "closed",
        "first_borrows",
        "open_failed",
        "opened",
        "peak_waiting",
        "refused",
        "replayed",
        "reused",
        "timed_out",
    )

    def __init__(self) -> None:
        self.first_borrows = self.reused = 0
        self.opened = self.open_failed = 0
        self.closed: Counter[CloseReason] = Counter()
        self.timed_out = self.cancelled = 0
        self.replayed = self.refused = 0
        self.peak_waiting = 0

    def grant(self, entry: PoolEntry[Any]) -> None:
        """Count a grant."""
        if entry.borrows:
            self.reused += 1
        else:
            self.first_borrows += 1
        entry.borrows += 1

    def take_back(self, entry: PoolEntry[Any]) -> None:
        """Undo the count of a grant."""
        entry.borrows -= 1
        if entry.borrows:
            self.reused -= 1
        else:
            self.first_borrows -= 1

    @property
    def acquired(self) -> int:
        """How often a connection was acquired."""
        return self.first_borrows + self.reused

    def frozen(self) -> dict[str, Any]:
        """Return a copy, by the names that :class:`PoolStatistics` has for them."""
        return {
            "acquired": self.acquired,
            "reused": self.reused,
            "opened": self.opened,
            "open_failed": self.open_failed,
            "timed_out": self.timed_out,
            "cancelled": self.cancelled,
            "replayed": self.replayed,
            "refused": self.refused,
            "peak_waiting": self.peak_waiting,
            "closed": freeze_counts(self.closed),
        }


class Slots(Protocol):
    """What the state machine needs of a :class:`~anyio.CapacityLimiter`."""

    @property
    def total_tokens(self) -> float:
        """How many tokens there are."""
        ...

    @total_tokens.setter
    def total_tokens(self, value: float) -> None: ...

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        """Acquire a token."""

    def release_on_behalf_of(self, borrower: object) -> None:
        """Release a token."""
