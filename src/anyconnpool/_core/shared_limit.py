"""How the pools of a manager share one maximum of sockets, in one fair order of waiters.

These are the rules that :class:`SharedPoolStateMachine` adds to those of the pool's own machine:

- A connection is opened for a waiter only by the shared limit, for the waiter that has waited
  longest of all that need one and whose pool has room.
- When the limit is reached, the connection of all pools that was idle longest gives way: one for
  each that is needed and that no closing connection makes room for already.
- A connection that becomes available gives way, too, if somebody who needs room has waited longer
  than everybody who waits for that connection, and no closing connection makes room already.
- Idle connections are refilled only into room that no waiter needs.
- An attempt of a pool's own, while it fails fast, stands in line like a waiter from when it is due.
- What closes slowly is hurried if somebody needs its room, in whatever pool.

The cost of an event grows with the number of closing connections and, by a logarithm, with the
number of pools; it doesn't grow with the number of waiters.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush, merge
from itertools import count, islice, takewhile
from typing import TYPE_CHECKING, Generic

from anyconnpool._core.connection_group import ConnectionGroup
from anyconnpool._core.event_lock import EventLock, LockedEvent
from anyconnpool._core.hooks import HookRules, Verdict
from anyconnpool._core.idle_connections import RestNumbers
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import Action, PoolEntry, Slots, State, TransportT, Waiter
from anyconnpool._core.supply import Steps, Supply
from anyconnpool._core.waiting_line import WaitingLine
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason

if TYPE_CHECKING:
    from collections.abc import Iterator


class SharedLimit(Generic[TransportT]):
    """Count the connections of several machines, and decide who opens the next one.

    :param max_total: most connections of all of them together
    """

    def __init__(self, max_total: float) -> None:
        self.total = 0
        self.closing = 0
        #: the idle connections of all machines, the longest idle first
        self.idle: OrderedDict[PoolEntry[TransportT], SharedPoolStateMachine[TransportT]] = (
            OrderedDict()
        )
        #: those of all machines that are being closed and take their time for it
        self.graceful: OrderedDict[PoolEntry[TransportT], SharedPoolStateMachine[TransportT]] = (
            OrderedDict()
        )
        #: those whose connections are shared, and how many of these have to leave for whoever
        #: needs room, in whatever pool
        self.sharing: dict[SharedPoolStateMachine[TransportT], None] = {}
        self.yielding = 0
        #: those in which requests that wait may get places now
        self.unsettled: dict[SharedPoolStateMachine[TransportT], None] = {}
        #: numbers the waiters and the attempts of all
        self.numbers = count()
        #: numbers what becomes idle, of all
        self.rests = RestNumbers()
        #: the time of the latest event
        self.now = 0.0
        #: the lock of all machines: an event of one changes what those of the others read
        self.event_lock = EventLock()
        self._max_total = max_total
        # A heap of the numbers of the members' first waiters in need. A number may be out of date,
        # then it is too small: it is corrected when it comes to the top.
        self._line: list[tuple[float, SharedPoolStateMachine[TransportT]]] = []
        self._listed: dict[SharedPoolStateMachine[TransportT], float] = {}
        self._event = LockedEvent(self.event_lock, self.event_lock.catch_up)

    def enlist(self, member: SharedPoolStateMachine[TransportT]) -> None:
        """Note that a member may have a waiter in need that is older than the one known."""
        number = next(member.needy(), math.inf)
        if number < self._listed.get(member, math.inf):
            self._listed[member] = number
            heappush(self._line, (number, member))

    def forget(self, member: SharedPoolStateMachine[TransportT]) -> None:
        """Let no connection of a member leave any more for others: it has ended."""
        self.yielding -= member.yields
        self.sharing.pop(member, None)
        self.unsettled.pop(member, None)

    def has_room(self) -> bool:
        """Return whether a connection may be opened without another one giving way."""
        return self.total < self._max_total

    def has_spare_room(self) -> bool:
        """Return whether there is room that no waiter needs."""
        return self.has_room() and self._neediest() is None

    def is_in_full_use(self) -> bool:
        """Return whether one more waiter would have to wait until somebody releases one."""
        if self.has_room() or self.idle:
            return False
        return not self.closing or self._need(self.closing - 1) < math.inf

    def claims(self, number: float) -> bool:
        """Return whether a connection has to give way to somebody who has waited longer.

        :param number: the number of the waiter who could use the connection otherwise
        """
        return not self.has_room() and self._need(self.closing) < number

    def share(self) -> None:
        """Open connections for those who have waited longest; make room for them if need be."""
        changed: dict[SharedPoolStateMachine[TransportT], None] = {}
        try:
            with self._event:
                while (member := self._neediest()) is not None:
                    if self.has_room():
                        changed[member] = None
                        member.open_for_waiter()
                        continue
                    if self.idle and self.claims(math.inf):
                        member = next(iter(self.idle.values()))
                        changed[member] = None
                        member.give_way()
                    elif self.graceful and self._need(self.closing - len(self.graceful)) < math.inf:
                        member = next(iter(self.graceful.values()))
                        changed[member] = None
                        member.hurry()
                    else:
                        break
                if self.sharing:
                    self._let_share(changed)
        finally:
            for member in changed:
                member.act()

    def _let_share(self, changed: dict[SharedPoolStateMachine[TransportT], None]) -> None:
        """Have shared connections leave for those who need room, and give places to requests.

        :param changed: gets the members in which something changes
        """
        # Who gets a place needs no room any more.
        self._settle(changed)
        if self.yielding:
            self._take_back_yields()
        denied = 0
        if not self.has_room():
            denied = sum(member.count_denied() for member in self._listed) - self.closing
        while denied > self.yielding:
            member = self._choose_sharer()
            if member is None:
                break
            self.yielding += 1
            member.yields += 1
            # At once: then it shows which connections are left.
            self.unsettled[member] = None
            self._settle(changed)
        while self.yielding > max(denied, 0):
            member = next(member for member in self.sharing if member.yields)
            self.yielding -= 1
            member.yields -= 1
            self.unsettled[member] = None
        self._settle(changed)

    def _take_back_yields(self) -> None:
        """Rely no longer on connections that are shared no more, or leave for another reason."""
        for member in self.sharing:
            gone = member.yields - member.count_shared()
            if gone > 0:
                self.yielding -= gone
                member.yields -= gone

    def _settle(self, changed: dict[SharedPoolStateMachine[TransportT], None]) -> None:
        """Give places to those who may have one now."""
        while self.unsettled:
            member, _ = self.unsettled.popitem()
            changed[member] = None
            member.settle()

    def _choose_sharer(self) -> SharedPoolStateMachine[TransportT] | None:
        """Return the member that has the shared connection with the fewest in flight."""
        for member in [member for member in self.sharing if not member.shares()]:
            if not member.yields:
                del self.sharing[member]
        # Best is a connection to the remote that somebody needs one to.
        neediest = self._neediest()
        if neediest in self.sharing and neediest.least_load() < math.inf:
            return neediest
        loads = ((member.least_load(), number) for number, member in enumerate(self.sharing))
        load, number = min(loads, default=(math.inf, 0))
        return [*self.sharing][number] if load < math.inf else None

    def _neediest(self) -> SharedPoolStateMachine[TransportT] | None:
        """Return the member whose waiter in need has waited longest, if any needs room."""
        while self._line:
            number, member = self._line[0]
            if next(member.needy(), math.inf) == number:
                return member
            heappop(self._line)
            if self._listed.get(member) == number:
                del self._listed[member]
                self.enlist(member)
        return None

    def _need(self, index: int) -> float:
        """Return the number of the waiter in need at an index; infinity if there is none."""
        first: dict[SharedPoolStateMachine[TransportT], float] = {}
        while len(first) <= index and (member := self._neediest()) is not None:
            first[member], _ = heappop(self._line)
        for member, number in first.items():
            heappush(self._line, (number, member))
        numbers = merge(*(member.needy() for member in first))
        return next(islice(numbers, index, None), math.inf)


class SharedConnectionGroup(ConnectionGroup[TransportT]):
    """A pool's connections, which count for a limit that it shares with other pools."""

    def __init__(
        self,
        slots: Slots,
        settings: Settings,
        machine: SharedPoolStateMachine[TransportT],
        shared_limit: SharedLimit[TransportT],
    ) -> None:
        super().__init__(slots, settings)
        self._machine = machine
        self._shared_limit = shared_limit
        self.idle.numbers = shared_limit.rests
        self.grants_plainly = self.rests_plainly = False

    def open(self) -> PoolEntry[TransportT]:
        self._shared_limit.total += 1
        return super().open()

    def move(self, entry: PoolEntry[TransportT], state: State) -> None:
        shared_limit = self._shared_limit
        shared_limit.closing += (state is State.CLOSING) - (entry.state is State.CLOSING)
        if entry.state is State.IDLE:
            del shared_limit.idle[entry]
        super().move(entry, state)

    def close(self, entry: PoolEntry[TransportT], reason: CloseReason) -> None:
        super().close(entry, reason)
        if entry in self.graceful:
            self._shared_limit.graceful[entry] = self._machine

    def hurry(self) -> PoolEntry[TransportT]:
        entry = super().hurry()
        del self._shared_limit.graceful[entry]
        return entry

    def forget(self, entry: PoolEntry[TransportT]) -> None:
        self._shared_limit.total -= 1
        self._shared_limit.graceful.pop(entry, None)
        super().forget(entry)


class SharedSupply(Supply[TransportT]):
    """What a pool has opened that shares a limit: for those who wait, the limit decides.

    :param machine: the pool's machine
    :param shared_limit: what it shares with those of other pools
    """

    def __init__(
        self,
        settings: Settings,
        group: ConnectionGroup[TransportT],
        line: WaitingLine[TransportT],
        hooks: HookRules[TransportT],
        steps: Steps[TransportT],
        numbers: Iterator[int],
        *,
        machine: SharedPoolStateMachine[TransportT],
        shared_limit: SharedLimit[TransportT],
    ) -> None:
        super().__init__(settings, group, line, hooks, steps, numbers)
        self._machine = machine
        self._shared_limit = shared_limit
        #: whether nobody has asked for so long that the pool opens nothing by itself any more
        self.is_dormant = False

    def balance(self, now: float) -> None:
        """Refill where nobody needs the room more; the shared limit opens for waiters."""
        group, line, shared_limit = self.group, self.line, self._shared_limit
        if group.ended:
            return
        shared_limit.now = now
        self.is_dormant = self.is_dormant and not (line.waiters or line.watchers)
        if self.replicas is not None:
            self.replicas.tend(now)
        line.pass_time(now)
        if group.retirement.plan or line.outage.since is not None:
            self.keep_time(now)
        shared_limit.enlist(self._machine)
        while (
            group.size < group.max_size
            and self.missing_idle() > 0
            and shared_limit.has_spare_room()
        ):
            self.open_one(now)
        self.make_room()
        self.steps.set_alarm(line.next_change())
        self.steps.note_due()
        if self._machine.sharing is not None:
            # When it is known for whom the limit opens connections.
            shared_limit.unsettled[self._machine] = None

    def has_room(self) -> bool:
        """Return whether a connection may be opened without another one being closed."""
        return super().has_room() and self._shared_limit.has_room()

    def needs_room(self) -> bool:
        """Return whether somebody waits for whom a connection could be opened if there was room."""
        return super().needs_room() or self._shared_limit.claims(math.inf)

    def may_open(self) -> bool:
        """Return whether the pool may open a connection by itself."""
        has_room = super().may_open() and self._shared_limit.has_spare_room()
        return has_room and not self.is_dormant

    def missing_idle(self) -> int:
        """Count the idle connections that are missing, beyond those under way for nobody."""
        return 0 if self.is_dormant else super().missing_idle()

    def promised(self) -> int:
        """Return for how many of those who wait the shared limit sees to it that there is room."""
        # Not for those who wait until a pause is over, or until max_connecting allows more.
        return int(max(min(self.wanted(), self.group.max_size - self.group.size), 0))

    def make_room(self) -> None:
        """Have idle connections give way; for waiters where the limit is reached, that sees to it.

        Nobody but this pool itself waits for the attempts of replicas whose rest is over.
        """
        super().make_room()
        group, replicas = self.group, self.replicas
        if replicas is not None and group.size < group.max_size:
            while replicas.lacking > group.freeing() and group.idle:
                self.steps.close_oldest(CloseReason.GAVE_WAY)

    def may_wait(self, now: float, newcomer: Waiter[TransportT]) -> bool:
        """Return whether one more task may wait for a slot."""
        line, shared_limit = self.line, self._shared_limit
        line.pass_time(now)
        # Here they wait for room, too, that other pools have.
        shared_limit.enlist(self._machine)
        sharing, spare = self.count_sharing(line.provided())
        if newcomer.shares and spare > 0:
            return True
        if line.needy() - sharing >= self._max_waiting and shared_limit.is_in_full_use():
            return line.outage.fails_fast or line.has_spare()
        return super().may_wait(now, newcomer)


class SharedPoolStateMachine(PoolStateMachine[TransportT]):
    """A pool's machine that shares a limit with those of other pools."""

    def __init__(
        self,
        settings: Settings,
        slots: Slots,
        run_actions: Callable[[], object],
        shared_limit: SharedLimit[TransportT],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._shared_limit = shared_limit
        super().__init__(
            settings,
            slots,
            run_actions,
            jitter=jitter,
            event_lock=shared_limit.event_lock,
            numbers=shared_limit.numbers,
        )
        if self.sharing is not None:
            # Not before it is known for whom the limit opens connections.
            self.supply.settle = None
            self.sharing.on_begin = lambda: shared_limit.sharing.setdefault(self)
        # A pool of a manager is dropped when nobody asks for it.
        self.line.outage.longest_unasked = settings.max_idle_time

    def _make_group(self, slots: Slots) -> ConnectionGroup[TransportT]:
        return SharedConnectionGroup(slots, self._settings, self, self._shared_limit)

    def _make_supply(self, steps: Steps[TransportT]) -> Supply[TransportT]:
        return SharedSupply(
            self._settings,
            self._group,
            self.line,
            self._hooks,
            steps,
            self._numbers,
            machine=self,
            shared_limit=self._shared_limit,
        )

    def end(self, error: Callable[[], Exception], drained: Callable[[], object]) -> None:
        super().end(error, drained)
        if self.sharing is not None:
            # A manager's pools come and go.
            self._shared_limit.forget(self)
            self.yields = 0

    def is_wanted(self) -> bool:
        """Return whether somebody waits, or anything is open that somebody has used or may use.

        Not what the pool has opened by itself for its replicas, as long as nobody has used it.
        """
        with self.event_lock.lock:
            if self._waiters or self._watchers:
                return True
            if not self._group.any_open():
                return False
            if self._group.in_use() or self._group.passing[State.CHECKING]:
                return True
            idle = (entry for entry in self._idle.entries if entry.state is State.IDLE)
            return any(entry.borrows or not entry.own for entry in idle)

    def give_up(self, now: float) -> None:
        """Open nothing by itself until somebody asks again, since nobody has asked for long.

        What is under way is interrupted, and what was never used is closed.
        """
        supply = self.supply
        assert isinstance(supply, SharedSupply)
        with self._event:
            supply.is_dormant = True
            for entry in self.line.under_way():
                self._request(Action.INTERRUPT, entry)
            while self._close_oldest(CloseReason.IDLE_TIME):
                pass

    def needy(self) -> Iterator[int]:
        """Yield the numbers of the waiters for whom there is room here and nothing under way."""
        room = min(self.supply.wanted(), self._group.max_size - self._group.size)
        return islice(self.line.first_in_need(), int(room)) if room > 0 else iter(())

    def open_for_waiter(self) -> None:
        """Have a connection opened for the waiter that has waited longest: a step of sharing."""
        self.supply.open_one(self._shared_limit.now)
        self.supply.make_room()

    def count_denied(self) -> int:
        """Count those for whom there is room here, and who can't share a connection meanwhile."""
        count = int(max(min(self.supply.wanted(), self._group.max_size - self._group.size), 0))
        if self.shares():
            count = min(count, len(self._waiters) - len(self.line.sharers))
        return count

    def give_way(self) -> None:
        """Have the connection closed that was idle longest, to make room: a step of sharing."""
        self._close_oldest(CloseReason.GAVE_WAY)
        self.supply.balance(self._shared_limit.now)

    def hurry(self) -> None:
        """Have the connection closed at once that has been closing longest: a step of sharing."""
        self._request(Action.HURRY, self._group.hurry())

    @property
    def yields(self) -> int:
        """How many shared connections leave for whoever needs room."""
        return 0 if self.sharing is None else self.sharing.yielding

    @yields.setter
    def yields(self, count: int) -> None:
        assert self.sharing is not None
        self.sharing.yielding = count

    def shares(self) -> bool:
        """Return whether any connection is shared."""
        return self.sharing is not None and bool(self.sharing.pipeline.lanes)

    def count_shared(self) -> int:
        """Count the shared connections, except those that will never take new requests."""
        if self.sharing is None:
            return 0
        return len(self.sharing.pipeline.lanes) - self.sharing.pipeline.worn

    def least_load(self) -> float:
        """Return how many are in flight on the open connection that has the fewest."""
        lane = None if self.sharing is None else self.sharing.pipeline.least_loaded()
        return math.inf if lane is None else lane.load

    def settle(self) -> None:
        """Give places to requests that wait: a step of sharing."""
        if self.sharing is not None:
            self.sharing.settle(self._shared_limit.now)

    def act(self) -> None:
        """Run the actions that sharing has led to here."""
        super()._finish_event()

    def _route(self, entry: PoolEntry[TransportT], now: float, verdict: Verdict) -> None:
        first = next(iter(self._waiters)).number if self._waiters else math.inf
        good = verdict is None or isinstance(verdict, Action)
        if good and self._shared_limit.claims(first):
            verdict = CloseReason.GAVE_WAY
        super()._route(entry, now, verdict)

    def _finish_event(self) -> None:
        due = self._due
        super()._finish_event()
        if due:
            self._shared_limit.share()

    def _make_idle(self, entry: PoolEntry[TransportT], now: float) -> None:
        super()._make_idle(entry, now)
        idle = self._shared_limit.idle
        # After a hook it returns to its place.
        number = entry.idle_number
        newer = list(takewhile(lambda other: other.idle_number > number, reversed(idle)))
        idle[entry] = self
        for other in reversed(newer):
            idle.move_to_end(other)

    def _grant(self, entry: PoolEntry[TransportT], now: float) -> None:
        if entry.state is State.IDLE:
            del self._shared_limit.idle[entry]
        super()._grant(entry, now)
