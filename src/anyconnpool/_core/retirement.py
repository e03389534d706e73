"""When the idle connections are closed that ``retire()`` has chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Generic

from anyconnpool._core.states import IDLE, PoolEntry, TransportT


class Retirement(Generic[TransportT]):
    """Spread the closing of idle connections over some time.

    What is lent before its time needs no more attention here: it is closed when it comes back.
    """

    def __init__(self) -> None:
        #: a heap of when to close which ones
        self.plan: list[tuple[float, int, PoolEntry[TransportT]]] = []
        self._numbers = count()

    def add(
        self,
        entries: Sequence[PoolEntry[TransportT]],
        now: float,
        within: float,
        jitter: Callable[[], float],
    ) -> None:
        """Plan when to close some idle connections.

        Each has a part of the time for itself and ends at any moment of it: the processes of a
        fleet that all do this at once, with one connection each, don't reconnect at once.

        :param within: over how many seconds to spread it
        :param jitter: returns a random number from 0 to 1
        """
        for place, entry in enumerate(entries):
            at = now + within * (place + jitter()) / len(entries)
            heappush(self.plan, (at, next(self._numbers), entry))

    def due(self, now: float) -> Iterator[PoolEntry[TransportT]]:
        """Take out and yield the idle ones whose time has come."""
        while self.next_change() <= now:
            yield heappop(self.plan)[2]

    def next_change(self) -> float:
        """Return when the next one has to be closed."""
        plan = self.plan
        while plan and plan[0][2].state is not IDLE:
            heappop(plan)
        return plan[0][0] if plan else math.inf
