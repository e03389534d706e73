"""Whatever happens in whatever order, the ledger does what the naive model does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from anyconnpool._entry import TRANSITIONS, Entry, Liveness, Order, State, Waiter
from anyconnpool._statistics import CloseReason

from .ledger_fakes import SetSlots, WatchedLedger, make_settings
from .ledger_model import Conn, Model

PICKS = st.integers(0, 11)
GIVEN_REASONS = [None, None, None, CloseReason.UNCLEAN, CloseReason.UNREAD_DATA]
GIVEN_REASONS += [CloseReason.DISCARDED]
# No sum of these makes one of the limits, so that it doesn't matter on which side equality is.
STEPS = [1.0, 4.0, 16.0]
IDLE_TIMES = [9.7, math.inf]
LIFETIMES = [19.3, math.inf]

# The changes of state that have happened in any example.
SEEN: set[tuple[State, State]] = set()


def have(*lists: str) -> Any:
    """Let a rule apply while none of the machine's lists is empty."""
    return precondition(lambda self: all(getattr(self, name) for name in lists))


def is_open(self: LedgerMachine) -> bool:
    return self.model.shut_error is None


class LedgerMachine(RuleBasedStateMachine):
    """Do everything that can happen to a ledger, to it and to the model, and compare."""

    model: Model

    @initialize(
        max_size=st.integers(1, 4),
        min_idle=st.integers(0, 2),
        max_idle_time=st.sampled_from(IDLE_TIMES),
        max_lifetime=st.sampled_from(LIFETIMES),
        max_waiting=st.sampled_from([math.inf, 0, 1, 2]),
        idle_order=st.sampled_from(["lifo", "fifo"]),
        jitter=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def enter(self, jitter: float, **chosen: Any) -> None:
        chosen["min_idle"] = min(chosen["min_idle"], chosen["max_size"])
        self.settings = make_settings(**chosen)
        self.now = 0.0
        self.slots = SetSlots(self.settings.max_size)
        self.model = Model(self.settings)
        self.ledger = WatchedLedger(self.settings, self.slots, self._inspect, lambda: jitter)
        self.conns: dict[Entry[int], Conn] = {}
        self.names = iter(range(1_000_000))
        self.woken: list[Waiter[int]] = []
        self.last_size = 0
        self.drained = False
        # Orders not carried out yet, connections in borrowers' hands, and tasks that wait.
        self.opening: list[Entry[int]] = []
        self.checking: list[Entry[int]] = []
        self.closing: list[Entry[int]] = []
        self.borrowed: list[Entry[int]] = []
        self.tasks: list[Waiter[int]] = []
        self.watching: list[Waiter[int]] = []

    def _inspect(self, entry: Entry[int]) -> Liveness:
        assert entry.state in (State.IDLE, State.IN_USE), "nobody else's socket is looked at"
        return self.conns[entry].liveness

    def _new_waiter(self) -> Waiter[int]:
        waiter: Waiter[int] = Waiter(lambda: self.woken.append(waiter))
        return waiter

    @rule(seconds=st.sampled_from(STEPS))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(pick=PICKS, liveness=st.sampled_from([*Liveness, Liveness.CLOSED, Liveness.UNREAD]))
    def peer_acts(self, pick: int, liveness: Liveness) -> None:
        idle = self.model.idle or self.model.those(State.IN_USE)
        if idle:
            idle[pick % len(idle)].liveness = liveness

    @rule()
    def acquire(self) -> None:
        entry = self.ledger.checkout(self.now)
        lent = self.model.checkout(self.now)
        assert entry is (lent.entry if lent else None)
        if entry is not None:
            self.borrowed.append(entry)
        elif is_open(self):
            waiter = self._new_waiter()
            joined = self.ledger.join(waiter)
            assert joined is self.model.join(waiter)
            if joined:
                self.tasks.append(waiter)

    @have("tasks")
    @rule(pick=PICKS)
    def wake_up(self, pick: int) -> None:
        """A task that was woken runs: it has its connection, or its error."""
        task = self.tasks[pick % len(self.tasks)]
        if task.entry is not None or task.error is not None:
            self.tasks.remove(task)
            self.model.granted.pop(task, None)
        if task.entry is not None:
            self.borrowed.append(task.entry)

    @have("tasks")
    @rule(pick=PICKS)
    def abandon(self, pick: int) -> None:
        task = self.tasks.pop(pick % len(self.tasks))
        self.ledger.abandon(task, self.now)
        self.model.abandon(task, self.now)

    @have("borrowed")
    @rule(
        pick=PICKS,
        reason=st.sampled_from(GIVEN_REASONS),
        unsure=st.sampled_from([False] * 3 + [True]),
    )
    def release(self, pick: int, reason: CloseReason | None, unsure: bool) -> None:
        entry = self.borrowed.pop(pick % len(self.borrowed))
        self.ledger.release(entry, self.now, reason, unsure=unsure)
        self.model.release(self.conns[entry], self.now, reason, unsure)

    @have("borrowed")
    @rule(pick=PICKS)
    def detach(self, pick: int) -> None:
        entry = self.borrowed.pop(pick % len(self.borrowed))
        assert self.ledger.detach(entry) is self.model.detach(self.conns[entry])

    @have("conns")
    @rule(pick=PICKS)
    def seize(self, pick: int) -> None:
        entry = list(self.conns)[-1 - pick % len(self.conns)]
        self.ledger.seize(entry)
        self.model.seize(self.conns[entry])

    @have("opening")
    @rule(pick=PICKS, unsure=st.booleans())
    def opened(self, pick: int, unsure: bool = False) -> None:
        entry = self.opening.pop(pick % len(self.opening))
        link = next(self.names)
        self.ledger.opened(entry, link, self.now, unsure=unsure)
        assert (entry.link, entry.opened_at) == (link, self.now)
        longest = self.settings.max_lifetime
        assert 0.9 * longest <= entry.retire_at - self.now <= longest
        self.model.opened(self.conns[entry], self.now, entry.retire_at, unsure)

    @have("opening")
    @rule(pick=PICKS)
    def open_failed(self, pick: int) -> None:
        entry = self.opening.pop(pick % len(self.opening))
        error = ConnectionRefusedError("refused")
        self.ledger.open_failed(entry, error)
        self.model.open_failed(self.conns[entry], error)

    @have("opening")
    @rule(pick=PICKS)
    def open_cancelled(self, pick: int) -> None:
        entry = self.opening.pop(pick % len(self.opening))
        self.ledger.open_cancelled(entry)
        self.model.open_cancelled(self.conns[entry])

    @have("checking")
    @rule(pick=PICKS, liveness=st.sampled_from(Liveness))
    def checked(self, pick: int, liveness: Liveness = Liveness.ALIVE) -> None:
        entry = self.checking.pop(pick % len(self.checking))
        self.ledger.checked(entry, liveness, self.now)
        self.model.checked(self.conns[entry], liveness, self.now)

    @have("closing")
    @rule(pick=PICKS)
    def closed(self, pick: int) -> None:
        entry = self.closing.pop(pick % len(self.closing))
        self.ledger.closed(entry)
        self.model.closed(self.conns[entry], entry.close_reason)

    @rule(limit=st.integers(1, 3))
    def reap(self, limit: int) -> None:
        assert self.ledger.reap(self.now, limit) is self.model.reap(self.now, limit)

    @rule(picks=st.sets(PICKS))
    def judge_idle(self, picks: set[int]) -> None:
        """The sweep looks at a slice, some of which is no longer idle."""
        entries = list(self.conns)
        some = [entries[pick % len(entries)] for pick in sorted(picks)] if entries else []
        self.ledger.judge_idle(some, self.now)
        self.model.judge_idle([self.conns[entry] for entry in some], self.now)

    @rule()
    def refill(self) -> None:
        self.ledger.refill()
        self.model.refill()

    @precondition(is_open)
    @rule()
    def watch(self) -> None:
        watcher = self._new_waiter()
        self.watching.append(watcher)
        self.ledger.watch(watcher)
        self.model.watch(watcher)

    @have("watching")
    @rule(pick=PICKS)
    def unwatch(self, pick: int) -> None:
        watcher = self.watching.pop(pick % len(self.watching))
        self.ledger.unwatch(watcher)
        self.model.unwatch(watcher)

    @precondition(is_open)
    @rule()
    def retire(self) -> None:
        self.ledger.retire()
        self.model.retire()

    @precondition(is_open)
    @rule(max_size=st.sampled_from([1, 2, 3, 4, 5, math.inf]))
    def resize(self, max_size: float) -> None:
        max_size = max(max_size, self.settings.min_idle)
        self.ledger.resize(max_size)
        self.model.resize(max_size)

    @precondition(is_open)
    @rule(unlikely=st.integers(0, 9))
    def shut(self, unlikely: int) -> None:
        if unlikely:
            return
        error = ConnectionAbortedError("the block has ended")
        self.ledger.shut(lambda: error, self._note_drained)
        self.model.shut(error)

    def _note_drained(self) -> None:
        self.drained = True

    @invariant()
    def agrees_and_keeps_the_rules(self) -> None:
        ordered = self._take_orders()
        self._compare()
        self._check_rules(ordered)

    def _take_orders(self) -> bool:
        """Bind what was ordered to the model's connections; true if any is to be opened."""
        new = [conn for conn in self.model.conns if conn.entry is None]
        orders = {Order.OPEN: self.opening, Order.CHECK: self.checking, Order.CLOSE: self.closing}
        opens = 0
        while self.ledger.orders:
            order, entry = self.ledger.orders.popleft()
            if order is Order.OPEN:
                new[opens].entry = entry
                self.conns[entry] = new[opens]
                opens += 1
            elif order is Order.CLOSE:
                assert entry.close_reason in self.conns[entry].faults
            orders[order].append(entry)
        assert opens == len(new), "as many openings as the model wants"
        return opens > 0

    def _compare(self) -> None:
        model = self.model
        assert {entry: conn.state for entry, conn in self.conns.items()} == {
            entry: entry.state for entry in self.conns
        }
        assert self.ledger.idle_entries() == [conn.entry for conn in model.idle]
        for waiter, outcome in model.news:
            assert self.woken.pop(0) is waiter, "woken in order, once"
            conn = outcome if isinstance(outcome, Conn) else None
            assert waiter.entry is (conn.entry if conn else None)
            assert waiter.error is (None if conn else outcome)
        model.news.clear()
        assert not self.woken
        assert self.ledger.statistics() == model.statistics()
        assert self.ledger.last_connect_error is model.last_error
        since = model.idle[0].idle_since if model.idle else math.inf
        assert self.ledger.next_expiry() == since + self.settings.max_idle_time

    def _check_rules(self, ordered: bool) -> None:
        facts = self.ledger.statistics()
        with_state = {
            state: [entry for entry in self.conns if entry.state is state] for state in State
        }
        holders = set(self.conns).difference(with_state[State.IDLE], with_state[State.GONE])
        assert self.slots.borrowers == holders
        assert facts.size == facts.idle + facts.in_use + facts.connecting + facts.closing
        assert facts.size <= max(facts.max_size, self.last_size)
        assert self.slots.total_tokens == max(facts.max_size, facts.size)
        self.last_size = facts.size
        assert not (facts.idle and facts.tasks_waiting), "nothing idles while a task waits"
        if ordered:
            assert facts.idle + facts.connecting <= facts.tasks_waiting + self.settings.min_idle
        checking = len(with_state[State.CHECKING])
        ended = sum(facts.closed.values())
        assert facts.opened == facts.idle + facts.in_use + checking + facts.closing + ended
        for state, under_way in (
            (State.OPENING, self.opening),
            (State.CHECKING, self.checking),
            (State.CLOSING, self.closing),
        ):
            assert sorted(map(id, under_way)) == sorted(map(id, with_state[state]))
        assert self.drained is (self.model.shut_error is not None and not facts.in_use)
        moves = set(self.ledger.moves)
        assert all(after in TRANSITIONS[before] for before, after in moves)
        SEEN.update(moves)

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        if is_open(self):
            self._finish_all(self._complete_orders)
            in_use = len(self.model.those(State.IN_USE))
            assert not self.model.waiters or in_use >= self.model.max_size
            self._finish_all(self._give_back, self._complete_orders)
            assert not self.model.waiters, "nobody is forgotten"
            self.shut(0)
        self._finish_all(self._give_back, self._complete_orders)
        assert not self.model.conns
        assert not self.slots.borrowers

    def _finish_all(self, *steps: Callable[[], bool]) -> None:
        for _ in range(1000):
            self.agrees_and_keeps_the_rules()
            if not any([step() for step in steps]):
                return
        raise AssertionError("the pool comes to rest")

    def _complete_orders(self) -> bool:
        if self.closing:
            self.closed(0)
        elif self.checking:
            self.checked(0)
        elif self.opening:
            self.opened(0)
        else:
            return False
        return True

    def _give_back(self) -> bool:
        for task in list(self.tasks):
            self.wake_up(self.tasks.index(task))
        if self.borrowed:
            self.release(0, None, False)
            return True
        return False


def test_the_ledger_agrees_with_a_naive_model() -> None:
    """Any sequence of events leads to the states, wakings, orders and totals of the model.

    The sequences are rich enough to go through every transition of the table.
    """
    SEEN.clear()
    run_state_machine_as_test(
        LedgerMachine, settings=hypothesis_settings(max_examples=300, stateful_step_count=50)
    )
    table = {(before, after) for before, states in TRANSITIONS.items() for after in states}
    assert table == SEEN
