"""Who counts as waiting for a slot, of whom ``max_waiting`` allows so many."""

from __future__ import annotations

import pytest

from anyconnpool._statistics import CloseReason

from .machine_fakes import Pool, ask


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
    """A connection that is being checked counts like one that is being opened."""
    pool = Pool(max_size=1, max_waiting=0, check=ask, check_after=5)
    pool.idle(1)
    assert pool.machine.acquire(5) is None
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
    pool.machine.resize(1, 0)
    pool.machine.release(entries[0], 0, None)
    assert pool.try_join() is None
    pool.machine.release(entries[1], 0, None)
    assert pool.try_join() is None
    pool.machine.release(entries[2], 0, CloseReason.UNCLEAN)
    pool.join()
    assert pool.try_join() is None
