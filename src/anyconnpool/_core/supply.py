"""How many connections are opened, for whom, and what makes room for them.

This is what follows every event that may have changed who waits or what is open. As many
connections are under way as there are waiters and missing idle ones, where there is room. Where
there is none, idle connections give way, and nothing takes its time to close. For how many of those
who wait something is under way already, :mod:`anyconnpool._core.waiting_line` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic

from anyconnpool._core.connection_group import ConnectionGroup
from anyconnpool._core.event_lock import EventLock, LockedEvent
from anyconnpool._core.health import Health, Replica
from anyconnpool._core.hooks import HookRules
from anyconnpool._core.replica_rules import ReplicaRules
from anyconnpool._core.states import Action, PoolEntry, State, Totals, TransportT, Waiter
from anyconnpool._core.waiting_line import WaitingLine
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason


@dataclass(frozen=True, slots=True)
class Steps(Generic[TransportT]):
    """What the supply has the state machine do.

    :ivar request: notes what has to be done with an entry as soon as this event is over
    :ivar close: has an entry closed
    :ivar close_oldest: has the entry closed that has been idle longest; false if there is none
    :ivar set_alarm: sees to it that the time is told when it matters
    :ivar note_due: notes that the event under way leads to something to be done
    """

    request: Callable[[Action, PoolEntry[TransportT]], object]
    close: Callable[[PoolEntry[TransportT], CloseReason], object]
    close_oldest: Callable[[CloseReason], bool]
    set_alarm: Callable[[float], object]
    note_due: Callable[[], object]


class Supply(Generic[TransportT]):
    """Have as many connections opened as are missing, or make room for them.

    :param settings: the pool's settings
    :param group: the pool's connections
    :param line: those who wait for one
    :param hooks: the hooks that are at work on connections
    :param steps: does what is decided here
    :param numbers: numbers the waiters and the attempts to connect, in the order of their beginning
    """

    def __init__(
        self,
        settings: Settings,
        group: ConnectionGroup[TransportT],
        line: WaitingLine[TransportT],
        hooks: HookRules[TransportT],
        steps: Steps[TransportT],
        numbers: Iterator[int],
    ) -> None:
        #: whether idle connections that are missing have to wait for the next sweep
        self.refill_paused = False
        #: whether what was opened last has ended before anybody could use it
        self.ends_early = False
        #: gives places on shared connections to those who wait, if there is such a thing
        self.settle: Callable[[float], object] | None = None
        #: counts who will share, and the places that are left then, if there is such a thing
        self.count_sharers: Callable[[int], tuple[int, int]] | None = None
        #: does so without regard to what is being opened
        self.settle_at_once: Callable[[float], object] | None = None
        #: why an attempt to connect has failed, if none has succeeded since
        self.last_error: Exception | None = None
        self._min_idle, self._max_waiting = settings.min_idle, settings.max_waiting
        self._carries = settings.pipeline
        self.group, self.line, self._hooks = group, line, hooks
        self._idle_entries = group.idle.entries
        self.steps, self.numbers = steps, numbers
        #: what several replicas add; None if there is one remote
        self.replicas: ReplicaRules[TransportT] | None = None

    def use_replicas(
        self, health: Health, totals: Totals, event: LockedEvent, event_lock: EventLock
    ) -> ReplicaRules[TransportT]:
        """Share the connections out to several replicas.

        :param health: decides which ones
        :param totals: what the pool counts
        :param event: the event of the pool's machine, with its lock
        :param event_lock: the lock
        """
        self.replicas = ReplicaRules(health, self.group, self.line, totals, event, event_lock, self)
        return self.replicas

    def succeed(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Take note that a connection is open."""
        self.last_error = None
        self.line.succeed(entry, next(self.numbers))
        # Where new ones end early, it shows nothing that this one could be opened.
        self.refill_paused = self.ends_early
        if self.replicas is not None:
            self.replicas.succeed(entry, now)

    def lose(self, entry: PoolEntry[TransportT]) -> None:
        """Take note that nobody goes on with what was begun."""
        self.line.end(entry)
        if self.replicas is not None and entry.state is State.OPENING:
            self.replicas.health.lose(entry)

    def fail(
        self, entry: PoolEntry[TransportT], error: Exception, now: float, pause: float | None
    ) -> None:
        """Give the error of an attempt to whom it concerns, or have it tried again for them.

        :param pause: how long to wait before that, in seconds; None if it is not to be repeated
        """
        line, replicas = self.line, self.replicas
        line.pass_time(now)
        if replicas is not None and not replicas.ends_hope(entry, error, now):
            line.end(entry)
            return
        self.last_error = error
        if self.settle_at_once is not None:
            # Who can share has no need of this attempt.
            self.settle_at_once(now)
        if pause is not None:
            failed = line.fail(entry, pause, now)
        elif replicas is not None:
            failed = line.fail_for_all(entry, replicas.concerned_below)
        else:
            # What is open serves those who can share it, in time.
            failed = line.fail_for_good(entry, 1 if self.group.any_open() else self._carries)
        line.wake(failed, error)
        self.refill_paused = pause is None or line.refills_pause()
        if not self.group.ended and (replicas is None or not replicas.health.replicas):
            line.outage.fail(entry, now, next(self.numbers))

    def balance(self, now: float) -> None:
        """Have as many connections opened as are missing and have room, or make room for them."""
        group, line = self.group, self.line
        if group.ended:
            return
        if self.replicas is not None:
            self.replicas.tend(now)
        if group.retirement.plan or line.outage.since is not None:
            self.keep_time(now)
        # In full use, there is nothing to be done for those who wait.
        if (
            group.size < group.max_size
            or self._idle_entries
            or group.graceful
            or group.background
            or self.settle is not None
        ):
            line.pass_time(now)
            while group.size < group.max_size and (self.wanted() or self.missing_idle() > 0):
                self.open_one(now)
            self.make_room()
            self.steps.set_alarm(line.next_change())
            if self.settle is not None:
                self.settle(now)

    def wanted(self) -> int:
        """Count the connections that may be opened now for those who wait."""
        if self.replicas is not None and not self.replicas.can_open():
            return 0
        return self.line.wanted()

    def has_room(self) -> bool:
        """Return whether a connection may be opened without another one being closed."""
        return self.group.size < self.group.max_size

    def unused(self) -> bool:
        """Return whether nothing is open and nobody waits."""
        return not (self.group.size or self.line.waiters or self.line.watchers)

    def needs_room(self) -> bool:
        """Return whether somebody waits for whom a connection could be opened if there was room."""
        return bool(self.line.waiters) and (self.replicas is None or self.replicas.can_open())

    def may_open(self) -> bool:
        """Return whether the pool may open a connection by itself."""
        return self.group.size < self.group.max_size and self.line.may_begin()

    def promised(self) -> int:
        """Return for how many of those who wait somebody else sees to it that there is room."""
        return 0

    def missing_idle(self) -> int:
        """Count the idle connections that are missing, beyond those under way for nobody."""
        paused = self.refill_paused or not self._min_idle
        if self.replicas is not None:
            paused = paused or not self.replicas.can_refill()
        idle = len(self.group.idle)
        return 0 if paused else self.line.missing_idle(idle, self.group.under_way())

    def make_room(self) -> None:
        """Have idle connections give way to those who need room, and nothing close slowly."""
        group = self.group
        if group.size < group.max_size:
            return
        wanted = self.wanted()
        if self.replicas is not None:
            wanted += self.replicas.lacking
        while wanted > group.freeing() and group.idle:
            self.steps.close_oldest(CloseReason.GAVE_WAY)
        self._hooks.interrupt(wanted - group.freeing())
        for entry in group.hurry_for(wanted):
            self.steps.request(Action.HURRY, entry)

    def may_wait(self, now: float, newcomer: Waiter[TransportT]) -> bool:
        """Return whether one more task may wait for a slot."""
        self.line.pass_time(now)
        if self.group.size < self.group.max_size:
            return True
        freeing = max(self.group.freeing(), 0)
        sharing, spare = self.count_sharing(self.line.provided() + freeing)
        if newcomer.shares and spare > 0:
            return True
        return self.line.may_wait(freeing + sharing, self._max_waiting)

    def count_sharing(self, served: int) -> tuple[int, int]:
        """Count those in line who will share what others get, and the places that are left then.

        :param served: how many of the first in line get connections
        """
        return (0, 0) if self.count_sharers is None else self.count_sharers(served)

    def keep_time(self, now: float) -> None:
        """Do what is due by now in an outage, and of what was retired."""
        line, group, steps = self.line, self.group, self.steps
        for entry in group.retirement.due(now):
            group.idle.take_out(entry)
            steps.close(entry, CloseReason.RETIRED)
        steps.set_alarm(group.retirement.next_change())
        error = self.last_error
        if error is None and self.replicas is not None:
            error = self.replicas.last_error()
        steps.set_alarm(line.fail_fast(now, error, group.any_open(), self.numbers))

    def open_one(self, now: float, replica: Replica | None = None) -> None:
        """Have a connection opened; there must be room.

        :param replica: to which of several replicas; None if one is to be chosen
        """
        entry = self.group.open()
        if self.replicas is not None:
            self.replicas.begin(entry, replica)
        self.line.begin(entry, now, next(self.numbers))
        self.steps.request(Action.OPEN, entry)
