"""The state machine of a pool: who is idle, borrowed, opening, closing, and who waits.

Everything that decides stands here. The machine is synchronous, does no I/O, and gets the time and
the slots from outside. It appends what has to be done to :attr:`PoolStateMachine.actions`, and
calls ``run_actions`` itself when the event is over and the lock is free. The rules:

- Every connection holds a slot. One is opened only where a slot is free.
- While anybody waits, nothing is idle except what would have to be checked first: what becomes
  available goes to the oldest waiter. So whoever finds an idle connection overtakes nobody.
- As many connections are under way as there are waiters and missing idle ones, where there is
  room; none of them belongs to a particular waiter. What may hang counts for few of them
  (:mod:`anyconnpool._core.waiting_line`), and where there is no room for those who are left, idle
  connections give way. A failure to connect is for whoever waited when the attempt began.
- One request has one idle connection checked. When hooks run on open connections, and what follows
  from them, stands in :mod:`anyconnpool._core.hooks`.
- A connection is acquired or becomes idle only if nothing is known against it. A greeting, what
  the server says before anybody has used the connection, is for its first borrower.

Counts change under a lock that is never held across an await: statistics are read from other
threads. Methods without an underscore are events and take the lock, except on the short ways of
:meth:`PoolStateMachine.acquire` and :meth:`PoolStateMachine.release`, which change a count at a
time; the others are steps of events, and expect it to be held; see ``event_lock.py``.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import count
from typing import Generic, TypeVar

from anyconnpool._core.connection_group import ConnectionGroup
from anyconnpool._core.event_lock import EventLock, LockedEvent, postponable, postpone_events
from anyconnpool._core.health import Health
from anyconnpool._core.hooks import HookRules, Verdict
from anyconnpool._core.replica_rules import ReplicaRules
from anyconnpool._core.sharing import make_sharing
from anyconnpool._core.states import (
    IDLE,
    IN_USE,
    Action,
    PoolEntry,
    Slots,
    State,
    Totals,
    TransportT,
    Waiter,
)
from anyconnpool._core.supply import Steps, Supply
from anyconnpool._core.waiting_line import WaitingLine
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason, PoolStatistics
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.liveness import ALIVE, Liveness

T = TypeVar("T")


@postpone_events(besides=["release"])
class PoolStateMachine(Generic[TransportT]):
    """Decide what every event in the life of a pool's connections leads to.

    :param settings: the pool's settings
    :param slots: one token for every connection
    :param run_actions: carries out what stands in :attr:`actions`
    :param jitter: returns a random number from 0 to 1
    :param event_lock: the lock of the machines that this one shares a limit with, if any
    :param numbers: what numbers their waiters and attempts
    """

    def __init__(
        self,
        settings: Settings,
        slots: Slots,
        run_actions: Callable[[], object],
        *,
        jitter: Callable[[], float] = random.random,
        event_lock: EventLock | None = None,
        numbers: Iterator[int] | None = None,
    ) -> None:
        self.actions: deque[tuple[Action, PoolEntry[TransportT]]] = deque()
        self.totals = Totals()
        self._settings, self._run_actions, self._jitter = settings, run_actions, jitter
        self._group = self._make_group(slots)
        self.event_lock = lock = event_lock or EventLock()
        self._event = LockedEvent(lock, self._finish_event)
        #: whether the event under way leads to something to be done, and when to call :meth:`tick`
        self._due, self.alarm_at = False, math.inf
        self._idle = self._group.idle
        self._idle_entries, self._pop_idle = self._idle.entries, self._idle.pop
        self.line: WaitingLine[TransportT] = WaitingLine(settings, self.totals)
        self._waiters, self._watchers = self.line.waiters, self.line.watchers
        self._hooks = HookRules(settings, self._group, self.line, self._request)
        #: numbers the waiters and the attempts to connect, in the order of their beginning
        self._numbers = count() if numbers is None else numbers
        self.supply = self._make_supply(
            Steps(self._request, self._close, self._close_oldest, self._set_alarm, self._note_due)
        )
        #: what several replicas add; None if there is one remote
        self.replicas: ReplicaRules[TransportT] | None = None
        #: lets requests share connections; None in a pool that doesn't pipeline
        take = self.acquire, self.take_back
        self.sharing = make_sharing(settings, self.supply, *take, self._event)
        self._drained: Callable[[], object] | None = None

    def _make_group(self, slots: Slots) -> ConnectionGroup[TransportT]:
        return ConnectionGroup(slots, self._settings)

    def _make_supply(self, steps: Steps[TransportT]) -> Supply[TransportT]:
        return Supply(self._settings, self._group, self.line, self._hooks, steps, self._numbers)

    def use_replicas(self, health: Health) -> None:
        """Share the connections out to several replicas, from before the first event on."""
        self.replicas = self.supply.use_replicas(health, self.totals, self._event, self.event_lock)
        self._pop_idle = self.replicas.choose_pop()

    def acquire(self, now: float) -> PoolEntry[TransportT] | None:
        """Acquire an idle connection, if there is a good one; bad ones are closed."""
        lock = self.event_lock
        if lock.busy or not self._idle_entries:
            return None
        lock.busy = True
        try:
            found, group = None, self._group
            if group.grants_plainly:
                entry = self._idle_entries[self._idle.next]
                if now < entry.recheck_at and entry.borrows and entry.state is IDLE:
                    found = entry.look()
                    is_peak = len(self._idle_entries) <= group.peak_below
                    if found is ALIVE and not (is_peak or self._waiters):
                        # The short way. Counted first, it never looks as if it wasn't counted.
                        self.totals.reused += 1
                        self._idle.give_out(entry, now)
                        return entry
            # A "with" costs several times as much.
            lock.lock.acquire()
            try:
                return self._find_good(now, found)
            finally:
                lock.lock.release()
        finally:
            lock.busy = False
            if self._due or lock.postponed:
                self._conclude(now)

    def _find_good(self, now: float, found: Liveness | None) -> PoolEntry[TransportT] | None:
        """Take out idle entries until one is good; a look at the first may have been taken."""
        pop_idle, asked = self._pop_idle, False
        while self._idle_entries:
            entry = pop_idle()
            if entry.state is not IDLE:
                self._idle.ghosts -= 1
                continue
            if now < entry.recheck_at:
                liveness, found = found or entry.look(), None
                reason = None if liveness is ALIVE else self._hooks.judge(entry, liveness)
                if reason is None and not self._waiters:
                    self._grant(entry, now)
                    return entry
            elif (reason := self._hooks.judge_idle(entry, now)) is None:
                if asked:
                    self._idle_entries.append(entry)
                    return None
                # One check for one request; what was used last may be good without one.
                self._hooks.begin(entry, Action.CHECK, now)
                pop_idle, asked = self._idle_entries.pop, True
                continue
            self._route(entry, now, reason)
        return None

    def join(self, waiter: Waiter[TransportT], now: float) -> bool:
        """Put a task in line, and have a connection opened for it where there is room.

        :return: false if ``max_waiting`` tasks are waiting for a slot already
        """
        self.event_lock.begin()
        try:
            self.line.outage.asked_at = now
            if self._settings.max_waiting < math.inf and not self.supply.may_wait(now, waiter):
                self.totals.refused += 1
                return False
            waiter.joined_at = now
            self.line.add(waiter, next(self._numbers))
            self.supply.balance(now)
            # After that: one that was refused at once has not waited.
            self.line.note_peak()
            return True
        finally:
            self.event_lock.end()
            self._finish_event()

    def abandon(self, waiter: Waiter[TransportT], now: float) -> None:
        """Take a task out of the line; what it was granted in that moment goes to the next."""
        with self._event:
            if waiter.entry is None:
                self.line.leave(waiter)
            else:
                self._take_back(waiter.entry, now)
            self.supply.balance(now)

    def take_back(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Undo a grant whose borrower was cancelled before it could use the connection."""
        with self._event:
            self._take_back(entry, now)
            self.supply.balance(now)

    def release(self, entry: PoolEntry[TransportT], now: float, reason: Verdict) -> None:
        """Take a borrowed connection back, unless it was seized meanwhile.

        :param reason: why it must not be used again, if so
        """
        lock = self.event_lock
        if lock.busy:
            lock.postpone(self.release, entry, now, reason)
            return
        lock.busy = True
        try:
            group = self._group
            if (
                reason is None
                and group.rests_plainly
                and not (entry.noticed or self._waiters or group.alert)
                and now < entry.expires_at
                and entry.generation == group.generation
                and group.size <= group.max_size
                and entry.state is IN_USE
            ):
                self._idle.take_in(entry, now)
            else:
                lock.lock.acquire()
                try:
                    self._take_in(entry, now, reason)
                finally:
                    lock.lock.release()
        finally:
            lock.busy = False
            if self._due or lock.postponed:
                self._conclude(now)

    def _take_in(self, entry: PoolEntry[TransportT], now: float, reason: Verdict) -> None:
        """Take a connection back that somebody waits for, or that something may speak against."""
        if entry.state is not IN_USE:
            return
        if reason is None and (entry.noticed or self._waiters):
            liveness = entry.look()
            reason = None if liveness is ALIVE else self._hooks.judge(entry, liveness)
        if self._hooks.resets:
            reason = self._hooks.note_use(entry, reason)
        self._route(entry, now, reason)

    def notice(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Take note that something has arrived or ended on a connection while nobody receives."""
        entry.noticed = True
        if entry.state is not IDLE:
            return
        with self._event:
            verdict = self._hooks.judge_idle(entry, now)
            if verdict is None:
                return
            self._idle.lose(entry, for_good=not isinstance(verdict, Action))
            self._route(entry, now, verdict)
            self.supply.balance(now)

    def detach(self, entry: PoolEntry[TransportT], now: float) -> bool:
        """Let a borrowed connection leave the pool open; false if it was seized meanwhile."""
        if mine := entry.state is IN_USE:
            entry.close_reason = CloseReason.DETACHED
            self._detach(entry, now)
        return mine

    @postponable
    def _detach(self, entry: PoolEntry[TransportT], now: float) -> None:
        with self._event:
            if entry.state is IN_USE:
                self.totals.closed[entry.close_reason] += 1
                self._forget(entry)
                self.supply.balance(now)

    def opened(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Take in a new connection: for the oldest waiter, or idle."""
        with self._event:
            entry.begin_life(now, self._settings.max_lifetime, self._jitter)
            self.totals.opened += 1
            self.supply.succeed(entry, now)
            # Whoever waits gets it as it is: a server may say one thing and hang up.
            reason = None if self._waiters else entry.fault(entry.look())
            self._route(entry, now, reason)
            self.supply.balance(now)

    def open_failed(
        self, entry: PoolEntry[TransportT], error: Exception, now: float, pause: float | None
    ) -> None:
        """Give the error to whom it concerns, or have it tried again for them.

        :param pause: how long to wait before that, in seconds; None if it is not to be repeated
        """
        with self._event:
            self.totals.open_failed += 1
            self.supply.fail(entry, error, now, pause)
            self._forget(entry)
            self.supply.balance(now)

    def died_unused(self, error: Exception) -> None:
        """Tell those who wait for readiness that what was opened didn't stay open."""
        with self._event:
            self.line.wake_watchers(error)

    def lost(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Forget a connection whose opening was cancelled, or whose task was: it is closed."""
        with self._event:
            if entry.state is not State.OPENING:
                entry.close_reason = CloseReason.POOL_CLOSED
                self.totals.closed[entry.close_reason] += 1
            self.supply.lose(entry)
            self._forget(entry)
            self.supply.balance(now)

    def checked(
        self, entry: PoolEntry[TransportT], found: Liveness | CloseReason | None, now: float
    ) -> None:
        """Decide what becomes of a connection after a hook; see :meth:`HookRules.end`."""
        with self._event:
            self._route(entry, now, self._hooks.end(entry, found, now))
            self._hooks.check_idle(now)
            self.supply.balance(now)

    def closed(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Count and forget a connection whose socket is closed: its slot is free."""
        with self._event:
            self.totals.closed[entry.close_reason] += 1
            self._forget(entry)
            self.supply.balance(now)

    def reap(self, now: float, limit: int) -> bool:
        """Have the entries closed that have been idle for too long, the oldest first.

        :param limit: most entries to take at once
        :return: whether there may be more
        """
        with self._event:
            stale = self._idle.pop_stale(now, self._settings.max_idle_time, limit)
            for entry in stale:
                self._close(entry, CloseReason.IDLE_TIME)
            self.supply.balance(now)
            return len(stale) == limit

    def look_over(self, start: int, limit: int, now: float) -> int | None:
        """Take the idle entries that are no longer good out of the idle ones, a slice at a time.

        :param start: how many of those that stood longest to pass over
        :param limit: how many to look at
        :return: where the next slice starts, if there is one
        """

        def is_bad(entry: PoolEntry[TransportT]) -> bool:
            verdict = self._hooks.judge_idle(entry, now, look=not entry.tells)
            if verdict is not None:
                self._route(entry, now, verdict)
            return verdict is not None

        with self._event:
            start_of_next = self._idle.sift(start, limit, is_bad)
            self.supply.balance(now)
            return start_of_next

    def next_expiry(self) -> float:
        """Return when the entry that stood longest will have been idle for too long."""
        with self._event:
            return self._idle.oldest_since() + self._settings.max_idle_time

    def check_idle(self, now: float) -> float:
        """Have checked what has been idle for ``check_every``; return when to call this again."""
        with self._event:
            next_at = self._hooks.check_idle(now)
            self.supply.balance(now)
            return next_at

    def refill(self, now: float) -> None:
        """Have idle connections opened that are missing, also after a failure to connect."""
        with self._event:
            self.supply.refill_paused = self.supply.ends_early = False
            self.supply.balance(now)

    def tick(self, now: float) -> None:
        """Do what was to be done at :attr:`alarm_at`."""
        with self._event:
            self.alarm_at = math.inf
            self.supply.balance(now)

    def watch(self, watcher: Waiter[TransportT], now: float) -> None:
        """Wake a task when enough connections are idle, or with why they can't be opened."""
        with self._event:
            self.line.watch(watcher, next(self._numbers), now)
            self._check_ready()
            self.supply.balance(now)

    def unwatch(self, watcher: Waiter[TransportT]) -> None:
        """Forget a task that watched, whether or not it was woken."""
        with self._event:
            self._watchers.pop(watcher, None)

    def retire(
        self, now: float, chosen: Collection[PoolEntry[TransportT]] | None = None, within: float = 0
    ) -> None:
        """Have every present connection closed, those in use when they come back.

        :param chosen: which ones, if not all
        :param within: over how many seconds to spread the closing of idle ones
        """
        with self._event:
            self._group.retire(chosen, now, within, self._jitter)
            if self.sharing is not None:
                self.sharing.pipeline.wear_out_retired(self._group.generation)
            self.supply.balance(now)

    def resize(self, max_size: float, now: float) -> None:
        """Change the maximum; surplus connections are closed, those in use when they come back."""
        with self._event:
            self._group.resize(max_size)
            while self._group.surplus() > 0 and self._idle:
                self._close_oldest(CloseReason.SURPLUS)
            self.supply.balance(now)

    def end(self, error: Callable[[], Exception], drained: Callable[[], object]) -> None:
        """Refuse everybody from now on: waiters get an error, idle entries are closed.

        :param drained: called when nothing is in use any more
        """
        with self._event:
            self._drained, self.supply.last_error = drained, None
            self._group.end()
            if self.sharing is not None:
                self.sharing.pipeline.wear_out_all()
            self.line.refuse_all(error)
            while self._close_oldest(CloseReason.POOL_CLOSED):
                pass
            self._check_drained()

    def seize(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Have a connection closed while its borrower still holds it."""
        with self._event:
            if entry.state is State.IN_USE:
                self._close(entry, CloseReason.SEIZED)
                self.supply.balance(now)

    @defer_interrupts
    def statistics(self, clock: Callable[[], float] | None = None) -> PoolStatistics:
        """Return counts and totals as they are now, from any thread; durations need a clock."""
        with self.event_lock.lock:
            return PoolStatistics(
                name=self._settings.name,
                **self._group.figures(),
                tasks_waiting=len(self._waiters),
                in_flight=0 if self.sharing is None else self.sharing.pipeline.in_flight,
                failing_for=self.line.outage.lasts(clock),
                **self.totals.frozen(),
            )

    @defer_interrupts
    def snapshot(
        self, clock: Callable[[], float], read: Callable[[], T]
    ) -> tuple[PoolStatistics, T]:
        """Return the statistics, and what a function reads in the same moment; from any thread."""
        with self.event_lock.lock:
            return self.statistics(clock), read()

    @defer_interrupts
    def reset_peaks(self) -> None:
        """Begin the peaks anew with what is now, from any thread."""
        with self.event_lock.lock:
            self._group.reset_peak()
            self.totals.peak_waiting = len(self._waiters)

    def _request(self, action: Action, entry: PoolEntry[TransportT]) -> None:
        """Note what has to be done with an entry as soon as this event is over."""
        self.actions.append((action, entry))
        self._due = True

    def _note_due(self) -> None:
        self._due = True

    def _finish_event(self) -> None:
        """Do what the event has led to or put off, if anything; called without the lock."""
        if self.event_lock.postponed:
            self.event_lock.catch_up()
        if self._due:
            self._due = False
            self._run_actions()

    def _conclude(self, now: float) -> None:
        """End an event that did not take place as others do."""
        with self._event:
            if self._due:
                self.supply.balance(now)

    def _route(self, entry: PoolEntry[TransportT], now: float, verdict: Verdict) -> None:
        """Decide what becomes of a connection that nobody holds any more."""
        # One test of all that can make it unfit comes first: most often nothing does.
        group = self._group
        if (verdict is None or isinstance(verdict, Action)) and (
            entry.generation != group.generation
            or now >= entry.expires_at
            or entry.borrows >= self._settings.max_uses
            or group.size > group.max_size
            or group.alert
        ):
            verdict = group.unfit(entry, now, self._settings.max_uses) or verdict
        if verdict is not None:
            if isinstance(verdict, Action):
                self._hooks.begin(entry, verdict, now)
            else:
                self._close(entry, verdict, now)
        elif self._waiters:
            waiter = self.line.pop()
            self._grant(entry, now)
            if self.sharing is None or not self.sharing.begin(entry, waiter):
                waiter.entry = entry
                waiter.wake()
        else:
            self._make_idle(entry, now)
            if self._watchers:
                self._check_ready()

    def _make_idle(self, entry: PoolEntry[TransportT], now: float) -> None:
        if entry.state is IN_USE and entry.borrows:
            self._idle.take_in(entry, now)
        else:
            self._group.make_idle(entry, now)
            # What was never used is not asked.
            longest = self._settings.max_idle_time
            due = entry.rested_since + (self._idle.longest_rest if entry.borrows else longest)
            entry.recheck_at = min(due, entry.idle_since + longest, entry.expires_at)
        if (background := self._group.background) is not None:
            background.rest(entry, now)

    def _grant(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Give an entry to a borrower."""
        if entry.state is IDLE:
            entry.state = IN_USE
            if entry.replica is not None:
                entry.replica.in_use += 1
            if (least := self._settings.min_idle) and len(self._idle) < least:
                self._due = True
            if len(self._idle_entries) < self._group.peak_below:
                self._group.note_peak()
        elif entry.state is not IN_USE:
            self._group.move(entry, IN_USE)
            self._group.note_peak()
        entry.acquired_at = now
        entry.noticed = False
        self.totals.grant(entry)

    def _take_back(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Undo a grant that never reached its borrower, unless the entry was seized meanwhile."""
        if entry.state is not IN_USE:
            return
        self.totals.take_back(entry)
        self._route(entry, now, self._hooks.judge(entry, entry.look()))

    def _close(
        self, entry: PoolEntry[TransportT], reason: CloseReason, now: float = math.inf
    ) -> None:
        """Have an entry closed; the time says whether it has ended early."""
        if entry.ends_early(reason, now):
            # The next one would end in the same way: not before the next sweep.
            self.supply.ends_early = self.supply.refill_paused = True
        self._group.close(entry, reason)
        self._request(Action.CLOSE, entry)
        self._check_drained()

    def _set_alarm(self, at: float) -> None:
        """See to it that the time is told when it matters."""
        if at < self.alarm_at:
            self.alarm_at = at
            self._due = True

    def _close_oldest(self, reason: CloseReason) -> bool:
        """Have the entry closed that has been idle longest; false if there is none."""
        entry = self._idle.pop_oldest()
        if entry is not None:
            self._close(entry, reason)
        return entry is not None

    def _forget(self, entry: PoolEntry[TransportT]) -> None:
        self._group.forget(entry)
        self._check_drained()

    def _check_ready(self) -> None:
        if len(self._idle) >= self._settings.min_idle:
            self.line.wake_watchers(None)

    def _check_drained(self) -> None:
        if self._drained is not None and not self._group.in_use():
            self._drained()
