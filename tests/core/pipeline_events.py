"""All that can happen to a machine whose connections are shared, and what holds after each event.

The model is naive: for each shared connection a list of what is in flight on it. Where requests may
go, and which connections have to leave, is said by rules that look at everything there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from anyconnpool._core.pipeline import LEAVING, OPEN, WORN, Lane, Place
from anyconnpool._core.sharing import Sharing
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import Action, PoolEntry, State, Waiter
from anyconnpool._statistics import CloseReason, PoolStatistics
from anyconnpool._util.liveness import Liveness

from .machine_fakes import SetSlots, make_settings

Method = TypeVar("Method", bound=Callable[..., None])

PICKS = st.integers(0, 11)
EVENTS: list[st.SearchStrategy[tuple[str, dict[str, Any]]]] = []
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "max_size": st.sampled_from([1, 1, 2, 3]),
    "min_idle": st.sampled_from([0, 0, 1]),
    "pipeline": st.sampled_from([2, 2, 3, 5]),
    "max_uses": st.sampled_from([math.inf, math.inf, 3]),
    "max_connecting": st.sampled_from([math.inf, math.inf, 1]),
}


def event(*, often: int = 1, **arguments: st.SearchStrategy[Any]) -> Callable[[Method], Method]:
    """Make a method an event."""

    def add(method: Method) -> Method:
        strategy = st.tuples(st.just(method.__name__), st.fixed_dictionaries(arguments))
        EVENTS.extend([strategy] * often)
        return method

    return add


class PipelineEvents(RuleBasedStateMachine):
    """Do everything that can happen, and check the rules after it."""

    @initialize(chosen=st.fixed_dictionaries(SETTINGS))
    def enter(self, chosen: dict[str, Any]) -> None:
        chosen["min_idle"] = min(chosen["min_idle"], chosen["max_size"])
        self.settings = make_settings(**chosen)
        self.slots = SetSlots(self.settings.max_size)
        self.machine = self.make_machine()
        assert self.machine.sharing is not None
        self.sharing: Sharing[int] = self.machine.sharing
        self.now = 0.0
        self.orders: dict[Action, list[PoolEntry[int]]] = {
            Action.OPEN: [],
            Action.CLOSE: [],
        }
        #: what is in flight on each shared connection, in order
        self.in_flight: dict[Lane[int], list[Place[int]]] = {}
        #: who waits, and who has what
        self.waiting: list[Waiter[int]] = []
        self.borrowers: dict[Waiter[int], PoolEntry[int]] = {}
        self.failed: list[Waiter[int]] = []
        self.ended = False
        self.left: set[Lane[int]] = set()
        self.closed_to_requests: set[Lane[int]] = set()
        self.prepare()
        self.machine.refill(self.now)

    def make_machine(self) -> PoolStateMachine[int]:
        return PoolStateMachine(self.settings, self.slots, lambda: None, jitter=lambda: 0.5)

    def prepare(self) -> None:
        """Do what comes before anything is opened."""

    # What the tasks of a pool do.

    @event(often=6, count=st.integers(1, 4))
    def request(self, count: int) -> None:
        if self.ended:
            return
        for _ in range(count):
            place: Place[int] = Place(lambda: None, b"xyz")
            may_open = bool(self.machine.statistics().idle) or self.machine.supply.has_room()
            least = self._least()
            lane = self.sharing.place(place, self.now)
            # To look for something idle may have changed something for others, who come first.
            self._take_up()
            if lane is None:
                assert self.machine.join(place, self.now)
                self.waiting.append(place)
            elif lane not in self.in_flight:
                self.in_flight[lane] = [place]
            else:
                assert not may_open, "nobody shares while there are enough connections"
                assert len(self.in_flight[lane]) == least
                self.in_flight[lane].append(place)
            self.settle()

    @event(often=2)
    def borrow(self) -> None:
        if self.ended:
            return
        entry = self.machine.acquire(self.now)
        waiter: Waiter[int] = Waiter(lambda: None)
        if entry is not None:
            self.borrowers[waiter] = entry
        else:
            assert self.machine.join(waiter, self.now)
            self.waiting.append(waiter)

    @event(often=3, pick=PICKS)
    def send(self, pick: int) -> None:
        lanes = [lane for lane in self.in_flight if lane.unsent]
        if lanes:
            lane = lanes[pick % len(lanes)]
            unsent = [place for place in self.in_flight[lane] if not place.sent]
            assert self.sharing.take_batch(lane, 7, self.now) == unsent
            assert all(place.sent and place.floor == 7 for place in unsent)

    @event(often=5, pick=PICKS, count=st.integers(1, 4))
    def reply(self, pick: int, count: int) -> None:
        lanes = [lane for lane in self.in_flight if lane.owed]
        if not lanes:
            return
        lane = lanes[pick % len(lanes)]
        count = min(count, len(lane.owed))
        dropped = 0
        for _ in range(count):
            place = lane.owed.popleft()
            assert place is self.in_flight[lane].pop(0), "replies belong to requests in order"
            place.lane = None
            dropped += place.abandoned
        self.sharing.replied(lane, count, dropped, self.now)
        self.settle()
        self._give_back_if_empty(lane)

    def _give_back_if_empty(self, lane: Lane[int]) -> None:
        ends = self.sharing.end(lane)
        assert ends is (not self.in_flight[lane])
        if ends:
            del self.in_flight[lane]
            self.machine.release(lane.entry, self.now, None)

    @event(often=2, pick=PICKS)
    def give_up(self, pick: int) -> None:
        places = [place for places in self.in_flight.values() for place in places]
        waiters = [*self.waiting, *places]
        if not waiters:
            return
        waiter = waiters[pick % len(waiters)]
        if not isinstance(waiter, Place):
            self.waiting.remove(waiter)
            self.machine.abandon(waiter, self.now)
            return
        lane = self.sharing.give_up(waiter, self.now)
        if lane is None:
            self.waiting.remove(waiter)
        elif waiter.sent:
            assert waiter.abandoned
        else:
            self.in_flight[lane].remove(waiter)
            self.settle()
            self._give_back_if_empty(lane)

    @event(often=3, pick=PICKS, good=st.booleans())
    def give_back(self, pick: int, good: bool = True) -> None:
        if self.borrowers:
            waiter = list(self.borrowers)[pick % len(self.borrowers)]
            entry = self.borrowers.pop(waiter)
            self.machine.release(entry, self.now, None if good else CloseReason.UNCLEAN)

    @event(pick=PICKS)
    def fail(self, pick: int) -> None:
        """A connection ends under those who share it."""
        if not self.in_flight:
            return
        lane = list(self.in_flight)[pick % len(self.in_flight)]
        places = self.in_flight.pop(lane)
        fresh = lane.entry.borrows == len(places)
        failed = self.sharing.dissolve(lane, self.now)
        unsent = [place for place in places if not place.sent]
        expected = [place for place in places if place.sent]
        if not expected and fresh:
            expected, unsent = unsent[:1], unsent[1:]
        if self.ended:
            expected, unsent = expected + unsent, []
        assert failed == expected
        self._return(unsent)
        self.machine.release(lane.entry, self.now, CloseReason.UNCLEAN)

    @event(pick=PICKS)
    def fail_to_send(self, pick: int) -> None:
        lanes = list(self.in_flight)
        if lanes:
            lane = lanes[pick % len(lanes)]
            unsent = [place for place in self.in_flight[lane] if not place.sent]
            self.sharing.move_unsent(lane, self.now)
            if not self.ended:
                self.in_flight[lane] = [place for place in self.in_flight[lane] if place.sent]
                self._return(unsent)
                self.settle()
            assert lane.openness is WORN
            self._give_back_if_empty(lane)

    def _return(self, places: list[Place[int]]) -> None:
        """Requests of which nothing was sent stand where their numbers say."""
        self.waiting = sorted([*self.waiting, *places], key=lambda waiter: waiter.number)

    # What becomes of connections.

    @event(often=3, pick=PICKS, well=st.sampled_from([True, True, True, False]))
    def open(self, pick: int, well: bool = True) -> None:
        opening = self.orders[Action.OPEN]
        if not opening:
            return
        entry = opening.pop(pick % len(opening))
        if well:
            entry.transport = 1
            entry.look = lambda: Liveness.ALIVE
            self.machine.opened(entry, self.now)
        else:
            self.machine.open_failed(entry, OSError("refused"), self.now, None)

    @event(often=2, pick=PICKS)
    def close(self, pick: int) -> None:
        closing = self.orders[Action.CLOSE]
        if closing:
            self.machine.closed(closing.pop(pick % len(closing)), self.now)

    @event(seconds=st.sampled_from([0.05, 0.2, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.machine.alarm_at <= self.now:
            self.machine.tick(self.now)

    @event()
    def retire(self) -> None:
        self.machine.retire(self.now)
        assert all(lane.openness is WORN for lane in self.in_flight)

    @event(max_size=st.sampled_from([1, 2, 3]))
    def resize(self, max_size: int) -> None:
        self.machine.resize(max(max_size, self.settings.min_idle), self.now)

    @event(really=st.sampled_from([False] * 9 + [True]))
    def end(self, really: bool = True) -> None:
        if really and not self.ended:
            self.ended = True
            self.machine.end(lambda: OSError("the block has ended"), lambda: None)
            assert all(lane.openness is WORN for lane in self.in_flight)

    # What holds.

    def _least(self) -> int | None:
        loads = [len(p) for lane, p in self.in_flight.items() if lane.openness is OPEN]
        return min(loads, default=None)

    @invariant()
    def settle(self) -> None:
        """Find out who has got what, and check the rules."""
        self._check_places(self._take_up())
        if not self.ended:
            self._check_line()
        self.left = {lane for lane in self.in_flight if lane.openness is not OPEN}
        self.closed_to_requests = {lane for lane in self.in_flight if lane.openness is WORN}

    def _take_up(self) -> list[Lane[int]]:
        """Find out who has got what; return the connections that have got requests."""
        while self.machine.actions:
            action, entry = self.machine.actions.popleft()
            if action in self.orders:
                self.orders[action].append(entry)
        newly: list[Lane[int]] = []
        closed = self.closed_to_requests.intersection(self.in_flight)
        for waiter in [*self.waiting]:
            lane = waiter.lane if isinstance(waiter, Place) else None
            if lane is None and waiter.entry is None and waiter.error is None:
                continue
            older = self.waiting[: self.waiting.index(waiter)]
            self.waiting.remove(waiter)
            if waiter.error is not None:
                self.failed.append(waiter)
            elif isinstance(waiter, Place):
                assert lane is not None
                assert lane not in closed
                self.in_flight.setdefault(lane, []).append(waiter)
                newly.append(lane)
            else:
                assert waiter.entry is not None
                assert all(isinstance(other, Place) for other in older), "first come, first served"
                self.borrowers[waiter] = waiter.entry
        return newly

    def _check_places(self, newly: list[Lane[int]]) -> None:
        pipeline = self.sharing.pipeline
        assert set(pipeline.lanes) == set(self.in_flight)
        assert pipeline.in_flight == sum(map(len, self.in_flight.values()))
        assert self.machine.statistics().in_flight == pipeline.in_flight
        for lane, places in self.in_flight.items():
            assert [*lane.owed, *lane.unsent] == places
            assert all(place.lane is lane for place in places)
            assert lane.load == len(places) <= self.settings.pipeline
            assert lane.abandoned == len([place for place in places if place.abandoned])
            assert lane.entry.state is State.IN_USE
            # An exchange is a use.
            if lane.entry.borrows >= self.settings.max_uses:
                assert lane.openness is WORN
        assert set(pipeline.leaving) == {
            lane for lane in self.in_flight if lane.openness is LEAVING
        }
        assert pipeline.worn == len([lane for lane in self.in_flight if lane.openness is WORN])
        # One that has left for somebody until now is open again only after this event.
        was_open = [
            lane for lane in self.in_flight if lane.openness is OPEN and lane not in self.left
        ]
        least = min((lane.load for lane in was_open), default=None)
        for lane in newly:
            if lane.openness is OPEN and least is not None:
                assert lane.load - 1 <= least, "requests go where the fewest are"

    def check_order(self) -> PoolStatistics:
        """See that those stand in line who have to, and nobody else; return what there is."""
        line = self.machine.line
        assert [*line.waiters] == self.waiting
        assert [*line.sharers] == [w for w in self.waiting if isinstance(w, Place)]
        least = self._least()
        space = least is not None and least < self.settings.pipeline
        requests = [w for w in self.waiting[line.count_fresh() :] if isinstance(w, Place)]
        assert not (space and requests), "who may share has a place, if there is one"
        facts = self.machine.statistics()
        assert not (self.waiting and facts.idle), "nobody waits while something is idle"
        return facts

    def _check_line(self) -> None:
        line, facts = self.machine.line, self.check_order()
        freeing = facts.closing - max(facts.size - int(facts.max_size), 0)
        worn = self.sharing.pipeline.worn
        sure = line.provided() + max(freeing, 0) + worn
        needed = max(facts.size - facts.closing - int(facts.max_size) - worn, 0)
        for place, waiter in enumerate(self.waiting):
            if isinstance(waiter, Place):
                if place >= line.count_fresh():
                    break
            elif place >= sure:
                needed += 1
        leaving = len(self.sharing.pipeline.leaving)
        assert leaving == min(needed, len(self.in_flight) - worn), "as many leave as are needed"

    @rule(what=st.deferred(lambda: st.sampled_from(EVENTS).flatmap(lambda event: event)))
    def happens(self, what: tuple[str, dict[str, Any]]) -> None:
        name, arguments = what
        getattr(self, name)(**arguments)

    def teardown(self) -> None:
        """Whatever has happened, everybody gets an answer in the end."""
        if not hasattr(self, "machine"):
            return
        for _ in range(1000):
            self.settle()
            if not (self.waiting or self.in_flight or self.borrowers or any(self.orders.values())):
                break
            self.wait(0.2)
            self.settle()
            for step in (self.send, self.give_back, self.open, self.close):
                step(0)
                self.settle()
            self.reply(0, 4)
        assert not self.waiting, "nobody is forgotten"
        if not self.ended:
            self.end(True)
            self.settle()
        while any(self.orders.values()):
            self.close(0)
            self.settle()
            self.open(0)
            self.settle()
        assert not self.slots.borrowers
