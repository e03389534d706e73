"""How the pools of a manager share one maximum of sockets, in one fair order of waiters.

The rules, which :class:`SharedPoolStateMachine` adds to those of the machine:

- A connection is opened for a waiter only by the shared_limit, for the waiter that has waited longest of
  all that need one and whose pool has room.
- When the shared_limit is used up, the longest idle connection of all pools gives way: one for each that
  is needed and that no closing connection makes room for already.
- A connection that becomes available gives way, too, if somebody who needs room has waited longer
  than everybody who waits for that connection, and no closing connection makes room already.
- Idle connections are refilled only into room that no waiter needs.

The cost of an event grows with the number of closing connections and, by a logarithm, with the
number of pools; it doesn't grow with the number of waiters.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush, merge
from itertools import count, islice
from typing import TYPE_CHECKING, Generic

from anyconnpool._core.books import Slots
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import Action, Liveness, PoolEntry, State, TransportT, Waiter
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
        self._max_total = max_total
        self._numbers = count()
        self._members: dict[SharedPoolStateMachine[TransportT], Callable[[], None]] = {}
        # A heap of the places of the members' first waiters in need. An entry may be out of date,
        # but only too early: it is put right when it comes to the top.
        self._line: list[tuple[float, SharedPoolStateMachine[TransportT]]] = []
        self._listed: dict[SharedPoolStateMachine[TransportT], float] = {}
        self._settling = False

    def join(
        self, member: SharedPoolStateMachine[TransportT], run_actions: Callable[[], None]
    ) -> None:
        """Take a machine in.

        :param run_actions: carries out its actions
        """
        self._members[member] = run_actions

    def leave(self, member: SharedPoolStateMachine[TransportT]) -> None:
        """Forget a machine that will open nothing more; what it has open still counts."""
        self._members.pop(member, None)

    def next_number(self) -> int:
        """Return the place of a new waiter in the order of all."""
        return next(self._numbers)

    def enlist(self, member: SharedPoolStateMachine[TransportT]) -> None:
        """Take note that somebody may need room whose place comes before the one known."""
        number = next(member.needy(), math.inf)
        if number < self._listed.get(member, math.inf):
            self._listed[member] = number
            heappush(self._line, (number, member))

    def has_room(self) -> bool:
        """Tell whether a connection may be opened without another one giving way."""
        return self.total < self._max_total

    def has_spare_room(self) -> bool:
        """Tell whether there is room that no waiter needs."""
        return self.has_room() and self._neediest() is None

    def is_in_full_use(self) -> bool:
        """Tell whether one more waiter would have to wait until somebody gives back."""
        if self.has_room() or self.idle:
            return False
        return not self.closing or self._need(self.closing - 1) < math.inf

    def claims(self, number: float) -> bool:
        """Tell whether a connection has to give way to somebody who has waited longer.

        :param number: the place in the order of whoever could use the connection otherwise
        """
        return not self.has_room() and self._need(self.closing) < number

    def settle(self) -> None:
        """Open connections for those who have waited longest; make room for them if need be."""
        if self._settling:
            return
        self._settling = True
        try:
            while (member := self._neediest()) is not None:
                if self.has_room():
                    member.open_for_waiter()
                elif self.idle and self.claims(math.inf):
                    member = next(iter(self.idle.values()))
                    member.give_way()
                else:
                    break
                self._members[member]()
        finally:
            self._settling = False

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
        """Return the place of a waiter in need, counted from 0 on; infinity if there is none."""
        first: dict[SharedPoolStateMachine[TransportT], float] = {}
        while len(first) <= index and (member := self._neediest()) is not None:
            first[member], _ = heappop(self._line)
        for member, number in first.items():
            heappush(self._line, (number, member))
        places = merge(*(member.needy() for member in first))
        return next(islice(places, index, None), math.inf)


class SharedPoolStateMachine(PoolStateMachine[TransportT]):
    """A machine that shares a shared_limit with others."""

    def __init__(
        self,
        settings: Settings,
        slots: Slots,
        inspect: Callable[[PoolEntry[TransportT]], Liveness],
        shared_limit: SharedLimit[TransportT],
    ) -> None:
        super().__init__(settings, slots, inspect)
        self._shared_limit = shared_limit

    def shut(self, error: Callable[[], Exception], drained: Callable[[], object]) -> None:
        """Lend nothing more, and leave the shared_limit to the others."""
        super().shut(error, drained)
        self._shared_limit.leave(self)

    def settle(self) -> None:
        """Have the shared_limit decide who opens what."""
        self._shared_limit.settle()

    def needy(self) -> Iterator[int]:
        """Yield the places of the waiters for whom there is room here and nothing under way."""
        under_way = self._under_way()
        in_need = len(self._waiters) - under_way
        room = self._max_size - self._size
        if room <= 0 or in_need <= 0:
            return iter(())
        # Those in need are the last in line: from the end where fewer have to be passed.
        if in_need < under_way:
            line = reversed(list(islice(reversed(self._waiters), in_need)))
        else:
            line = islice(self._waiters, under_way, None)
        return (waiter.number for waiter in islice(line, None if room == math.inf else int(room)))

    def open_for_waiter(self) -> None:
        """Action a connection for the waiter that has waited longest."""
        with self._lock:
            self._order_open()

    def give_way(self) -> None:
        """Action the longest idle connection to be closed, to make room for another pool's."""
        with self._lock:
            self._remove(self._idle.popleft(), CloseReason.GAVE_WAY)

    def join(self, waiter: Waiter[TransportT]) -> bool:
        """Put a task in line, with its place in the order of all.

        :return: false if as many as may are waiting already, for a slot or for the others' room
        """
        waiting = len(self._waiters) - self._under_way()
        if waiting >= self._settings.max_waiting and self._shared_limit.is_in_full_use():
            return False
        waiter.number = self._shared_limit.next_number()
        return super().join(waiter)

    def _place(
        self, entry: PoolEntry[TransportT], now: float, reason: CloseReason | None, unsure: bool
    ) -> None:
        first = next(iter(self._waiters)).number if self._waiters else math.inf
        if reason is None and self._shared_limit.claims(first):
            reason = CloseReason.GAVE_WAY
        super()._place(entry, now, reason, unsure)

    def _balance(self) -> None:
        """Refill where nobody needs the room more; the shared_limit opens for waiters."""
        if self._drained is not None:
            return
        self._shared_limit.enlist(self)
        # Where waiters of this pool are among those missing, no room is to spare.
        missing = self._missing()
        while missing > 0 and self._size < self._max_size and self._shared_limit.has_spare_room():
            self._order_open()
            missing -= 1
        self.actions.append((Action.SHARE, None))

    def _order_open(self) -> None:
        super()._order_open()
        self._shared_limit.total += 1

    def _leave(self, entry: PoolEntry[TransportT]) -> None:
        self._shared_limit.total -= 1
        super()._leave(entry)

    def _move(self, entry: PoolEntry[TransportT], state: State) -> None:
        shared_limit = self._shared_limit
        shared_limit.closing += (state is State.CLOSING) - (entry.state is State.CLOSING)
        if entry.state is State.IDLE:
            del shared_limit.idle[entry]
        super()._move(entry, state)

    def _lay_down(self, entry: PoolEntry[TransportT], now: float) -> None:
        super()._lay_down(entry, now)
        self._shared_limit.idle[entry] = self

    def _lend(self, entry: PoolEntry[TransportT], now: float) -> None:
        if entry.state is State.IDLE:
            del self._shared_limit.idle[entry]
        super()._lend(entry, now)
