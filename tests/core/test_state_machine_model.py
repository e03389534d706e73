"""Whatever happens in whatever order, the machine does what the naive model does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from anyconnpool._core.states import TRANSITIONS, Action, State

from .machine_events import MachineEvents, event
from .machine_model import Conn

# The changes of state that have happened in any example.
SEEN: set[tuple[State, State]] = set()


class PoolMachine(MachineEvents):
    """Compare the machine with the model after every event, and check the rules of the pool."""

    last_size = 0
    broken = False

    @invariant()
    def compare(self) -> None:
        self.broken = True
        self._take_orders()
        self._compare()
        self._check_rules()
        self.broken = False

    def _take_orders(self) -> None:
        """Bind what was ordered to the model's connections."""
        new = [conn for conn in self.model.conns if conn.entry is None]
        actions = {
            Action.OPEN: self.opening,
            Action.CHECK: self.checking,
            Action.RESET: self.checking,
            Action.ANSWER: self.checking,
            Action.INTERRUPT: self.interrupted,
            Action.CLOSE: self.closing,
        }
        opens = 0
        while self.machine.actions:
            order, entry = self.machine.actions.popleft()
            if order is Action.HURRY:
                assert entry.hurried
                continue
            if order is Action.OPEN:
                new[opens].entry = entry
                self.conns[entry] = new[opens]
                opens += 1
            elif order in (Action.CHECK, Action.RESET, Action.ANSWER):
                assert order is self.conns[entry].hook
            elif order is Action.CLOSE:
                assert entry.close_reason in self.conns[entry].faults
            actions[order].append(entry)
        assert opens == len(new), "as many openings as the model wants"

    def _compare(self) -> None:
        model = self.model
        assert {entry: conn.state for entry, conn in self.conns.items()} == {
            entry: entry.state for entry in self.conns
        }
        assert self.machine.idle_entries() == [conn.entry for conn in model.idle]
        assert all(entry.hurried is conn.hurried for entry, conn in self.conns.items())
        assert [self.conns[entry] for entry in self.interrupted] == [
            conn for conn in model.conns if conn.in_background and conn.interrupted
        ]
        for waiter, outcome in model.news:
            assert self.woken.pop(0) is waiter, "woken in order, once"
            conn = outcome if isinstance(outcome, Conn) else None
            assert waiter.entry is (conn.entry if conn else None)
            assert waiter.error is (None if conn else outcome)
        model.news.clear()
        assert not self.woken
        assert self.machine.statistics(lambda: self.now) == model.statistics()
        assert self.machine.supply.last_error is model.last_error
        since = model.idle[0].idle_since if model.idle else math.inf
        assert self.machine.next_expiry() == since + self.settings.max_idle_time

    def _check_rules(self) -> None:
        facts = self.machine.statistics()
        with_state = {
            state: [entry for entry in self.conns if entry.state is state] for state in State
        }
        assert self.slots.borrowers == set(self.conns).difference(with_state[State.GONE])
        assert facts.size == facts.idle + facts.in_use + facts.connecting + facts.closing
        assert facts.size <= max(facts.max_size, self.last_size)
        assert self.slots.total_tokens == max(facts.max_size, facts.size)
        self.last_size = facts.size
        if facts.idle and facts.tasks_waiting:
            assert self.settings.check is not None, "nothing idles while a task waits"
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
        moves = set(self.machine.moves)
        assert all(after in TRANSITIONS[before] for before, after in moves)
        SEEN.update(moves)

    @event(often=2)
    def all_ends_well(self) -> None:
        """Whatever is under way succeeds and everybody gives back, so that some idle together."""
        self._finish_all(self._give_back, self._complete_orders)

    def teardown(self) -> None:
        if self.broken or not hasattr(self, "model"):
            return
        if self.is_open():
            self._finish_all(self._complete_orders)
            in_use = len(self.model.those(State.IN_USE))
            assert not self.model.waiters or in_use >= self.model.max_size
            self._finish_all(self._give_back, self._complete_orders)
            assert not self.model.waiters, "nobody is forgotten"
            self.shut()
        self._finish_all(self._give_back, self._complete_orders)
        assert not self.model.conns
        assert not self.slots.borrowers

    def _finish_all(self, *steps: Callable[[], bool]) -> None:
        for _ in range(1000):
            self.compare()
            if not sum(step() for step in steps):
                return
        raise AssertionError("the pool comes to rest")

    def _complete_orders(self) -> bool:
        if self.closing:
            self.closed(self.closing[0])
        elif self.checking:
            self.checked(self.checking[0])
        elif self.opening:
            self.opened(self.opening[0])
        elif self.machine.alarm_at < math.inf:
            self.wait_until(self.machine.alarm_at)
        else:
            return False
        return True

    def _give_back(self) -> bool:
        for number in reversed(range(len(self.tasks))):
            self.task_runs(number, True)
        if self.borrowed:
            self.release(self.borrowed.pop())
            return True
        return False


@pytest.mark.newest
@pytest.mark.timeout(300)
def test_the_machine_agrees_with_a_naive_model() -> None:
    """Any sequence of events leads to the states, wakings, actions and totals of the model.

    The sequences are rich enough to go through nearly every transition of the table.
    """
    SEEN.clear()
    run_state_machine_as_test(
        PoolMachine, settings=settings(max_examples=350, stateful_step_count=50)
    )
    table = {(before, after) for before, states in TRANSITIONS.items() for after in states}
    assert table >= SEEN
    assert len(table - SEEN) <= 2, f"the sequences are too poor: {sorted(table - SEEN)}"
