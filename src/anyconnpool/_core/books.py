"""A pool's books and the single steps in them: the lower half of the state machine.

The steps keep the counts, the slots and the deque in agreement; which of them an event takes is
decided in :mod:`anyconnpool._core.state_machine`, whose rules they implement. All of them are to be called
with the lock held.
"""

from __future__ import annotations

import math
import random
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Generic, Protocol

from anyconnpool._core.states import (
    IDLE,
    IN_USE,
    Action,
    Liveness,
    PoolEntry,
    State,
    TransportT,
    Waiter,
)
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason


class Slots(Protocol):
    """What the machine needs of a :class:`~anyio.CapacityLimiter`."""

    @property
    def total_tokens(self) -> float:
        """How many tokens there are."""
        ...

    @total_tokens.setter
    def total_tokens(self, value: float) -> None: ...

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        """Take a token."""

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give it back."""


class Books(Generic[TransportT]):
    """Hold the state of one pool, from its entering to its end.

    :param settings: the pool's settings
    :param slots: one token for every connection that isn't idle
    :param inspect: looks at an entry's link without waiting
    :param jitter: returns a random number from 0 to 1
    """

    def __init__(
        self,
        settings: Settings,
        slots: Slots,
        inspect: Callable[[PoolEntry[TransportT]], Liveness],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.actions: deque[tuple[Action, PoolEntry[TransportT] | None]] = deque()
        self.last_connect_error: Exception | None = None
        self.timed_out = self.cancelled = self.replayed = 0
        self._settings = settings
        self._max_size = settings.max_size
        self._min_idle = settings.min_idle
        self._longest_idle = settings.max_idle_time
        self._max_waiting = settings.max_waiting
        check_after = math.inf if settings.check is None else settings.check_after
        self._longest_rest = min(settings.max_idle_time, check_after)
        self._slots = slots
        self._take_slot = slots.acquire_on_behalf_of_nowait
        self._free_slot = slots.release_on_behalf_of
        self._inspect = inspect
        self._jitter = jitter
        # A "with" costs as much again as the lock itself: on the path of every borrow it shows.
        self._lock = threading.Lock()
        self._idle: deque[PoolEntry[TransportT]] = deque()
        self._pop_idle = self._idle.pop if settings.idle_order == "lifo" else self._idle.popleft
        self._waiters: OrderedDict[Waiter[TransportT], None] = OrderedDict()
        self._watchers: dict[Waiter[TransportT], None] = {}
        #: how many are in the states that pass; from these follows how many are in use
        self._passing = {State.OPENING: 0, State.CHECKING: 0, State.CLOSING: 0}
        self._size = 0
        self._generation = 0
        self._refill_paused = False
        self._drained: Callable[[], object] | None = None
        self._acquired = 0
        self._reused = 0
        self._opened: int = 0
        self._open_failed: int = 0
        self._closed: Counter[CloseReason] = Counter()

    def _place(
        self, entry: PoolEntry[TransportT], now: float, reason: CloseReason | None, unsure: bool
    ) -> None:
        """Decide what becomes of a connection that nobody holds any more."""
        # What can make it unfit is asked in short first: most often nothing does.
        if reason is None and (
            entry.generation != self._generation
            or now >= entry.expires_at
            or self._size > self._max_size
            or self._drained is not None
        ):
            reason = self._unfit(entry, now)
        if reason is not None or unsure:
            self._remove(entry, reason)
        elif self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            self._lend(entry, now)
            waiter.entry = entry
            waiter.wake()
        else:
            self._lay_down(entry, now)
            if self._watchers:
                self._check_ready()

    def _unfit(self, entry: PoolEntry[TransportT], now: float) -> CloseReason | None:
        if self._drained is not None:
            return CloseReason.POOL_CLOSED
        if entry.generation != self._generation:
            return CloseReason.RETIRED
        # However short its life, a new connection serves whoever waits for it.
        if entry.borrows and now >= entry.expires_at:
            return CloseReason.LIFETIME
        if self._size - self._passing[State.CLOSING] > self._max_size:
            return CloseReason.SURPLUS
        return None

    def _judge_idle(
        self, entry: PoolEntry[TransportT], now: float
    ) -> tuple[CloseReason | None, bool]:
        if now - entry.idle_since >= self._longest_idle:
            return CloseReason.IDLE_TIME, False
        if now >= entry.expires_at:
            return CloseReason.LIFETIME, False
        return self._judge(entry)

    def _judge(self, entry: PoolEntry[TransportT]) -> tuple[CloseReason | None, bool]:
        liveness = self._inspect(entry)
        return self._reason(entry, liveness), liveness is Liveness.UNSURE

    def _reason(self, entry: PoolEntry[TransportT], liveness: Liveness) -> CloseReason | None:
        if liveness is Liveness.CLOSED:
            return CloseReason.PEER_CLOSED
        if liveness is Liveness.UNREAD and not self._is_greeting(entry, liveness):
            return CloseReason.UNREAD_DATA
        return None

    @staticmethod
    def _is_greeting(entry: PoolEntry[TransportT], liveness: Liveness) -> bool:
        """Tell whether what a server has sent is for the first borrower."""
        return liveness is Liveness.UNREAD and not entry.borrows

    def _lay_down(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Make an entry idle."""
        if entry.state is not IN_USE:
            self._passing[entry.state] -= 1
        entry.state = IDLE
        self._free_slot(entry)
        entry.idle_since = now
        recheck_at = now + self._longest_rest
        entry.recheck_at = recheck_at if recheck_at < entry.expires_at else entry.expires_at
        self._idle.append(entry)

    def _lend(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Lend an entry; one that is handed on keeps its slot."""
        if entry.state is IDLE:
            entry.state = IN_USE
            self._take_slot(entry)
            if self._min_idle:
                self._balance()
        elif entry.state is not IN_USE:
            self._move(entry, IN_USE)
        entry.acquired_at = now
        self._acquired += 1
        if entry.borrows:
            self._reused += 1
        entry.borrows += 1

    def _unlend(self, entry: PoolEntry[TransportT]) -> None:
        """Take back a loan that never reached its borrower."""
        self._acquired -= 1
        entry.borrows -= 1
        if entry.borrows:
            self._reused -= 1

    def _remove(self, entry: PoolEntry[TransportT], reason: CloseReason | None) -> None:
        """Action an entry to be closed or, if there is no reason to, to be checked."""
        if reason is None:
            self._move(entry, State.CHECKING)
            self.actions.append((Action.CHECK, entry))
            return
        entry.close_reason = reason
        self._move(entry, State.CLOSING)
        self.actions.append((Action.CLOSE, entry))
        self._check_drained()
        self._balance()

    def _leave(self, entry: PoolEntry[TransportT]) -> None:
        self._move(entry, State.GONE)
        self._size -= 1
        self._fit_slots()
        self._check_drained()
        self._balance()

    def _move(self, entry: PoolEntry[TransportT], state: State) -> None:
        held = entry.state is not State.IDLE
        holds = state is not State.IDLE and state is not State.GONE
        if entry.state in self._passing:
            self._passing[entry.state] -= 1
        if state in self._passing:
            self._passing[state] += 1
        entry.state = state
        if holds and not held:
            self._take_slot(entry)
        elif not holds:
            self._free_slot(entry)

    def _balance(self) -> None:
        """Action as many connections as are missing and have room."""
        if self._size >= self._max_size or self._drained is not None:
            return
        missing = self._missing()
        while missing > 0 and self._size < self._max_size:
            self._order_open()
            missing -= 1

    def _missing(self) -> int:
        """Count the connections that waiters and the idle ones lack, beyond those under way."""
        ready = 0 if self._refill_paused else self._min_idle
        return len(self._waiters) + ready - len(self._idle) - self._under_way()

    def _under_way(self) -> int:
        return self._passing[State.OPENING] + self._passing[State.CHECKING]

    def _in_use(self) -> int:
        return self._size - len(self._idle) - self._under_way() - self._passing[State.CLOSING]

    def _order_open(self) -> None:
        entry: PoolEntry[TransportT] = PoolEntry(self._generation)
        self._take_slot(entry)
        self._passing[State.OPENING] += 1
        self._size += 1
        self.actions.append((Action.OPEN, entry))

    def _fit_slots(self) -> None:
        # After max_size was lowered, the surplus keeps its slots until it is gone.
        tokens = max(self._max_size, self._size)
        if self._slots.total_tokens != tokens:
            self._slots.total_tokens = tokens

    def _check_ready(self) -> None:
        if len(self._idle) >= self._min_idle:
            self._tell_watchers(None)

    def _check_drained(self) -> None:
        if self._drained is not None and not self._in_use():
            self._drained()

    def _tell_watchers(self, error: Exception | None) -> None:
        for watcher in self._watchers:
            self._tell(watcher, error)
        self._watchers.clear()

    def _tell(self, waiter: Waiter[TransportT], error: Exception | None) -> None:
        waiter.error = error
        waiter.wake()
