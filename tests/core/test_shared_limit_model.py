"""Whatever happens in whatever order, machines that share a limit do what the naive model does."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from anyconnpool._core.shared_limit import SharedLimit
from anyconnpool._core.states import Action, PoolEntry
from anyconnpool._statistics import CloseReason

from .machine_events import EVENTS, PICKS, SETTINGS
from .machine_fakes import SetSlots
from .shared_limit_model import Common, SharingModel, WatchedSharedMachine
from .test_state_machine_model import PoolMachine

MEMBERS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.fixed_dictionaries(SETTINGS)),
    min_size=2,
    max_size=3,
)
# The reasons for which anything was closed in any example.
SEEN: set[str] = set()


class Member(PoolMachine):
    """One of the machines, with all that can happen to it, and its model."""

    def __init__(self, group: SharedLimitMachine, jitter: float, chosen: dict[str, Any]) -> None:
        super().__init__()
        self.group = group
        self.jitter = jitter
        self.refilled = 0
        self.enter(jitter, chosen)
        self._start()

    def _start(self) -> None:
        group, jitter = self.group, self.jitter
        self.slots = SetSlots(self.settings.max_size)
        self.opens: list[PoolEntry[int]] = []
        self.closed_for: list[tuple[PoolEntry[int], CloseReason]] = []
        self.model = self.sharing_model = SharingModel(self.settings, group.common)
        self.model.jitter = jitter
        self.sharing = WatchedSharedMachine(
            self.settings,
            self.slots,
            lambda machine: self.run_actions(),
            group.shared_limit,
            lambda: jitter,
        )
        # Only what both kinds of machine have is used by the events.
        self.machine = cast("Any", self.sharing)
        self.last_size = 0

    def run_actions(self) -> None:
        """Take the actions down, as if a task were started for each."""
        lists = {
            Action.OPEN: self.opens,
            Action.CHECK: self.checking,
            Action.RESET: self.checking,
            Action.ANSWER: self.checking,
            Action.INTERRUPT: self.interrupted,
            Action.CLOSE: self.closing,
        }
        while self.sharing.actions:
            action, entry = self.sharing.actions.popleft()
            if action is not Action.HURRY:
                lists[action].append(entry)
            if action is Action.CLOSE:
                self.closed_for.append((entry, entry.close_reason))

    def bind(self) -> None:
        """Bind what was ordered to the model's connections, which may lack refills only."""
        # Only now: the machine runs its actions before the model has heard of the event.
        for entry, reason in self.closed_for:
            assert reason in self.conns[entry].faults
            SEEN.add(reason.value)
        self.closed_for.clear()
        new = [conn for conn in self.model.conns if conn.entry is None]
        assert len(self.opens) >= len(new), "whoever needs room gets it"
        while len(new) < len(self.opens):
            assert self.sharing_model.lacks_idle(), "refills take no room that anybody needs"
            self.refilled += 1
            self.model.open_one()
            new.append(self.model.conns[-1])
        for conn, entry in zip(new, self.opens, strict=True):
            conn.entry = entry
            self.conns[entry] = conn
        self.opening += self.opens
        self.opens.clear()

    def check(self) -> None:
        self._compare()
        self._check_rules()

    def compare(self) -> None:
        if hasattr(self, "sharing"):
            self.group.compare()

    def _join(self) -> None:
        self.compare()
        super()._join()

    def _refill(self) -> None:
        if hasattr(self, "sharing"):
            self.compare()
            refilled = self.refilled
            super()._refill()
            self.compare()
            assert self.refilled == refilled, "a refill is complete"

    def all_ends_well(self) -> None:
        self.group.all_ends_well()

    def wait_until(self, now: float) -> None:
        """Time passes for all of them, and is told to one after the other."""
        for member in self.group.members:
            super(Member, member).wait_until(now)

    def shut(self, really: bool = True) -> None:
        """Drop the pool if it is of no use, and begin a new one, as a manager does."""
        unused = not (self.model.conns or self.model.waiters or self.model.watchers)
        assert self.machine.supply.unused() is unused
        if unused:
            self.sharing.end(lambda: ConnectionAbortedError("dropped"), list)
            self.group.common.models.remove(self.sharing_model)
            self._start()

    def step(self) -> bool:
        """Finish one thing, as if the connection were good."""
        return self._complete_orders()

    def give_back(self) -> bool:
        return self._give_back()


class SharedLimitMachine(RuleBasedStateMachine):
    """Let things happen to several machines, and compare all of them after each."""

    broken = False

    @initialize(
        max_total=st.sampled_from([1, 2, 2, 3, 4, math.inf]),
        members=MEMBERS,
    )
    def enter(self, max_total: float, members: list[tuple[float, dict[str, Any]]]) -> None:
        self.common = Common(max_total)
        self.shared_limit: SharedLimit[int] = SharedLimit(max_total)
        self.members: list[Member] = []
        for jitter, chosen in members:
            self.members.append(Member(self, jitter, chosen))
        self.compare()

    def compare(self) -> None:
        self.broken = True
        for member in self.members:
            member.run_actions()
        for member in self.members:
            member.bind()
        for member in self.members:
            member.check()
        self._check_shared_limit()
        self.broken = False

    def _check_shared_limit(self) -> None:
        common = self.common
        facts = [member.sharing.statistics() for member in self.members]
        assert self.shared_limit.total == sum(one.size for one in facts) <= common.max_total
        assert self.shared_limit.closing == sum(one.closing for one in facts)
        assert list(self.shared_limit.idle) == [conn.entry for conn in common.idle()]
        needs = common.needs()
        assert not (needs and self.shared_limit.has_room()), "room is for whoever needs it"
        assert not common.idle() or len(needs) <= self.shared_limit.closing, (
            "nothing idles if needed"
        )

    @rule(
        which=PICKS, what=st.deferred(lambda: st.sampled_from(EVENTS).flatmap(lambda event: event))
    )
    def happens(self, which: int, what: tuple[str, dict[str, Any]]) -> None:
        name, arguments = what
        member = self.members[which % len(self.members)]
        getattr(member, name)(**arguments)
        self.compare()

    def all_ends_well(self) -> None:
        """Whatever is under way succeeds and everybody gives back."""
        self._finish(Member.give_back, Member.step)

    def _finish(self, *steps: Any) -> None:
        for _ in range(1000):
            if not any(self._compared(step(member)) for step in steps for member in self.members):
                return
        raise AssertionError("the pools come to rest")

    def _compared(self, done: bool) -> bool:
        self.compare()
        return done

    def teardown(self) -> None:
        if self.broken or not hasattr(self, "members"):
            return
        self._finish(Member.step)
        in_use = sum(member.sharing.statistics().in_use for member in self.members)
        assert not self.common.needs() or in_use == self.common.max_total
        self.all_ends_well()
        assert not any(member.model.waiters for member in self.members), "nobody is forgotten"


@pytest.mark.newest
@pytest.mark.timeout(300)
def test_machines_that_share_a_limit_agree_with_a_naive_model() -> None:
    """Any sequence of events leads to the states, wakings and actions of the model.

    Never is more open than the limit allows, room goes to who has waited longest, and a
    connection gives way only if it is needed.
    """
    SEEN.clear()
    run_state_machine_as_test(
        SharedLimitMachine, settings=settings(max_examples=70, stateful_step_count=40)
    )
    assert CloseReason.GAVE_WAY.value in SEEN
