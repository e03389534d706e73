"""The rules of a shared limit, one by one, told as short stories."""

from __future__ import annotations

import gc
import math
from typing import TYPE_CHECKING
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyconnpool._core.shared_limit import SharedLimit
from anyconnpool._core.states import Action, PoolEntry, State, Waiter
from anyconnpool._util.liveness import Liveness

from .machine_fakes import SetSlots, make_settings
from .shared_limit_model import WatchedSharedMachine

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from anyconnpool._settings import PoolOptions


class Pools:
    """Some machines that share a limit; what they order is done when a test says so.

    :param max_total: most connections of all of them
    :param sizes: ``max_size`` of each
    :param chosen: other settings, of each
    """

    def __init__(self, max_total: float, *sizes: float, **chosen: Unpack[PoolOptions]) -> None:
        self.shared_limit: SharedLimit[int] = SharedLimit(max_total)
        self.machines: list[WatchedSharedMachine] = []
        self.actions: list[tuple[Action, PoolEntry[int], WatchedSharedMachine]] = []
        self.served: list[Waiter[int]] = []
        self.now = 0.0
        for size in sizes:
            chosen["max_size"] = size
            settings = make_settings(**chosen)
            machine = WatchedSharedMachine(
                settings,
                SetSlots(size),
                self.run_actions,
                self.shared_limit,
                lambda: 0.0,
            )
            self.machines.append(machine)

    def run_actions(self, machine: WatchedSharedMachine) -> None:
        while machine.actions:
            action, entry = machine.actions.popleft()
            if action is not Action.HURRY:
                self.actions.append((action, entry, machine))

    def join(self, index: int) -> Waiter[int]:
        waiter = self.try_join(index)
        assert waiter is not None
        return waiter

    def try_join(self, index: int) -> Waiter[int] | None:
        waiter: Waiter[int] = Waiter(lambda: self.served.append(waiter))
        joined = self.machines[index].join(waiter, self.now)
        self.run_actions(self.machines[index])
        return waiter if joined else None

    def finish(self, count: int = 1000) -> None:
        """Open and close what is ordered, in order."""
        while self.actions and count:
            count -= 1
            order, entry, machine = self.actions.pop(0)
            if order is Action.OPEN:
                entry.transport = 1
                entry.look = lambda: Liveness.ALIVE
                machine.opened(entry, self.now)
            else:
                machine.closed(entry, self.now)
            self.run_actions(machine)

    def borrow(self, index: int) -> PoolEntry[int]:
        waiter = self.join(index)
        self.finish()
        assert waiter.entry is not None
        return waiter.entry

    def release(self, index: int, entry: PoolEntry[int]) -> None:
        self.now += 1
        self.machines[index].release(entry, self.now, None)
        self.run_actions(self.machines[index])

    def ordered(self) -> list[tuple[Action, int]]:
        return [(order, self.machines.index(machine)) for order, _, machine in self.actions]


@pytest.mark.newest
@given(
    max_total=st.integers(1, 4),
    pools=st.lists(st.integers(0, 2), max_size=30),
    picks=st.lists(st.integers(0, 3), min_size=40, max_size=40),
)
def test_waiters_of_all_pools_are_served_in_the_order_of_joining(
    max_total: int, pools: list[int], picks: list[int]
) -> None:
    """With connections only returning, nobody is overtaken, whatever comes back first."""
    shared = Pools(max_total, 10, 10, 10)
    waiters = [shared.join(index) for index in pools]
    shared.finish()
    for returned, pick in enumerate(picks):
        assert shared.served == waiters[: returned + max_total]
        out = shared.served[returned:]
        if not out:
            break
        chosen = out[pick % len(out)]
        shared.served.remove(chosen)
        shared.served.insert(returned, chosen)
        waiters.remove(chosen)
        waiters.insert(returned, chosen)
        assert chosen.entry is not None
        owner = pools_of(shared, chosen.entry)
        shared.release(owner, chosen.entry)
        shared.finish()


def pools_of(shared: Pools, entry: PoolEntry[int]) -> int:
    """Return the index of the pool that an entry belongs to."""
    return next(
        index for index, machine in enumerate(shared.machines) if entry in borrowed_slots(machine)
    )


def borrowed_slots(machine: WatchedSharedMachine) -> set[object]:
    slots = machine.slots
    assert isinstance(slots, SetSlots)
    return slots.borrowers


def test_what_comes_back_stays_with_the_pool_whose_waiter_is_older() -> None:
    """Nothing is closed for a waiter elsewhere who came later."""
    pools = Pools(1, 5, 5)
    entry = pools.borrow(0)
    mine, theirs = pools.join(0), pools.join(1)
    pools.release(0, entry)
    assert mine.entry is entry
    pools.release(0, entry)
    assert pools.ordered() == [(Action.CLOSE, 0)]
    pools.finish()
    assert theirs.entry is not None


def test_room_on_its_way_counts_for_who_has_waited_longest() -> None:
    """One connection closes for one waiter elsewhere; the next that comes back stays."""
    pools = Pools(2, 5, 5)
    entries = [pools.borrow(0), pools.borrow(0)]
    theirs, mine = pools.join(1), pools.join(0)
    pools.release(0, entries[0])
    assert entries[0].state is State.CLOSING
    pools.release(0, entries[1])
    assert mine.entry is entries[1]
    pools.finish()
    assert theirs.entry is not None


def test_one_idle_connection_gives_way_for_each_that_is_needed_the_longest_idle_first() -> None:
    """Two waiters cost the two that rested longest, in whatever pool, and no third one."""
    pools = Pools(4, 5, 5, 5)
    entries = [(index, pools.borrow(index)) for index in (0, 1, 0, 1)]
    for place in (2, 1, 0, 3):
        pools.release(*entries[place])
    pools.join(2)
    assert [entry.state for _, entry in entries].count(State.CLOSING) == 1
    assert entries[2][1].state is State.CLOSING
    pools.join(2)
    assert entries[1][1].state is State.CLOSING
    assert pools.ordered() == [(Action.CLOSE, 0), (Action.CLOSE, 1)]
    pools.finish()
    assert len(pools.served) == 6


def test_a_waiter_whose_own_pool_is_full_makes_nobody_give_way() -> None:
    """Room elsewhere is no use to it."""
    pools = Pools(2, 1, 5)
    pools.borrow(0)
    pools.release(1, entry := pools.borrow(1))
    pools.join(0)
    assert entry.state is State.IDLE
    assert not pools.actions


def test_an_abandoned_connect_makes_room_when_it_is_open() -> None:
    """A connection that nobody waits for any more isn't kept while others need its place."""
    pools = Pools(1, 5, 5)
    gone = pools.join(0)
    pools.machines[0].abandon(gone, 0)
    theirs = pools.join(1)
    pools.finish()
    assert theirs.entry is not None


@pytest.mark.parametrize("first", [0, 1])
def test_refills_take_no_room_that_a_waiter_needs(first: int) -> None:
    """The last place is a waiter's, and what is idle for no one gives way to it."""
    pools = Pools(2, 5, 5, min_idle=1)
    pools.machines[first].refill(0)
    pools.run_actions(pools.machines[first])
    pools.finish()
    assert pools.shared_limit.total == 1
    waiters = [pools.join(1 - first), pools.join(1 - first)]
    pools.finish()
    assert all(waiter.entry for waiter in waiters)
    assert pools.machines[first].statistics().size == 0
    for waiter in waiters:
        assert waiter.entry is not None
        pools.release(1 - first, waiter.entry)
    pools.machines[first].refill(0)
    pools.run_actions(pools.machines[first])
    assert not pools.actions, "a refill makes nobody give way"


def test_max_waiting_0_refuses_who_would_wait_for_the_others_to_give_back() -> None:
    """Room that is free, idle elsewhere, or on its way is no waiting for a slot; other room is."""
    pools = Pools(2, 5, 5, max_waiting=0)
    mine = pools.borrow(0)
    pools.release(0, pools.borrow(0))
    theirs = pools.try_join(1)
    assert theirs is not None
    assert mine.state is State.IN_USE
    assert pools.try_join(1) is None, "the one that closes is for the first"
    pools.finish()
    assert theirs.entry is not None
    assert pools.try_join(1) is None
    assert pools.try_join(0) is None


def test_a_machine_that_was_shut_leaves_the_line() -> None:
    """Its waiters get their error, and its idle connections make room for the others."""
    pools = Pools(1, 5, 5)
    pools.borrow(0)
    gone = pools.join(1)
    pools.machines[1].end(lambda: ConnectionAbortedError("shut"), list)
    assert isinstance(gone.error, ConnectionAbortedError)
    assert not pools.shared_limit.claims(math.inf)


def test_any_number_of_connections_can_give_way_at_once() -> None:
    """When a full pool is allowed more, all its waiters get room in one go."""
    pools = Pools(1001, 1, math.inf)
    pools.borrow(0)
    waiters = [pools.join(1) for _ in range(1000)]
    pools.finish(count=2000)
    for waiter in waiters:
        assert waiter.entry is not None
        pools.release(1, waiter.entry)
    waiters = [pools.join(0) for _ in range(1000)]
    assert not pools.actions
    pools.machines[0].resize(math.inf, 0)
    pools.run_actions(pools.machines[0])
    assert pools.shared_limit.closing == 1000
    pools.finish(count=2000)
    assert all(waiter.entry for waiter in waiters)


def test_a_machine_that_was_shut_is_forgotten() -> None:
    """A manager that drops its pools doesn't grow."""
    pools = Pools(1, 5, 5)
    pools.release(1, pools.borrow(1))
    pools.release(0, pools.borrow(0))
    pools.machines[1].end(lambda: ConnectionAbortedError("shut"), list)
    dropped = ref(pools.machines.pop())
    gc.collect()
    assert dropped() is None


def test_a_waiter_whose_connect_was_in_vain_keeps_its_place_among_all() -> None:
    """A connection that was retired while being opened leaves the turn to who waits for it."""
    pools = Pools(2, 5, 5, 5)
    pools.borrow(2)
    first, second, third = pools.join(0), pools.join(1), pools.join(0)
    pools.machines[0].retire(0)
    pools.finish(count=2)
    assert pools.ordered() == [(Action.OPEN, 0)]
    pools.finish()
    assert first.entry is not None
    assert second.entry is third.entry is None


def test_without_a_maximum_every_waiter_gets_a_connection_at_once() -> None:
    """Nothing ever gives way then."""
    pools = Pools(math.inf, 5, math.inf)
    for _ in range(20):
        pools.join(1)
    pools.release(0, pools.borrow(0))
    pools.finish()
    assert len(pools.served) == 21
    assert pools.shared_limit.idle
    assert not pools.shared_limit.claims(math.inf)


def test_what_a_pool_gives_up_makes_room_for_others() -> None:
    """At once, when what was under way has ended; asked again, it is as before."""
    pools = Pools(1, 1, 1)
    given_up = pools.machines[0]
    waiter = pools.join(0)
    given_up.abandon(waiter, pools.now)
    ((_, entry, _),) = pools.actions
    pools.actions.clear()
    assert not given_up.is_wanted()
    given_up.give_up(pools.now)
    pools.run_actions(given_up)
    assert pools.ordered() == [(Action.INTERRUPT, 0)]
    pools.actions.clear()
    other = pools.join(1)
    given_up.lost(entry, pools.now)
    assert pools.ordered() == [(Action.OPEN, 1)]
    pools.finish()
    assert other.entry is not None
    again = pools.join(0)
    pools.machines[1].retire(pools.now)
    pools.release(1, other.entry)
    pools.finish()
    assert again.entry is not None


def test_a_pool_that_gives_up_keeps_nothing_that_was_never_used() -> None:
    """Else its manager could not drop it before that had been idle for long enough."""
    pools = Pools(4, 2, min_idle=1)
    (machine,) = pools.machines
    machine.refill(0.0)
    pools.finish()
    assert machine.statistics().idle == 1
    machine.give_up(0.0)
    pools.finish()
    assert machine.supply.unused()
