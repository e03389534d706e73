"""The rules of the machine, one by one, told as short stories."""

from __future__ import annotations

import pytest

from anyconnpool._core.states import Action, State
from anyconnpool._settings import IdleOrder
from anyconnpool._statistics import CloseReason
from anyconnpool._util.liveness import Liveness

from .machine_fakes import Pool


def test_a_connection_is_opened_only_where_there_is_room() -> None:
    """The third task of a pool of two gets no opening of its own."""
    pool = Pool(max_size=2)
    for _ in range(3):
        pool.join()
    assert [order for order, _ in pool.machine.actions] == [Action.OPEN, Action.OPEN]
    assert pool.machine.statistics().tasks_waiting == 3


@pytest.mark.parametrize(("idle_order", "lent"), [("lifo", 2), ("fifo", 0)])
def test_the_idle_order_says_which_idle_connection_is_lent(
    idle_order: IdleOrder, lent: int
) -> None:
    """Last in, first out lends the one used last, first in, first out the longest idle one."""
    pool = Pool(idle_order=idle_order)
    entries = pool.idle(3)
    assert pool.machine.acquire(0) is entries[lent]


def test_what_comes_back_goes_to_the_oldest_waiter() -> None:
    """Waiters are served in order, and nothing becomes idle while one is left."""
    pool = Pool(max_size=1)
    entry = pool.borrow()
    waiters = [pool.join() for _ in range(3)]
    for waiter in waiters:
        pool.machine.release(entry, 0, None)
        assert pool.woken[-1] is waiter
        assert waiter.entry is entry
        assert pool.machine.acquire(0) is None
    pool.machine.release(entry, 0, None)
    assert pool.machine.idle_entries() == [entry]


def test_an_opening_belongs_to_nobody() -> None:
    """A waiter takes what comes back first; what was opened for it serves the next one."""
    pool = Pool(max_size=2)
    first = pool.borrow()
    early, late = pool.join(), pool.join()
    pool.machine.release(first, 0, None)
    assert early.entry is first
    assert pool.open() is late.entry


def test_the_opening_of_a_task_that_gave_up_becomes_idle() -> None:
    """A cancelled task's connect is not thrown away."""
    pool = Pool()
    pool.machine.abandon(pool.join(), 0)
    assert [pool.open()] == pool.machine.idle_entries()


def test_a_grant_that_is_abandoned_goes_to_the_next() -> None:
    """Who is cancelled in the moment of the grant loses nothing for the others."""
    pool = Pool(max_size=1)
    early, late = pool.join(), pool.join()
    entry = pool.open()
    assert early.entry is entry
    pool.machine.abandon(early, 0)
    assert late.entry is entry
    facts = pool.machine.statistics()
    assert (facts.acquired, facts.reused, entry.borrows) == (1, 0, 1)


def test_a_grant_that_is_abandoned_with_nobody_waiting_becomes_idle() -> None:
    """The borrow that never was is not counted."""
    pool = Pool()
    waiter = pool.join()
    entry = pool.open()
    pool.machine.abandon(waiter, 3)
    assert (entry.state, entry.borrows, entry.idle_since) == (State.IDLE, 0, 3)
    assert pool.machine.statistics().acquired == 0


def test_a_grant_that_was_seized_is_not_booked_when_it_is_abandoned() -> None:
    """The pool's block has ended meanwhile: the connection is closed already."""
    pool = Pool(max_size=1)
    waiter = pool.join()
    entry = pool.open()
    pool.machine.end(RuntimeError, lambda: None)
    pool.machine.seize(entry)
    pool.machine.abandon(waiter, 0)
    assert pool.close() is entry
    assert pool.machine.statistics().size == 0


def test_a_reused_grant_that_is_abandoned_is_counted_as_if_it_had_not_been() -> None:
    """An abandoned grant of a connection that had a borrower leaves ``reused`` as it was."""
    pool = Pool(max_size=1)
    entry = pool.borrow()
    waiter = pool.join()
    pool.machine.release(entry, 0, None)
    assert pool.machine.statistics().reused == 1
    pool.machine.abandon(waiter, 0)
    facts = pool.machine.statistics()
    assert (facts.acquired, facts.reused, entry.borrows) == (1, 0, 1)


@pytest.mark.parametrize(
    ("shows", "state"),
    [
        (Liveness.ALIVE, State.IDLE),
        (Liveness.UNREAD, State.IDLE),
        (Liveness.UNSURE, State.CHECKING),
        (Liveness.CLOSED, State.CLOSING),
    ],
)
def test_an_abandoned_grant_is_looked_at_as_if_it_had_never_been_lent(
    shows: Liveness, state: State
) -> None:
    """A greeting doesn't spoil it, as nobody has borrowed it yet; a hang-up does."""
    pool = Pool()
    waiter = pool.join()
    entry = pool.open()
    pool.shows[entry] = shows
    pool.machine.abandon(waiter, 0)
    assert entry.state is state


def test_what_has_been_used_up_is_closed_and_who_waits_gets_a_new_one() -> None:
    """With ``max_uses=2`` the second return closes, also if somebody waits for it."""
    pool = Pool(max_size=1, max_uses=2)
    (entry,) = pool.idle(1)
    assert pool.machine.acquire(0) is entry
    waiter = pool.join()
    pool.machine.release(entry, 0, None)
    assert (entry.close_reason, waiter.entry) == (CloseReason.USES, None)
    assert pool.close() is entry
    replacement = pool.open()
    assert waiter.entry is replacement
    assert pool.machine.statistics().closed == {"max_uses": 1}


def test_a_connection_of_one_use_never_waits_for_the_next() -> None:
    """With ``max_uses=1`` nothing is ever reused."""
    pool = Pool(max_uses=1)
    for _ in range(3):
        pool.machine.release(pool.borrow(), 0, None)
        pool.close()
    facts = pool.machine.statistics()
    assert (facts.acquired, facts.opened, facts.reused, facts.idle) == (3, 3, 0, 0)


def test_a_grant_that_was_abandoned_is_no_use() -> None:
    """Who was cancelled in the same moment has not used what he was given."""
    pool = Pool(max_size=1, max_uses=1)
    first, second = pool.join(), pool.join()
    entry = pool.open()
    assert first.entry is entry
    pool.machine.abandon(first, 0)
    assert second.entry is entry
    pool.machine.release(entry, 0, None)
    assert (entry.close_reason, entry.borrows) == (CloseReason.USES, 1)


def test_a_greeting_belongs_to_the_first_borrower_only() -> None:
    """Unread bytes don't spoil a connection before its first borrow, and do after it."""
    pool = Pool(min_idle=1, max_size=1)
    pool.machine.refill()
    entry = pool.open()
    pool.shows[entry] = Liveness.UNREAD
    pool.machine.look_over(0, 10, 0)
    assert pool.machine.acquire(0) is entry
    pool.machine.release(entry, 0, None)
    assert pool.machine.acquire(0) is None
    assert entry.close_reason is CloseReason.UNREAD_DATA


@pytest.mark.parametrize(
    ("shows", "reason"),
    [(Liveness.CLOSED, CloseReason.PEER_CLOSED), (Liveness.UNREAD, CloseReason.UNREAD_DATA)],
)
def test_checkout_passes_over_what_is_known_to_be_bad(shows: Liveness, reason: CloseReason) -> None:
    """Bad ones are ordered to be closed, and the first good one is lent."""
    pool = Pool()
    good, bad = pool.idle(2)
    pool.shows[bad] = shows
    assert pool.machine.acquire(0) is good
    assert pool.ordered(Action.CLOSE) is bad
    assert bad.close_reason is reason


@pytest.mark.parametrize("shows", [Liveness.CLOSED, Liveness.UNREAD])
def test_what_comes_back_bad_is_not_handed_on(shows: Liveness) -> None:
    """With a task waiting, the connection is looked at, closed, and replaced."""
    pool = Pool(max_size=1)
    entry = pool.borrow()
    waiter = pool.join()
    pool.shows[entry] = shows
    pool.machine.release(entry, 0, None)
    assert waiter.entry is None
    assert pool.close() is entry
    assert pool.open() is waiter.entry


def test_doubt_is_removed_by_a_check_before_anybody_gets_the_connection() -> None:
    """In doubt at checkout, it is checked, and then goes to the task that waits meanwhile."""
    pool = Pool(max_size=2)
    (entry,) = pool.idle(1)
    pool.shows[entry] = Liveness.UNSURE
    assert pool.machine.acquire(0) is None
    waiter = pool.join()
    assert pool.ordered(Action.CHECK) is entry
    assert not pool.machine.actions, "the check counts as an opening under way"
    pool.machine.checked(entry, Liveness.ALIVE, 0)
    assert waiter.entry is entry


def test_a_new_connection_in_doubt_is_checked_unless_somebody_waits() -> None:
    """The first borrower of a new connection need not wait for a check; the idle deque does."""
    pool = Pool(max_size=2)
    waiter = pool.join()
    assert pool.open(unsure=True) is waiter.entry
    pool.machine.abandon(pool.join(), 0)
    assert pool.open(unsure=True).state is State.CHECKING


def test_a_connect_error_goes_to_the_oldest_waiter_alone() -> None:
    """The next one gets a new attempt, which may succeed."""
    pool = Pool(max_size=1)
    early, late = pool.join(), pool.join()
    error = ConnectionRefusedError()
    pool.fail(error)
    assert (early.error, late.error) == (error, None)
    assert pool.machine.last_connect_error is error
    assert pool.open() is late.entry
    assert pool.machine.last_connect_error is None


def test_a_cancelled_opening_is_replaced_while_somebody_waits() -> None:
    """An opening that came to nothing costs the waiter no error."""
    pool = Pool(max_size=1)
    waiter = pool.join()
    pool.machine.open_cancelled(pool.ordered(Action.OPEN))
    assert pool.open() is waiter.entry


def test_a_second_release_and_a_release_after_seizure_do_nothing() -> None:
    """A connection that was taken away meanwhile is not its borrower's to give back."""
    pool = Pool()
    entry = pool.borrow()
    pool.machine.seize(entry)
    assert pool.ordered(Action.CLOSE) is entry
    pool.machine.release(entry, 0, None)
    assert not pool.machine.detach(entry)
    pool.machine.seize(entry)
    assert not pool.machine.actions
    assert entry.close_reason is CloseReason.SEIZED
    pool.machine.closed(entry)
    assert pool.machine.statistics().closed == {"seized": 1}


def test_a_detached_connection_makes_room() -> None:
    """The pool forgets it, open as it is, and opens another one for the task that waits."""
    pool = Pool(max_size=1)
    entry = pool.borrow()
    waiter = pool.join()
    assert pool.machine.detach(entry)
    assert entry not in pool.slots.borrowers
    assert pool.open() is waiter.entry
    assert pool.machine.statistics().closed == {"detached": 1}


def test_the_end_of_the_block_wakes_all_and_lends_nothing_more() -> None:
    """Waiters and watchers get the error; drained is told when the last borrower is through."""
    pool = Pool(max_size=2, min_idle=1)
    pool.machine.refill()
    pool.open()
    borrowed = pool.borrow()
    opening = pool.ordered(Action.OPEN)
    waiter, watcher = pool.join(), pool.new_waiter()
    pool.machine.watch(watcher)
    drained: list[bool] = []
    error = ConnectionAbortedError()
    pool.machine.end(lambda: error, lambda: drained.append(True))
    assert pool.woken == [waiter, watcher]
    assert waiter.error is watcher.error is error
    opening.transport = 1
    pool.machine.opened(opening, 0)
    assert opening.close_reason is CloseReason.POOL_CLOSED
    assert not drained
    pool.machine.release(borrowed, 0, None)
    assert drained
    assert {pool.close(), pool.close()} == {opening, borrowed}
    assert not pool.slots.borrowers
    assert not pool.machine.actions


def test_detaching_the_last_borrowed_connection_drains_the_pool() -> None:
    """Who takes a connection along for good keeps the end of the block waiting no longer."""
    pool = Pool()
    entry = pool.borrow()
    drained: list[bool] = []
    pool.machine.end(ConnectionAbortedError, lambda: drained.append(True))
    assert not drained
    assert pool.machine.detach(entry)
    assert drained


def test_an_idle_pool_is_drained_at_once() -> None:
    """With nothing borrowed nobody has to be waited for; idle connections are closed."""
    pool = Pool()
    entries = pool.idle(2)
    drained: list[bool] = []
    pool.machine.end(ConnectionAbortedError, lambda: drained.append(True))
    assert drained
    assert [pool.close(), pool.close()] == entries
    assert pool.machine.statistics().closed == {"pool_closed": 2}
