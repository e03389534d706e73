"""A machine with replicas, driven by chance: its books are right, and it recovers from anything."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from anyconnpool._core.health import Health, Replica
from anyconnpool._core.shared_limit import SharedLimit, SharedPoolStateMachine
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import Action, PoolEntry, State, Waiter
from anyconnpool._statistics import CloseReason
from anyconnpool._util.liveness import Liveness

from .machine_fakes import SetSlots, ask, make_settings

ERROR = ConnectionRefusedError("no")
NAMES = ["a", "b", "c"]
PICK = st.integers(min_value=0, max_value=1_000)


class ReplicaMachine(RuleBasedStateMachine):
    """Servers that are well, refuse or are silent; borrowers that come and go."""

    @initialize(
        in_order=st.booleans(),
        size=st.integers(1, 6),
        min_idle=st.integers(0, 1),
        order=st.sampled_from(["lifo", "fifo"]),
        shared=st.booleans(),
    )
    def start(self, in_order: bool, size: int, min_idle: int, order: Any, shared: bool) -> None:
        chosen = make_settings(max_size=size, min_idle=min_idle, idle_order=order)
        self.now = 0.0
        self.slots = SetSlots(size)
        self.machine: PoolStateMachine[int]
        if shared:
            limit: SharedLimit[int] = SharedLimit(size)
            self.machine = SharedPoolStateMachine(chosen, self.slots, lambda: None, limit)
        else:
            self.machine = PoolStateMachine(chosen, self.slots, lambda: None)
        self.health = Health(lambda failures: float(min(2**failures, 8)), 1.0, in_order=in_order)
        self.health.update(map(self.make, NAMES), 0.0)
        self.machine.use_replicas(self.health)
        self.moods: dict[str, str] = dict.fromkeys(NAMES, "well")
        self.opening: list[PoolEntry[int]] = []
        self.closing: list[PoolEntry[int]] = []
        self.held: list[PoolEntry[int]] = []
        self.live: set[PoolEntry[int]] = set()
        self.waiting: list[Waiter[int]] = []

    def make(self, name: str) -> Replica:
        return Replica(name, None, name, name)

    def take_actions(self) -> None:
        while self.machine.actions:
            action, entry = self.machine.actions.popleft()
            if action is Action.OPEN:
                self.opening.append(entry)
                self.live.add(entry)
            elif action is Action.CLOSE:
                self.closing.append(entry)
        for waiter in [each for each in self.waiting if each.entry or each.error]:
            self.waiting.remove(waiter)
            if waiter.entry is not None:
                self.held.append(waiter.entry)

    @rule(name=st.sampled_from(NAMES), mood=st.sampled_from(["well", "refusing", "silent"]))
    def change(self, name: str, mood: str) -> None:
        self.moods[name] = mood

    @rule(number=PICK)
    def end_attempt(self, number: int) -> None:
        if not self.opening:
            return
        entry = self.opening[number % len(self.opening)]
        rules = self.machine.replicas
        assert rules is not None
        if self.moods[entry.replica.name] == "refusing":
            if not rules.go_on(entry, ERROR, self.now):
                self.opening.remove(entry)
                self.machine.open_failed(entry, ERROR, self.now, None)
                self.live.discard(entry)
        else:
            self.opening.remove(entry)
            entry.transport, entry.look = 1, lambda: Liveness.ALIVE
            self.machine.opened(entry, self.now)

    @rule(number=PICK)
    def lose_attempt(self, number: int) -> None:
        if self.opening:
            entry = self.opening.pop(number % len(self.opening))
            self.machine.lost(entry, self.now)
            self.live.discard(entry)

    @rule()
    def acquire(self) -> None:
        entry = self.machine.acquire(self.now)
        if entry is not None:
            self.held.append(entry)
            return
        waiter: Waiter[int] = Waiter(list)
        self.machine.join(waiter, self.now)
        self.waiting.append(waiter)

    @rule(number=PICK)
    def give_up(self, number: int) -> None:
        if self.waiting:
            waiter = self.waiting.pop(number % len(self.waiting))
            self.machine.abandon(waiter, self.now)

    @rule(number=PICK)
    def release(self, number: int) -> None:
        """Give a connection back, after a reply if its server is well."""
        if not self.held:
            return
        entry = self.held.pop(number % len(self.held))
        rules = self.machine.replicas
        assert rules is not None
        if self.moods[entry.replica.name] == "well":
            rules.answer(entry, self.now)
            self.machine.release(entry, self.now, None)
        else:
            if entry.borrows == 1:
                silent = self.moods[entry.replica.name] == "silent"
                rules.break_off(entry, ERROR, self.now, silent)
            self.machine.release(entry, self.now, CloseReason.UNCLEAN)

    @rule(number=PICK)
    def end_close(self, number: int) -> None:
        if self.closing:
            entry = self.closing.pop(number % len(self.closing))
            self.machine.closed(entry, self.now)
            self.live.discard(entry)

    @rule(seconds=st.sampled_from([0.05, 0.5, 3.0, 20.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass, and tell it when the machine wants to be told."""
        end = self.now + seconds
        for _ in range(1000):
            if self.machine.alarm_at > end:
                break
            self.now = max(self.now, self.machine.alarm_at)
            self.health.news.clear()
            self.machine.tick(self.now)
            self.take_actions()
        else:
            raise AssertionError("the machine wants to be told the same time again and again")
        self.now = end

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    def update(self, names: list[str]) -> None:
        rules = self.machine.replicas
        assert rules is not None
        rules.update(map(self.make, names), self.now)

    @invariant()
    def check(self) -> None:
        """The numbers of each replica are those of its connections."""
        if not hasattr(self, "machine"):
            return
        self.take_actions()
        figures = self.machine.statistics()
        assert figures.size == len(self.slots.borrowers) <= figures.max_size
        for replica in self.health.replicas:
            mine = [each for each in self.live if each.replica is replica]
            counted = [each for each in mine if each.state < State.CLOSING]
            assert replica.size == len(counted)
            assert replica.in_use == sum(each.state is State.IN_USE for each in counted)
            assert replica.attempts == sum(each in self.opening for each in counted)
            if replica.resting:
                assert replica.attempts <= 1 or any(
                    each.epoch < replica.epoch for each in self.opening
                )
        if self.waiting:
            # Nobody waits while something is idle.
            assert not figures.idle
            # Nobody waits for nothing: something is in use, under way, or the time will come.
            busy = figures.in_use + figures.connecting + figures.closing
            assert busy or self.machine.alarm_at < math.inf

    def teardown(self) -> None:
        """With all servers well and some load, everybody is served and all have their shares."""
        if not hasattr(self, "machine"):
            return
        self.moods = dict.fromkeys(NAMES, "well")
        draw = random.Random(1)
        for _ in range(200):
            for _ in range(2 * int(self.machine.statistics().max_size) - len(self.waiting)):
                self.acquire()
                self.take_actions()
            while self.opening or self.closing or self.held:
                for step in (self.end_attempt, self.end_close, self.release):
                    step(draw.randrange(1000))
                    self.take_actions()
            self.wait(0.1)
            self.take_actions()
        assert not self.waiting
        assert [each.failures for each in self.health.replicas] == [0] * len(self.health.replicas)
        sizes = [replica.size for replica in self.health.replicas]
        if self.health.in_order:
            assert sum(sizes[1:]) == 0 < sizes[0]
        elif sum(sizes) >= len(sizes):
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.newest
def test_its_books_are_right_and_it_recovers() -> None:
    """Whatever fails, hangs, leaves and returns, for a pool and for one of a manager's."""
    run_state_machine_as_test(
        ReplicaMachine, settings=settings(max_examples=100, stateful_step_count=50, deadline=None)
    )


def test_a_hook_is_no_attempt_that_could_be_given_up() -> None:
    """Not on a connection that the pool has opened by itself once, and that was used since."""
    chosen = make_settings(max_size=3, max_connecting=1, on_release=ask)
    machine: PoolStateMachine[int] = PoolStateMachine(chosen, SetSlots(3), lambda: None)
    health = Health(lambda failures: 1.0, 1.0)
    replicas = [Replica(name, None, name, name) for name in ["a", "b"]]
    health.update(replicas, 0.0)
    machine.use_replicas(health)
    rules = machine.replicas
    assert rules is not None

    def opened(now: float) -> PoolEntry[int]:
        action, entry = machine.actions.popleft()
        assert action is Action.OPEN
        entry.transport, entry.look = 1, lambda: Liveness.ALIVE
        if entry.replica is replicas[0] and now < 1:
            assert rules.go_on(entry, ERROR, now)
        machine.opened(entry, now)
        return entry

    waiter: Waiter[int] = Waiter(list)
    machine.join(waiter, 0)
    second = opened(0)
    # The rest of the first is over, and a connection to it has served somebody.
    machine.tick(1)
    first = opened(1)
    assert first.own
    assert machine.acquire(1) is first
    rules.answer(first, 1)
    # The second rests, and then is tried as well.
    rules.break_off(second, ERROR, 1, False)
    machine.release(second, 1, CloseReason.UNCLEAN)
    assert machine.actions.popleft() == (Action.CLOSE, second)
    machine.closed(second, 1)
    machine.tick(2)
    action, attempt = machine.actions.popleft()
    assert (action, attempt.replica) == (Action.OPEN, replicas[1])
    machine.release(first, 2, None)
    assert machine.actions.popleft() == (Action.RESET, first)
    machine.join(Waiter(list), 2)
    machine.tick(3.2)
    assert [*machine.actions] == [(Action.INTERRUPT, attempt)]
