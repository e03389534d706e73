"""A pool's books and the single steps in them: the lower half of the state machine.

The steps keep the counts, the slots and the deque in agreement; which of them an event takes is
decided in :mod:`anyconnpool._ledger`, whose rules they implement. All of them are to be called
with the lock held.
"""

from __future__ import annotations

import math
import random
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Generic, Protocol

from anyconnpool._entry import Entry, Link, Liveness, Order, State, Waiter
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason


class Slots(Protocol):
    """What the ledger needs of a :class:`~anyio.CapacityLimiter`."""

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


class Books(Generic[Link]):
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
        inspect: Callable[[Entry[Link]], Liveness],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.orders: deque[tuple[Order, Entry[Link] | None]] = deque()
        self.last_connect_error: Exception | None = None
        self.timed_out = 0
        self.cancelled = 0
        self.replayed = 0
        self._settings = settings
        self._max_size = settings.max_size
        self._check_after = math.inf if settings.check is None else settings.check_after
        self._slots = slots
        self._inspect = inspect
        self._jitter = jitter
        self._lock = threading.Lock()
        self._idle: deque[Entry[Link]] = deque()
        self._pop_idle = self._idle.pop if settings.idle_order == "lifo" else self._idle.popleft
        self._waiters: OrderedDict[Waiter[Link], None] = OrderedDict()
        self._watchers: dict[Waiter[Link], None] = {}
        self._population = [0] * len(State)
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
        self, entry: Entry[Link], now: float, reason: CloseReason | None, unsure: bool
    ) -> None:
        """Decide what becomes of a connection that nobody holds any more."""
        reason = reason or self._unfit(entry, now)
        if reason is not None or unsure:
            self._remove(entry, reason)
        elif self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            self._lend(entry)
            waiter.entry = entry
            waiter.wake()
        else:
            entry.idle_since = now
            self._move(entry, State.IDLE)
            self._idle.append(entry)
            if self._watchers:
                self._check_ready()

    def _unfit(self, entry: Entry[Link], now: float) -> CloseReason | None:
        if self._drained is not None:
            return CloseReason.POOL_CLOSED
        if entry.generation != self._generation:
            return CloseReason.RETIRED
        # However short its life, a new connection serves whoever waits for it.
        if entry.borrows and now >= entry.retire_at:
            return CloseReason.LIFETIME
        if self._size - self._population[State.CLOSING] > self._max_size:
            return CloseReason.SURPLUS
        return None

    def _judge_idle(self, entry: Entry[Link], now: float) -> tuple[CloseReason | None, bool]:
        if now - entry.idle_since >= self._settings.max_idle_time:
            return CloseReason.IDLE_TIME, False
        if now >= entry.retire_at:
            return CloseReason.LIFETIME, False
        return self._judge(entry)

    def _judge(self, entry: Entry[Link]) -> tuple[CloseReason | None, bool]:
        liveness = self._inspect(entry)
        return self._reason(entry, liveness), liveness is Liveness.UNSURE

    def _reason(self, entry: Entry[Link], liveness: Liveness) -> CloseReason | None:
        if liveness is Liveness.CLOSED:
            return CloseReason.PEER_CLOSED
        # What a server sends before the first borrow is a greeting for the first borrower.
        if liveness is Liveness.UNREAD and entry.borrows:
            return CloseReason.UNREAD_DATA
        return None

    def _lend(self, entry: Entry[Link]) -> None:
        self._move(entry, State.IN_USE)
        self._acquired += 1
        if entry.borrows:
            self._reused += 1
        entry.borrows += 1

    def _unlend(self, entry: Entry[Link]) -> None:
        """Take back a loan that never reached its borrower."""
        self._acquired -= 1
        entry.borrows -= 1
        if entry.borrows:
            self._reused -= 1

    def _remove(self, entry: Entry[Link], reason: CloseReason | None) -> None:
        """Order an entry to be closed or, if there is no reason to, to be checked."""
        if reason is None:
            self._move(entry, State.CHECKING)
            self.orders.append((Order.CHECK, entry))
            return
        entry.close_reason = reason
        self._move(entry, State.CLOSING)
        self.orders.append((Order.CLOSE, entry))
        self._check_drained()
        self._balance()

    def _leave(self, entry: Entry[Link]) -> None:
        self._move(entry, State.GONE)
        self._size -= 1
        self._fit_slots()
        self._check_drained()
        self._balance()

    def _move(self, entry: Entry[Link], state: State) -> None:
        held = entry.state is not State.IDLE
        holds = state is not State.IDLE and state is not State.GONE
        self._population[entry.state] -= 1
        self._population[state] += 1
        entry.state = state
        if holds and not held:
            self._slots.acquire_on_behalf_of_nowait(entry)
        elif not holds:
            self._slots.release_on_behalf_of(entry)

    def _balance(self) -> None:
        """Order as many connections as are missing and have room."""
        if self._drained is not None:
            return
        missing = self._missing()
        while missing > 0 and self._size < self._max_size:
            self._order_open()
            missing -= 1

    def _missing(self) -> int:
        """Count the connections that waiters and the idle ones lack, beyond those under way."""
        population = self._population
        ready = 0 if self._refill_paused else self._settings.min_idle
        present = population[State.IDLE] + population[State.OPENING] + population[State.CHECKING]
        return len(self._waiters) + ready - present

    def _order_open(self) -> None:
        entry: Entry[Link] = Entry(self._generation)
        self._slots.acquire_on_behalf_of_nowait(entry)
        self._population[State.OPENING] += 1
        self._size += 1
        self.orders.append((Order.OPEN, entry))

    def _fit_slots(self) -> None:
        # After max_size was lowered, the surplus keeps its slots until it is gone.
        tokens = max(self._max_size, self._size)
        if self._slots.total_tokens != tokens:
            self._slots.total_tokens = tokens

    def _check_ready(self) -> None:
        if self._population[State.IDLE] >= self._settings.min_idle:
            self._tell_watchers(None)

    def _check_drained(self) -> None:
        if self._drained is not None and not self._population[State.IN_USE]:
            self._drained()

    def _tell_watchers(self, error: Exception | None) -> None:
        for watcher in self._watchers:
            self._tell(watcher, error)
        self._watchers.clear()

    def _tell(self, waiter: Waiter[Link], error: Exception | None) -> None:
        waiter.error = error
        waiter.wake()
