"""Whatever happens in whatever order, connections to several replicas are shared by the rules."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from anyconnpool._core.health import Health, Replica
from anyconnpool._core.pipeline import OPEN, WORN, Lane, Place
from anyconnpool._core.replica_rules import ReplicaRules
from anyconnpool._core.states import Action, PoolEntry, State
from anyconnpool._util.liveness import Liveness

from .pipeline_events import PICKS, SETTINGS, PipelineEvents

NAMES = ["a", "b", "c"]
HANG_UP = ConnectionResetError("gone")


def pause(failures: int) -> float:
    return float(min(2**failures, 8))


class ReplicaPipelineEvents(PipelineEvents):
    """The same events, with replicas that fail, hang, leave and return."""

    in_order = False

    @initialize(chosen=st.fixed_dictionaries(SETTINGS), in_order=st.booleans())
    def enter(self, chosen: dict[str, Any], in_order: bool = False) -> None:
        self.in_order = in_order
        PipelineEvents.enter(self, chosen)

    def prepare(self) -> None:
        self.health = Health(pause, 1.0, in_order=self.in_order)
        self.health.update(map(self.make, NAMES), 0.0)
        self.machine.use_replicas(self.health)
        assert self.machine.replicas is not None
        self.replicas: ReplicaRules[int] = self.machine.replicas

    def make(self, name: str) -> Replica:
        return Replica(name, None, name, name)

    def open(self, pick: int, well: bool = True) -> None:
        opening = self.orders[Action.OPEN]
        if not opening:
            return
        entry = opening[pick % len(opening)]
        if not well and self.replicas.go_on(entry, HANG_UP, self.now):
            return
        opening.remove(entry)
        if well and entry.replica is not None:
            entry.transport = 1
            entry.look = lambda: Liveness.ALIVE
            self.machine.opened(entry, self.now)
        else:
            self.machine.open_failed(entry, HANG_UP, self.now, None)

    def reply(self, pick: int, count: int) -> None:
        lanes = [lane for lane in self.in_flight if lane.owed]
        if lanes:
            self.replicas.answer(lanes[pick % len(lanes)].entry, self.now)
            self.settle()
        super().reply(pick, count)

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        self.health.news.clear()
        assert self.machine.alarm_at > self.now, "however late it is, what is due is done at once"

    @rule(pick=PICKS, silent=st.booleans(), new=st.booleans())
    def break_off(self, pick: int, silent: bool, new: bool) -> None:
        """A new connection ends or hangs before a reply, or one that was used hangs."""
        lanes = [lane for lane in self.in_flight if lane.owed]
        if not lanes:
            return
        lane = lanes[pick % len(lanes)]
        if new:
            self.replicas.break_off(lane.entry, HANG_UP, self.now, silent)
            self.settle()
        if silent:
            unsent = [place for place in self.in_flight[lane] if not place.sent]
            self.sharing.note_silence(lane, self.now)
            if not self.ended:
                self.in_flight[lane] = [place for place in self.in_flight[lane] if place.sent]
                self._return(unsent)
            assert lane.openness is WORN
            self.settle()

    @rule(pick=PICKS)
    def request_elsewhere(self, pick: int) -> None:
        """A request is repeated at another replica than some."""
        if self.ended:
            return
        avoided = [self.health.replicas[pick % len(self.health.replicas)]]
        place: Place[int] = Place(lambda: None, b"xyz")
        lane = self.sharing.place_elsewhere(place, avoided, self.now)
        if lane is not None:
            assert lane.openness is OPEN or lane.entry.borrows >= self.settings.max_uses
            assert lane.entry.replica not in avoided
            self.in_flight[lane].append(place)

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    def update(self, names: list[str]) -> None:
        self.replicas.update(map(self.make, names), self.now)

    def _check_places(self, newly: list[Lane[int]]) -> None:
        super()._check_places(newly)
        for lane in self.in_flight:
            if self.replicas.is_stale(lane.entry) and not self.ended:
                assert lane.openness is WORN
            replica = lane.entry.replica
            if replica.trial is lane.entry and lane.openness is OPEN:
                assert replica.is_well()
        held = cast("set[PoolEntry[int]]", self.slots.borrowers)
        for replica in self.health.replicas:
            entries = [each for each in held if each.replica is replica]
            assert replica.in_use == sum(each.state is State.IN_USE for each in entries)

    def _check_line(self) -> None:
        facts = self.check_order()
        if self.waiting:
            busy = facts.in_use + facts.connecting + facts.closing
            assert busy or self.machine.alarm_at < math.inf


@pytest.mark.newest
@pytest.mark.timeout(300)
def test_sharing_with_replicas_agrees_with_naive_rules() -> None:
    """Nobody is forgotten, and what has to leave for the sake of replicas takes no requests."""
    run_state_machine_as_test(
        ReplicaPipelineEvents, settings=settings(max_examples=150, stateful_step_count=50)
    )
