"""What counts as supply, and for whom: attempts, checks, pauses and goodbyes that take too long."""

from __future__ import annotations

import math

import pytest

from anyconnpool import Retry
from anyconnpool._core.states import Action, PoolEntry, State, Waiter
from anyconnpool._settings import IdleOrder
from anyconnpool._statistics import CloseReason
from anyconnpool._util.liveness import Liveness

from .machine_fakes import Pool, ask
from .test_shared_limit import Pools

PATIENT = Retry(5)


def orders(pool: Pool) -> list[Action]:
    """Take all that is ordered."""
    found = [order for order, _ in pool.machine.actions]
    pool.machine.actions.clear()
    return found


def hang(pool: Pool, *, now: float = 0.0) -> tuple[Waiter[int], PoolEntry[int]]:
    """Have a task join whose attempt will hang."""
    waiter = pool.join(now=now)
    return waiter, pool.ordered(Action.OPEN)


def fail(pool: Pool, entry: PoolEntry[int], *, now: float, pause: float | None = None) -> None:
    pool.machine.open_failed(entry, ConnectionRefusedError(), now, pause)


def test_a_later_caller_gets_an_attempt_of_its_own() -> None:
    """The first attempt hangs. Who came when it was young, or later, doesn't wait for its end."""
    pool = Pool(max_size=3)
    first, hanging = hang(pool)
    pool.machine.abandon(first, 0.02)
    early = pool.join(now=0.05)
    assert not pool.machine.actions, "for a tenth of a second everybody may rely on it"
    assert pool.machine.alarm_at == 0.1
    pool.machine.tick(0.1)
    assert pool.open(now=0.1) is early.entry
    late = pool.join(now=0.2)
    assert pool.open(now=0.2) is late.entry
    assert hanging.state is State.OPENING


def test_an_attempt_is_supply_for_those_who_waited_when_it_began() -> None:
    """They don't have another one each tenth of a second."""
    pool = Pool(max_size=9)
    for now in (0.0, 1.0, 2.0):
        hang(pool, now=now)
        pool.machine.tick(now + 0.1)
    assert not pool.machine.actions
    assert pool.machine.alarm_at == math.inf


def test_who_comes_where_there_is_no_room_relies_on_nothing_that_hangs() -> None:
    """Though one of those leaves for whom it was begun: it is opened for when there is room."""
    pool = Pool(max_size=3)
    first, _ = hang(pool)
    hang(pool)
    pool.machine.tick(0.1)
    pool.machine.resize(2, 1)
    late = pool.join(now=1)
    pool.machine.abandon(first, 2)
    assert not pool.machine.actions
    pool.machine.resize(3, 3)
    assert orders(pool) == [Action.OPEN]
    assert late.entry is None


def test_nobody_gets_the_error_of_an_attempt_that_was_not_for_it() -> None:
    """The caller for whom it was begun has gone; the one who came later has its own."""
    pool = Pool(max_size=2)
    first, hanging = hang(pool)
    pool.machine.abandon(first, 0.5)
    late, own = hang(pool, now=1)
    fail(pool, hanging, now=30)
    assert late.error is None
    fail(pool, own, now=31)
    assert late.error is not None


@pytest.mark.parametrize("retry", [None, Retry(0)])
def test_a_failure_is_for_all_who_may_rely_on_the_attempt_in_that_moment(
    retry: Retry | None,
) -> None:
    """A young one concerns who came after it as well; where it isn't repeated, the first of all."""
    pool = Pool(max_size=1, connect_retry=retry)
    first, entry = hang(pool)
    pool.machine.abandon(first, 0)
    second, third = pool.join(now=0.05), pool.join(now=0.05)
    fail(pool, entry, now=0.06, pause=None if retry is None else 1)
    assert second.error is not None
    assert (third.error is not None) is (retry is not None)


def test_what_comes_late_serves_whoever_waits() -> None:
    """Of two that were begun, the one that is done first goes to who has waited longest."""
    pool = Pool(max_size=2)
    early, hanging = hang(pool)
    late, _ = hang(pool, now=1)
    hanging.look = lambda: Liveness.ALIVE
    pool.machine.opened(hanging, 2)
    assert early.entry is hanging
    assert late.entry is None


@pytest.mark.parametrize("leaves", ["first", "last", "middle"])
@pytest.mark.parametrize("retry", [None, PATIENT])
def test_when_one_of_many_leaves_nobody_is_counted_anew(
    leaves: str, retry: Retry | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand whose attempts hang give up, or succeed, or fail, at the same cost for each."""
    pool, count = Pool(max_size=math.inf, connect_retry=retry), 1000
    waiters = [pool.join() for _ in range(count)]
    pool.machine.tick(0.1)
    compared = 0
    is_for = PoolEntry[int].is_for

    def counted(entry: PoolEntry[int], waiter: Waiter[int]) -> bool:
        nonlocal compared
        compared += 1
        return is_for(entry, waiter)

    monkeypatch.setattr(PoolEntry, "is_for", counted)
    step = {"first": 1, "last": -1, "middle": 7}[leaves]
    for number in range(count // 4):
        pool.machine.abandon(waiters[(step * number) % count - (step < 0)], 1)
    for _ in range(count // 4):
        pool.open(now=2)
    for _ in range(count // 2):
        pool.fail(OSError(), now=3, pause=None if retry is None else 9)
    assert compared <= 5 * count


def test_a_check_that_hangs_is_supply_for_a_tenth_of_a_second() -> None:
    """With room for one more, a connection is opened beside it; the check goes on."""
    pool = Pool(max_size=4, check=ask, check_after=5)
    entries = pool.idle(3)
    assert pool.machine.acquire(5) is None
    waiter = pool.join(now=5)
    doubtful = pool.ordered(Action.CHECK)
    assert not pool.machine.actions
    pool.machine.tick(5.1)
    assert pool.open(now=5.1) is waiter.entry
    pool.machine.checked(doubtful, Liveness.ALIVE, 6)
    assert pool.machine.idle_entries() == entries


def test_a_check_that_hangs_is_never_taken_for_an_attempt() -> None:
    """When the attempt before it comes to nothing, another one is begun for who relied on it."""
    pool = Pool(max_size=9, check=ask, check_after=5)
    pool.idle(1)
    _, attempt = hang(pool, now=5)
    assert pool.machine.acquire(5) is None
    pool.ordered(Action.CHECK)
    pool.join(now=5)
    pool.machine.tick(5.1)
    pool.ordered(Action.OPEN)
    pool.machine.tick(5.2)
    assert not pool.machine.actions
    pool.machine.lost(attempt, 6)
    assert orders(pool) == [Action.OPEN]


def test_without_room_the_longest_idle_one_gives_way_to_who_waits_for_a_check() -> None:
    """It is closed at once, without a farewell; one for one who waits, and no more."""
    pool = Pool(max_size=10, check=ask, check_after=5)
    entries = pool.idle(10)
    assert pool.machine.acquire(5) is None
    waiter = pool.join(now=5)
    assert pool.ordered(Action.CHECK) is entries[-1]
    pool.machine.tick(5.1)
    assert list(pool.machine.actions) == [(Action.CLOSE, entries[0]), (Action.HURRY, entries[0])]
    assert entries[0].close_reason is CloseReason.GAVE_WAY
    pool.machine.tick(5.2)
    assert pool.close(now=5.2) is entries[0]
    assert pool.open(now=5.2) is waiter.entry
    assert pool.machine.idle_entries() == entries[1:-1]


@pytest.mark.parametrize("idle_order", ["lifo", "fifo"])
def test_one_request_has_one_connection_checked(idle_order: IdleOrder) -> None:
    """The others stay as they are, in their order, and go on ageing; so does the one checked."""
    pool = Pool(check=ask, check_after=5, max_idle_time=20, idle_order=idle_order)
    entries = [pool.borrow() for _ in range(4)]
    for age, entry in enumerate(entries):
        pool.machine.release(entry, age, None)
    asked = entries[-1 if idle_order == "lifo" else 0]
    for now in (10.0, 15.0):
        assert pool.machine.acquire(now) is None
        assert pool.ordered(Action.CHECK) is asked
        assert not pool.machine.actions
        pool.machine.checked(asked, Liveness.ALIVE, now)
        assert pool.machine.idle_entries() == entries
    assert pool.machine.next_expiry() == 20
    pool.machine.reap(21, 10)
    assert [pool.close(), pool.close()] == entries[:2]


def test_what_was_checked_is_not_asked_again_for_a_while() -> None:
    """The check itself is not a use, but it tells that the peer answers."""
    pool = Pool(check=ask, check_after=5)
    (entry,) = pool.idle(1)
    assert pool.machine.acquire(5) is None
    pool.machine.checked(pool.ordered(Action.CHECK), Liveness.ALIVE, 6)
    assert pool.machine.acquire(10.9) is entry


def test_what_was_checked_expires_in_its_time() -> None:
    """Not later because it was asked: it is looked at when its idle time is over."""
    pool = Pool(check=ask, check_after=15, max_idle_time=20)
    (entry,) = pool.idle(1)
    assert pool.machine.acquire(16) is None
    pool.machine.checked(pool.ordered(Action.CHECK), Liveness.ALIVE, 16)
    assert pool.machine.acquire(21) is None
    assert entry.close_reason is CloseReason.IDLE_TIME


def test_the_idle_time_of_a_new_connection_begins_when_it_is_open() -> None:
    """However late that is on the clock: it is not due for a check, nor too old."""
    pool = Pool(min_idle=1, check=ask, check_after=5, max_idle_time=20)
    pool.machine.refill(1000)
    entry = pool.open(now=1000)
    assert pool.machine.next_expiry() == 1020
    assert pool.machine.acquire(1000) is entry


def test_beside_a_check_only_what_needs_none_is_lent() -> None:
    """With "fifo" the longest idle one is doubtful, the one that was used last may be good."""
    pool = Pool(check=ask, check_after=5, idle_order="fifo")
    old, middle, young = (pool.borrow() for _ in range(3))
    for entry, now in ((old, 0), (middle, 1), (young, 6)):
        pool.machine.release(entry, now, None)
    assert pool.machine.acquire(7) is young
    assert pool.ordered(Action.CHECK) is old
    assert pool.machine.idle_entries() == [middle]


def test_what_is_checked_keeps_its_place_among_all_pools() -> None:
    """In a manager too: what has been idle longest gives way first, checked or not."""
    pools = Pools(4, 5, 5, check=ask)
    first, second, third = pools.borrow(0), pools.borrow(0), pools.borrow(1)
    for index, entry in ((0, first), (1, third), (0, second)):
        pools.release(index, entry)
    machine = pools.machines[0]
    pools.now = 40
    for entry in (second, first):
        entry.recheck_at = math.inf if entry is second else 0
    machine._idle_entries.rotate(1)  # pyright: ignore[reportPrivateUsage]
    assert machine.acquire(40) is second
    machine.checked(first, Liveness.ALIVE, 40)
    assert [*pools.shared_limit.idle] == [first, third]


@pytest.mark.parametrize(
    ("ends_after", "early"), [(0.0, True), (9.9, True), (10.0, False), (20.0, False)]
)
def test_a_connection_that_ends_early_is_a_failure_to_connect(
    ends_after: float, early: bool
) -> None:
    """Refilling pauses, and watchers are told. What a server's idle timeout ends is normal life."""
    pool = Pool(min_idle=1)
    pool.machine.refill(0)
    entry = pool.open()
    pool.shows[entry] = Liveness.CLOSED
    pool.machine.notice(entry, ends_after)
    assert entry.ended_early is early
    assert pool.close() is entry
    assert orders(pool) == ([] if early else [Action.OPEN])
    watcher = pool.new_waiter()
    pool.machine.watch(watcher, 0)
    error = ConnectionError()
    pool.machine.died_unused(error)
    assert (pool.woken, watcher.error) == ([watcher], error)


def test_a_connection_that_has_ended_when_it_is_open_has_ended_early() -> None:
    """However late that is on the clock, and although it never was idle."""
    pool = Pool(min_idle=1)
    pool.machine.refill(1000)
    entry = pool.ordered(Action.OPEN)
    entry.look = lambda: Liveness.CLOSED
    pool.machine.opened(entry, 1000)
    assert entry.ended_early
    assert pool.close(now=1000) is entry
    assert not pool.machine.actions


def test_where_connections_end_early_a_success_shows_nothing() -> None:
    """Two that are opened and ended in turn would have each other replaced for ever."""
    pool = Pool(min_idle=2)
    pool.machine.refill(0)
    first, second = pool.open(), pool.ordered(Action.OPEN)
    pool.shows[first] = Liveness.CLOSED
    pool.machine.notice(first, 0.1)
    assert pool.close() is first
    second.look = lambda: Liveness.ALIVE
    pool.machine.opened(second, 0.2)
    assert second.state is State.IDLE
    assert not pool.machine.actions
    pool.machine.refill(5)
    pool.open(now=5)
    pool.machine.retire(6)
    assert orders(pool) == [Action.CLOSE, Action.CLOSE, Action.OPEN, Action.OPEN]


def test_what_was_used_or_sent_away_has_not_ended_early() -> None:
    """Only what its peer has ended before anybody used it."""
    pool = Pool(min_idle=1)
    pool.machine.refill(0)
    entry = pool.open()
    assert pool.machine.acquire(0) is entry
    pool.machine.actions.clear()
    pool.machine.release(entry, 0, None)
    pool.shows[entry] = Liveness.CLOSED
    pool.machine.notice(entry, 1)
    assert not entry.ended_early
    unused = Pool(min_idle=1)
    unused.machine.refill(0)
    entry = unused.open()
    unused.machine.retire(1)
    assert not entry.ended_early


def test_a_pause_holds_no_slot() -> None:
    """While it waits for the next attempt a pool has nothing open, and opens nothing."""
    pool = Pool(max_size=1, connect_retry=PATIENT)
    waiter, entry = hang(pool)
    fail(pool, entry, now=0, pause=7)
    assert not pool.slots.borrowers
    assert pool.machine.statistics().size == 0
    assert waiter.error is None
    for now in (0.1, 6.9):
        pool.machine.tick(now)
        assert not pool.machine.actions
        assert pool.machine.alarm_at == 7
    pool.machine.tick(7)
    assert pool.open(now=7) is waiter.entry


def test_a_pause_holds_no_room_of_other_pools() -> None:
    """With a maximum of one for all, the healthy remote is served during the pause."""
    pools = Pools(1, 5, 5, connect_retry=PATIENT)
    down, up = pools.join(0), pools.join(1)
    (_, entry, machine) = pools.actions.pop(0)
    machine.open_failed(entry, ConnectionRefusedError(), 0, 60)
    pools.run_actions(machine)
    pools.finish()
    assert up.entry is not None
    assert (down.entry, down.error) == (None, None)


def test_who_comes_during_a_pause_has_one_try_at_once() -> None:
    """The pause is for those who have seen the failure; after its own one it waits like them."""
    pool = Pool(max_size=3, connect_retry=PATIENT)
    waiter, entry = hang(pool)
    fail(pool, entry, now=0, pause=60)
    newcomer, own = hang(pool, now=1)
    other = pool.join(now=1.05)
    assert not pool.machine.actions, "one attempt at a time"
    fail(pool, own, now=1.06, pause=60)
    assert [it.failures for it in (waiter, newcomer, other)] == [1, 1, 1]
    assert not pool.machine.actions
    pool.machine.tick(60)
    assert orders(pool) == [Action.OPEN]


def test_a_try_of_a_newcomer_makes_nobodys_pause_longer() -> None:
    """What fails in a pause tells nothing new."""
    pool = Pool(max_size=3, connect_retry=PATIENT)
    _, entry = hang(pool)
    fail(pool, entry, now=0, pause=2)
    _, own = hang(pool, now=1)
    fail(pool, own, now=1.5, pause=4)
    assert pool.machine.line.failures == 1
    pool.machine.tick(2)
    assert orders(pool) == [Action.OPEN]


def test_when_those_have_gone_whose_pause_it_was_a_newcomer_has_its_own() -> None:
    """Its try begins the schedule anew, for all who wait then; those who are left keep theirs."""
    pool = Pool(max_size=3, connect_retry=PATIENT)
    waiter, entry = hang(pool)
    fail(pool, entry, now=0, pause=60)
    pool.machine.abandon(waiter, 0.5)
    newcomer, own = hang(pool, now=1)
    other = pool.join(now=1.05)
    assert pool.machine.line.next_repeat() == 1
    fail(pool, own, now=1.06, pause=2)
    assert [it.failures for it in (newcomer, other)] == [1, 1]
    third, late = hang(pool, now=2)
    assert pool.machine.line.next_repeat() == 2
    fail(pool, late, now=2.5, pause=9)
    assert third.failures == 1
    pool.machine.tick(3)
    assert not pool.machine.actions
    pool.machine.tick(3.06)
    assert orders(pool) == [Action.OPEN]


def test_where_nobody_waits_each_failure_in_a_row_makes_the_pause_longer() -> None:
    """A refill dials ever more rarely, whoever comes and goes; a caller begins at the beginning."""
    pool = Pool(min_idle=1, max_size=1, connect_retry=PATIENT)
    for now in range(3):
        assert pool.machine.line.next_repeat() == now + 1
        pool.machine.refill(now)
        fail(pool, pool.ordered(Action.OPEN), now=now, pause=1)
    caller = pool.join(now=2.5)
    assert pool.machine.line.next_repeat() == 1
    pool.machine.abandon(caller, 2.6)
    assert pool.machine.line.next_repeat() == 4


def test_who_waits_for_readiness_has_as_many_tries_as_a_caller() -> None:
    """It hears of the last of them; what was begun before it came, and hangs, is none of its."""
    pool = Pool(min_idle=1, max_size=1, connect_retry=Retry(1))
    pool.machine.refill(0)
    entry = pool.ordered(Action.OPEN)
    pool.machine.tick(0.1)
    watcher = pool.new_waiter()
    pool.machine.watch(watcher, 0)
    for now, tries in ((1, 0), (2, 1), (3, 2)):
        assert not pool.woken
        fail(pool, entry, now=now, pause=0.5)
        assert watcher.failures == tries
        if tries < 2:
            pool.machine.refill(now + 0.5)
            entry = pool.ordered(Action.OPEN)
    assert pool.woken == [watcher]
    assert watcher.error is not None
    pool.machine.tick(9)
    assert not pool.machine.actions, "refilling pauses until the next sweep"


def watch(pool: Pool, *, now: float) -> Waiter[int]:
    """Have a task wait until ``min_idle`` connections are idle."""
    watcher = pool.new_waiter()
    pool.machine.watch(watcher, now)
    pool.machine.refill(now)
    return watcher


def test_who_comes_back_to_wait_for_readiness_has_all_its_tries_again() -> None:
    """The first at once, the others after the pauses, and not by the sweeps."""
    pool = Pool(min_idle=1, max_size=1, connect_retry=Retry(1))
    for began in (0, 10, 20):
        watcher = watch(pool, now=began)
        fail(pool, pool.ordered(Action.OPEN), now=began, pause=2)
        assert watcher.failures == 1
        pool.machine.tick(began + 1.9)
        assert not pool.machine.actions
        pool.machine.tick(began + 2)
        fail(pool, pool.ordered(Action.OPEN), now=began + 2, pause=60)
        assert watcher.error is not None
        assert not pool.machine.actions
    pool.machine.tick(90)
    assert not pool.machine.actions, "nobody waits: that is for the next sweep"


def test_who_waits_for_readiness_in_a_pause_of_others_has_one_try_at_once() -> None:
    """It makes nobody's pause longer, and the watcher waits like them after that."""
    pool = Pool(min_idle=1, max_size=1, connect_retry=PATIENT)
    elder = watch(pool, now=0)
    fail(pool, pool.ordered(Action.OPEN), now=0, pause=9)
    newcomer = watch(pool, now=1)
    fail(pool, pool.ordered(Action.OPEN), now=1, pause=60)
    assert (elder.failures, newcomer.failures) == (1, 1)
    assert not pool.machine.actions
    pool.machine.tick(9)
    assert orders(pool) == [Action.OPEN]


def test_a_newcomer_whose_try_succeeds_ends_the_pause() -> None:
    """Its connection goes to who has waited longest; the next attempt follows at once."""
    pool = Pool(max_size=3, connect_retry=PATIENT)
    waiter, entry = hang(pool)
    fail(pool, entry, now=0, pause=60)
    newcomer = pool.join(now=1)
    assert pool.open(now=1) is waiter.entry
    assert pool.open(now=1) is newcomer.entry


def test_a_burst_of_failures_counts_once_and_those_who_wait_take_turns_after_it() -> None:
    """One attempt is for all who have seen the failure, also when it hangs."""
    pool = Pool(max_size=9, connect_retry=PATIENT)
    under_way = [hang(pool) for _ in range(3)]
    for _, entry in under_way:
        fail(pool, entry, now=0.01, pause=1)
    assert [waiter.failures for waiter, _ in under_way] == [1, 1, 1]
    assert pool.machine.line.failures == 1
    pool.machine.tick(1.01)
    assert orders(pool) == [Action.OPEN]
    pool.machine.tick(1.2)
    assert not pool.machine.actions


def test_where_attempts_take_turns_one_that_hangs_holds_up_no_newcomer() -> None:
    """It holds up those whose turn it is, like everybody for whom an attempt was begun."""
    pool = Pool(max_size=9, connect_retry=PATIENT)
    waiter, entry = hang(pool)
    fail(pool, entry, now=0, pause=0)
    pool.machine.tick(0)
    pool.ordered(Action.OPEN)
    pool.machine.tick(0.1)
    assert not pool.machine.actions
    newcomer, _ = hang(pool, now=5)
    pool.join(now=5.05)
    assert not pool.machine.actions, "the newcomer's is young"
    pool.machine.tick(5.1)
    assert pool.open(now=5.1) is waiter.entry
    assert newcomer.entry is None


@pytest.mark.parametrize("reason", [CloseReason.RETIRED, CloseReason.IDLE_TIME])
def test_a_goodbye_is_hurried_when_somebody_waits_for_its_slot(reason: CloseReason) -> None:
    """Those first that have been at it longest, one for one, whoever came first."""
    pool = Pool(max_size=3, max_idle_time=10)
    entries = pool.idle(3)
    if reason is CloseReason.RETIRED:
        pool.machine.retire(1)
    else:
        pool.machine.reap(10, 9)
    assert orders(pool) == [Action.CLOSE] * 3
    for place in range(2):
        pool.join(now=11)
        assert list(pool.machine.actions) == [(Action.HURRY, entries[place])]
        pool.machine.actions.clear()
    assert [entry.hurried for entry in entries] == [True, True, False]


def test_a_goodbye_takes_its_time_when_nobody_waits_or_there_is_room() -> None:
    """It is said for the peer's sake."""
    pool = Pool(max_size=3)
    pool.idle(2)
    pool.machine.retire(1)
    pool.join(now=1)
    assert orders(pool) == [Action.CLOSE, Action.CLOSE, Action.OPEN]


def test_a_close_by_force_makes_room_as_soon_as_a_goodbye_that_is_hurried() -> None:
    """Where one is under way for each who waits, no goodbye is hurried."""
    pool = Pool(max_size=2)
    entries = pool.idle(2)
    assert pool.machine.acquire(0) is entries[1]
    pool.machine.release(entries[1], 0, CloseReason.UNCLEAN)
    pool.machine.retire(1)
    orders(pool)
    pool.join(now=1)
    assert not pool.machine.actions
    pool.join(now=1)
    assert list(pool.machine.actions) == [(Action.HURRY, entries[0])]


def test_a_surplus_takes_its_time() -> None:
    """It leaves no slot to anybody: to hurry it would help nobody."""
    pool = Pool(max_size=2)
    pool.idle(2)
    assert pool.machine.acquire(0)
    pool.machine.resize(1, 0)
    orders(pool)
    pool.join()
    assert not pool.machine.actions


def test_a_goodbye_of_another_pool_is_hurried_too() -> None:
    """Whose slots they are doesn't matter where pools share a limit."""
    pools = Pools(1, 5, 5)
    entry = pools.borrow(0)
    pools.release(0, entry)
    pools.machines[0].retire(pools.now)
    pools.run_actions(pools.machines[0])
    assert not entry.hurried
    pools.join(1)
    assert entry.hurried
