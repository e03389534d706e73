"""Everything that can happen to a machine, as events that happen to a model as well."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from anyconnpool import Retry
from anyconnpool._core.states import Action, PoolEntry, State, Waiter
from anyconnpool._statistics import CloseReason
from anyconnpool._util.liveness import Liveness

from .machine_fakes import SetSlots, WatchedMachine, ask, make_settings
from .machine_model import Conn, Model

Method = TypeVar("Method", bound=Callable[..., None])

PICKS = st.integers(0, 11)
MOSTLY_TRUE = st.sampled_from([True, True, True, False])
GIVEN_REASONS = [CloseReason.UNCLEAN, CloseReason.UNREAD_DATA, CloseReason.DISCARDED]
FAILURES = {
    Action.CHECK: CloseReason.CHECK_FAILED,
    Action.RESET: CloseReason.RELEASE_FAILED,
    Action.ANSWER: CloseReason.UNREAD_DATA,
}
STEPS = [0.0625, 4.0, 4.0, 16.0]
IDLE_TIMES = [9.7, math.inf]
LIFETIMES = [19.3, math.inf]


# The settings that matter to a machine.
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "max_size": st.sampled_from([1, 2, 3, 4, math.inf]),
    "min_idle": st.sampled_from([0, 0, 1, 2]),
    "max_idle_time": st.sampled_from(IDLE_TIMES),
    "max_lifetime": st.sampled_from(LIFETIMES),
    "max_uses": st.sampled_from([math.inf, math.inf, 1, 2]),
    "check": st.sampled_from([None, ask, ask, ask]),
    "check_after": st.just(3.1),
    "check_every": st.sampled_from([math.inf, 5.3]),
    "on_release": st.sampled_from([None, None, ask]),
    "on_unread": st.sampled_from([None, ask]),
    "connect_retry": st.sampled_from([None, None, Retry(1)]),
    "max_connecting": st.sampled_from([math.inf, math.inf, math.inf, 1, 2]),
    "fail_fast_after": st.sampled_from([math.inf, math.inf, 0.0, 5.3]),
    "max_waiting": st.sampled_from([math.inf, math.inf, 0, 1, 2]),
    "idle_order": st.sampled_from(["lifo", "fifo"]),
}

# The methods that are events, with strategies for their arguments.
EVENTS: list[st.SearchStrategy[tuple[str, dict[str, Any]]]] = []


def event(*, often: int = 1, **arguments: st.SearchStrategy[Any]) -> Callable[[Method], Method]:
    """Make a method of the machine an event."""

    def add(method: Method) -> Method:
        strategy = st.tuples(st.just(method.__name__), st.fixed_dictionaries(arguments))
        EVENTS.extend([strategy] * often)
        return method

    return add


class MachineEvents(RuleBasedStateMachine):
    """Do everything that can happen to a machine, to it and to the model.

    There is only one rule, because hypothesis leaves out many of the rules in every run, and a
    pool in which nobody acquires or nothing gets opened has little to tell.
    """

    model: Model

    @initialize(jitter=st.sampled_from([0.0, 0.5, 1.0]), chosen=st.fixed_dictionaries(SETTINGS))
    def enter(self, jitter: float, chosen: dict[str, Any]) -> None:
        chosen["min_idle"] = min(chosen["min_idle"], chosen["max_size"])
        if chosen["check"] is None:
            chosen["check_every"] = math.inf
        self.settings = make_settings(**chosen)
        self.now = 0.0
        self.slots = SetSlots(self.settings.max_size)
        self.model = Model(self.settings)
        self.model.jitter = jitter
        self.machine = WatchedMachine(self.settings, self.slots, lambda: jitter)
        self.conns: dict[PoolEntry[int], Conn] = {}
        self.names = iter(range(1_000_000))
        self.woken: list[Waiter[int]] = []
        self.drained = False
        # Orders not carried out yet, connections in borrowers' hands, and tasks that wait.
        self.opening: list[PoolEntry[int]] = []
        self.checking: list[PoolEntry[int]] = []
        self.interrupted: list[PoolEntry[int]] = []
        self.closing: list[PoolEntry[int]] = []
        self.borrowed: list[PoolEntry[int]] = []
        self.tasks: list[Waiter[int]] = []
        # As the housekeeper does first of all; from now on nothing that is wanted is put off.
        self._refill()

    def _inspect(self, entry: PoolEntry[int]) -> Liveness:
        looked_at = (State.IDLE, State.IN_USE, State.OPENING)
        assert entry.state in looked_at, "nobody else's socket is looked at"
        return self.conns[entry].liveness

    def is_open(self) -> bool:
        return self.model.shut_error is None

    def _new_waiter(self) -> Waiter[int]:
        waiter: Waiter[int] = Waiter(lambda: self.woken.append(waiter))
        return waiter

    @event(often=2, seconds=st.sampled_from(STEPS), pick=PICKS, liveness=st.sampled_from(Liveness))
    def time_passes(self, seconds: float, pick: int, liveness: Liveness) -> None:
        """The peer of one connection has done something meanwhile."""
        self.wait_until(self.now + seconds)
        self.compare()
        found = self.model.those(State.IDLE, State.IN_USE)
        if found:
            found[pick % len(found)].liveness = liveness

    @event(often=2, pick=PICKS)
    def a_limit_is_reached(self, pick: int) -> None:
        """It is exactly as late as it was to become, where a sum and a difference may disagree."""
        limits = {self.machine.next_expiry(), self.machine.alarm_at}
        for conn in self.model.those(State.IDLE, State.IN_USE):
            assert conn.entry is not None
            limits |= {conn.entry.recheck_at, conn.entry.expires_at}
        ahead = sorted(at for at in limits if self.now < at < math.inf)
        if ahead:
            self.wait_until(ahead[pick % len(ahead)])

    def wait_until(self, now: float) -> None:
        """Whatever has to be done by then was announced."""
        self.now = now
        if self.machine.alarm_at <= now:
            self.machine.tick(now)
            assert self.machine.alarm_at > now, "however late it is, what is due is done at once"
        self.model.pass_time(now)

    @event(often=2, pick=PICKS, liveness=st.sampled_from(Liveness))
    def something_arrives(self, pick: int, liveness: Liveness) -> None:
        """The event loop tells of what a peer has done, whatever the connection is doing."""
        found = self.model.those(State.IDLE, State.IN_USE, State.CHECKING, State.CLOSING)
        if found:
            conn = found[pick % len(found)]
            conn.liveness = liveness
            assert conn.entry is not None
            self.machine.notice(conn.entry, self.now)
            self.model.notice(conn, self.now)

    @event(often=5, times=st.integers(1, 3))
    def acquire(self, times: int) -> None:
        for _ in range(times):
            entry = self.machine.acquire(self.now)
            lent = self.model.checkout(self.now)
            assert entry is (lent.entry if lent else None)
            if entry is not None:
                self.borrowed.append(entry)
            elif self.is_open():
                self._join()
            self.compare()

    def _join(self) -> None:
        waiter = self._new_waiter()
        joined = self.machine.join(waiter, self.now)
        assert joined is self.model.join(waiter, self.now)
        if joined:
            self.tasks.append(waiter)

    @event(often=4, pick=PICKS, patient=MOSTLY_TRUE)
    def task_runs(self, pick: int, patient: bool) -> None:
        """A task that waits runs: it has its connection, its error, or no more patience."""
        if not self.tasks:
            return
        task = self.tasks[pick % len(self.tasks)]
        if not patient:
            self.tasks.remove(task)
            self.machine.abandon(task, self.now)
            self.model.abandon(task, self.now)
        elif task.entry is not None or task.error is not None:
            self.tasks.remove(task)
            self.model.granted.pop(task, None)
            if task.entry is not None:
                self.borrowed.append(task.entry)

    @event(
        often=5,
        pick=PICKS,
        good=MOSTLY_TRUE,
        reason=st.sampled_from([None, *GIVEN_REASONS]),
        liveness=st.sampled_from(Liveness),
    )
    def borrow_ends(
        self, pick: int, good: bool, reason: CloseReason | None, liveness: Liveness
    ) -> None:
        if not self.borrowed:
            return
        entry = self.borrowed.pop(pick % len(self.borrowed))
        conn = self.conns[entry]
        if good:
            self.release(entry)
        elif reason is not None:
            self.release(entry, reason)
        elif liveness is Liveness.ALIVE:
            assert self.machine.detach(entry, self.now) is self.model.detach(conn, self.now)
        else:
            conn.liveness = liveness
            self.release(entry)

    def release(self, entry: PoolEntry[int], reason: CloseReason | None = None) -> None:
        self.machine.release(entry, self.now, reason)
        self.model.release(self.conns[entry], self.now, reason)

    @event(
        often=10,
        pick=PICKS,
        good=MOSTLY_TRUE,
        fails=st.booleans(),
        spoken=st.booleans(),
        tells=st.booleans(),
        liveness=st.sampled_from(Liveness),
    )
    def order_is_done(
        self, pick: int, good: bool, fails: bool, spoken: bool, tells: bool, liveness: Liveness
    ) -> None:
        under_way = [*self.opening, *self.checking, *self.closing]
        if not under_way:
            return
        entry = under_way[pick % len(under_way)]
        if entry in self.closing:
            self.closed(entry)
        elif entry in self.checking:
            self.checked(entry, good, fails, liveness)
        elif good:
            self.opened(entry, spoken, tells, liveness)
        elif fails:
            pause = None if spoken or self.settings.connect_retry is None else 1.7
            self.open_failed(entry, pause, 0.9 if tells else 13.1)
        else:
            self.opening.remove(entry)
            self.machine.lost(entry, self.now)
            self.model.open_cancelled(self.conns[entry], self.now)

    def opened(
        self,
        entry: PoolEntry[int],
        spoken: bool = False,
        tells: bool = False,
        liveness: Liveness = Liveness.ALIVE,
    ) -> None:
        self.opening.remove(entry)
        entry.transport = next(self.names)
        entry.look = lambda: self._inspect(entry)
        conn = self.conns[entry]
        conn.liveness = liveness
        conn.spoken = entry.spoken = spoken
        conn.tells = entry.tells = tells
        self.machine.opened(entry, self.now)
        longest = self.settings.max_lifetime
        assert 0.9 * longest - 1e-6 <= entry.expires_at - self.now <= longest + 1e-6
        self.model.opened(conn, self.now, entry.expires_at)

    def open_failed(self, entry: PoolEntry[int], pause: float | None, rest: float) -> None:
        self.opening.remove(entry)
        error = ConnectionRefusedError("refused")
        entry.rest = rest
        self.machine.open_failed(entry, error, self.now, pause)
        self.model.open_failed(self.conns[entry], error, self.now, pause, rest)

    def checked(
        self,
        entry: PoolEntry[int],
        good: bool = True,
        fails: bool = False,
        liveness: Liveness = Liveness.ALIVE,
    ) -> None:
        """A hook has ended, or was not run because of what a look showed."""
        self.checking.remove(entry)
        conn = self.conns[entry]
        found: Liveness | CloseReason | None = Liveness.ALIVE if good else liveness
        if entry in self.interrupted:
            self.interrupted.remove(entry)
            found = None
        elif fails and not good:
            found = FAILURES[entry.hook]
        elif entry.hook is Action.RESET and (good or conn.liveness is Liveness.ALIVE):
            entry.unreset = conn.unreset = False
        self.machine.checked(entry, found, self.now)
        self.model.hook_ends(conn, found, self.now)

    def closed(self, entry: PoolEntry[int]) -> None:
        self.closing.remove(entry)
        self.machine.closed(entry, self.now)
        self.model.closed(self.conns[entry], entry.close_reason, self.now)

    @event(often=2, limit=st.integers(1, 3))
    def sweep(self, limit: int) -> None:
        """Reap, look over all that is idle, a slice at a time, and refill."""
        assert self.machine.reap(self.now, limit) is self.model.reap(self.now, limit)
        self.compare()
        start: int | None = 0
        while start is not None:
            start = self.machine.look_over(start, limit, self.now)
        self.model.judge_idle(list(self.model.idle), self.now)
        self.compare()
        next_at = self.machine.check_idle(self.now)
        self.model.check_background(self.now)
        due = [self.model.background_due_at(conn) for conn in self.model.idle]
        checking = [conn for conn in self.model.conns if conn.in_background]
        assert next_at == (math.inf if len(checking) == 4 else min(due, default=math.inf))
        self.compare()
        if limit > 1:
            self._refill()

    def _refill(self) -> None:
        self.machine.refill(self.now)
        self.model.refill(self.now)

    @event(pick=PICKS)
    def seize(self, pick: int) -> None:
        """Seizing is for borrowed connections; of others it does nothing."""
        for entry in list(self.conns)[-1 - pick : len(self.conns) - pick]:
            self.machine.seize(entry, self.now)
            self.model.seize(self.conns[entry], self.now)

    @event(stay=st.booleans())
    def watch(self, stay: bool) -> None:
        if not self.is_open():
            return
        watcher = self._new_waiter()
        self.machine.watch(watcher, self.now)
        self.model.watch(watcher, self.now)
        if not stay:
            self.machine.unwatch(watcher)
            self.model.unwatch(watcher)

    @event(
        chosen=st.one_of(st.none(), st.sets(PICKS)), within=st.sampled_from([0.0, 0.0, 4.9, 21.7])
    )
    def retire(self, chosen: set[int] | None, within: float) -> None:
        """All are retired, also those that are being opened, or some of what is open."""
        if chosen is None:
            self.machine.retire(self.now, None, within)
            self.model.retire(self.now, list(self.model.conns), within)
            return
        conns = self.model.those(State.IDLE, State.IN_USE, State.CHECKING, State.OPENING)
        conns = [conn for place, conn in enumerate(conns) if place in chosen]
        entries = [conn.entry for conn in conns if conn.entry is not None]
        self.machine.retire(self.now, entries, within)
        self.model.retire(self.now, conns, within)

    @event(max_size=st.sampled_from([1, 2, 3, 4, 5, math.inf]))
    def resize(self, max_size: float) -> None:
        max_size = max(max_size, self.settings.min_idle)
        self.machine.resize(max_size, self.now)
        self.model.resize(max_size, self.now)

    @event()
    def reset_peaks(self) -> None:
        self.machine.reset_peaks()
        self.model.reset_peaks()

    @event(really=st.sampled_from([False] * 9 + [True]))
    def shut(self, really: bool = True) -> None:
        if really and self.is_open():
            error = ConnectionAbortedError("the block has ended")
            self.machine.end(lambda: error, self._note_drained)
            self.model.shut(error)

    def _note_drained(self) -> None:
        self.drained = True

    def compare(self) -> None:
        """Check that machine and model agree now."""
        raise NotImplementedError

    @rule(what=st.deferred(lambda: st.sampled_from(EVENTS).flatmap(lambda event: event)))
    def happens(self, what: tuple[str, dict[str, Any]]) -> None:
        name, arguments = what
        getattr(self, name)(**arguments)
