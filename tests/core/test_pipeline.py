"""Stories of requests that share connections: order, places, leaving, limits."""

from __future__ import annotations

import math

import pytest

from anyconnpool import PoolStatistics, Retry
from anyconnpool._core.health import Health, Replica
from anyconnpool._core.pipeline import BATCH_BYTES, LEAVING, OPEN, WORN, Lane, Pipeline, Place
from anyconnpool._core.shared_limit import SharedLimit, SharedPoolStateMachine
from anyconnpool._core.sharing import Sharing
from anyconnpool._core.states import Action, PoolEntry, State, Waiter
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason
from anyconnpool._util.liveness import Liveness

from .machine_fakes import Pool, SetSlots, make_settings


class SharedPool(Pool):
    """A machine whose connections are shared."""

    @property
    def sharing(self) -> Sharing[int]:
        assert self.machine.sharing is not None
        return self.machine.sharing

    def ask(self, request: bytes = b"?", *, now: float = 0.0) -> Place[int]:
        """Ask for a place, now or in line."""
        place: Place[int] = Place(lambda: None, request)
        if self.sharing.place(place, now) is None:
            assert self.machine.join(place, now)
        self.forget_shares()
        return place

    def refuses(self) -> bool:
        """Ask for a place, and return whether that is refused."""
        place: Place[int] = Place(lambda: None, b"?")
        return self.sharing.place(place, 0) is None and not self.machine.join(place, 0)

    def forget_shares(self) -> None:
        """Drop the actions that only wake the tasks of shared connections."""
        kept = [action for action in self.machine.actions if action[0] is not Action.SHARE]
        self.machine.actions.clear()
        self.machine.actions.extend(kept)

    def open_shared(self, *, now: float = 0.0) -> Lane[int]:
        """Have a connection opened for whoever has asked first."""
        self.forget_shares()
        entry = self.open(now=now)
        self.forget_shares()
        assert entry.lane is not None
        lane: Lane[int] = entry.lane
        return lane

    def answer(self, lane: Lane[int], *, now: float = 0.0) -> Place[int]:
        """Send all, and read the first reply."""
        self.sharing.take_batch(lane, 0, now)
        place = lane.owed.popleft()
        place.lane = None
        self.sharing.replied(lane, 1, int(place.abandoned), now)
        if self.sharing.end(lane):
            self.machine.release(lane.entry, now, None)
        self.forget_shares()
        return place

    def facts(self) -> PoolStatistics:
        return self.machine.statistics()


def test_nobody_shares_while_there_is_room_or_something_idle() -> None:
    """A request borrows an idle connection, or has one opened where there is room."""
    pool = SharedPool(max_size=2, pipeline=4)
    first = pool.ask()
    lane = pool.open_shared()
    assert first.lane is lane
    second = pool.ask()
    assert second.lane is None
    other = pool.open_shared()
    assert second.lane is other is not lane
    pool.answer(other)
    third = pool.ask()
    assert third.lane is other, "it was idle"
    assert pool.facts().acquired == 3, "borrows of connections are counted, not exchanges"


def test_a_request_goes_where_the_fewest_are() -> None:
    """With nothing idle and no room, the connection with the fewest in flight gets it."""
    pool = SharedPool(max_size=2, pipeline=4)
    pool.ask()
    busy = pool.open_shared()
    pool.ask()
    quiet = pool.open_shared()
    places = [pool.ask() for _ in range(4)]
    assert [busy.load, quiet.load] == [3, 3]
    for _ in range(2):
        pool.answer(quiet)
    assert pool.ask().lane is quiet
    assert [place.lane for place in places].count(busy) == 2


def test_a_repeat_goes_where_the_fewest_are_elsewhere() -> None:
    """Only where one that is new might go: not to one that is full, too old, or closed to them."""
    failed, other = (Replica(name, None, name, name) for name in ("failed", "other"))
    pipeline: Pipeline[int] = Pipeline(make_settings(pipeline=3))

    def share(replica: Replica, load: int, expires_at: float = math.inf) -> Lane[int]:
        entry: PoolEntry[int] = PoolEntry(0)
        entry.replica, entry.expires_at = replica, expires_at
        lane = pipeline.begin(entry, Place(lambda: None, b"x"))
        for _ in range(load - 1):
            pipeline.add(lane, Place(lambda: None, b"x"))
        return lane

    def found(now: float) -> Lane[int] | None:
        return pipeline.find_elsewhere([failed], now)

    share(failed, 1)
    second, first = share(other, 2), share(other, 1, expires_at=5.0)
    assert (found(0.0), found(5.0)) == (first, second)
    pipeline.add(second, Place(lambda: None, b"x"))
    assert found(5.0) is None
    pipeline.leave(first)
    assert found(0.0) is None


def test_when_all_are_full_requests_wait_in_order() -> None:
    """There are never more than pipeline in flight; the oldest that waits gets the next place."""
    pool = SharedPool(max_size=1, pipeline=2)
    first = pool.ask()
    lane = pool.open_shared()
    second, third, fourth = pool.ask(), pool.ask(), pool.ask()
    assert second.lane is lane
    assert third.lane is fourth.lane is None
    assert (pool.facts().in_flight, pool.facts().tasks_waiting) == (2, 2)
    assert pool.answer(lane) is first
    assert third.lane is lane
    assert fourth.lane is None


def test_max_waiting_counts_requests_that_wait() -> None:
    """One more than max_waiting is refused."""
    pool = SharedPool(max_size=1, pipeline=2, max_waiting=1)
    pool.ask()
    pool.open_shared()
    pool.ask()
    pool.ask()
    assert pool.refuses()


def test_who_has_a_place_on_what_is_opened_does_not_count_as_waiting() -> None:
    """With ``max_waiting`` 0, as many may come as the connection will carry."""
    for max_uses, places in ((math.inf, 4), (3, 3)):
        pool = SharedPool(max_size=1, pipeline=4, max_waiting=0, max_uses=max_uses)
        for _ in range(places):
            pool.ask()
        assert pool.refuses()
        lane = pool.open_shared()
        assert lane.load == places
        pool.machine.retire(0)
        for _ in range(places):
            pool.answer(lane)
        # Its slot is being freed.
        for _ in range(places):
            pool.ask()
        assert pool.refuses()


def test_who_finds_a_place_on_what_is_shared_does_not_count_as_waiting() -> None:
    """While a connection is opened for one, others share; those who wait besides count."""
    for max_uses, most in ((math.inf, 3), (2, 2)):
        pool = SharedPool(max_size=2, pipeline=3, max_waiting=0, max_uses=max_uses)
        pool.ask()
        lane = pool.open_shared()
        assert pool.ask().lane is None
        for load in range(2, most + 1):
            assert pool.ask().lane is lane
            assert lane.load == load
        # The others will share what is being opened.
        for _ in range(most - 1):
            pool.ask()
        assert pool.facts().tasks_waiting == most
        assert pool.refuses()


def test_who_waits_besides_those_who_share_counts() -> None:
    """Requests without a place, and borrowers, for whom nothing is opened."""
    for count in (2, 4):
        pool = SharedPool(max_size=1, pipeline=4, max_waiting=1)
        for _ in range(count):
            pool.ask()
        if count == 4:
            pool.ask()
        else:
            pool.join()
            assert pool.try_join() is None
        assert pool.refuses()
    pool = SharedPool(max_size=1, pipeline=4, max_waiting=0)
    pool.ask()
    assert pool.try_join() is None


def test_a_borrower_leaves_no_place_on_what_is_opened_for_him() -> None:
    """So requests count that come behind him."""
    pool = SharedPool(max_size=1, pipeline=4, max_waiting=1)
    pool.join()
    pool.ask()
    assert pool.refuses()
    other = SharedPool(max_size=1, pipeline=4, max_waiting=1)
    other.ask()
    other.join()
    assert other.refuses()


def test_a_connect_that_fails_has_failed_for_all_who_would_have_shared_it() -> None:
    """One attempt for each of them would dial a server that refuses so many times, or hangs."""
    pool = SharedPool(max_size=1, pipeline=4)
    asked = [pool.ask() for _ in range(6)]
    error = OSError("refused")
    pool.fail(error)
    assert [place.error for place in asked] == [error] * 4 + [None] * 2
    assert [place.shares_error for place in asked[:4]] == [False, True, True, True]
    late = pool.ask(now=0.2)
    # It came when this attempt had hung for a while.
    pool.fail(error, now=0.3)
    assert (asked[4].error, asked[5].error, late.error) == (error, error, None)
    lane = pool.open_shared(now=0.3)
    assert late.lane is lane


def test_a_connect_that_fails_has_not_failed_for_those_who_have_something_else() -> None:
    """Other attempts, a borrower's place in the line, a connection that will have a place."""
    error = OSError("refused")
    pool = SharedPool(max_size=2, pipeline=8)
    asked = [pool.ask() for _ in range(6)]
    pool.fail(error)
    assert [place.error for place in asked] == [error] * 3 + [None] * 3
    pool = SharedPool(max_size=1, pipeline=8)
    first = pool.ask()
    borrower = pool.join()
    behind = pool.ask()
    pool.fail(error)
    assert (first.error, borrower.error, behind.error) == (error, None, None)
    pool.fail(error)
    assert (borrower.error, behind.error) == (error, None)
    pool = SharedPool(max_size=2, pipeline=2)
    pool.ask()
    lane = pool.open_shared()
    asked = [pool.ask() for _ in range(4)]
    assert lane.load == 2
    pool.fail(error)
    assert [place.error for place in asked] == [error, None, None, None]


def test_a_request_waits_a_tenth_of_a_second_for_what_is_opened_for_it() -> None:
    """After that it takes a place on a shared connection; the new one serves the next caller."""
    pool = SharedPool(max_size=2, pipeline=4)
    pool.ask()
    lane = pool.open_shared()
    second = pool.ask()
    assert second.lane is None
    assert pool.machine.alarm_at == 0.1
    pool.machine.tick(0.1)
    assert second.lane is lane
    pool.forget_shares()
    pool.open(now=0.2)
    assert pool.facts().idle == 1


def test_a_request_takes_a_connection_that_comes_back_first() -> None:
    """It relies on its own connect only as long as nothing else is to be had."""
    pool = SharedPool(max_size=2, pipeline=4)
    borrowed = pool.borrow()
    waiting = pool.ask()
    pool.machine.release(borrowed, 0.01, None)
    assert waiting.lane is borrowed.lane is not None


def test_a_failure_to_connect_is_no_failure_of_who_can_share() -> None:
    """Where a place is free, a request gets it instead of the error of a connect."""
    pool = SharedPool(max_size=2, pipeline=4)
    pool.ask()
    lane = pool.open_shared()
    second = pool.ask()
    pool.fail(OSError("refused"))
    assert second.error is None
    assert second.lane is lane


def test_a_borrower_has_a_shared_connection_leave() -> None:
    """It takes no new requests, finishes, and goes to the one who waits; then to the requests."""
    pool = SharedPool(max_size=1, pipeline=4)
    pool.ask()
    lane = pool.open_shared()
    borrower = pool.join()
    assert lane.openness is LEAVING
    late = pool.ask()
    assert late.lane is None
    pool.answer(lane)
    assert borrower.entry is lane.entry
    assert late.lane is None
    pool.machine.release(lane.entry, 0, None)
    assert late.lane is lane
    assert lane.openness is OPEN


def test_the_one_with_the_fewest_in_flight_leaves_and_the_others_go_on() -> None:
    """One borrower costs the requests one connection, not all."""
    pool = SharedPool(max_size=2, pipeline=4)
    pool.ask()
    busy = pool.open_shared()
    pool.ask()
    quiet = pool.open_shared()
    pool.ask()
    borrower = pool.join()
    assert (busy.openness, quiet.openness) == (OPEN, LEAVING)
    assert pool.ask().lane is busy
    pool.machine.abandon(borrower, 0)
    assert quiet.openness is OPEN, "it leaves for nobody any more"


def test_requests_that_waited_longer_go_before_a_borrower() -> None:
    """One line for both: a connection leaves for a borrower when those before it have places."""
    pool = SharedPool(max_size=1, pipeline=2)
    pool.ask()
    lane = pool.open_shared()
    pool.ask()
    older = pool.ask()
    borrower = pool.join()
    younger = pool.ask()
    assert lane.openness is OPEN
    pool.answer(lane)
    assert older.lane is lane
    assert lane.openness is LEAVING
    pool.answer(lane)
    assert younger.lane is None
    pool.answer(lane)
    assert borrower.entry is lane.entry
    assert younger.lane is None


def test_a_borrower_for_whom_a_connection_is_on_its_way_needs_no_other() -> None:
    """A shared connection goes on while one is being opened for the borrower."""
    pool = SharedPool(max_size=2, pipeline=4)
    pool.ask()
    lane = pool.open_shared()
    borrower = pool.join()
    assert lane.openness is OPEN
    assert pool.open() is borrower.entry


def test_a_borrower_for_whom_a_slot_will_be_free_needs_no_other() -> None:
    """What is being closed makes room for a connection of his own."""
    pool = SharedPool(max_size=2, pipeline=2)
    pool.ask()
    lane = pool.open_shared()
    pool.machine.release(pool.borrow(), 0.0, CloseReason.UNCLEAN)
    borrower = pool.join()
    assert lane.openness is OPEN
    pool.close()
    entry = pool.open()
    assert borrower.entry is entry


def test_a_request_that_leaves_the_line_lets_a_borrower_behind_it_have_his_turn() -> None:
    """While it finds no place, the line stands."""
    pool = SharedPool(max_size=1, pipeline=2)
    for _ in range(2):
        pool.ask()
    lane = pool.open_shared()
    waiting = pool.ask()
    pool.join()
    assert lane.openness is OPEN
    assert pool.sharing.give_up(waiting, 0.0) is None
    assert lane.openness is LEAVING


def test_when_a_borrower_gives_up_requests_behind_him_get_places_at_once() -> None:
    """On the connection that was to be his."""
    pool = SharedPool(max_size=1, pipeline=4)
    pool.ask()
    lane = pool.open_shared()
    borrower = pool.join()
    waiting = pool.ask()
    assert (waiting.lane, lane.openness) == (None, LEAVING)
    pool.machine.abandon(borrower, 0.0)
    assert (waiting.lane, lane.openness) == (lane, OPEN)


def test_what_was_not_sent_is_taken_out_and_what_was_keeps_its_place() -> None:
    """Giving up a request that was sent leaves it in flight until its reply was read."""
    pool = SharedPool(max_size=1, pipeline=3)
    first = pool.ask()
    lane = pool.open_shared()
    second, third = pool.ask(), pool.ask()
    waiting = pool.ask()
    assert pool.sharing.give_up(second, 0) is lane
    assert second.lane is None
    assert waiting.lane is lane, "its place is given to the next"
    assert pool.sharing.take_batch(lane, 0, 0) == [first, third, waiting]
    assert pool.sharing.give_up(third, 0) is lane
    assert third.abandoned
    assert lane.load == 3
    assert [pool.answer(lane) for _ in range(3)] == [first, third, waiting]
    assert pool.facts().idle == 1


def test_a_batch_is_cut_and_a_larger_request_goes_alone() -> None:
    """At most 256 KiB are written at once, unless one request alone is larger."""
    pool = SharedPool(max_size=1, pipeline=9)
    requests = [b"a" * 100, b"b" * (BATCH_BYTES - 100), b"c", b"d" * (BATCH_BYTES + 1), b"e"]
    pool.ask(requests[0])
    lane = pool.open_shared()
    for request in requests[1:]:
        pool.ask(request)
    batches = [pool.sharing.take_batch(lane, 0, 0) for _ in range(4)]
    sent = [[place.request for place in batch] for batch in batches]
    assert sent == [requests[:2], [b"c"], [requests[3]], [b"e"]]


def test_when_a_connection_fails_what_was_not_sent_goes_to_another_one() -> None:
    """What was owed a reply has failed; the others stand in line again, before those who came."""
    pool = SharedPool(max_size=1, pipeline=3)
    first = pool.ask()
    lane = pool.open_shared()
    pool.sharing.take_batch(lane, 0, 0)
    second, third, late = pool.ask(), pool.ask(), pool.ask()
    assert late.lane is None
    assert pool.sharing.dissolve(lane, 0) == [first]
    pool.machine.release(lane.entry, 0, CloseReason.UNCLEAN)
    assert [*pool.machine.line.waiters] == [second, third, late]
    pool.close()
    other = pool.open_shared()
    assert [*other.unsent] == [second, third, late]


def test_a_new_connection_that_comes_to_nothing_fails_one_request() -> None:
    """If nothing could be sent on it, the first request has failed, or it would go on for ever."""
    pool = SharedPool(max_size=1, pipeline=3)
    first = pool.ask()
    second = pool.ask()
    lane = pool.open_shared()
    assert pool.sharing.dissolve(lane, 0) == [first]
    assert second.lane is None
    assert not first.sent
    # One that was used before was only found dead too late.
    pool.machine.release(lane.entry, 0, CloseReason.UNCLEAN)
    pool.close()
    lane = pool.open_shared()
    third = pool.ask()
    assert pool.answer(lane) is second
    assert pool.sharing.dissolve(lane, 0) == [] if not third.sent else [third]


def test_a_request_meets_a_hundred_dead_connections_at_most() -> None:
    """Then it fails, although nothing of it was ever sent."""
    pool = SharedPool(max_size=1, pipeline=3)
    pool.ask()
    lane = pool.open_shared()
    pool.sharing.take_batch(lane, 0, 0)
    unlucky = pool.ask()
    moves = 0
    while unlucky not in pool.sharing.dissolve(lane, 0):
        moves += 1
        pool.machine.release(lane.entry, 0, CloseReason.UNCLEAN)
        pool.close()
        lane = pool.open_shared()
        # It counts as used before, so that its end is no failure to connect.
        lane.entry.borrows += 1
    assert moves == 100


@pytest.mark.parametrize("how", ["retire", "lifetime", "uses"])
def test_a_busy_connection_that_is_worn_finishes_and_is_closed(how: str) -> None:
    """It takes no new requests after retire(), its lifetime, or its last use."""
    limits = {"lifetime": {"max_lifetime": 9.0}, "uses": {"max_uses": 2}}.get(how, {})
    pool = SharedPool(max_size=1, pipeline=4, **limits)  # type: ignore[arg-type]
    pool.ask()
    lane = pool.open_shared()
    pool.ask()
    now = 10.0 if how == "lifetime" else 1.0
    if how == "retire":
        pool.machine.retire(now)
    late = pool.ask(now=now)
    assert late.lane is None
    assert lane.openness is WORN
    for _ in range(2):
        pool.answer(lane, now=now)
    assert lane.entry.state is State.CLOSING
    pool.close(now=now)
    assert pool.open_shared(now=now).entry is not lane.entry
    assert late.lane is not None


def test_what_is_retired_over_some_time_and_shared_meanwhile_takes_one_request() -> None:
    """It is closed when it comes back, so a stream of requests must not keep it."""
    pool = SharedPool(max_size=2, pipeline=4)
    pool.ask()
    soon = pool.open_shared()
    pool.ask()
    lane = pool.open_shared()
    for each in (soon, lane):
        pool.answer(each)
    # The time of the first is now.
    pool.machine.retire(1, None, 10)
    assert pool.ask(now=1).lane is lane
    assert pool.ask(now=1).lane is None
    assert lane.openness is WORN
    pool.answer(lane, now=1)
    assert lane.entry.close_reason is CloseReason.RETIRED


def test_a_lowered_maximum_has_the_surplus_leave() -> None:
    """One of two shared connections takes no new requests, finishes, and is closed."""
    pool = SharedPool(max_size=2, pipeline=4)
    pool.ask()
    busy = pool.open_shared()
    pool.ask()
    quiet = pool.open_shared()
    pool.ask()
    pool.machine.resize(1, 0)
    assert (busy.openness, quiet.openness) == (OPEN, LEAVING)
    pool.answer(quiet)
    assert quiet.entry.state is State.CLOSING
    assert quiet.entry.close_reason is CloseReason.SURPLUS


def test_a_surplus_connection_that_is_worn_leaves_by_itself() -> None:
    """Nothing else has to, for the same surplus."""
    pool = SharedPool(max_size=2, pipeline=4)
    pool.ask()
    first = pool.open_shared()
    pool.ask()
    second = pool.open_shared()
    pool.sharing.pipeline.wear_out(first)
    pool.machine.resize(1, 0.0)
    assert second.openness is OPEN
    pool.machine.resize(2, 0.0)
    assert second.openness is OPEN


def test_a_connection_that_is_silent_has_stalled() -> None:
    """If replies are owed and no byte has come for stall_timeout; a byte starts it anew."""
    pool = SharedPool(max_size=1, pipeline=4, stall_timeout=5.0)
    pipeline = pool.sharing.pipeline
    pool.ask()
    lane = pool.open_shared()
    assert pipeline.next_stall() == math.inf, "nothing is owed yet"
    pool.sharing.take_batch(lane, 0, 1.0)
    pool.ask(now=2.0)
    pool.sharing.take_batch(lane, 0, 2.0)
    assert pipeline.next_stall() == 6.0, "what is sent later changes nothing"
    lane.heard_at = 3.0
    assert not pipeline.stalled(7.9)
    assert pipeline.stalled(8.0) == [lane]


def test_the_end_refuses_who_waits_and_lets_finish_what_is_in_flight() -> None:
    """Requests that wait get the error at once; those that have a place go on."""
    pool = SharedPool(max_size=1, pipeline=2)
    first = pool.ask()
    lane = pool.open_shared()
    pool.ask()
    waiting = pool.ask()
    drained: list[bool] = []
    pool.machine.end(lambda: OSError("ended"), lambda: drained.append(True))
    assert isinstance(waiting.error, OSError)
    assert first.lane is lane
    for _ in range(2):
        pool.answer(lane)
    assert drained
    assert lane.entry.close_reason is CloseReason.POOL_CLOSED


class Member:
    """A pool of a manager whose connections are shared."""

    def __init__(self, limit: SharedLimit[int], settings: Settings) -> None:
        slots = SetSlots(settings.max_size)
        self.machine: SharedPoolStateMachine[int] = SharedPoolStateMachine(
            settings, slots, lambda: None, limit, jitter=lambda: 0.0
        )

    def ask(self) -> Place[int]:
        assert self.machine.sharing is not None
        place: Place[int] = Place(lambda: None, b"?")
        if self.machine.sharing.place(place, 0) is None:
            assert self.machine.join(place, 0)
        return place

    def borrow(self) -> Waiter[int]:
        waiter: Waiter[int] = Waiter(lambda: None)
        assert self.machine.join(waiter, 0)
        return waiter

    def carry_out(self) -> None:
        """Open and close what is to be opened and closed."""
        while self.machine.actions:
            action, entry = self.machine.actions.popleft()
            if action is Action.OPEN:
                entry.transport = 1
                entry.look = lambda: Liveness.ALIVE
                self.machine.opened(entry, 0)
            elif action is Action.CLOSE:
                self.machine.closed(entry, 0)

    def answer(self, lane: Lane[int]) -> None:
        assert self.machine.sharing is not None
        self.machine.sharing.take_batch(lane, 0, 0)
        lane.owed.popleft().lane = None
        self.machine.sharing.replied(lane, 1, 0, 0)
        if self.machine.sharing.end(lane):
            self.machine.release(lane.entry, 0, None)


def test_a_stream_to_one_remote_makes_way_for_another_remotes_waiter() -> None:
    """With max_total in use, a shared connection finishes and is closed for who waits elsewhere."""
    limit: SharedLimit[int] = SharedLimit(1)
    settings = make_settings(max_size=4, pipeline=4)
    busy, other = Member(limit, settings), Member(limit, settings)
    first = busy.ask()
    busy.carry_out()
    lane = first.lane
    assert lane is not None
    assert busy.ask().lane is lane, "there is no room for a connection of its own"
    waiter = other.borrow()
    late = busy.ask()
    assert late.lane is None
    for _ in range(2):
        busy.answer(lane)
    assert lane.entry.close_reason is CloseReason.GAVE_WAY
    busy.carry_out()
    other.carry_out()
    assert waiter.entry is not None
    other.machine.release(waiter.entry, 0, None)
    other.carry_out()
    busy.carry_out()
    assert late.lane is not None, "and the other way round"


def test_what_was_not_sent_takes_what_is_idle() -> None:
    """A request whose connection fails goes on at once, although others are idle or opened."""
    pool = SharedPool(max_size=3, pipeline=2)
    lanes: list[Lane[int]] = []
    for _ in range(3):
        pool.ask()
        lanes.append(pool.open_shared())
    for lane in lanes:
        pool.answer(lane)
    moved = [pool.ask(), pool.ask()]
    first, second = moved[0].lane, moved[1].lane
    assert first is not None
    assert second is not None
    assert pool.sharing.dissolve(second, 0.0) == []
    pool.machine.release(second.entry, 0.0, CloseReason.UNCLEAN)
    assert moved[1].lane not in (None, second)
    pool.sharing.move_unsent(first, 0.0)
    assert moved[0].lane is moved[1].lane, "nothing is idle"
    facts = pool.machine.statistics()
    assert (facts.idle, facts.in_use, facts.closed) == (0, 2, {})


@pytest.mark.parametrize("max_waiting", [0, 1])
def test_in_a_manager_those_who_share_do_not_count_as_waiting_either(max_waiting: int) -> None:
    """Those behind them do, and those who wait for the room that they take."""
    limit: SharedLimit[int] = SharedLimit(1)
    settings = make_settings(max_size=4, pipeline=4, max_waiting=max_waiting)
    one, two = Member(limit, settings), Member(limit, settings)
    for _ in range(4 + max_waiting):
        one.ask()
    for _ in range(max_waiting):
        two.ask()
    for member in (one, two):
        assert not member.machine.join(Place(lambda: None, b"?"), 0)


def test_a_stream_makes_way_whatever_was_to_make_way_before() -> None:
    """What has left for others already is not counted again: the stream's own has to leave."""
    limit: SharedLimit[int] = SharedLimit(1)
    settings = make_settings(max_size=4, pipeline=4)
    one, two = Member(limit, settings), Member(limit, settings)
    first = two.ask()
    two.carry_out()
    # Two are denied, and there is one connection that can leave.
    borrowers = [one.borrow(), one.borrow()]
    assert limit.yielding == 1
    stream = one.ask()
    assert first.lane is not None
    two.answer(first.lane)
    two.carry_out()
    one.carry_out()
    last = two.borrow()
    for borrower in borrowers:
        assert borrower.entry is not None
        one.machine.release(borrower.entry, 0, None)
    placed = stream.lane is not None
    assert placed
    for _ in range(8):
        one.ask()
        if stream.lane is not None:
            one.answer(stream.lane)
    one.carry_out()
    two.carry_out()
    assert last.entry is not None, "nobody is starved by requests that come after him"


def test_a_shared_connection_of_a_manager_goes_on_when_nobody_needs_its_room() -> None:
    """What was to make way takes requests again if the one who waited is gone."""
    limit: SharedLimit[int] = SharedLimit(1)
    settings = make_settings(max_size=4, pipeline=4)
    busy, other = Member(limit, settings), Member(limit, settings)
    first = busy.ask()
    busy.carry_out()
    waiter = other.borrow()
    assert first.lane is not None
    assert first.lane.openness is LEAVING
    other.machine.abandon(waiter, 0)
    assert first.lane.openness is OPEN
    assert busy.ask().lane is first.lane


def test_in_a_managers_pool_that_is_full_itself_a_stream_makes_way() -> None:
    """The manager sees to it that there is room only for as many as the pool may have."""
    limit: SharedLimit[int] = SharedLimit(8)
    one = Member(limit, make_settings(max_size=2, pipeline=4))
    first = one.ask()
    one.carry_out()
    assert first.lane is not None
    waiters = [one.borrow()]
    assert first.lane.openness is OPEN, "there is room for one more"
    waiters += [one.borrow()]
    assert first.lane.openness is LEAVING
    one.carry_out()
    one.answer(first.lane)
    assert None not in [waiter.entry for waiter in waiters]


def test_what_gives_way_in_another_pool_makes_room_for_a_borrower() -> None:
    """So his own pool's shared connection goes on."""
    limit: SharedLimit[int] = SharedLimit(2)
    settings = make_settings(max_size=4, pipeline=2)
    one, two = Member(limit, settings), Member(limit, settings)
    first = one.ask()
    one.carry_out()
    former = two.borrow()
    two.carry_out()
    assert former.entry is not None
    two.machine.release(former.entry, 0, None)
    one.borrow()
    assert first.lane is not None
    assert (limit.closing, first.lane.openness) == (1, OPEN)


def test_where_no_replica_can_be_tried_a_stream_of_a_manager_makes_way() -> None:
    """Room alone opens no connection for a borrower while an attempt may hang."""
    limit: SharedLimit[int] = SharedLimit(8)
    one = Member(limit, make_settings(max_size=4, pipeline=4))
    replica = Replica("a", None, "a", "a")
    health = Health(lambda failures: 1.0, 1.0)
    health.update([replica], 0.0)
    one.machine.use_replicas(health)
    first = one.ask()
    one.carry_out()
    assert first.lane is not None
    failing: PoolEntry[int] = PoolEntry(0)
    health.begin(failing, replica)
    health.fail(failing, OSError("refused"), 0.0)
    one.borrow()
    assert (replica.attempts, first.lane.openness) == (1, OPEN)
    one.borrow()
    assert (replica.attempts, first.lane.openness) == (1, LEAVING)


def test_what_a_manager_closes_already_makes_room_for_a_borrower() -> None:
    """No shared connection has to leave for him besides."""
    limit: SharedLimit[int] = SharedLimit(2)
    settings = make_settings(max_size=4, pipeline=2)
    one, two = Member(limit, settings), Member(limit, settings)
    first = one.ask()
    one.carry_out()
    former = two.borrow()
    two.carry_out()
    assert former.entry is not None
    two.machine.release(former.entry, 0, CloseReason.UNCLEAN)
    two.borrow()
    assert first.lane is not None
    assert (limit.closing, limit.yielding, first.lane.openness) == (1, 0, OPEN)


def test_requests_that_wait_for_a_place_have_no_connection_of_a_manager_leave() -> None:
    """They get places when replies come: to wait for a connection of their own takes longer."""
    limit: SharedLimit[int] = SharedLimit(1)
    one = Member(limit, make_settings(max_size=4, pipeline=2))
    first = one.ask()
    one.carry_out()
    one.ask()
    third = one.ask()
    assert first.lane is not None
    assert (third.lane, first.lane.openness, limit.yielding) == (None, OPEN, 0)
    one.answer(first.lane)
    assert third.lane is not None


def test_a_borrower_of_a_manager_prefers_its_own_remotes_connection() -> None:
    """Where its own pool shares one, that one leaves, and goes to him as it is."""
    limit: SharedLimit[int] = SharedLimit(2)
    settings = make_settings(max_size=4, pipeline=4)
    one, two = Member(limit, settings), Member(limit, settings)
    for member in (one, two):
        member.ask()
        member.carry_out()
    two.ask()
    waiter = two.borrow()
    assert two.machine.sharing is not None
    (lane,) = two.machine.sharing.pipeline.lanes
    assert lane.openness is LEAVING
    for _ in range(2):
        two.answer(lane)
    assert waiter.entry is lane.entry


def test_a_shared_connection_of_a_manager_leaves_for_who_waits_out_a_pause() -> None:
    """As in a pool of its own: nothing is on its way for him, although there is room."""
    limit: SharedLimit[int] = SharedLimit(4)
    settings = make_settings(max_size=4, pipeline=4, connect_retry=Retry(math.inf))
    member = Member(limit, settings)
    member.ask()
    member.carry_out()
    assert member.machine.sharing is not None
    (lane,) = member.machine.sharing.pipeline.lanes
    waiter = member.borrow()
    action, attempt = member.machine.actions.popleft()
    assert (action, lane.openness) == (Action.OPEN, OPEN)
    member.machine.open_failed(attempt, OSError("refused"), 0, 10.0)
    assert lane.openness is LEAVING
    member.answer(lane)
    assert waiter.entry is lane.entry


def test_a_connection_has_stalled_when_it_was_said_to() -> None:
    """However the sum is rounded: else the alarm rings again and again for nothing."""
    heard_at, timeout = 0.1, 0.4
    assert heard_at > (heard_at + timeout) - timeout
    pool = SharedPool(max_size=1, pipeline=4, stall_timeout=timeout)
    pool.ask()
    lane = pool.open_shared()
    pool.sharing.take_batch(lane, 0, heard_at)
    pipeline = pool.sharing.pipeline
    assert pipeline.stalled(pipeline.next_stall()) == [lane]
