"""How a pool carries out what :mod:`anyconnpool._core.health` decides about its replicas.

The rules that are added to those of a pool with one remote:

- An idle connection is lent from the replica with the fewest in use or, in order, from the first
  that doesn't rest.
- A connection can be opened only where a replica may be chosen; one that fails goes on with the
  next within the same attempt, and holds its slot meanwhile.
- What the pool opens by itself, for a rest that is over or for a share, comes before what those
  need who wait. If there is no room for the former, idle connections give way, or the next ones
  that come back.
- Where such attempts hold all slots, or are all that ``max_connecting`` allows, one that may hang
  is given up after a second if somebody waits: another replica may serve him.
- An attempt that has failed everywhere concerns those who wait only if nothing is well, on trial or
  under way. A pool fails fast by the time in which all its replicas rest.

A machine with one remote has none of this, and pays nothing for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Generic

from anyconnpool._core.connection_group import ConnectionGroup
from anyconnpool._core.event_lock import EventLock, LockedEvent, postponable
from anyconnpool._core.health import Health, Replica
from anyconnpool._core.states import (
    IDLE,
    IN_USE,
    Action,
    PoolEntry,
    State,
    Totals,
    TransportT,
)
from anyconnpool._core.waiting_line import WaitingLine
from anyconnpool._statistics import CloseReason

if TYPE_CHECKING:
    from anyconnpool._core.supply import Supply


# How long an attempt of the pool's own may hold a slot that nobody else has, in seconds.
_GRACE = 1.0


class ReplicaRules(Generic[TransportT]):
    """Share the connections of a pool out to several replicas.

    :param health: decides about the replicas
    :param group: the pool's connections
    :param line: those who wait for one
    :param totals: what the pool counts
    :param event: the event of the pool's machine, with its lock
    :param event_lock: the lock
    :param supply: opens connections
    """

    def __init__(
        self,
        health: Health,
        group: ConnectionGroup[TransportT],
        line: WaitingLine[TransportT],
        totals: Totals,
        event: LockedEvent,
        event_lock: EventLock,
        supply: Supply[TransportT],
    ) -> None:
        self.health = health
        self.event_lock = event_lock
        #: whom the attempt that has failed last concerns: those with numbers below this
        self.concerned_below = math.inf
        #: how many slots are lacking for replicas whose rest is over
        self.lacking = 0
        self._avoided: Collection[Replica] = ()
        #: those that have left and still have connections
        self._gone: list[Replica] = []
        self._now = 0.0
        #: the number of whoever came last
        self._newest = -1
        #: how often anything had been lent when a lost trial was due last
        self._acquired = 0
        #: how often anything had been lent when an outage was seen last
        self._acquired_before = 0
        self._group, self._idle, self._line, self._totals = group, group.idle, line, totals
        self._event, self._supply, self._steps = event, supply, supply.steps
        self._level = attrgetter("rank" if health.in_order else "in_use")
        self._entries: deque[PoolEntry[TransportT]] = group.idle.entries
        self._first, self._pop_first = group.idle.next, group.idle.pop
        group.replica_fault = self.fault
        group.grants_plainly = False
        # The replicas have attempts of their own, and an outage lasts while all of them rest.
        line.outage.tries = False

    # Events.

    def go_on(self, entry: PoolEntry[TransportT], error: Exception | None, now: float) -> bool:
        """Choose the next replica for a connection that could not be opened, or the first one.

        :param error: why it could not be opened
        :return: false if there is none that hasn't been tried; then the attempt has failed
        """
        with self._event:
            health = self.health
            if error is not None and entry.replica is not None:
                entry.tried += (entry.replica,)
                health.fail(entry, error, now)
            following = None
            if not (entry.own or self._group.ended):
                following = health.choose(entry.tried)
            if following is not None:
                health.begin(entry, following)
                self._totals.open_failed += error is not None
                self._supply.balance(now)
            # Otherwise the end of the attempt follows, and must find that nothing else has begun.
            return following is not None

    @postponable
    def break_off(
        self, entry: PoolEntry[TransportT], error: Exception, now: float, silent: bool
    ) -> None:
        """Take note that a new connection has ended before a reply had come on it.

        :param silent: whether time has run out
        """
        with self._event:
            replica = entry.replica
            if self.health.break_off(entry, error, now, silent=silent) and silent:
                self._close_idle(replica, CloseReason.RESTING)
            self._supply.balance(now)

    @postponable
    def answer(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Take note that a reply has come on a connection."""
        with self._event:
            self.health.answer(entry, now)
            self._supply.balance(now)

    @postponable
    def update(self, replicas: Iterable[Replica], now: float) -> None:
        """Replace the replicas; what is connected to those that are gone is retired."""
        with self._event:
            former = {*self.health.replicas}
            for replica in self.health.update(replicas, now):
                self._gone.append(replica)
                self._close_idle(replica, CloseReason.RETIRED)
            for entry in self._line.under_way():
                if entry.state is State.OPENING and entry.replica in self._gone:
                    # Nobody would be served by it, and it may take until its time is up.
                    self._steps.request(Action.INTERRUPT, entry)
            if not former.issuperset(self.health.replicas):
                # Those that have failed are paused for; a new one has not.
                self._line.end_pause()
                self._supply.refill_paused = False
            self._supply.balance(now)

    @contextmanager
    def avoiding(self, avoided: Collection[Replica]) -> Generator[None]:
        """Take some replicas only if there is no other one, as long as the block lasts."""
        self._avoided = avoided
        try:
            yield
        finally:
            self._avoided = ()

    def prefers_new(self) -> bool:
        """Return whether a connection is to be opened although one of those to avoid is idle."""
        avoided = self._avoided
        if self.idles_elsewhere():
            return False
        chosen = self.health.choose(avoided=avoided)
        if chosen is None or chosen.resting or chosen in avoided:
            return False
        return self._supply.may_open()

    def idles_elsewhere(self) -> bool:
        """Return whether a connection is idle to another replica than those to avoid."""
        avoided = self._avoided
        # Outside an event, a finalizer may change them at any time.
        entries = self._entries.copy()
        return any(each.state is IDLE and each.replica not in avoided for each in entries)

    # Steps.

    def choose_pop(self) -> Callable[[], PoolEntry[TransportT]]:
        """Return what takes out the idle entry that is to be lent next."""
        return self._pop_in_order if self.health.in_order else self._pop_balanced

    def _pop_balanced(self) -> PoolEntry[TransportT]:
        """Take out an idle entry of the replica with the fewest in use."""
        # On the path of every borrow: without calls, and most often the first entry is right.
        entry = self._entries[self._first]
        if not self._avoided:
            if entry.state is not IDLE or not (least := entry.replica.in_use):
                # The caller knows what to do with one that is idle no longer.
                return self._pop_first()
            for each in self.health.replicas:
                if each.in_use < least and each.size - each.attempts > each.in_use:
                    break
            else:
                return self._pop_first()
        return self._pop_best()

    def _pop_in_order(self) -> PoolEntry[TransportT]:
        """Take out an idle entry of the first replica, those that rest behind all others."""
        entry = self._entries[self._first]
        if not self._avoided and (entry.state is not IDLE or not entry.replica.rank):
            return self._pop_first()
        return self._pop_best()

    def can_open(self) -> bool:
        """Return whether there is a replica to open a connection to; or none is known yet."""
        health = self.health
        return not health.replicas or health.choose() is not None or bool(health.due(self._now))

    def can_refill(self) -> bool:
        """Return whether a connection may be opened that nobody waits for, except in readiness."""
        if self._line.watchers:
            return self.can_open()
        replicas = self.health.replicas
        return not replicas or any(not replica.resting for replica in replicas)

    def begin(self, entry: PoolEntry[TransportT], replica: Replica | None) -> None:
        """Take note that a connection is being opened, and choose its replica if need be.

        :param replica: which one, if the pool opens it by itself
        """
        health = self.health
        if replica is None:
            # Where there was no room for it before, and there is some for others now.
            replica = next(iter(health.due(self._now)), None)
        chosen = replica or health.choose(avoided=self._avoided)
        if chosen is not None:
            health.begin(entry, chosen, own=replica is not None)

    def succeed(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Take note that a connection is open, and perhaps that a reply to a check has come."""
        self.health.succeed(entry)
        if entry.proved:
            self.health.answer(entry, now)

    def ends_hope(self, entry: PoolEntry[TransportT], error: Exception, now: float) -> bool:
        """Take note that an attempt has failed; return whether that concerns those who wait."""
        self.health.fail(entry, error, now)
        if not entry.own and self.health.is_hopeless():
            self.concerned_below = math.inf
            return True
        # Who waits for what others have does not rely on what the pool tries by itself.
        if entry.own and self._group.any_open():
            return False
        below = self.concerned_below = self.health.tried_since()
        line = self._line
        firsts = (next(iter(each), None) for each in (line.waiters, line.watchers))
        return any(first is not None and first.number < below for first in firsts)

    def is_stale(self, entry: PoolEntry[TransportT]) -> bool:
        """Return whether a connection is to be closed when it comes back, whatever else happens."""
        return entry.replica is not None and entry.epoch < entry.replica.closed_below

    def fault(self, entry: PoolEntry[TransportT]) -> CloseReason | None:
        """Return why a connection must not be lent any more, for the sake of replicas, if so."""
        replica: Replica | None = entry.replica
        if replica is None:
            return None
        if entry.epoch < replica.closed_below:
            return CloseReason.RETIRED if replica.left else CloseReason.RESTING
        if entry.state is IN_USE or entry.state is State.CHECKING:
            if self.lacking > self._group.freeing():
                return CloseReason.GAVE_WAY
            if replica.owes:
                return self._share_reason()
        return None

    def tend(self, now: float) -> None:
        """Do what is due by now, for rests that are over and for shares."""
        health, supply, group = self.health, self._supply, self._group
        self._now = now
        self._greet_newcomers()
        for giver in health.share(now):
            self._give(giver)
        for replica in health.due(now):
            if supply.may_open():
                supply.open_one(now, replica)
        self._renew_trials(now)
        self._give_up_attempt(now)
        for replica in health.replicas:
            while replica.wants and supply.may_open():
                supply.open_one(now, replica)
        # One that hangs since before the rest will leave its slot: nothing else has to.
        due = () if supply.has_room() else health.due(now)
        self.lacking = sum(not replica.attempts for replica in due)
        self._gone = [replica for replica in self._gone if replica.size]
        group.alert = self.lacking > 0 or any(
            replica.owes or replica.stale for replica in (*health.replicas, *self._gone)
        )
        self._follow_outage(now)
        self._steps.set_alarm(health.next_change(now))
        if health.news:
            # What carries out what is due sees to them, too.
            self._steps.note_due()

    def last_error(self) -> Exception | None:
        """Return an error of a replica, if one has failed."""
        errors = (replica.last_error for replica in self.health.replicas)
        return next((error for error in errors if error is not None), None)

    def _greet_newcomers(self) -> None:
        for tasks in (self._line.waiters, self._line.watchers):
            if tasks and (newest := next(reversed(tasks)).number) > self._newest:
                self._newest = newest
                self.health.begin_round()

    def _renew_trials(self, now: float) -> None:
        """Make up for trials that were lost before a reply, as long as the pool is in use."""
        due = self.health.lost_trials(now)
        if due and self._totals.acquired != self._acquired:
            self._acquired = self._totals.acquired
            for replica in due:
                if self._supply.may_open():
                    self._supply.open_one(now, replica)

    def _give_up_attempt(self, now: float) -> None:
        """Give up an attempt of the pool's own if there is nothing else that could serve others."""
        group, supply, line = self._group, self._supply, self._line
        if supply.has_room():
            # Unless max_connecting is in the way, others can be made.
            held = line.attempts if not line.may_begin() else math.inf
        else:
            held = math.inf if group.any_open() else group.size
        if held == math.inf:
            return
        # Not those in the hands of a hook, which were opened by the pool itself once.
        own = [entry for entry in line.under_way() if entry.own and entry.state is State.OPENING]
        if not own or len(own) < held or any(entry.epoch != entry.replica.epoch for entry in own):
            # Something else will make room, or one that was given up.
            return
        oldest = min(own, key=_NUMBER)
        if (at := oldest.slow_at + _GRACE) > now:
            self._steps.set_alarm(at)
        elif supply.needs_room():
            self.health.give_up(oldest, now)
            self._steps.request(Action.INTERRUPT, oldest)
        else:
            # Others of a manager may come, of whom this pool hears nothing.
            self._steps.set_alarm(now + _GRACE)

    def _pop_best(self) -> PoolEntry[TransportT]:
        """Take out the first of the entries whose replica is to lend."""
        avoided, level, entries = self._avoided, self._level, self._entries
        is_lifo = self._first == -1
        best, best_at, least = None, 0, (True, 0)
        for place, entry in enumerate(reversed(entries) if is_lifo else entries):
            if entry.state is IDLE:
                found = (entry.replica in avoided, level(entry.replica))
                if best is None or found < least:
                    best, best_at, least = entry, place, found
        if best is None:
            return self._pop_first()
        del entries[-1 - best_at if is_lifo else best_at]
        return best

    def _close_idle(self, replica: Replica, reason: CloseReason) -> None:
        for entry in [*self._entries]:
            if entry.replica is replica and entry.state is IDLE:
                self._idle.take_out(entry)
                self._steps.close(entry, reason)

    def _give(self, giver: Replica) -> None:
        """Close an idle connection of a replica that owes one, if there is one."""
        for entry in self._entries:
            if entry.replica is giver and entry.state is IDLE:
                self._idle.take_out(entry)
                self._steps.close(entry, self._share_reason())
                return

    def _share_reason(self) -> CloseReason:
        return CloseReason.RETIRED if self.health.in_order else CloseReason.GAVE_WAY

    def _follow_outage(self, now: float) -> None:
        """Let an outage last as long as all rest."""
        outage, acquired = self._line.outage, self._totals.acquired
        if self.health.all_rest():
            # One that accepts and hangs up ends it each time: that is no reason to go on for ever.
            outage.begin(now, is_used=acquired != self._acquired_before)
            self._acquired_before = acquired
        elif self.health.replicas and outage.since is not None:
            outage.succeed()


_NUMBER = attrgetter("number")
