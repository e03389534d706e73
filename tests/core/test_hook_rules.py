"""The rules of hooks on open connections: when one is run, and what follows."""

from __future__ import annotations

import math
from operator import attrgetter

from anyconnpool._core.pipeline import Place
from anyconnpool._core.states import Action, State
from anyconnpool._statistics import CloseReason
from anyconnpool._util.liveness import Liveness

from .machine_fakes import Pool, ask


def test_a_grant_that_reached_nobody_needs_no_reset() -> None:
    """Nobody has used a connection that was granted to a task in the moment it was cancelled."""
    pool = Pool(on_release=ask, max_size=1)
    entry = pool.borrow()
    waiter = pool.join()
    pool.machine.release(entry, 0, None)
    assert pool.ordered(Action.RESET) is entry
    entry.unreset = False
    pool.machine.checked(entry, Liveness.ALIVE, 0)
    assert waiter.entry is entry
    pool.machine.abandon(waiter, 0)
    assert entry.state is State.IDLE
    assert not pool.machine.actions


def test_what_nothing_was_sent_on_needs_no_reset() -> None:
    """The only request that shared it was taken out: what waits on it now is a greeting."""
    pool = Pool(on_release=ask, max_size=1, pipeline=2)
    sharing, place = pool.machine.sharing, Place[int](lambda: None, b"?")
    assert sharing is not None
    assert sharing.place(place, 0) is None
    assert pool.machine.join(place, 0)
    entry = pool.open()
    pool.machine.actions.clear()
    lane = sharing.give_up(place, 0)
    assert lane is not None
    assert sharing.end(lane)
    pool.shows[entry] = Liveness.UNREAD
    pool.machine.release(entry, 0, None)
    assert entry.state is State.IDLE
    assert not pool.machine.actions


def test_what_arrives_on_a_grant_that_reached_nobody_is_answered() -> None:
    """As on any connection that nobody holds."""
    pool = Pool(on_unread=ask)
    (entry,) = pool.idle(1)
    assert pool.machine.acquire(1) is entry
    pool.shows[entry] = Liveness.UNREAD
    pool.machine.take_back(entry, 1)
    assert pool.ordered(Action.ANSWER) is entry


def test_what_arrived_is_answered_before_the_reset() -> None:
    """And the reset follows, although another hook was at work in between."""
    pool = Pool(on_release=ask, on_unread=ask)
    entry = pool.borrow()
    pool.shows[entry] = Liveness.UNREAD
    pool.machine.notice(entry, 0)
    pool.machine.release(entry, 0, None)
    assert pool.ordered(Action.ANSWER) is entry
    pool.shows.clear()
    pool.machine.checked(entry, Liveness.ALIVE, 1)
    assert pool.ordered(Action.RESET) is entry
    # Something has arrived before that was begun.
    pool.machine.checked(entry, Liveness.UNREAD, 1)
    assert pool.ordered(Action.ANSWER) is entry
    pool.machine.checked(entry, Liveness.ALIVE, 1)
    assert pool.ordered(Action.RESET) is entry
    entry.unreset = False
    pool.machine.checked(entry, Liveness.ALIVE, 2)
    assert entry.state is State.IDLE
    assert entry.idle_since == 0


def test_a_waiter_relies_on_no_chain_of_hooks() -> None:
    """The second one that follows at once may begin a long row of them."""
    pool = Pool(on_unread=ask)
    (entry,) = pool.idle(1)
    pool.shows[entry] = Liveness.UNREAD
    assert pool.machine.acquire(0) is None
    assert pool.ordered(Action.ANSWER) is entry
    pool.join()
    assert not pool.machine.actions
    pool.machine.checked(entry, Liveness.UNREAD, 0.05)
    assert pool.ordered(Action.ANSWER) is entry
    assert pool.ordered(Action.OPEN) is not entry


def test_what_is_answered_comes_back_to_its_place_once() -> None:
    """Noticed by an event, it stands among the others where it stood, and only there."""
    pool = Pool(on_unread=ask)
    entries = [pool.borrow() for _ in range(4)]
    for now, entry in enumerate(entries):
        pool.machine.release(entry, now, None)
    pool.shows[entries[1]] = Liveness.UNREAD
    pool.machine.notice(entries[1], 5)
    assert pool.ordered(Action.ANSWER) is entries[1]
    assert pool.machine.idle_entries() == [entries[0], entries[2], entries[3]]
    pool.shows.clear()
    pool.machine.checked(entries[1], Liveness.ALIVE, 6)
    assert pool.machine.idle_entries() == entries
    assert entries[1].idle_since == 1
    assert pool.machine.statistics().idle == 4


def test_an_answer_is_no_check() -> None:
    """``check_after`` goes on counting from the last use or check."""
    pool = Pool(check=ask, check_after=10, on_unread=ask)
    (entry,) = pool.idle(1)
    pool.shows[entry] = Liveness.UNREAD
    pool.machine.notice(entry, 8)
    assert pool.ordered(Action.ANSWER) is entry
    pool.shows.clear()
    pool.machine.checked(entry, Liveness.ALIVE, 9)
    assert pool.machine.acquire(11) is None
    assert pool.ordered(Action.CHECK) is entry


def test_what_an_acquire_finds_unread_costs_it_nothing() -> None:
    """It goes on to the next idle one in the same step."""
    pool = Pool(on_unread=ask)
    first, last = pool.idle(2)
    pool.shows[last] = Liveness.UNREAD
    assert pool.machine.acquire(0) is first
    assert pool.ordered(Action.ANSWER) is last


def test_checks_in_the_background_are_four_at_a_time() -> None:
    """Those that have rested longest come first; when one ends, the next begins."""
    pool = Pool(check=ask, check_every=10, check_after=20)
    entries = [pool.borrow() for _ in range(6)]
    for now, entry in enumerate(entries):
        pool.machine.release(entry, now, None)
    assert pool.machine.check_idle(9) == 10
    assert not pool.machine.actions
    assert pool.machine.check_idle(12) == 13
    assert [pool.ordered(Action.CHECK) for _ in range(3)] == entries[:3]
    assert pool.machine.check_idle(15) == math.inf, "there are four"
    assert [pool.ordered(Action.CHECK)] == entries[3:4]
    pool.machine.checked(entries[1], Liveness.ALIVE, 15)
    assert [pool.ordered(Action.CHECK)] == entries[4:5]
    assert pool.machine.idle_entries() == [entries[1], entries[5]]
    pool.machine.checked(entries[0], CloseReason.CHECK_FAILED, 15)
    assert pool.close() is entries[0]
    assert [pool.ordered(Action.CHECK)] == entries[5:6]
    assert pool.machine.check_idle(24) == math.inf, "there are four again"
    for entry in entries[2:]:
        pool.machine.checked(entry, Liveness.ALIVE, 24)
    assert not pool.machine.actions, "the first was asked at 15"
    assert pool.machine.check_idle(24) == 25


def test_what_was_never_used_is_not_checked_in_the_background() -> None:
    """A greeting may be on its way, which answers no check."""
    pool = Pool(check=ask, check_every=10, min_idle=1)
    pool.machine.refill(0)
    pool.open()
    assert pool.machine.check_idle(60) == math.inf
    assert not pool.machine.actions


def test_a_background_check_that_hangs_makes_room() -> None:
    """As soon as it has taken a tenth of a second; one for each task that needs room."""
    pool = Pool(check=ask, check_every=10, max_size=2)
    entries = pool.idle(2)
    pool.machine.check_idle(10)
    assert [pool.ordered(Action.CHECK) for _ in entries] == entries
    waiter = pool.join(now=10.05)
    assert not pool.machine.actions
    pool.machine.tick(10.06)
    assert pool.machine.alarm_at == 10.1
    assert not pool.machine.actions
    pool.machine.tick(10.1)
    assert pool.ordered(Action.INTERRUPT) is entries[0]
    pool.machine.tick(10.2)
    assert not pool.machine.actions
    pool.machine.checked(entries[0], None, 10.2)
    assert entries[0].close_reason is CloseReason.CHECK_FAILED
    assert pool.close(now=10.2) is entries[0]
    assert pool.open(now=10.3) is waiter.entry


def test_a_check_that_does_not_hang_yet_is_not_interrupted() -> None:
    """However many there are who need room."""
    pool = Pool(check=ask, check_every=10, max_size=2)
    first, second = pool.borrow(), pool.borrow()
    pool.machine.release(first, 0, None)
    pool.machine.release(second, 0.08, None)
    for now in (10, 10.08):
        pool.machine.check_idle(now)
    assert [pool.ordered(Action.CHECK) for _ in range(2)] == [first, second]
    for _ in range(3):
        pool.join(now=10.12)
    assert pool.ordered(Action.INTERRUPT) is first
    assert not pool.machine.actions


def test_what_was_answered_when_its_check_was_due_is_checked_next() -> None:
    """It doesn't have to wait for those that were released after it."""
    pool = Pool(check=ask, check_every=10, on_unread=ask)
    first, second = pool.borrow(), pool.borrow()
    pool.machine.release(first, 0, None)
    pool.machine.release(second, 8, None)
    pool.shows[first] = Liveness.UNREAD
    pool.machine.notice(first, 9)
    assert pool.ordered(Action.ANSWER) is first
    assert pool.machine.check_idle(11) == 18
    pool.shows.clear()
    pool.machine.checked(first, Liveness.ALIVE, 12)
    assert pool.ordered(Action.CHECK) is first


def test_what_is_closed_is_not_kept() -> None:
    """Not even until its check would have been due."""
    pool = Pool(check=ask, check_every=10)
    pool.idle(3)
    resting = attrgetter("_group.background._resting")(pool.machine)
    assert len(resting) == 3
    pool.machine.retire(1)
    assert not resting


def test_no_check_is_interrupted_that_somebody_has_asked_for() -> None:
    """Only one in the background: the other was begun for the one who waits."""
    pool = Pool(check=ask, check_after=0, check_every=10, max_size=1)
    (entry,) = pool.idle(1)
    assert pool.machine.acquire(1) is None
    pool.join(now=1)
    assert pool.ordered(Action.CHECK) is entry
    pool.machine.tick(2)
    assert not pool.machine.actions


def test_a_farewell_is_for_what_is_good() -> None:
    """Not for what is closed for a fault, nor for what was being checked."""
    pool = Pool(check=ask, check_after=0, max_uses=2)
    first, second, third, fourth = (pool.borrow() for _ in range(4))
    pool.machine.release(first, 0, None)
    pool.machine.release(second, 0, CloseReason.DISCARDED)
    pool.machine.seize(third, 0)
    pool.machine.acquire(0)
    assert [pool.ordered(Action.CLOSE) for _ in range(2)] == [second, third]
    assert pool.ordered(Action.CHECK) is first
    pool.machine.retire(0)
    pool.machine.checked(first, Liveness.ALIVE, 0)
    pool.machine.release(fourth, 0, None)
    assert first.close_reason is fourth.close_reason is CloseReason.RETIRED
    assert [one.parts_well for one in (first, second, third, fourth)] == [False, False, False, True]
