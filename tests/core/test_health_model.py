"""Whatever happens to replicas in whatever order, what is decided is what a naive model says."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from anyconnpool._core.health import Health, Replica
from anyconnpool._core.states import PoolEntry, State

from .health_model import HealthModel, ModelConnection, ModelReplica

ERROR = ConnectionRefusedError("no")
NAMES = ["a", "b", "c", "d"]
PICK = st.integers(min_value=0, max_value=1_000)


def pause(failures: int) -> float:
    return float(2 ** min(failures, 5))


class HealthMachine(RuleBasedStateMachine):
    """Drive Health and the model with the same events."""

    @initialize(count=st.integers(1, 4), in_order=st.booleans())
    def start(self, count: int, in_order: bool) -> None:
        self.now = 0.0
        self.health = Health(pause, 1.0, in_order=in_order)
        self.model = HealthModel(in_order)
        self.known: dict[str, Replica] = {}
        self.entries: dict[PoolEntry[Any], ModelConnection] = {}
        self.set_to(NAMES[:count])

    def set_to(self, names: list[str]) -> None:
        for name in names:
            if name not in self.model.names:
                self.known[name] = Replica(name, None, name, name)
                self.model.replicas[name] = ModelReplica(name)
                self.model.chosen = [each for each in self.model.chosen if each != name]
        gone = self.health.update([self.known[name] for name in names], self.now)
        assert {each.name for each in gone} == set(self.model.names) - set(names)
        for name in set(self.model.names) - set(names):
            for conn in self.model.of(name):
                conn.server = "gone"
        self.model.names = names

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    def update(self, names: list[str]) -> None:
        self.set_to(names)

    @rule()
    def begin_round(self) -> None:
        self.health.begin_round()
        self.model.round.clear()

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(avoided=st.lists(st.sampled_from(NAMES), unique=True, max_size=2))
    def open_one(self, avoided: list[str]) -> None:
        expected = self.model.choose((), tuple(avoided))
        chosen = self.health.choose(
            avoided=[self.known[name] for name in avoided if name in self.known]
        )
        assert (chosen and chosen.name) == expected
        if chosen is not None:
            self.begin(PoolEntry(0), chosen, own=False)

    @rule()
    def open_due(self) -> None:
        """Do what a pool does by itself when a rest is over."""
        due = self.health.due(self.now)
        assert [each.name for each in due] == [
            name
            for name in self.model.names
            if self.model.replicas[name].resting
            and self.model.replicas[name].rests_until <= self.now
            and not self.model.fresh_attempts(name)
        ]
        for replica in due:
            self.begin(PoolEntry(0), replica, own=True)

    def begin(self, entry: PoolEntry[Any], replica: Replica, *, own: bool) -> None:
        self.health.begin(entry, replica, own=own)
        model = self.model.replicas[replica.name]
        is_trial = bool(model.failures) and not self.model.has_trial(replica.name)
        conn = ModelConnection(replica.name, model.rests, own, is_trial=is_trial)
        self.model.connections.append(conn)
        self.model.chosen.append(replica.name)
        self.entries[entry] = conn

    def pick(self, number: int, *, is_open: bool) -> PoolEntry[Any] | None:
        found = [entry for entry, conn in self.entries.items() if conn.is_open is is_open]
        return found[number % len(found)] if found else None

    def forget(self, entry: PoolEntry[Any]) -> ModelConnection:
        conn = self.entries.pop(entry)
        self.model.connections.remove(conn)
        return conn

    @rule(number=PICK)
    def succeed(self, number: int) -> None:
        entry = self.pick(number, is_open=False)
        if entry is None:
            return
        self.health.succeed(entry)
        entry.state = State.IDLE
        conn = self.entries[entry]
        conn.is_open = True
        replica = self.model.replicas.get(conn.server)
        if replica is not None and replica.resting and conn.rests == replica.rests:
            replica.resting = False

    @rule(number=PICK, goes_on=st.booleans())
    def fail(self, number: int, goes_on: bool) -> None:
        entry = self.pick(number, is_open=False)
        if entry is None:
            return
        entry.tried += (entry.replica,)
        self.health.fail(entry, ERROR, self.now)
        conn = self.forget(entry)
        if conn.server != "gone":
            replica = self.model.replicas[conn.server]
            if conn.rests == replica.rests and (conn.own or not replica.resting):
                self.model.rest(conn.server, self.now + pause(replica.failures + 1))
            self.model.round.add(conn.server)
        assert self.health.is_hopeless() == self.model.hopeless()
        if goes_on and not conn.own:
            tried = tuple(each.name for each in entry.tried if not each.left)
            chosen = self.health.choose(entry.tried)
            assert (chosen and chosen.name) == self.model.choose(tried or ("none",), ())
            if chosen is not None:
                self.begin(entry, chosen, own=False)

    @rule(number=PICK)
    def lose(self, number: int) -> None:
        entry = self.pick(number, is_open=False)
        if entry is not None:
            self.health.lose(entry)
            self.forget(entry)

    @rule(number=PICK)
    def close(self, number: int) -> None:
        entry = self.pick(number, is_open=True)
        if entry is not None:
            entry.replica.note_move(entry, State.CLOSING)
            entry.state = State.CLOSING
            self.forget(entry)

    @rule(number=PICK)
    def answer(self, number: int) -> None:
        entry = self.pick(number, is_open=True)
        if entry is None:
            return
        self.health.answer(entry, self.now)
        conn = self.entries[entry]
        replica = self.model.replicas.get(conn.server)
        if replica is not None and not replica.resting and conn.rests == replica.rests:
            if replica.failures:
                for each in self.model.of(conn.server):
                    each.is_trial = False
            replica.failures = 0

    @rule(number=PICK, silent=st.booleans())
    def break_off(self, number: int, silent: bool) -> None:
        entry = self.pick(number, is_open=True)
        if entry is None:
            return
        conn = self.entries[entry]
        replica = self.model.replicas.get(conn.server)
        counts = replica is not None and not replica.resting and conn.rests == replica.rests
        rests = self.health.break_off(entry, ERROR, self.now, silent=silent)
        assert rests == counts
        if counts and replica is not None:
            self.model.rest(conn.server, self.now + pause(replica.failures + 1))
            # Those that are to be closed are of earlier times from now on, as all are.
            replica.rests += silent

    @precondition(lambda self: not self.model.in_order)
    @rule()
    def share(self) -> None:
        """A step never takes more than makes the numbers even."""
        before = {each.name: each.expected_size() for each in self.health.replicas}
        givers = self.health.share(self.now)
        for giver in givers:
            after = giver.expected_size()
            assert after >= min(before.values())
            assert giver.is_well()

    @invariant()
    def compare(self) -> None:
        """Compare what is known of each."""
        if not hasattr(self, "model"):
            return
        for replica in self.health.replicas:
            model = self.model.replicas[replica.name]
            assert replica.failures == model.failures
            assert replica.resting == model.resting
            assert replica.size == len(self.model.of(replica.name))
            assert replica.attempts == len(self.model.attempts(replica.name))
            assert replica.is_ready() == self.model.ready(replica.name)
            assert (replica.trial is not None) == self.model.has_trial(replica.name)
            assert min(replica.owes, replica.wants, replica.stale) >= 0
        assert self.health.all_rest() == self.model.all_rest()
        assert self.health.next_change(self.now) > -math.inf


def test_what_was_begun_before_a_rest_never_counts() -> None:
    """Not even when it fails after the rest is over."""
    health = Health(pause, 1.0)
    replica = Replica("a", None, "a", "a")
    health.update([replica], 0.0)
    first, second, own = (PoolEntry[Any](0) for _ in range(3))
    for entry in (first, second):
        health.begin(entry, replica)
    health.fail(first, ERROR, 0.0)
    health.begin(own, replica, own=True)
    health.succeed(own)
    assert (replica.failures, replica.resting) == (1, False)
    health.fail(second, ERROR, 3.0)
    assert (replica.failures, replica.resting) == (1, False)


@pytest.mark.newest
def test_it_decides_as_the_model_says() -> None:
    """Choices, rests, trials, returns and those that leave, in any order."""
    run_state_machine_as_test(
        HealthMachine, settings=settings(max_examples=150, stateful_step_count=60)
    )


def go_a_long_way(seed: int) -> None:
    """Have a hundred things happen, in proportions in which replicas fail and come back."""
    draw = random.Random(seed)
    machine = HealthMachine()
    machine.start(draw.randint(1, 3), draw.random() < 0.3)

    def number() -> int:
        return draw.randrange(1000)

    def names(most: int) -> list[str]:
        return draw.sample(NAMES, draw.randint(0, most))

    steps: list[tuple[int, Callable[[], object]]] = [
        (20, lambda: machine.open_one(names(1))),
        (12, machine.open_due),
        (12, lambda: machine.succeed(number())),
        (14, lambda: machine.fail(number(), draw.random() < 0.5)),
        (3, lambda: machine.lose(number())),
        (6, lambda: machine.close(number())),
        (6, lambda: machine.answer(number())),
        (5, lambda: machine.break_off(number(), draw.random() < 0.5)),
        (8, lambda: machine.wait(draw.choice([0.1, 1.0, 5.0, 40.0]))),
        (3, machine.begin_round),
        (1, lambda: machine.update(names(3) or ["a"])),
    ]
    weights = [weight for weight, _ in steps]
    for _ in range(100):
        draw.choices(steps, weights)[0][1]()
        machine.compare()


def test_it_decides_as_the_model_says_on_long_ways() -> None:
    """What hypothesis finds seldom: trials, rests of all, and what is begun in their middle."""
    for seed in range(150):
        go_a_long_way(seed)
