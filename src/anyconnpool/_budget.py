"""How the pools of a manager share one maximum of sockets, in one fair order of waiters.

The rules, which :class:`SharingLedger` adds to those of the ledger:

- A connection is opened for a waiter only by the budget, for the waiter that has waited longest of
  all that need one and whose pool has room.
- When the budget is used up, the longest idle connection of all pools gives way: one for each that
  is needed and that no closing connection makes room for already.
- A connection that becomes available gives way, too, if somebody who needs room has waited longer
  than everybody who waits for that connection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import merge
from itertools import count, islice
from typing import TYPE_CHECKING, Generic

from anyconnpool._books import Slots
from anyconnpool._entry import Entry, Link, Liveness, Order, State, Waiter
from anyconnpool._ledger import Ledger
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason

if TYPE_CHECKING:
    from collections.abc import Iterator


class Budget(Generic[Link]):
    """Count the connections of several ledgers, and decide who opens the next one.

    :param max_total: most connections of all of them together
    """

    def __init__(self, max_total: float) -> None:
        self.total = 0
        self.closing = 0
        self._max_total = max_total
        self._numbers = count()
        self._members: dict[SharingLedger[Link], Callable[[], None]] = {}
        self._settling = False

    def join(self, member: SharingLedger[Link], carry_out: Callable[[], None]) -> None:
        """Take a ledger in.

        :param carry_out: carries out its orders
        """
        self._members[member] = carry_out

    def leave(self, member: SharingLedger[Link]) -> None:
        """Forget a ledger that will open nothing more; what it has open still counts."""
        self._members.pop(member, None)

    def next_number(self) -> int:
        """Return the place of a new waiter in the order of all."""
        return next(self._numbers)

    def has_room(self) -> bool:
        """Tell whether a connection may be opened without another one giving way."""
        return self.total < self._max_total

    def has_spare_room(self) -> bool:
        """Tell whether there is room that no waiter needs."""
        return self.has_room() and self._neediest() is None

    def claims(self, number: float) -> bool:
        """Tell whether room is needed by somebody who has waited longer.

        :param number: the place in the order of whoever could use the connection otherwise
        """
        if self.has_room():
            return False
        waiting = merge(*(member.needy() for member in self._members))
        return next(islice(waiting, self.closing, None), math.inf) < number

    def settle(self) -> None:
        """Open connections for those who have waited longest; make room for them if need be."""
        if self._settling:
            return
        self._settling = True
        try:
            while (member := self._neediest()) is not None:
                if self.has_room():
                    member.open_for_waiter()
                else:
                    member = self._longest_idle()
                    if member is None or not self.claims(math.inf):
                        break
                    member.give_way()
                self._members[member]()
        finally:
            self._settling = False

    def _neediest(self) -> SharingLedger[Link] | None:
        first = {member: next(member.needy(), math.inf) for member in self._members}
        member = min(first, key=first.__getitem__, default=None)
        return member if member is not None and first[member] < math.inf else None

    def _longest_idle(self) -> SharingLedger[Link] | None:
        since = {member: member.idle_since() for member in self._members}
        member = min(since, key=since.__getitem__, default=None)
        return member if member is not None and since[member] < math.inf else None


class SharingLedger(Ledger[Link]):
    """A ledger that shares a budget with others."""

    def __init__(
        self,
        settings: Settings,
        slots: Slots,
        inspect: Callable[[Entry[Link]], Liveness],
        budget: Budget[Link],
    ) -> None:
        super().__init__(settings, slots, inspect)
        self._budget = budget

    def shut(self, error: Callable[[], Exception], drained: Callable[[], object]) -> None:
        """Lend nothing more, and leave the budget to the others."""
        super().shut(error, drained)
        self._budget.leave(self)

    def settle(self) -> None:
        """Have the budget decide who opens what."""
        self._budget.settle()

    def needy(self) -> Iterator[int]:
        """Yield the places of the waiters for whom there is room here and nothing under way."""
        under_way = self._population[State.OPENING] + self._population[State.CHECKING]
        room = max(self._max_size - self._size, 0)
        end = None if room == math.inf else under_way + int(room)
        return (waiter.number for waiter in islice(self._waiters, under_way, end))

    def idle_since(self) -> float:
        """Return since when the longest idle connection is idle, infinity if none is."""
        return self._idle[0].idle_since if self._idle else math.inf

    def open_for_waiter(self) -> None:
        """Order a connection for the waiter that has waited longest."""
        with self._lock:
            self._order_open()

    def give_way(self) -> None:
        """Order the longest idle connection to be closed, to make room for another pool's."""
        with self._lock:
            self._remove(self._idle.popleft(), CloseReason.GAVE_WAY)

    def join(self, waiter: Waiter[Link]) -> bool:
        """Put a task in line, with its place in the order of all."""
        waiter.number = self._budget.next_number()
        return super().join(waiter)

    def _place(
        self, entry: Entry[Link], now: float, reason: CloseReason | None, unsure: bool
    ) -> None:
        first = next(iter(self._waiters)).number if self._waiters else math.inf
        if reason is None and self._budget.claims(first):
            reason = CloseReason.GAVE_WAY
        super()._place(entry, now, reason, unsure)

    def _balance(self) -> None:
        """Refill where nobody needs the room more; the budget opens for waiters."""
        if self._drained is not None:
            return
        population = self._population
        unserved = len(self._waiters) - population[State.OPENING] - population[State.CHECKING]
        missing = self._missing() - max(unserved, 0)
        while missing > 0 and self._size < self._max_size and self._budget.has_spare_room():
            self._order_open()
            missing -= 1
        self.orders.append((Order.SHARE, None))

    def _order_open(self) -> None:
        super()._order_open()
        self._budget.total += 1

    def _leave(self, entry: Entry[Link]) -> None:
        self._budget.total -= 1
        super()._leave(entry)

    def _move(self, entry: Entry[Link], state: State) -> None:
        self._budget.closing += (state is State.CLOSING) - (entry.state is State.CLOSING)
        super()._move(entry, state)
