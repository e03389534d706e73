"""The states of a connection, and what the state machine keeps: entries, waiters, totals."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from enum import Enum, IntEnum, auto
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from anyconnpool._statistics import CloseReason
from anyconnpool._util.liveness import Liveness

TransportT = TypeVar("TransportT")


class State(IntEnum):
    """Where a connection is between the first step of connecting and the end of its socket."""

    #: being opened
    OPENING = 0
    #: open, and being asked by the ``check`` hook whether its peer still answers
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
    State.IN_USE: frozenset({State.IDLE, State.IN_USE, State.CLOSING, State.GONE}),
    State.CLOSING: frozenset({State.GONE}),
    State.GONE: frozenset(),
}


# Looking up a member of an enumeration takes longer than looking up a global.
IDLE = State.IDLE
IN_USE = State.IN_USE


class Action(Enum):
    """What the state machine wants to have done with an entry."""

    OPEN = auto()
    CHECK = auto()
    CLOSE = auto()


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
        "expires_at",
        "generation",
        "idle_since",
        "look",
        "noticed",
        "opened_at",
        "recheck_at",
        "spoken",
        "state",
        "tells",
        "transport",
    )

    transport: TransportT
    #: looks at it without waiting, and never raises
    look: Callable[[], Liveness]
    close_reason: CloseReason

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
        #: whether a hook has sent or received on it
        self.spoken: bool = False
        #: where acquire() was called for it, if that is recorded
        self.call_site: str = ""
        self.acquired_at: float = 0.0
        self.opened_at: float = 0.0
        self.idle_since: float = 0.0
        #: when an idle one has to be looked into, if it is idle for so long
        self.recheck_at: float = 0.0
        self.expires_at: float = 0.0


class Waiter(Generic[TransportT]):
    """A task that waits; it is woken once, with an entry or an error.

    A task that watches for enough idle connections is woken with neither when there are enough.

    :param wake: wakes the task; must not call the state machine
    """

    __slots__ = ("entry", "error", "number", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.entry: PoolEntry[TransportT] | None = None
        self.error: Exception | None = None
        #: counts all waiters of a manager, in the order of their coming
        self.number = 0


class Totals:
    """What a pool has counted since it was entered; see :class:`PoolStatistics`."""

    __slots__ = (
        "acquired",
        "cancelled",
        "closed",
        "open_failed",
        "opened",
        "replayed",
        "reused",
        "timed_out",
    )

    def __init__(self) -> None:
        self.acquired = self.reused = 0
        self.opened = self.open_failed = 0
        self.closed: Counter[CloseReason] = Counter()
        self.timed_out = self.cancelled = 0
        self.replayed = 0


class LockedEvent:
    """Hold a lock for one event, then have done what the event has led to.

    :param lock: the lock
    :param finish: called when the lock is free again
    """

    __slots__ = ("_finish", "_lock")

    def __init__(self, lock: threading.Lock, finish: Callable[[], object]) -> None:
        self._lock = lock
        self._finish = finish

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._lock.release()
        self._finish()


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
