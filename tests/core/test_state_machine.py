"""The rules of the machine, one by one, told as short stories."""

from __future__ import annotations

import math

import pytest

from anyconnpool._core.states import Action, State
from anyconnpool._settings import IdleOrder
from anyconnpool._statistics import CloseReason
from anyconnpool._util.liveness import Liveness
from tests.cases import table

from .machine_fakes import Pool, ask


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
    pool.machine.seize(entry, 0)
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
    pool.machine.refill(0)
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
    """Idle for too long, it is checked, and then goes to the task that waits meanwhile."""
    pool = Pool(max_size=2, check=ask, check_after=5)
    (entry,) = pool.idle(1)
    assert pool.machine.acquire(5) is None
    waiter = pool.join()
    assert pool.ordered(Action.CHECK) is entry
    assert not pool.machine.actions, "the check counts as an opening under way"
    pool.machine.checked(entry, Liveness.ALIVE, 5)
    assert waiter.entry is entry


def test_a_connection_that_nobody_has_used_is_not_checked() -> None:
    """However long it has been ready: there is nothing yet that could have gone wrong."""
    pool = Pool(min_idle=1, check=ask, check_after=5)
    pool.machine.refill(0)
    entry = pool.open()
    assert pool.machine.acquire(7) is entry


def test_what_dies_while_it_is_idle_leaves_at_once() -> None:
    """The pool hears of it, and closes it before anybody asks; a living one stays."""
    pool = Pool()
    dead, alive = pool.idle(2)
    pool.shows[dead] = Liveness.CLOSED
    pool.machine.notice(dead, 1)
    pool.machine.notice(alive, 1)
    assert pool.close() is dead
    assert pool.machine.idle_entries() == [alive]
    assert pool.machine.statistics().idle == 1
    assert pool.machine.acquire(1) is alive
    assert pool.machine.acquire(1) is None


def test_what_is_told_of_a_borrowed_connection_is_judged_when_it_comes_back() -> None:
    """Its borrower may have asked for it; if nobody has read it, the connection is closed."""
    pool = Pool()
    read, unread = pool.borrow(), pool.borrow()
    for entry in (read, unread):
        pool.machine.notice(entry, 0)
    pool.shows[unread] = Liveness.UNREAD
    pool.machine.release(read, 0, None)
    pool.machine.release(unread, 0, None)
    assert pool.close() is unread
    assert pool.machine.idle_entries() == [read]


def test_bytes_after_a_hook_has_spoken_are_no_greeting() -> None:
    """What arrives unasked on a connection that was never borrowed then ends it."""
    pool = Pool(min_idle=1)
    pool.machine.refill(0)
    entry = pool.open()
    entry.spoken = True
    pool.shows[entry] = Liveness.UNREAD
    pool.machine.notice(entry, 0)
    assert pool.close().close_reason is CloseReason.UNREAD_DATA


def test_connections_that_die_unused_are_refilled_by_the_next_sweep_only() -> None:
    """A server that hangs up at once is not dialled in a loop."""
    pool = Pool(min_idle=1)
    pool.machine.refill(0)
    entry = pool.open()
    pool.shows[entry] = Liveness.CLOSED
    pool.machine.notice(entry, 0)
    assert pool.close() is entry
    assert not pool.machine.actions
    pool.machine.refill(0)
    assert pool.open().state is State.IDLE


def test_a_connect_error_goes_to_the_oldest_waiter_alone() -> None:
    """The next one gets a new attempt, which may succeed."""
    pool = Pool(max_size=1)
    early, late = pool.join(), pool.join()
    error = ConnectionRefusedError()
    pool.fail(error)
    assert (early.error, late.error) == (error, None)
    assert pool.machine.supply.last_error is error
    assert pool.open() is late.entry
    assert pool.machine.supply.last_error is None


def test_a_cancelled_opening_is_replaced_while_somebody_waits() -> None:
    """An opening that came to nothing costs the waiter no error."""
    pool = Pool(max_size=1)
    waiter = pool.join()
    pool.machine.lost(pool.ordered(Action.OPEN), 0)
    assert pool.open() is waiter.entry


def test_a_second_release_and_a_release_after_seizure_do_nothing() -> None:
    """A connection that was taken away meanwhile is not its borrower's to give back."""
    pool = Pool()
    entry = pool.borrow()
    pool.machine.seize(entry, 0)
    assert pool.ordered(Action.CLOSE) is entry
    pool.machine.release(entry, 0, None)
    assert not pool.machine.detach(entry, 0)
    pool.machine.seize(entry, 0)
    assert not pool.machine.actions
    assert entry.close_reason is CloseReason.SEIZED
    pool.machine.closed(entry, 0)
    assert pool.machine.statistics().closed == {"seized": 1}


def test_a_detached_connection_makes_room() -> None:
    """The pool forgets it, open as it is, and opens another one for the task that waits."""
    pool = Pool(max_size=1)
    entry = pool.borrow()
    waiter = pool.join()
    assert pool.machine.detach(entry, 0)
    assert entry not in pool.slots.borrowers
    assert pool.open() is waiter.entry
    assert pool.machine.statistics().closed == {"detached": 1}


def test_the_end_of_the_block_wakes_all_and_lends_nothing_more() -> None:
    """Waiters and watchers get the error; drained is told when the last borrower is through."""
    pool = Pool(max_size=2, min_idle=1)
    pool.machine.refill(0)
    pool.open()
    borrowed = pool.borrow()
    opening = pool.ordered(Action.OPEN)
    waiter, watcher = pool.join(), pool.new_waiter()
    pool.machine.watch(watcher, 0)
    drained: list[bool] = []
    error = ConnectionAbortedError()
    pool.machine.end(lambda: error, lambda: drained.append(True))
    assert pool.woken == [waiter, watcher]
    assert waiter.error is watcher.error is error
    opening.transport = 1
    opening.look = lambda: Liveness.ALIVE
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
    assert pool.machine.detach(entry, 0)
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


def test_a_lowered_max_size_closes_idle_ones_now_and_borrowed_ones_later() -> None:
    """The longest idle go first; slots shrink with the connections, never below them."""
    pool = Pool(max_size=4)
    entries = pool.idle(4)
    borrowed = [pool.borrow(), pool.borrow(), pool.borrow()]
    assert pool.machine.idle_entries() == entries[:1]
    pool.machine.resize(2, 0)
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
    pool.machine.resize(3, 0)
    pool.machine.resize(2, 0)
    assert pool.machine.idle_entries() == entries[2:]


def test_a_raised_max_size_lets_waiting_tasks_through() -> None:
    """Connections are ordered at once for those that there is room for now."""
    pool = Pool(max_size=1)
    pool.borrow()
    waiters = [pool.join(), pool.join(), pool.join()]
    pool.machine.resize(3, 0)
    assert [pool.open(), pool.open()] == [waiter.entry for waiter in waiters[:2]]
    assert not pool.machine.actions
    pool.machine.resize(math.inf, 0)
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


@table("expire", ["acquire", "reap"])
def test_idle_time_ends_when_it_is_announced_however_that_is_rounded(expire: str) -> None:
    """Taken for in doubt, it would wait for ever for a check that the pool doesn't have."""
    since = next(t for t in (n / 1000 for n in range(10_000)) if (t + 0.02) - t < 0.02)
    pool = Pool(max_idle_time=0.02)
    (entry,) = pool.idle(1, now=since)
    now = pool.machine.next_expiry()
    if expire == "acquire":
        assert pool.machine.acquire(now) is None
    else:
        pool.machine.reap(now, 10)
    assert pool.close() is entry
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


def test_a_look_goes_on_where_the_last_slice_ended() -> None:
    """What it passes over stays, bad or not, and so does the order; then it says where to go on."""
    pool = Pool()
    first, second, third, fourth, fifth = pool.idle(5)
    pool.shows = dict.fromkeys((first, fourth), Liveness.CLOSED)
    assert pool.machine.look_over(2, 2, 0) == 3
    assert pool.machine.idle_entries() == [first, second, third, fifth]
    assert pool.machine.look_over(3, 2, 0) is None
    assert pool.machine.look_over(0, 2, 0) == 1
    assert pool.machine.idle_entries() == [second, third, fifth]


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
    pool = Pool(idle_order="fifo", check=ask, check_after=5)
    doubtful, idle, borrowed = (pool.borrow() for _ in range(3))
    pool.machine.release(doubtful, 0, None)
    pool.machine.release(idle, 5, None)
    assert pool.machine.acquire(5) is idle
    assert pool.ordered(Action.CHECK) is doubtful
    pool.machine.release(idle, 5, None)
    pool.machine.retire(0)
    pool.machine.release(borrowed, 5, None)
    pool.machine.checked(doubtful, Liveness.ALIVE, 5)
    for entry in (idle, borrowed, doubtful):
        assert pool.close() is entry
        assert entry.close_reason is CloseReason.RETIRED
    (new,) = pool.idle(1)
    assert pool.machine.acquire(0) is new


def test_a_task_whose_opening_was_retired_gets_another() -> None:
    """The opening that is out of date is closed, and the task goes on waiting for its successor."""
    pool = Pool(max_size=1)
    waiter = pool.join()
    pool.machine.retire(0)
    old = pool.open()
    assert waiter.entry is None
    assert pool.close() is old
    assert pool.open() is waiter.entry


def test_min_idle_is_kept_ready_while_there_is_room() -> None:
    """What is borrowed is replaced until ``max_size`` is reached."""
    pool = Pool(max_size=3, min_idle=2)
    pool.machine.refill(0)
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
    pool.machine.refill(0)
    pool.fail(ConnectionRefusedError())
    assert not pool.machine.actions
    pool.join()
    pool.fail(ConnectionRefusedError())
    assert not pool.machine.actions
    pool.machine.refill(0)
    pool.ordered(Action.OPEN)


def test_a_success_ends_the_pause_of_refilling() -> None:
    """When a connect succeeds, what is missing of the idle connections is ordered at once."""
    pool = Pool(max_size=3, min_idle=1)
    pool.machine.refill(0)
    pool.fail(ConnectionRefusedError())
    waiter = pool.join()
    assert pool.open() is waiter.entry
    assert pool.open() in pool.machine.idle_entries()


def test_a_watcher_hears_when_enough_connections_are_idle() -> None:
    """It is told once, without an error; one that has gone is not told."""
    pool = Pool(min_idle=2)
    stays, goes, late = pool.new_waiter(), pool.new_waiter(), pool.new_waiter()
    pool.machine.watch(stays, 0)
    pool.machine.watch(goes, 0)
    pool.machine.unwatch(goes)
    pool.machine.unwatch(goes)
    pool.machine.refill(0)
    pool.open()
    assert not pool.woken
    pool.open()
    assert pool.woken == [stays]
    assert stays.error is None
    pool.machine.watch(late, 0)
    assert pool.woken == [stays, late]


def test_a_watcher_hears_why_connections_cannot_be_opened() -> None:
    """An error that no acquiring task gets goes to those that wait for readiness."""
    pool = Pool(min_idle=1)
    watcher = pool.new_waiter()
    pool.machine.watch(watcher, 0)
    pool.machine.refill(0)
    error = ConnectionRefusedError()
    pool.fail(error)
    assert watcher.error is error
    assert pool.woken == [watcher]


def test_an_idle_connection_is_looked_at_once() -> None:
    """What a look has found counts, even if another look would find something else."""
    pool = Pool(max_size=1)
    [entry] = pool.idle(1)
    looks = iter([Liveness.CLOSED, Liveness.ALIVE])
    entry.look = lambda: next(looks)
    assert pool.machine.acquire(0) is None
    assert pool.ordered(Action.CLOSE) is entry


def test_what_comes_back_after_the_end_of_the_block_is_closed() -> None:
    """Nothing is idle any more."""
    pool = Pool()
    entry = pool.borrow()
    pool.machine.end(RuntimeError, list)
    pool.machine.release(entry, 0, None)
    assert pool.close() is entry


def test_what_comes_back_too_old_is_closed_then() -> None:
    """It doesn't become idle before."""
    pool = Pool(max_lifetime=9)
    entry = pool.borrow()
    pool.machine.release(entry, 9, None)
    assert pool.machine.statistics().idle == 0
    assert pool.close(now=9) is entry


def test_what_was_seized_does_not_become_idle_when_it_comes_back() -> None:
    """It is being closed, and stays so."""
    pool = Pool()
    entry = pool.borrow()
    pool.machine.seize(entry, 0)
    pool.machine.release(entry, 0, None)
    assert pool.machine.statistics().idle == 0
    assert pool.close() is entry


def test_a_connection_that_has_left_by_itself_says_nothing_of_the_next_one() -> None:
    """It stands in the deque until somebody comes by."""
    pool = Pool()
    good, bad = pool.idle(2)
    pool.shows[bad] = Liveness.CLOSED
    pool.machine.notice(bad, 0)
    assert pool.machine.acquire(0) is good


def test_a_peak_that_begins_anew_counts_idle_connections_that_are_borrowed() -> None:
    """As many as there are at once."""
    pool = Pool()
    pool.idle(2)
    pool.machine.reset_peaks()
    for borrowed in (1, 2):
        assert pool.machine.acquire(0) is not None
        assert pool.machine.statistics().peak_in_use == borrowed
