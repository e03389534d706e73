"""What interrupts a machine in its own thread, or forks, finds no lock that it would wait for."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import cast

import pytest

import anyconnpool
from anyconnpool._core.event_lock import EventLock
from anyconnpool._core.shared_limit import SharedLimit, SharedPoolStateMachine
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import Action, PoolEntry, State, Waiter
from anyconnpool._statistics import CloseReason
from anyconnpool._util import locks
from anyconnpool._util.liveness import Liveness
from tests.cases import table

from .interrupter import Interrupter
from .machine_fakes import Pool, SetSlots, make_settings

_CORE = os.fspath(Path(anyconnpool.__file__).parent / "_core")

Machine = PoolStateMachine[int]


class Story:
    """Two machines that have connections in each state, and go through all kinds of events.

    :param shared: whether they share a limit
    """

    def __init__(self, *, shared: bool) -> None:
        self.actions: list[tuple[Action, PoolEntry[int], Machine]] = []
        self.slots: dict[Machine, SetSlots] = {}
        limit = SharedLimit[int](5) if shared else None
        self.first, self.second = (self._make(limit) for _ in range(2))
        self.woken: list[Waiter[int]] = []
        # They come back in the middle of an event.
        self.held = [self._borrow(self.first), self._borrow(self.second), self._borrow(self.first)]
        self.ghost = self._borrow(self.first)
        self.first.release(self.ghost, 0, None)

    def _make(self, limit: SharedLimit[int] | None) -> Machine:
        settings = make_settings(max_size=4, max_waiting=9)
        slots = SetSlots(4)

        def run_actions() -> None:
            while machine.actions:
                self.actions.append((*machine.actions.popleft(), machine))

        machine: Machine = (
            PoolStateMachine(settings, slots, run_actions)
            if limit is None
            else SharedPoolStateMachine(settings, slots, run_actions, limit)
        )
        self.slots[machine] = slots
        return machine

    def _join(self, machine: Machine) -> Waiter[int]:
        waiter: Waiter[int] = Waiter(lambda: self.woken.append(waiter))
        assert machine.join(waiter, 0)
        return waiter

    def _borrow(self, machine: Machine) -> PoolEntry[int]:
        waiter = self._join(machine)
        self.act()
        assert waiter.entry is not None
        return waiter.entry

    def act(self) -> None:
        """Open and close what is asked for."""
        while self.actions:
            action, entry, machine = self.actions.pop(0)
            if action is Action.OPEN:
                entry.transport = 1
                entry.look = lambda: Liveness.ALIVE
                machine.opened(entry, 0)
            elif action is Action.CLOSE:
                machine.closed(entry, 0)

    def play(self) -> None:
        """Have events of many kinds take place."""
        first, second = self.first, self.second
        self.ghost.look = lambda: Liveness.CLOSED
        first.notice(self.ghost, 0)
        lent = first.acquire(0)
        waiters = [self._join(machine) for machine in (first, second, second, first, second)]
        self.act()
        if lent is not None:
            first.release(lent, 0, None)
        first.abandon(waiters[0], 0)
        for machine in (first, second):
            machine.look_over(0, 9, 0)
            machine.reap(0, 9)
            machine.next_expiry()
            machine.refill(0)
        self.act()
        second.retire(0)
        first.resize(2, 0)
        first.resize(4, 0)
        self.act()
        for waiter, machine in zip(waiters[1:], (second, second, first, second), strict=True):
            assert waiter.entry is not None
            machine.release(waiter.entry, 0, None)
            self.act()

    def interrupt(self) -> None:
        """Do what finalizers and signal handlers do."""
        for machine in (self.first, self.second):
            facts = machine.statistics()
            figures = (facts.idle, facts.in_use, facts.connecting, facts.closing)
            assert min(figures) >= 0
            assert facts.size == sum(figures)
        self.first.release(self.held[0], 0, CloseReason.DISCARDED)
        self.second.release(self.held[1], 0, None)
        assert self.first.detach(self.held[2], 0)
        self.second.retire(0)
        acquired = self.second.acquire(0)
        if acquired is not None:
            self.second.release(acquired, 0, None)

    def check(self) -> None:
        """Check what must hold when all events are over."""
        self.act()
        for machine, slots in self.slots.items():
            facts = machine.statistics()
            states = [cast("PoolEntry[int]", entry).state for entry in slots.borrowers]
            assert states.count(State.IDLE) == facts.idle
            assert facts.size == len(states) == facts.idle, states
            assert facts.opened == facts.idle + sum(facts.closed.values())
            assert not machine.event_lock.busy
            assert not machine.event_lock.postponed
            assert not machine.actions
        assert self.held[0].state is State.GONE
        assert self.held[2].close_reason is CloseReason.DETACHED
        assert self.first.statistics().closed["detached"] == 1


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_an_event_can_be_interrupted_at_any_line(shared: bool, long_form: bool) -> None:
    """Statistics are told, releases and the like wait until the event is over, nothing is lost.

    The long form interrupts at each step, the short form at each line three times.
    """
    whole = Interrupter(_CORE, 0, bool)
    whole.run(Story(shared=shared).play)
    struck: Counter[object] = Counter()
    for step, place in enumerate(whole.places, 1):
        struck[place] += 1
        if struck[place] > 3 and not long_form:
            continue
        story = Story(shared=shared)
        try:
            Interrupter(_CORE, step, story.interrupt).run(story.play)
            story.check()
        except BaseException as error:
            raise AssertionError(f"interrupted at {place}, step {step}") from error
    assert len(struck) > 150


def test_a_crowd_of_interruptions_is_worked_off_one_by_one() -> None:
    """A thousand borrowers collected in the middle of one event don't stand on each other."""
    pool = Pool(max_size=2001)
    held = [pool.borrow() for _ in range(2000)]
    last = pool.borrow()
    pool.machine.release(last, 0, None)

    def collect() -> Liveness:
        for entry in held:
            pool.machine.release(entry, 0, None)
        assert pool.machine.statistics().in_use == 2000
        return Liveness.ALIVE

    last.look = collect
    assert pool.machine.acquire(0) is last
    assert pool.machine.statistics().idle == 2000


def test_another_thread_reads_when_an_event_is_over() -> None:
    """It waits for the end, and sees nothing half made."""
    pool, seen = Pool(max_size=1), list[int]()
    entry = pool.borrow()
    waiter = pool.join()
    reader = threading.Thread(target=lambda: seen.append(pool.machine.statistics().tasks_waiting))

    def look() -> Liveness:
        reader.start()
        reader.join(0.2)
        assert reader.is_alive()
        return Liveness.ALIVE

    entry.look = look
    pool.machine.release(entry, 0, None)
    assert waiter.entry is entry
    reader.join(30)
    assert seen == [0]


def test_another_thread_need_not_wait_for_a_plain_borrow() -> None:
    """The look takes no lock, and until it is over nothing has changed."""
    pool, seen = Pool(), list[int]()
    entry = pool.borrow()
    pool.machine.release(entry, 0, None)

    def look() -> Liveness:
        reader = threading.Thread(target=lambda: seen.append(pool.machine.statistics().in_use))
        reader.start()
        reader.join(30)
        return Liveness.ALIVE

    entry.look = look
    assert pool.machine.acquire(0) is entry
    assert seen == [0]


class PlainBorrow:
    """A borrow that takes the short way, or its end, and what is read of it.

    :param ends: whether it is the end
    """

    def __init__(self, *, ends: bool) -> None:
        self.machine = (pool := Pool()).machine
        self._entry = pool.borrow()
        self._ends = True
        self.happen()
        self._ends = ends
        if ends:
            assert self.machine.acquire(0) is self._entry
        self.seen = [self.machine.statistics()]

    def happen(self) -> None:
        """Borrow the connection, or give it back."""
        if self._ends:
            self.machine.release(self._entry, 0, None)
        else:
            assert self.machine.acquire(0) is self._entry

    def read(self) -> None:
        """Read the statistics."""
        self.seen.append(self.machine.statistics())


@table("ends", [False, True])
def test_no_half_of_a_plain_borrow_can_be_read(ends: bool) -> None:
    """At each line: a borrow that is counted and idle still looks like one that has come back."""
    whole = Interrupter(_CORE, 0, bool)
    whole.run(PlainBorrow(ends=ends).happen)
    for step, place in enumerate(whole.places, 1):
        borrow = PlainBorrow(ends=ends)
        Interrupter(_CORE, step, borrow.read).run(borrow.happen)
        borrow.read()
        before, read, after = borrow.seen
        assert before.in_use != after.in_use
        counted = replace(before, acquired=after.acquired, reused=after.reused)
        assert read in (before, counted, after), place
    assert len(whole.places) > 15


@table("ends", [False, True])
def test_a_plain_borrow_in_the_middle_of_a_reading_spoils_no_figure(ends: bool) -> None:
    """Another thread reads line by line, and the pool's own doesn't wait for it."""
    whole = Interrupter(_CORE, 0, bool)
    whole.run(PlainBorrow(ends=ends).read)
    for step, place in enumerate(whole.places, 1):
        borrow = PlainBorrow(ends=ends)
        Interrupter(_CORE, step, borrow.happen).run(borrow.read)
        _, read = borrow.seen
        assert (read.idle, read.in_use) in ((0, 1), (1, 0)), place
    assert len(whole.places) > 15


# Windows: where nothing can be forked, no child meets a lock.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_that_is_forked_in_the_middle_of_an_event_can_read() -> None:
    """Another thread of the parent had the lock; in the child there is nobody to release it."""
    pool = Pool(max_size=1)
    entry = pool.borrow()
    pool.join()
    looked, forking = threading.Event(), threading.Event()

    def look() -> Liveness:
        looked.set()
        # Nobody sets it until the fork is over: whoever forks has to wait for this event's end.
        forking.wait(0.2)
        return Liveness.ALIVE

    entry.look = look
    thread = threading.Thread(target=pool.machine.release, args=(entry, 0, None))
    thread.start()
    looked.wait()
    child = os.fork()
    if not child:
        signal.alarm(5)
        os._exit(pool.machine.statistics().tasks_waiting)
    forking.set()
    thread.join()
    _, status = os.waitpid(child, 0)
    assert status == 0


# As above.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_in_the_middle_of_an_event_of_its_own_thread() -> None:
    """In parent and child alike, the event goes on to its end."""
    pool = Pool()
    [entry] = pool.idle(1)
    children: list[int] = []

    def look() -> Liveness:
        children.append(os.fork())
        return Liveness.ALIVE

    entry.look = look
    acquired = pool.machine.acquire(0)
    if not children[0]:
        os._exit(0 if acquired is entry and pool.machine.statistics().in_use == 1 else 1)
    _, status = os.waitpid(children[0], 0)
    assert status == 0
    assert acquired is entry


def test_a_lock_that_is_gone_is_no_longer_kept() -> None:
    """Nothing remembers the lock of a pool that nobody has any more."""
    known_locks: dict[object, None] = attrgetter("_locks")(locks)
    known = len(known_locks)
    lock = EventLock()
    assert len(known_locks) == known + 1
    del lock
    assert len(known_locks) == known
