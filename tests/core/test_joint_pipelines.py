"""Pools that share a limit, pipeline, and have replicas: whatever happens, all rules hold together.

Each rule has a model of its own elsewhere, alone or with one other. Here they meet: what one pool's
replica lacks, another pool's waiter needs, and a shared connection may have to leave for either.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from anyconnpool._core.pipeline import LEAVING, OPEN, WORN, Lane, Place
from anyconnpool._core.shared_limit import SharedLimit, SharedPoolStateMachine
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import Action, PoolEntry, State

from .pipeline_events import EVENTS, PICKS, SETTINGS, PipelineEvents
from .test_replica_pipelines import NAMES, ReplicaPipelineEvents

# How often each of them happens, beside all that happens to a pool alone.
WHAT: list[tuple[str, dict[str, st.SearchStrategy[Any]], int]] = [
    ("lose", {"pick": PICKS}, 1),
    ("sweep", {}, 1),
    ("break_off", {"pick": PICKS, "silent": st.booleans(), "new": st.booleans()}, 2),
    ("request_elsewhere", {"pick": PICKS}, 1),
    ("update", {"names": st.lists(st.sampled_from(NAMES), min_size=1, unique=True)}, 1),
]
ALL = [
    *EVENTS,
    *(
        st.tuples(st.just(name), st.fixed_dictionaries(arguments))
        for name, arguments, often in WHAT
        for _ in range(often)
    ),
]


class Member(PipelineEvents):
    """One of the pools, whose rules are looked at together with those of the others."""

    group: JointPools

    def begin(self, group: JointPools, chosen: dict[str, Any]) -> None:
        self.group = group
        self.interrupted: list[PoolEntry[int]] = []
        self.enter(dict(chosen))

    @property
    def now(self) -> float:
        return self.group.now

    @now.setter
    def now(self, now: float) -> None:
        self.group.now = max(self.group.now, now)

    @property
    def shared(self) -> SharedPoolStateMachine[int]:
        return cast("SharedPoolStateMachine[int]", self.machine)

    def make_machine(self) -> PoolStateMachine[int]:
        limit = self.group.limit
        return SharedPoolStateMachine(
            self.settings, self.slots, lambda: None, limit, jitter=lambda: 0.5
        )

    def settle(self) -> None:
        if self in self.group.members:
            self.group.settle()

    def settle_alone(self) -> None:
        """Find out who has got what here."""
        self._check_places(self._take_up())

    def remember(self) -> None:
        self.left = {lane for lane in self.in_flight if lane.openness is not OPEN}
        self.closed_to_requests = {lane for lane in self.in_flight if lane.openness is WORN}

    def wait(self, seconds: float) -> None:
        """Time passes for all of them, and is told to one after the other."""
        self.group.now += seconds
        for member in self.group.members:
            if member.machine.alarm_at <= self.now:
                member.tick()

    def tick(self) -> None:
        self.machine.tick(self.now)

    def _take_up(self) -> list[Lane[int]]:
        self.interrupted += [
            entry for action, entry in self.machine.actions if action is Action.INTERRUPT
        ]
        return super()._take_up()

    def lose(self, pick: int) -> None:
        """The task that opens a connection is cancelled, or was interrupted."""
        opening = self.orders[Action.OPEN]
        if opening:
            entry = opening[pick % len(opening)]
            for other in self.interrupted:
                entry = other if other in opening else entry
            opening.remove(entry)
            self.machine.lost(entry, self.now)

    def end(self, really: bool = True) -> None:
        """Pools end by themselves only where nobody uses them; see :meth:`sweep`."""

    def sweep(self) -> None:
        """The manager drops the pool, if it is of no use, and it is made again."""
        held = cast("set[PoolEntry[int]]", self.slots.borrowers)
        used = [each for each in held if each.borrows or not each.own]
        used = [each for each in used if State.OPENING < each.state < State.CLOSING]
        assert self.shared.is_wanted() is bool(self.waiting or used)
        if self.waiting or used:
            return
        if held:
            self.shared.give_up(self.now)
            assert not self.machine.statistics().idle
            return
        assert self.machine.supply.unused()
        self.machine.end(lambda: OSError("dropped"), lambda: None)
        self.group.members[self.group.members.index(self)] = self.successor()

    def successor(self) -> Member:
        raise NotImplementedError

    # What these would do is for pools with replicas.
    def break_off(self, pick: int, silent: bool, new: bool) -> None:
        pass

    def request_elsewhere(self, pick: int) -> None:
        pass

    def update(self, names: list[str]) -> None:
        pass

    def needy(self) -> int:
        """Count those for whom a connection may be opened as far as this pool is concerned."""
        room = int(self.machine.statistics().max_size) - len(self.slots.borrowers)
        if room <= 0 or not self.can_open():
            return 0
        line = self.machine.line
        nobody = len(self.waiting) - line.provided()
        return min(room, nobody, int(min(self.settings.max_connecting, 99)) - line.attempts)

    def can_open(self) -> bool:
        return True

    def check_line(self) -> None:
        facts = self.check_order()
        leaving = [lane for lane in self.in_flight if lane.openness is LEAVING]
        if leaving and not self.shared.yields and not facts.size > facts.max_size:
            borrowers = [w for w in self.waiting if not isinstance(w, Place)]
            assert borrowers, "nothing leaves for nobody"


class PlainMember(Member):
    """A pool of one remote."""

    def successor(self) -> Member:
        member = PlainMember()
        member.begin(self.group, self.group.chosen)
        return member


class ReplicaMember(Member, ReplicaPipelineEvents):
    """A pool of several replicas."""

    def begin_in_order(self, group: JointPools, chosen: dict[str, Any], in_order: bool) -> None:
        self.in_order = in_order
        self.begin(group, chosen)

    def enter(self, chosen: dict[str, Any], in_order: bool = False) -> None:
        PipelineEvents.enter(self, chosen)

    def make_machine(self) -> PoolStateMachine[int]:
        return Member.make_machine(self)

    def prepare(self) -> None:
        ReplicaPipelineEvents.prepare(self)

    def settle(self) -> None:
        Member.settle(self)

    def wait(self, seconds: float) -> None:
        Member.wait(self, seconds)

    def tick(self) -> None:
        self.health.news.clear()
        self.machine.tick(self.now)
        assert self.machine.alarm_at > self.now, "however late it is, what is due is done at once"

    def break_off(self, pick: int, silent: bool, new: bool) -> None:
        ReplicaPipelineEvents.break_off(self, pick, silent, new)

    def request_elsewhere(self, pick: int) -> None:
        ReplicaPipelineEvents.request_elsewhere(self, pick)

    def update(self, names: list[str]) -> None:
        ReplicaPipelineEvents.update(self, names)

    def can_open(self) -> bool:
        # While all rest, it is rounds of attempts that decide.
        return not all(each.resting for each in self.health.replicas)

    def successor(self) -> Member:
        member = ReplicaMember()
        member.begin_in_order(self.group, self.group.chosen, self.in_order)
        return member

    def check_books(self) -> None:
        """The numbers of each replica are those of its connections."""
        held = cast("set[PoolEntry[int]]", self.slots.borrowers)
        for replica in self.health.replicas:
            mine = [each for each in held if each.replica is replica]
            counted = [each for each in mine if each.state < State.CLOSING]
            assert replica.size == len(counted)
            assert replica.attempts == sum(each.state is State.OPENING for each in counted)
            assert min(replica.owes, replica.wants, replica.stale) >= 0
            assert replica.stale == sum(each.epoch < replica.closed_below for each in counted)


class JointPools(RuleBasedStateMachine):
    """Let things happen to several pools, and look at all of them after each."""

    @initialize(
        chosen=st.fixed_dictionaries(SETTINGS),
        max_total=st.sampled_from([1, 2, 2, 3, 4]),
        kinds=st.lists(
            st.sampled_from(["plain", "balanced", "balanced", "in_order"]), min_size=2, max_size=3
        ),
    )
    def enter(self, chosen: dict[str, Any], max_total: int, kinds: list[str]) -> None:
        self.now = 0.0
        chosen["min_idle"] = min(chosen["min_idle"], chosen["max_size"], max_total)
        self.chosen = chosen
        self.max_total = max_total
        self.limit: SharedLimit[int] = SharedLimit(max_total)
        self.members: list[Member] = []
        for kind in kinds:
            if kind == "plain":
                plain = PlainMember()
                plain.begin(self, chosen)
                self.members.append(plain)
            else:
                member = ReplicaMember()
                member.begin_in_order(self, chosen, kind == "in_order")
                self.members.append(member)
        self.settle()

    @rule(which=PICKS, what=st.deferred(lambda: st.sampled_from(ALL).flatmap(lambda one: one)))
    def happens(self, which: int, what: tuple[str, dict[str, Any]]) -> None:
        name, arguments = what
        getattr(self.members[which % len(self.members)], name)(**arguments)
        self.settle()

    def settle(self) -> None:
        for member in self.members:
            member.settle_alone()
        for member in self.members:
            member.check_line()
            if isinstance(member, ReplicaMember):
                member.check_books()
        self.check_limit()
        for member in self.members:
            member.remember()

    def check_limit(self) -> None:
        """The room of all goes to who needs it, and nothing idles that is needed."""
        limit = self.limit
        facts = [member.machine.statistics() for member in self.members]
        assert limit.total == sum(each.size for each in facts) <= self.max_total
        assert limit.closing == sum(each.closing for each in facts)
        assert len(limit.idle) == sum(each.idle for each in facts)
        assert limit.yielding == sum(member.shared.yields for member in self.members)
        needs = sum(max(member.needy(), 0) for member in self.members)
        if limit.total < self.max_total:
            assert needs == 0, "room is for whoever needs it"
        elif any(each.idle for each in facts):
            assert needs <= limit.closing, "nothing idles that is needed"
        else:
            self.check_sharers()

    def check_sharers(self) -> None:
        """As many shared connections leave as are needed, or all."""
        denied = -self.limit.closing
        for member in self.members:
            borrowers = sum(not isinstance(each, Place) for each in member.waiting)
            need = max(member.needy(), 0)
            denied += min(need, borrowers) if member.in_flight else need
        leaves = sum(lane.openness is not OPEN for m in self.members for lane in m.in_flight)
        stay = sum(lane.openness is OPEN for m in self.members for lane in m.in_flight)
        assert leaves >= denied or not stay, "a shared connection leaves for who needs its room"

    def teardown(self) -> None:
        """Whatever has happened, everybody gets an answer in the end."""
        if not hasattr(self, "members"):
            return
        self.settle()
        members = self.members
        for _ in range(300):
            if not any(m.waiting or m.in_flight or m.borrowers for m in members):
                break
            members[0].wait(0.2)
            self.settle()
            for member in members:
                for step in (member.send, member.give_back, member.open, member.close):
                    step(0)
                    self.settle()
                member.reply(0, 4)
                self.settle()
        assert not any(member.waiting for member in members), "nobody is forgotten"


@pytest.mark.newest
@pytest.mark.timeout(300)
def test_pools_that_share_a_limit_and_connections_to_replicas() -> None:
    """Books are right, room is for whoever needs it, and nobody is forgotten."""
    run_state_machine_as_test(
        JointPools, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )
