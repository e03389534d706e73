"""The machine's limits: sizes, ages, idle times, waiting tasks, connections kept ready."""

from __future__ import annotations

import math

import pytest

from anyconnpool._core.states import Action, State
from anyconnpool._statistics import CloseReason
from anyconnpool._util.liveness import Liveness

from .machine_fakes import Pool


@pytest.mark.parametrize("max_waiting", [0, 1, 3])
def test_max_waiting_bounds_the_tasks_that_wait_for_a_slot(max_waiting: int) -> None:
    """With a full pool, exactly so many tasks may wait; when one leaves, one may come."""
    pool = Pool(max_size=1, max_waiting=max_waiting)
    pool.borrow()
    waiters = [pool.join() for _ in range(max_waiting)]
    assert pool.try_join() is None
    assert pool.machine.statistics().tasks_waiting == max_waiting
    for waiter in waiters:
        pool.machine.abandon(waiter, 0)
        pool.join()
        assert pool.try_join() is None


def test_waiting_for_a_connect_is_no_waiting_for_a_slot() -> None:
    """With ``max_waiting`` 0, as many tasks as there is room for may open connections."""
    pool = Pool(max_size=2, max_waiting=0)
    pool.join()
    pool.join()
    assert pool.try_join() is None


def test_an_opening_left_over_by_another_task_is_there_to_be_waited_for() -> None:
    """The newcomer takes the place of the task that gave up, and there is just one place."""
    pool = Pool(max_size=1, max_waiting=0)
    pool.machine.abandon(pool.join(), 0)
    pool.join()
    assert pool.try_join() is None


def test_a_check_under_way_is_there_to_be_waited_for() -> None:
    """A connection in doubt counts like one that is being opened."""
    pool = Pool(max_size=1, max_waiting=0)
    (entry,) = pool.idle(1)
    pool.shows[entry] = Liveness.UNSURE
    assert pool.machine.acquire(0) is None
    pool.join()
    assert pool.try_join() is None


def test_a_slot_that_is_being_freed_is_there_to_be_waited_for() -> None:
    """One task may wait for each closing connection, although ``max_waiting`` is 0."""
    pool = Pool(max_size=2, max_waiting=0)
    entries = [pool.borrow(), pool.borrow()]
    assert pool.try_join() is None
    pool.machine.release(entries[0], 0, CloseReason.DISCARDED)
    pool.join()
    assert pool.try_join() is None


def test_a_closing_surplus_frees_no_slot() -> None:
    """After ``max_size`` was lowered, a closing connection makes no room for anybody."""
    pool = Pool(max_size=3, max_waiting=0)
    entries = [pool.borrow() for _ in range(3)]
    pool.machine.resize(1)
    pool.machine.release(entries[0], 0, None)
    assert pool.try_join() is None
    pool.machine.release(entries[1], 0, None)
    assert pool.try_join() is None
    pool.machine.release(entries[2], 0, CloseReason.UNCLEAN)
    pool.join()
    assert pool.try_join() is None


def test_a_lowered_max_size_closes_idle_ones_now_and_borrowed_ones_later() -> None:
    """The longest idle go first; slots shrink with the connections, never below them."""
    pool = Pool(max_size=4)
    entries = pool.idle(4)
    borrowed = [pool.borrow(), pool.borrow(), pool.borrow()]
    assert pool.machine.idle_entries() == entries[:1]
    pool.machine.resize(2)
    assert pool.close() is entries[0]
    assert entries[0].close_reason is CloseReason.SURPLUS
    assert pool.slots.total_tokens == 3
    pool.machine.release(borrowed[0], 0, None)
    assert borrowed[0].close_reason is CloseReason.SURPLUS
    pool.machine.release(borrowed[1], 0, None)
    assert borrowed[1].state is State.IDLE
    pool.close()
    assert pool.slots.total_tokens == 2


def test_a_lowered_max_size_takes_no_more_idle_ones_than_it_must() -> None:
    """What is closing already is not counted twice."""
    pool = Pool(max_size=4)
    entries = pool.idle(4)
    pool.machine.resize(3)
    pool.machine.resize(2)
    assert pool.machine.idle_entries() == entries[2:]


def test_a_raised_max_size_lets_waiting_tasks_through() -> None:
    """Connections are ordered at once for those that there is room for now."""
    pool = Pool(max_size=1)
    pool.borrow()
    waiters = [pool.join(), pool.join(), pool.join()]
    pool.machine.resize(3)
    assert [pool.open(), pool.open()] == [waiter.entry for waiter in waiters[:2]]
    assert not pool.machine.actions
    pool.machine.resize(math.inf)
    assert pool.open() is waiters[2].entry


def test_idle_time_ends_exactly_when_it_is_announced() -> None:
    """At :meth:`next_expiry`, and not before, the reaper takes the connection."""
    pool = Pool(max_idle_time=10)
    assert pool.machine.next_expiry() == math.inf
    (entry,) = pool.idle(1, now=5)
    assert pool.machine.next_expiry() == 15
    assert not pool.machine.reap(14.9, 10)
    assert entry.state is State.IDLE
    assert not pool.machine.reap(15, 10)
    assert pool.close() is entry
    assert entry.close_reason is CloseReason.IDLE_TIME


def test_checkout_lends_nothing_that_has_been_idle_for_too_long() -> None:
    """The reaper being late lends nobody a connection that should be gone."""
    pool = Pool(max_idle_time=10)
    (entry,) = pool.idle(1)
    assert pool.machine.acquire(10) is None
    assert entry.close_reason is CloseReason.IDLE_TIME


def test_the_reaper_works_in_slices_and_leaves_the_fresh_ones() -> None:
    """It takes the oldest first, and says whether to call again."""
    pool = Pool(max_idle_time=10)
    first, second, third, fresh = (pool.borrow() for _ in range(4))
    for entry in (first, second, third):
        pool.machine.release(entry, 0, None)
    pool.machine.release(fresh, 5, None)
    assert pool.machine.reap(10, 2)
    assert pool.machine.idle_entries() == [third, fresh]
    assert not pool.machine.reap(10, 2)
    assert pool.machine.idle_entries() == [fresh]


@pytest.mark.parametrize(("jitter", "ends"), [(0.0, 100.0), (0.5, 95.0), (1.0, 90.0)])
def test_a_lifetime_ends_up_to_a_tenth_early(jitter: float, ends: float) -> None:
    """The jitter shortens ``max_lifetime``, never lengthens it; the end applies when idle too."""
    pool = Pool(max_lifetime=100, jitter=jitter)
    entry = pool.borrow(now=7)
    assert entry.expires_at == pytest.approx(7 + ends)
    pool.machine.release(entry, 7 + ends - 0.1, None)
    assert entry.state is State.IDLE
    pool.machine.look_over(0, 10, 7 + ends + 0.1)
    assert entry.close_reason is CloseReason.LIFETIME


def test_without_a_limit_a_connection_lives_for_ever() -> None:
    """An infinite lifetime stays infinite, whatever the jitter."""
    pool = Pool(jitter=1.0, max_idle_time=math.inf)
    assert pool.borrow().expires_at == math.inf


def test_too_old_a_connection_is_closed_when_it_comes_back_not_before() -> None:
    """A borrower keeps what it has; the task that waits gets a new one."""
    pool = Pool(max_size=1, max_lifetime=10)
    entry = pool.borrow()
    waiter = pool.join()
    pool.machine.release(entry, 20, None)
    assert pool.close() is entry
    assert pool.open(now=20) is waiter.entry


def test_even_the_shortest_lifetime_lets_a_new_connection_serve_once() -> None:
    """With ``max_lifetime`` 0 a waiting task is served, not kept waiting for ever."""
    pool = Pool(max_size=1, max_lifetime=0)
    waiter = pool.join()
    assert pool.open(now=1) is waiter.entry


def test_retire_closes_idle_ones_now_and_others_when_they_come() -> None:
    """Borrowed and checked ones of before are closed; newer ones stay."""
    pool = Pool()
    idle, doubtful, borrowed = pool.idle(3)
    pool.shows[doubtful] = Liveness.UNSURE
    assert pool.machine.acquire(0) is borrowed
    pool.machine.look_over(0, 10, 0)
    assert pool.ordered(Action.CHECK) is doubtful
    pool.machine.retire()
    pool.machine.release(borrowed, 0, None)
    pool.machine.checked(doubtful, Liveness.ALIVE, 0)
    for entry in (idle, borrowed, doubtful):
        assert pool.close() is entry
        assert entry.close_reason is CloseReason.RETIRED
    (new,) = pool.idle(1)
    assert pool.machine.acquire(0) is new


def test_a_task_whose_opening_was_retired_gets_another() -> None:
    """The opening that is out of date is closed, and the task goes on waiting for its successor."""
    pool = Pool(max_size=1)
    waiter = pool.join()
    pool.machine.retire()
    old = pool.open()
    assert waiter.entry is None
    assert pool.close() is old
    assert pool.open() is waiter.entry


def test_min_idle_is_kept_ready_while_there_is_room() -> None:
    """What is borrowed is replaced until ``max_size`` is reached."""
    pool = Pool(max_size=3, min_idle=2)
    pool.machine.refill()
    assert len(pool.machine.actions) == 2
    pool.open()
    pool.open()
    pool.machine.acquire(0)
    assert len(pool.machine.actions) == 1
    pool.open()
    pool.machine.acquire(0)
    assert not pool.machine.actions


def test_a_failure_pauses_refilling_until_the_next_sweep() -> None:
    """A remote that is down isn't hammered; tasks that wait get their attempts all the same."""
    pool = Pool(max_size=3, min_idle=1)
    pool.machine.refill()
    pool.fail(ConnectionRefusedError())
    assert not pool.machine.actions
    pool.join()
    pool.fail(ConnectionRefusedError())
    assert not pool.machine.actions
    pool.machine.refill()
    pool.ordered(Action.OPEN)


def test_a_success_ends_the_pause_of_refilling() -> None:
    """When a connect succeeds, what is missing of the idle connections is ordered at once."""
    pool = Pool(max_size=3, min_idle=1)
    pool.machine.refill()
    pool.fail(ConnectionRefusedError())
    waiter = pool.join()
    assert pool.open() is waiter.entry
    assert pool.open() in pool.machine.idle_entries()


def test_a_watcher_hears_when_enough_connections_are_idle() -> None:
    """It is told once, without an error; one that has gone is not told."""
    pool = Pool(min_idle=2)
    stays, goes, late = pool.new_waiter(), pool.new_waiter(), pool.new_waiter()
    pool.machine.watch(stays)
    pool.machine.watch(goes)
    pool.machine.unwatch(goes)
    pool.machine.unwatch(goes)
    pool.machine.refill()
    pool.open()
    assert not pool.woken
    pool.open()
    assert pool.woken == [stays]
    assert stays.error is None
    pool.machine.watch(late)
    assert pool.woken == [stays, late]


def test_a_watcher_hears_why_connections_cannot_be_opened() -> None:
    """An error that no acquiring task gets goes to those that wait for readiness."""
    pool = Pool(min_idle=1)
    watcher = pool.new_waiter()
    pool.machine.watch(watcher)
    pool.machine.refill()
    error = ConnectionRefusedError()
    pool.fail(error)
    assert watcher.error is error
    assert pool.woken == [watcher]
