"""Which idle connections are checked while nobody asks for one: ``check_every``."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Generic

from anyconnpool._core.states import IDLE, PoolEntry, TransportT
from anyconnpool._core.waiting_line import WaitingLine

_MOST_CHECKS = 4


class BackgroundChecks(Generic[TransportT]):
    """Choose the idle connections that are checked while nobody asks for them.

    :param every: how long one has to rest before it is checked, in seconds
    """

    def __init__(self, every: float) -> None:
        self.every = every
        # What has rested longest is first; some are not idle any more. With it, since when.
        self._resting: OrderedDict[PoolEntry[TransportT], float] = OrderedDict()
        #: what is being checked, and whether that was interrupted; the first to begin comes first
        self.under_way: dict[PoolEntry[TransportT], bool] = {}

    def rest(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Take note that a connection is idle; what was never used is not checked."""
        since = entry.rested_since
        if not entry.borrows or self._resting.get(entry) == since:
            return
        self._resting[entry] = since
        # One is due already if on_unread was at work on it when its time came.
        self._resting.move_to_end(entry, last=now < since + self.every)

    def forget(self, entry: PoolEntry[TransportT]) -> None:
        """Take note that a connection is closed."""
        self._resting.pop(entry, None)

    def next_at(self) -> float:
        """Return when :meth:`take` has the next one; infinity if that isn't known yet."""
        resting = self._resting
        while resting:
            entry = next(iter(resting))
            if entry.state is IDLE:
                full = len(self.under_way) >= _MOST_CHECKS
                return math.inf if full else entry.rested_since + self.every
            del resting[entry]
        return math.inf

    def take(self, now: float) -> PoolEntry[TransportT] | None:
        """Return an idle connection that is to be checked now, if there is one."""
        if self.next_at() > now:
            return None
        entry, _ = self._resting.popitem(last=False)
        self.under_way[entry] = False
        return entry

    def end(self, entry: PoolEntry[TransportT]) -> bool:
        """Take note that a hook has ended; return whether it was interrupted to make room."""
        return self.under_way.pop(entry, False)

    def interrupt(self, count: float, line: WaitingLine[TransportT]) -> list[PoolEntry[TransportT]]:
        """Choose those that are to be interrupted: what may hang, the longest under way first."""
        chosen: list[PoolEntry[TransportT]] = []
        count -= sum(self.under_way.values())
        for entry, interrupted in self.under_way.items():
            if len(chosen) < count and not interrupted and not line.is_fresh(entry):
                chosen.append(entry)
        self.under_way.update(dict.fromkeys(chosen, True))
        return chosen
