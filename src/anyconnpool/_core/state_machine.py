"""The state machine of a pool: who is idle, borrowed, opening, closing, and who waits.

Everything that decides stands here. The machine is synchronous, does no I/O, and gets the time and
the slots from outside. It appends what has to be done to :attr:`PoolStateMachine.actions`, and
calls ``run_actions`` itself when the event is over and the lock is free. The rules:

- Slots are sockets: every connection holds a slot from the decision to open it until its socket
  is closed, and there are ``max_size`` slots. A connection is opened only where one is free.
- While anybody waits, nothing is idle: what becomes available goes to the oldest waiter. So
  whoever finds an idle connection overtakes nobody.
- As many connections are under way as there are waiters and missing idle ones, where there is
  room; none of them belongs to a particular waiter.
- A connection is acquired or becomes idle only if nothing is known against it. A greeting, what
  the server says before anybody has used the connection, is for its first borrower.
- An idle connection that turns out dead leaves at once. It stays in the deque until somebody comes
  by, marked by its state, so that a thousand deaths in one moment cost a thousand steps.

The idle deque and all counts change under a lock that is never held across an await: statistics
are read from other threads. Methods without an underscore are events and take the lock; the others
are the steps that events consist of, and expect it to be held.
"""

from __future__ import annotations

import math
import random
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic

from anyconnpool._core.states import (
    IDLE,
    IN_USE,
    Action,
    LockedEvent,
    PoolEntry,
    Slots,
    State,
    Totals,
    TransportT,
    Waiter,
)
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason, PoolStatistics, freeze_counts
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.liveness import ALIVE, Liveness

# A lifetime ends up to a tenth early, so that connections opened together don't end together.
_LIFETIME_JITTER = 0.1


class PoolStateMachine(Generic[TransportT]):
    """Decide what every event in the life of a pool's connections leads to.

    :param settings: the pool's settings
    :param slots: one token for every connection
    :param run_actions: carries out what stands in :attr:`actions`
    :param jitter: returns a random number from 0 to 1
    """

    def __init__(
        self,
        settings: Settings,
        slots: Slots,
        run_actions: Callable[[], object],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.actions: deque[tuple[Action, PoolEntry[TransportT]]] = deque()
        self.last_connect_error: Exception | None = None
        self.totals = Totals()
        self._settings = settings
        self._max_size = settings.max_size
        self._min_idle = settings.min_idle
        self._longest_idle = settings.max_idle_time
        self._max_waiting = settings.max_waiting
        self._max_uses = settings.max_uses
        check_after = math.inf if settings.check is None else settings.check_after
        self._longest_rest = min(settings.max_idle_time, check_after)
        self._slots = slots
        self._run_actions = run_actions
        self._jitter = jitter
        self._lock = threading.Lock()
        self._event = LockedEvent(self._lock, self._finish_event)
        #: whether the event under way leads to something to be done
        self._due = False
        self._idle: deque[PoolEntry[TransportT]] = deque()
        #: how many in the deque are idle no longer
        self._ghosts = 0
        self._pop_idle = self._idle.pop if settings.idle_order == "lifo" else self._idle.popleft
        self._waiters: OrderedDict[Waiter[TransportT], None] = OrderedDict()
        self._watchers: dict[Waiter[TransportT], None] = {}
        #: how many are in the states that pass; from these follows how many are in use
        self._passing = {State.OPENING: 0, State.CHECKING: 0, State.CLOSING: 0}
        self._size = 0
        self._generation = 0
        self._refill_paused = False
        self._drained: Callable[[], object] | None = None

    def acquire(self, now: float) -> PoolEntry[TransportT] | None:
        """Acquire an idle connection, if there is a good one; bad ones are closed."""
        # A "with" costs as much again as the lock itself: on the path of every borrow it shows.
        self._lock.acquire()
        try:
            while self._idle:
                entry = self._pop_idle()
                if entry.state is not IDLE:
                    self._ghosts -= 1
                    continue
                if now < entry.recheck_at:
                    liveness = entry.look()
                    reason = None if liveness is ALIVE else self._reason(entry, liveness)
                    if reason is None:
                        self._grant(entry, now)
                        return entry
                else:
                    reason = self._judge_idle(entry, now)
                self._close_or_check(entry, reason)
            return None
        finally:
            self._lock.release()
            if self._due:
                self._finish_event()

    def join(self, waiter: Waiter[TransportT]) -> bool:
        """Put a task in line, and have a connection opened for it where there is room.

        :return: false if ``max_waiting`` tasks are waiting for a slot already
        """
        with self._event:
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
        with self._event:
            entry = waiter.entry
            if entry is None:
                self._waiters.pop(waiter, None)
            else:
                self._take_back(entry, now)

    def take_back(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Undo a grant whose borrower was cancelled before it could use the connection."""
        with self._event:
            self._take_back(entry, now)

    def release(self, entry: PoolEntry[TransportT], now: float, reason: CloseReason | None) -> None:
        """Take a borrowed connection back, unless it was seized meanwhile.

        :param reason: why it must not be used again, if so
        """
        self._lock.acquire()
        try:
            if entry.state is not IN_USE:
                return
            if reason is None and (entry.noticed or self._waiters):
                reason = self._judge(entry)
            self._route(entry, now, reason)
        finally:
            self._lock.release()
            if self._due:
                self._finish_event()

    def notice(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Take note that something has arrived or ended on a connection while nobody receives."""
        entry.noticed = True
        if entry.state is not IDLE:
            return
        with self._event:
            reason = self._judge_idle(entry, now)
            if reason is not None:
                self._ghosts += 1
                self._close(entry, reason)

    def detach(self, entry: PoolEntry[TransportT]) -> bool:
        """Let a borrowed connection leave the pool open; false if it was seized meanwhile."""
        with self._event:
            if entry.state is not State.IN_USE:
                return False
            entry.close_reason = CloseReason.DETACHED
            self.totals.closed[entry.close_reason] += 1
            self._forget(entry)
            return True

    def opened(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Take in a new connection: for the oldest waiter, or idle."""
        with self._event:
            lifetime = self._settings.max_lifetime
            if lifetime < math.inf:
                lifetime *= 1 - _LIFETIME_JITTER * self._jitter()
            entry.expires_at = now + lifetime
            self.totals.opened += 1
            self.last_connect_error = None
            # Whoever waits gets it as it is: a server may say one thing and hang up.
            reason = None if self._waiters else self._judge(entry)
            self._route(entry, now, reason)
            if self._refill_paused and reason is None:
                self._refill_paused = False
                self._balance()

    def attempt_failed(self, error: Exception) -> None:
        """Count a failure to connect, whether or not it will be tried again."""
        with self._event:
            self.totals.open_failed += 1
            self.last_connect_error = error

    def open_failed(self, entry: PoolEntry[TransportT], error: Exception) -> None:
        """Give the error to the oldest waiter; the next one gets a new attempt."""
        with self._event:
            self._refill_paused = True
            if self._waiters:
                self._wake(self._waiters.popitem(last=False)[0], error)
            else:
                self._wake_watchers(error)
            self._forget(entry)

    def open_cancelled(self, entry: PoolEntry[TransportT]) -> None:
        """Forget a connection whose opening was cancelled."""
        with self._event:
            self._forget(entry)

    def lost(self, entry: PoolEntry[TransportT]) -> None:
        """Forget a connection whose task was cancelled before its first step; it is closed."""
        with self._event:
            if entry.state is not State.OPENING:
                entry.close_reason = CloseReason.POOL_CLOSED
                self.totals.closed[entry.close_reason] += 1
            self._forget(entry)

    def checked(
        self, entry: PoolEntry[TransportT], found: Liveness | CloseReason, now: float
    ) -> None:
        """Decide what becomes of a doubtful connection, by what a look into it has shown."""
        with self._event:
            reason = self._reason(entry, found) if isinstance(found, Liveness) else found
            self._route(entry, now, reason)

    def closed(self, entry: PoolEntry[TransportT]) -> None:
        """Count and forget a connection whose socket is closed: its slot is free."""
        with self._event:
            self.totals.closed[entry.close_reason] += 1
            self._forget(entry)

    def reap(self, now: float, limit: int) -> bool:
        """Have the entries closed that have been idle for too long, the oldest first.

        :param limit: most entries to take at once
        :return: whether there may be more
        """
        with self._event:
            for _ in range(limit):
                oldest = self._oldest_idle()
                if oldest is None or now - oldest.idle_since < self._longest_idle:
                    return False
                self._close(self._idle.popleft(), CloseReason.IDLE_TIME)
            return True

    def look_over(self, start: int, limit: int, now: float) -> int | None:
        """Take the idle entries that are no longer good out of the idle ones, a slice at a time.

        :param start: how many of those that stood longest to pass over
        :param limit: how many to look at
        :return: where the next slice starts, if there is one
        """
        idle, kept = self._idle, 0
        with self._event:
            idle.rotate(-start)
            try:
                for _ in range(min(limit, len(idle) - start)):
                    entry = idle[0]
                    if entry.state is not IDLE:
                        self._ghosts -= 1
                        idle.popleft()
                        continue
                    reason = self._judge_age(entry, now)
                    if reason is None and not entry.tells:
                        reason = self._judge(entry)
                    if reason is None:
                        idle.rotate(-1)
                        kept += 1
                    else:
                        self._close(idle.popleft(), reason)
            finally:
                idle.rotate(start + kept)
            return start + kept if start + kept < len(idle) else None

    def next_expiry(self) -> float:
        """Return when the entry that stood longest will have been idle for too long."""
        with self._lock:
            oldest = self._oldest_idle()
            return math.inf if oldest is None else oldest.idle_since + self._longest_idle

    def waiters(self) -> list[Waiter[TransportT]]:
        """Return those who wait for a connection, in line."""
        with self._lock:
            return list(self._waiters)

    def unused(self) -> bool:
        """Return whether nothing is open and nobody waits."""
        with self._lock:
            return not self._size and not self._waiters and not self._watchers

    def wanted(self) -> bool:
        """Return whether anybody waits, or idle connections are missing."""
        with self._lock:
            return bool(self._waiters) or self._min_idle > self._count_idle()

    def refill(self) -> None:
        """Have idle connections opened that are missing, also after a failure to connect."""
        with self._event:
            self._refill_paused = False
            self._balance()

    def watch(self, watcher: Waiter[TransportT]) -> None:
        """Wake a task when enough connections are idle, or with why they can't be opened."""
        with self._event:
            self._watchers[watcher] = None
            self._check_ready()

    def unwatch(self, watcher: Waiter[TransportT]) -> None:
        """Forget a task that watched, whether or not it was woken."""
        with self._event:
            self._watchers.pop(watcher, None)

    def retire(self) -> None:
        """Have every present connection closed, those in use when they come back."""
        with self._event:
            self._generation += 1
            while self._oldest_idle() is not None:
                self._close(self._idle.popleft(), CloseReason.RETIRED)

    def resize(self, max_size: float) -> None:
        """Change the maximum; surplus connections are closed, those in use when they come back."""
        with self._event:
            self._max_size = max_size
            while self._size - self._passing[State.CLOSING] > max_size and self._oldest_idle():
                self._close(self._idle.popleft(), CloseReason.SURPLUS)
            self._fit_slots()
            self._balance()

    def end(self, error: Callable[[], Exception], drained: Callable[[], object]) -> None:
        """Refuse everybody from now on: waiters get an error, idle entries are closed.

        :param drained: called when nothing is in use any more
        """
        with self._event:
            self._drained = drained
            while self._waiters:
                self._wake(self._waiters.popitem(last=False)[0], error())
            self._wake_watchers(error())
            while self._oldest_idle() is not None:
                self._close(self._idle.popleft(), CloseReason.POOL_CLOSED)
            self._check_drained()

    def seize(self, entry: PoolEntry[TransportT]) -> None:
        """Have a connection closed while its borrower still holds it."""
        with self._event:
            if entry.state is State.IN_USE:
                self._close(entry, CloseReason.SEIZED)

    @defer_interrupts
    def statistics(self) -> PoolStatistics:
        """Return counts and totals as they are now, from any thread."""
        totals = self.totals
        with self._lock:
            return PoolStatistics(
                name=self._settings.name,
                max_size=self._max_size,
                size=self._size,
                idle=self._count_idle(),
                in_use=self._in_use(),
                connecting=self._under_way(),
                closing=self._passing[State.CLOSING],
                tasks_waiting=len(self._waiters),
                acquired=totals.acquired,
                reused=totals.reused,
                opened=totals.opened,
                open_failed=totals.open_failed,
                closed=freeze_counts(totals.closed),
                timed_out=totals.timed_out,
                cancelled=totals.cancelled,
                replayed=totals.replayed,
            )

    def _request(self, action: Action, entry: PoolEntry[TransportT]) -> None:
        """Note what has to be done with an entry as soon as this event is over."""
        self.actions.append((action, entry))
        self._due = True

    def _finish_event(self) -> None:
        """Run the actions that the event has led to, if any; called without the lock."""
        if self._due:
            self._due = False
            self._run_actions()

    def _route(self, entry: PoolEntry[TransportT], now: float, reason: CloseReason | None) -> None:
        """Decide what becomes of a connection that nobody holds any more."""
        # One test of all that can make it unfit comes first: most often nothing does.
        if reason is None and (
            entry.generation != self._generation
            or now >= entry.expires_at
            or entry.borrows >= self._max_uses
            or self._size > self._max_size
            or self._drained is not None
        ):
            reason = self._unfit(entry, now)
        if reason is not None:
            self._close(entry, reason)
        elif self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            self._grant(entry, now)
            waiter.entry = entry
            waiter.wake()
        else:
            self._make_idle(entry, now)
            if self._watchers:
                self._check_ready()

    def _unfit(self, entry: PoolEntry[TransportT], now: float) -> CloseReason | None:
        if self._drained is not None:
            return CloseReason.POOL_CLOSED
        if entry.generation != self._generation:
            return CloseReason.RETIRED
        if entry.borrows >= self._max_uses:
            return CloseReason.USES
        # However short its life, a new connection serves whoever waits for it.
        if entry.borrows and now >= entry.expires_at:
            return CloseReason.LIFETIME
        if self._size - self._passing[State.CLOSING] > self._max_size:
            return CloseReason.SURPLUS
        return None

    def _judge_idle(self, entry: PoolEntry[TransportT], now: float) -> CloseReason | None:
        return self._judge_age(entry, now) or self._judge(entry)

    def _judge_age(self, entry: PoolEntry[TransportT], now: float) -> CloseReason | None:
        if now - entry.idle_since >= self._longest_idle:
            return CloseReason.IDLE_TIME
        return CloseReason.LIFETIME if now >= entry.expires_at else None

    def _judge(self, entry: PoolEntry[TransportT]) -> CloseReason | None:
        return self._reason(entry, entry.look())

    @staticmethod
    def _reason(entry: PoolEntry[TransportT], liveness: Liveness) -> CloseReason | None:
        """Say why a connection that looks like this has to be closed, if so."""
        if liveness is Liveness.CLOSED:
            return CloseReason.PEER_CLOSED
        if liveness is Liveness.UNREAD and (entry.borrows or entry.spoken):
            return CloseReason.UNREAD_DATA
        return None

    def _count_idle(self) -> int:
        return len(self._idle) - self._ghosts

    def _oldest_idle(self) -> PoolEntry[TransportT] | None:
        """Return the entry that has been idle longest, the first of the deque, if there is one."""
        idle = self._idle
        while idle and idle[0].state is not IDLE:
            self._ghosts -= 1
            idle.popleft()
        return idle[0] if idle else None

    def _make_idle(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Make an entry idle."""
        if entry.state is not IN_USE:
            self._passing[entry.state] -= 1
        entry.state = IDLE
        entry.idle_since = now
        # What was never used is not asked.
        recheck_at = now + (self._longest_rest if entry.borrows else self._longest_idle)
        entry.recheck_at = recheck_at if recheck_at < entry.expires_at else entry.expires_at
        self._idle.append(entry)

    def _grant(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Give an entry to a borrower."""
        if entry.state is IDLE:
            entry.state = IN_USE
            if self._min_idle:
                self._balance()
        elif entry.state is not IN_USE:
            self._move(entry, IN_USE)
        entry.acquired_at = now
        entry.noticed = False
        totals = self.totals
        totals.acquired += 1
        if entry.borrows:
            totals.reused += 1
        entry.borrows += 1

    def _take_back(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Undo a grant that never reached its borrower, unless the entry was seized meanwhile."""
        if entry.state is not IN_USE:
            return
        self.totals.acquired -= 1
        entry.borrows -= 1
        if entry.borrows:
            self.totals.reused -= 1
        self._route(entry, now, self._judge(entry))

    def _close_or_check(self, entry: PoolEntry[TransportT], reason: CloseReason | None) -> None:
        """Have an entry closed or, if there is no reason to close it, checked."""
        if reason is not None:
            self._close(entry, reason)
        else:
            self._move(entry, State.CHECKING)
            self._request(Action.CHECK, entry)

    def _close(self, entry: PoolEntry[TransportT], reason: CloseReason) -> None:
        entry.close_reason = reason
        if not entry.borrows and reason in (CloseReason.PEER_CLOSED, CloseReason.UNREAD_DATA):
            # The next one would end in the same way: not before the next sweep.
            self._refill_paused = True
        self._move(entry, State.CLOSING)
        self._request(Action.CLOSE, entry)
        self._check_drained()
        self._balance()

    def _forget(self, entry: PoolEntry[TransportT]) -> None:
        self._move(entry, State.GONE)
        self._slots.release_on_behalf_of(entry)
        self._size -= 1
        self._fit_slots()
        self._check_drained()
        self._balance()

    def _move(self, entry: PoolEntry[TransportT], state: State) -> None:
        if entry.state in self._passing:
            self._passing[entry.state] -= 1
        if state in self._passing:
            self._passing[state] += 1
        entry.state = state

    def _balance(self) -> None:
        """Have as many connections opened as are missing and have room."""
        if self._size >= self._max_size or self._drained is not None:
            return
        missing = self._missing()
        while missing > 0 and self._size < self._max_size:
            self._open_one()
            missing -= 1

    def _missing(self) -> int:
        """Count the connections that waiters and the idle ones lack, beyond those under way."""
        ready = 0 if self._refill_paused else self._min_idle
        return len(self._waiters) + ready - self._count_idle() - self._under_way()

    def _under_way(self) -> int:
        return self._passing[State.OPENING] + self._passing[State.CHECKING]

    def _in_use(self) -> int:
        return self._size - self._count_idle() - self._under_way() - self._passing[State.CLOSING]

    def _open_one(self) -> None:
        entry: PoolEntry[TransportT] = PoolEntry(self._generation)
        self._slots.acquire_on_behalf_of_nowait(entry)
        self._passing[State.OPENING] += 1
        self._size += 1
        self._request(Action.OPEN, entry)

    def _fit_slots(self) -> None:
        # After max_size was lowered, the surplus keeps its slots until it is gone.
        tokens = max(self._max_size, self._size)
        if self._slots.total_tokens != tokens:
            self._slots.total_tokens = tokens

    def _check_ready(self) -> None:
        if self._count_idle() >= self._min_idle:
            self._wake_watchers(None)

    def _check_drained(self) -> None:
        if self._drained is not None and not self._in_use():
            self._drained()

    def _wake_watchers(self, error: Exception | None) -> None:
        for number, watcher in enumerate(self._watchers):
            watcher.shares_error = number > 0
            self._wake(watcher, error)
        self._watchers.clear()

    def _wake(self, waiter: Waiter[TransportT], error: Exception | None) -> None:
        waiter.error = error
        waiter.wake()
