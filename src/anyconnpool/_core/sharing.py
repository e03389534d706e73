"""Who shares a connection and who gets one for himself, in one line of waiters.

These are the events of requests in flight, and the step that follows every event of a pool that
pipelines (:meth:`Sharing.settle`). It goes through the line, oldest first:

- A borrower for whom no connection is on its way has the shared connection with the fewest in
  flight leave: it takes no new requests, finishes, and goes to whoever has waited longest then.
- A request gets a place on an open connection, unless a connection is being opened for it, on which
  everybody may rely for a tenth of a second.
- Where a request finds no place, the line stands: nobody behind it gets one, and no connection
  leaves for a borrower behind it.

So a stream of requests starves no borrower, and borrowers no requests. Connections that leave for
nobody any more take requests again.

With several replicas, a connection takes no new requests, either, that would not be lent any more
for their sake (:meth:`ReplicaRules.fault`), or on which a replica's first reply since a failure is
to come: until then it carries one request. The same goes for one that may hang with its replica.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Generic

from anyconnpool._core.event_lock import LockedEvent
from anyconnpool._core.health import Replica
from anyconnpool._core.pipeline import WORN, Lane, Pipeline, Place
from anyconnpool._core.replica_rules import ReplicaRules
from anyconnpool._core.states import Action, PoolEntry, TransportT, Waiter
from anyconnpool._core.supply import Supply
from anyconnpool._settings import Settings


class Sharing(Generic[TransportT]):
    """Let requests share the connections of one pool.

    :param settings: the pool's settings
    :param supply: opens connections
    :param acquire: acquires an idle connection, if there is a good one
    :param take_back: undoes that
    :param event: holds the machine's lock for one event
    """

    def __init__(
        self,
        settings: Settings,
        supply: Supply[TransportT],
        acquire: Callable[[float], PoolEntry[TransportT] | None],
        take_back: Callable[[PoolEntry[TransportT], float], object],
        event: LockedEvent,
    ) -> None:
        self.pipeline: Pipeline[TransportT] = Pipeline(settings)
        self._most_places = int(min(settings.pipeline, settings.max_uses))
        #: how many shared connections have to leave for waiters of other pools
        self.yielding = 0
        #: called when a connection begins to be shared
        self.on_begin: Callable[[], object] | None = None
        self._group, self._line, self._supply = supply.group, supply.line, supply
        self._waiters, self._sharers = supply.line.waiters, supply.line.sharers
        self._idle_entries = supply.group.idle.entries
        self._steps, self._numbers = supply.steps, supply.numbers
        self._acquire, self._take_back = acquire, take_back
        self._event_lock, self._lock = event.lock, event.lock.lock
        self._event = event
        supply.settle, supply.settle_at_once = self.settle, partial(self.settle, at_once=True)
        supply.count_sharers = self.count_sharers

    def place(self, place: Place[TransportT], now: float) -> Lane[TransportT] | None:
        """Give a request a place at once, if that is fair and it needs no connection of its own.

        :return: where its place is; if nowhere, it has to join the line
        """
        entry = self._acquire(now) if self._idle_entries else None
        group = self._group
        if entry is None and (
            self._sharers or (group.size < group.max_size and self._supply.has_room())
        ):
            return None
        lock = self._event_lock
        if lock.busy:
            return None
        self._lock.acquire()
        lock.busy = True
        try:
            place.number = next(self._numbers)
            if entry is not None:
                return self._begin(entry, place)
            lane = self.pipeline.find(now)
            if lane is not None:
                self.pipeline.add(lane, place)
            return lane
        finally:
            self._end_short_event()

    def place_elsewhere(
        self, place: Place[TransportT], avoided: Collection[Replica], now: float
    ) -> Lane[TransportT] | None:
        """Give a request a place at another replica than some at once, if there is one.

        :return: where its place is; if nowhere, it may be anywhere else
        """
        if self._sharers or self._event_lock.busy or self._supply.has_room():
            return None
        with self._event:
            lane = self.pipeline.find_elsewhere(avoided, now)
            if lane is not None:
                place.number = next(self._numbers)
                self.pipeline.add(lane, place)
            return lane

    def count_sharers(self, served: int) -> tuple[int, int]:
        """Count the requests in line that will share what those before them get.

        What is open has no place for them, or they would have one.

        :param served: how many of the first in line get connections
        :return: how many, and how many places are left then
        """
        requests = sum(waiter.shares for waiter in islice(self._waiters, served))
        waiting = len(self._sharers) - requests
        if len(self._waiters) - max(served, 0) > waiting:
            # A borrower gets what they could share.
            return 0, 0
        places = requests * (self._most_places - 1)
        return min(waiting, places), places - waiting

    def _begin(self, entry: PoolEntry[TransportT], place: Place[TransportT]) -> Lane[TransportT]:
        if self.on_begin is not None:
            self.on_begin()
        lane = self.pipeline.begin(entry, place)
        # It was lent before its time to be retired came, and is closed when it comes back.
        is_retired = entry.generation != self._group.generation
        # The reply shows whether the replica is well again: nobody else is to rely on it.
        is_on_trial = entry.replica is not None and entry.replica.failures > 0
        if is_retired or is_on_trial:
            self.pipeline.wear_out(lane)
        return lane

    def begin(self, entry: PoolEntry[TransportT], waiter: Waiter[TransportT]) -> bool:
        """Share a connection that was granted for whoever has waited, if he can: a step."""
        # Connections may leave for nobody any more.
        self._steps.note_due()
        if isinstance(waiter, Place):
            self._begin(entry, waiter)
            self._steps.request(Action.SHARE, entry)
        return waiter.shares

    def take_batch(
        self, lane: Lane[TransportT], received: int, now: float
    ) -> list[Place[TransportT]]:
        """Take the requests that are to be sent now; see :meth:`Pipeline.take_batch`."""
        lock = self._event_lock
        self._lock.acquire()
        lock.busy = True
        try:
            return self.pipeline.take_batch(lane, received, now)
        finally:
            self._end_short_event()

    def _end_short_event(self) -> None:
        """End an event that has led to nothing, which has taken the lock without ``with``."""
        # On the path of every exchange a "with" costs as much again as the lock itself.
        lock = self._event_lock
        lock.busy = False
        self._lock.release()
        if lock.postponed:
            lock.catch_up()

    def replied(
        self,
        lane: Lane[TransportT],
        count: int,
        abandoned: int,
        now: float,
        *,
        ends: bool = False,
    ) -> bool:
        """Take note that the replies of the first requests were read, which have left ``owed``.

        :param count: how many
        :param abandoned: how many of them nobody waited for
        :param ends: whether the connection is to be shared no more if nothing else is in flight
        :return: whether it is shared no more
        """
        if self._waiters:
            with self._event:
                if lane.is_shared:
                    self.pipeline.finish(lane, count, abandoned)
                    self.settle(now)
            return ends and self.end(lane)
        lock = self._event_lock
        self._lock.acquire()
        lock.busy = True
        try:
            if not lane.is_shared:
                return False
            self.pipeline.finish(lane, count, abandoned)
            if not ends or lane.load:
                return False
            self.pipeline.end(lane)
            return True
        finally:
            self._end_short_event()

    def give_up(self, place: Place[TransportT], now: float) -> Lane[TransportT] | None:
        """Take out a request, or take note that nobody waits for its reply any more.

        :return: where it was in flight, if it was
        """
        with self._event:
            lane = place.lane
            if lane is None:
                self._line.leave(place)
                self._supply.balance(now)
            elif place.sent:
                self.pipeline.abandon(place)
            else:
                self.pipeline.withdraw(place)
                if self._waiters:
                    self.settle(now)
            return lane

    def end(self, lane: Lane[TransportT]) -> bool:
        """Take note that a connection is not shared any more, if nothing is in flight on it."""
        with self._event:
            ends = lane.is_shared and not lane.load
            if ends:
                self.pipeline.end(lane)
            return ends

    def dissolve(self, lane: Lane[TransportT], now: float) -> list[Place[TransportT]]:
        """End a connection that has failed; what was not sent stands in line again.

        :return: the requests that have failed with it
        """
        with self._event:
            if not lane.is_shared:
                return []
            failed, unsent = self.pipeline.dissolve(lane)
            if self._group.ended:
                return failed + unsent
            if unsent:
                self._line.add_again(unsent)
        if unsent:
            self._serve_again(now)
        return failed

    def move_unsent(self, lane: Lane[TransportT], now: float) -> None:
        """Let a connection take no new requests on which none can be sent any more.

        What was not sent stands in line again; what is owed a reply stays.
        """
        with self._event:
            if not lane.is_shared:
                return
            self.pipeline.wear_out(lane)
            if not self._group.ended:
                unsent = self.pipeline.take_unsent(lane)
                if unsent:
                    self._line.add_again(unsent)
        self._serve_again(now)

    def _serve_again(self, now: float) -> None:
        """Give those who stand in line again what is idle; have more opened if need be."""
        waiting: float = math.inf
        while self._idle_entries and 0 < len(self._waiters) < waiting:
            waiting = len(self._waiters)
            entry = self._acquire(now)
            if entry is not None:
                # It is one more than they are.
                self._take_back(entry, now)
        with self._event:
            self._supply.balance(now)

    def note_silence(self, lane: Lane[TransportT], now: float) -> None:
        """Let a connection take no new requests that may hang with its replica."""
        lane.is_mute = True
        self.move_unsent(lane, now)

    def settle(self, now: float, *, at_once: bool = False) -> None:
        """Give places to requests that wait, and have connections leave for borrowers: a step.

        :param at_once: whether nobody is to rely on what is being opened
        """
        replicas = self._supply.replicas
        if replicas is not None and self._group.alert:
            self._wear_out_for(replicas)
        # What requests don't rely on any more may be for fewer of those behind them.
        while self.pipeline.lanes and self._go_through_line(now, at_once):
            pass

    def _wear_out_for(self, replicas: ReplicaRules[TransportT]) -> None:
        """Have those connections finish that have to leave for the sake of replicas."""
        pipeline = self.pipeline
        lanes = [*pipeline.lanes]
        for lane in lanes:
            if replicas.is_stale(lane.entry):
                pipeline.wear_out(lane)
        lacking = replicas.lacking - max(self._group.freeing(), 0) - self._count_finishing()
        lanes.sort(key=_LOAD)
        for lane in lanes:
            replica = lane.entry.replica
            if lane.openness is WORN or replica is None:
                continue
            worn = sum(each.openness is WORN and each.entry.replica is replica for each in lanes)
            if lacking > 0 or replica.owes > worn:
                pipeline.wear_out(lane)
                lacking -= 1

    def _go_through_line(self, now: float, at_once: bool) -> bool:
        """Go through the line once; return whether anybody has left it."""
        pipeline, line = self.pipeline, self._line
        spare = [*pipeline.leaving]
        for _ in range(int(max(self._group.surplus() - pipeline.worn, 0)) + self.yielding):
            self._have_one_leave(spare)
        fresh = 0 if at_once else line.count_fresh()
        sure = self._count_provided()
        passed = 0
        placed: list[Place[TransportT]] = []
        for waiter in self._waiters:
            if isinstance(waiter, Place):
                if passed >= fresh:
                    lane = self._find(spare, now)
                    if lane is None:
                        break
                    pipeline.add(lane, waiter)
                    placed.append(waiter)
                    continue
            elif passed >= sure and not self._have_one_leave(spare):
                break
            passed += 1
        for lane in spare:
            pipeline.reopen(lane)
        for place in placed:
            line.leave(place)
            assert place.lane is not None
            self._steps.request(Action.SHARE, place.lane.entry)
        return bool(placed)

    def _count_provided(self) -> int:
        """Count the first in line for whom a connection is on its way, or room is made."""
        freeing = max(self._group.freeing(), 0) + self._count_finishing()
        return self._line.provided() + freeing + self._supply.promised()

    def _count_finishing(self) -> int:
        """Count the worn ones that will come back, those not that may hang with their replica."""
        if self._supply.replicas is None:
            return self.pipeline.worn
        return sum(
            lane.openness is WORN and not lane.is_mute and lane.entry.replica.is_well()
            for lane in self.pipeline.lanes
        )

    def _have_one_leave(self, spare: list[Lane[TransportT]]) -> bool:
        """Have one more connection leave; false if there is none.

        :param spare: those that leave for nobody yet
        """
        if spare:
            del spare[0]
            return True
        lane = self.pipeline.least_loaded()
        if lane is not None:
            self.pipeline.leave(lane)
        return lane is not None

    def _find(self, spare: list[Lane[TransportT]], now: float) -> Lane[TransportT] | None:
        """Return a connection with a place, of those too that leave for nobody."""
        lane = self.pipeline.find(now)
        while lane is None and spare:
            self.pipeline.reopen(spare.pop())
            lane = self.pipeline.find(now)
        return lane


_LOAD = attrgetter("load")


def make_sharing(
    settings: Settings,
    supply: Supply[TransportT],
    acquire: Callable[[float], PoolEntry[TransportT] | None],
    take_back: Callable[[PoolEntry[TransportT], float], object],
    event: LockedEvent,
) -> Sharing[TransportT] | None:
    """Return what lets requests share connections, in a pool that pipelines."""
    if settings.pipeline == 1:
        return None
    return Sharing(settings, supply, acquire, take_back, event)
