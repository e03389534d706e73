"""THE state machine of a pool: who is idle, borrowed, opening, closing, and who waits.

Everything that decides lives here, and its single steps in ``_books``. It is synchronous, does no
I/O, and gets the time and the slots from outside; what has to be done it writes to
:attr:`PoolStateMachine.actions`. The rules:

- Every connection that isn't idle holds a slot, and ``idle + slots held`` never exceeds
  ``max_size``: a connection is opened only where there is room for it.
- While anybody waits, nothing is idle: what becomes available goes to the oldest waiter. So
  whoever finds an idle connection overtakes nobody.
- As many connections are under way as there are waiters and missing idle ones, where there is
  room; none of them belongs to a particular waiter.
- A connection is lent or becomes idle only if nothing is known against it.

The idle deque and all counts change under a lock that is never held across an await: statistics
are read from other threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from anyconnpool._core.books import Books
from anyconnpool._core.states import ALIVE, IN_USE, Liveness, PoolEntry, State, TransportT, Waiter
from anyconnpool._statistics import CloseReason, PoolStatistics, freeze_counts
from anyconnpool._util.interrupts import defer_interrupts

# A lifetime ends up to a tenth early, so that connections opened together don't end together.
_LIFETIME_JITTER = 0.1


class PoolStateMachine(Books[TransportT]):
    """Decide what every event in the life of a pool's connections leads to.

    See :class:`~anyconnpool._core.books.Books` for the parameters.
    """

    def checkout(self, now: float) -> PoolEntry[TransportT] | None:
        """Lend an idle connection, if there is a good one; bad ones are ordered to be closed."""
        self._lock.acquire()
        try:
            while self._idle:
                entry = self._pop_idle()
                if now < entry.recheck_at:
                    liveness = self._inspect(entry)
                    if liveness is ALIVE or self._is_greeting(entry, liveness):
                        self._lend(entry, now)
                        return entry
                    reason = self._reason(entry, liveness)
                else:
                    reason, _ = self._judge_idle(entry, now)
                self._remove(entry, reason)
            return None
        finally:
            self._lock.release()

    def join(self, waiter: Waiter[TransportT]) -> bool:
        """Put a task in line, and order a connection for it where there is room.

        :return: false if as many as may are waiting for a slot already
        """
        with self._lock:
            if self._max_waiting < math.inf and self._size >= self._max_size:
                freeing = self._passing[State.CLOSING] - (self._size - self._max_size)
                waiting = len(self._waiters) - self._under_way() - max(freeing, 0)
                if waiting >= self._max_waiting:
                    return False
            self._waiters[waiter] = None
            self._balance()
            return True

    def abandon(self, waiter: Waiter[TransportT], now: float) -> None:
        """Take a task out of the line; what it was granted in that moment goes to the next."""
        with self._lock:
            entry = waiter.entry
            if entry is None:
                self._waiters.pop(waiter, None)
            elif entry.state is State.IN_USE:
                self._unlend(entry)
                self._place(entry, now, *self._judge(entry))

    def release(
        self,
        entry: PoolEntry[TransportT],
        now: float,
        reason: CloseReason | None,
        unsure: bool = False,
    ) -> None:
        """Take a borrowed connection back, unless it was seized meanwhile.

        :param reason: why it must not be used again, if so
        :param unsure: whether it must be checked first
        """
        self._lock.acquire()
        try:
            if entry.state is not IN_USE:
                return
            if self._waiters and reason is None and not unsure:
                reason, unsure = self._judge(entry)
            self._place(entry, now, reason, unsure)
        finally:
            self._lock.release()

    def detach(self, entry: PoolEntry[TransportT]) -> bool:
        """Let a borrowed connection leave the pool open; false if it was seized meanwhile."""
        with self._lock:
            if entry.state is not State.IN_USE:
                return False
            entry.close_reason = CloseReason.DETACHED
            self._closed[entry.close_reason] += 1
            self._leave(entry)
            return True

    def opened(self, entry: PoolEntry[TransportT], now: float, *, unsure: bool = False) -> None:
        """Book a new connection: for the oldest waiter, or idle (once checked, if unsure)."""
        with self._lock:
            lifetime = self._settings.max_lifetime
            if lifetime < math.inf:
                lifetime *= 1 - _LIFETIME_JITTER * self._jitter()
            entry.expires_at = now + lifetime
            self._opened += 1
            self.last_connect_error = None
            self._place(entry, now, None, unsure and not self._waiters)
            if self._refill_paused:
                self._refill_paused = False
                self._balance()

    def attempt_failed(self, error: Exception) -> None:
        """Book a failure to connect, whether or not it will be tried again."""
        with self._lock:
            self._open_failed += 1
            self.last_connect_error = error

    def open_failed(self, entry: PoolEntry[TransportT], error: Exception) -> None:
        """Give the error to the oldest waiter; the next one gets a new attempt."""
        with self._lock:
            self._refill_paused = True
            if self._waiters:
                self._tell(self._waiters.popitem(last=False)[0], error)
            else:
                self._tell_watchers(error)
            self._leave(entry)

    def open_cancelled(self, entry: PoolEntry[TransportT]) -> None:
        """Forget a connection whose opening was cancelled."""
        with self._lock:
            self._leave(entry)

    def lost(self, entry: PoolEntry[TransportT]) -> None:
        """Forget a connection whose task was cancelled before its first step; it is closed."""
        with self._lock:
            if entry.state is not State.OPENING:
                entry.close_reason = CloseReason.POOL_CLOSED
                self._closed[entry.close_reason] += 1
            self._leave(entry)

    def checked(
        self, entry: PoolEntry[TransportT], found: Liveness | CloseReason, now: float
    ) -> None:
        """Book what a look at a doubtful connection has shown."""
        with self._lock:
            reason = self._reason(entry, found) if isinstance(found, Liveness) else found
            self._place(entry, now, reason, unsure=False)

    def closed(self, entry: PoolEntry[TransportT]) -> None:
        """Book that a socket is closed: its slot is free."""
        with self._lock:
            self._closed[entry.close_reason] += 1
            self._leave(entry)

    def reap(self, now: float, limit: int) -> bool:
        """Action the entries that have been idle for too long to be closed, the oldest first.

        :param limit: most entries to take at once
        :return: whether there may be more
        """
        with self._lock:
            for _ in range(limit):
                if not self._idle or now - self._idle[0].idle_since < self._longest_idle:
                    return False
                self._remove(self._idle.popleft(), CloseReason.IDLE_TIME)
            return True

    def idle_entries(self) -> list[PoolEntry[TransportT]]:
        """Return the entries that are idle now, those that stood longest first."""
        with self._lock:
            return list(self._idle)

    def look_over(self, start: int, limit: int, now: float) -> int | None:
        """Take the idle entries that are no longer good out of the idle ones, a slice at a time.

        :param start: how many of those that stood longest to pass over
        :param limit: how many to look at
        :return: where the next slice starts, if there is one
        """
        idle, kept = self._idle, 0
        with self._lock:
            idle.rotate(-start)
            try:
                for _ in range(min(limit, len(idle) - start)):
                    reason, unsure = self._judge_idle(idle[0], now)
                    if reason is None and not unsure:
                        idle.rotate(-1)
                        kept += 1
                    else:
                        self._remove(idle.popleft(), reason)
            finally:
                idle.rotate(start + kept)
            return start + kept if start + kept < len(idle) else None

    def next_expiry(self) -> float:
        """Return when the entry that stood longest will have been idle for too long."""
        with self._lock:
            since = self._idle[0].idle_since if self._idle else math.inf
            return since + self._longest_idle

    def settle(self) -> None:
        """Do what :attr:`Action.SHARE` asks for: nothing, unless a shared_limit is shared."""

    def unused(self) -> bool:
        """Tell whether nothing is open, nor anybody waiting."""
        with self._lock:
            return not self._size and not self._waiters and not self._watchers

    def wanted(self) -> bool:
        """Tell whether anybody waits, or idle connections are missing."""
        with self._lock:
            return bool(self._waiters) or self._min_idle > len(self._idle)

    def refill(self) -> None:
        """Action what is missing of the idle connections, also after a failure to connect."""
        with self._lock:
            self._refill_paused = False
            self._balance()

    def watch(self, watcher: Waiter[TransportT]) -> None:
        """Tell a task when enough connections are idle, or why they can't be opened."""
        with self._lock:
            self._watchers[watcher] = None
            self._check_ready()

    def unwatch(self, watcher: Waiter[TransportT]) -> None:
        """Forget a task that watched; no matter if it has been told."""
        with self._lock:
            self._watchers.pop(watcher, None)

    def retire(self) -> None:
        """Action every present connection to be closed, those in use when they come back."""
        with self._lock:
            self._generation += 1
            while self._idle:
                self._remove(self._idle.popleft(), CloseReason.RETIRED)

    def resize(self, max_size: float) -> None:
        """Change the most connections; a surplus is closed, what is in use when it comes back."""
        with self._lock:
            self._max_size = max_size
            while self._idle and self._size - self._passing[State.CLOSING] > max_size:
                self._remove(self._idle.popleft(), CloseReason.SURPLUS)
            self._fit_slots()
            self._balance()

    def shut(self, error: Callable[[], Exception], drained: Callable[[], object]) -> None:
        """Lend nothing more: waiters get an error, idle entries are ordered to be closed.

        :param drained: called when nothing is borrowed any more
        """
        with self._lock:
            self._drained = drained
            while self._waiters:
                self._tell(self._waiters.popitem(last=False)[0], error())
            self._tell_watchers(error())
            while self._idle:
                self._remove(self._idle.popleft(), CloseReason.POOL_CLOSED)
            self._check_drained()

    def seize(self, entry: PoolEntry[TransportT]) -> None:
        """Action a connection to be closed under its borrower's hands."""
        with self._lock:
            if entry.state is State.IN_USE:
                self._remove(entry, CloseReason.SEIZED)

    @defer_interrupts
    def statistics(self) -> PoolStatistics:
        """Return counts and totals as they are now, from any thread."""
        with self._lock:
            return PoolStatistics(
                name=self._settings.name,
                max_size=self._max_size,
                size=self._size,
                idle=len(self._idle),
                in_use=self._in_use(),
                connecting=self._under_way(),
                closing=self._passing[State.CLOSING],
                tasks_waiting=len(self._waiters),
                acquired=self._acquired,
                reused=self._reused,
                opened=self._opened,
                open_failed=self._open_failed,
                closed=freeze_counts(self._closed),
                timed_out=self.timed_out,
                cancelled=self.cancelled,
                replayed=self.replayed,
            )
