"""Who waits for a connection, in order, and how many of them something is on its way for.

The rules:

- What is under way belongs to nobody: whatever becomes available goes to whoever has waited
  longest. So those for whom nothing is under way are the last in line, and counting is enough.
- What has been under way for a tenth of a second may hang. Then an attempt counts for those only
  who waited when it began, and a check for nobody.
- A failure to connect concerns those who may rely on the attempt in that moment.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Generic

from anyconnpool._core.states import PoolEntry, TransportT, Waiter

# So long, in seconds, everybody may rely on what is under way.
_PATIENCE = 0.1


class WaitingLine(Generic[TransportT]):
    """Count for how many of the tasks that wait nothing is under way."""

    def __init__(self) -> None:
        self.waiters: OrderedDict[Waiter[TransportT], None] = OrderedDict()
        #: what everybody may rely on, and the attempts that may hang; the oldest first
        self._fresh: dict[PoolEntry[TransportT], None] = {}
        self._slow: dict[PoolEntry[TransportT], None] = {}
        #: how many waiters rely on the slow ones; None if that has to be counted again
        self._relying: int | None = 0

    def join(self, waiter: Waiter[TransportT]) -> None:
        """Put a task at the end of the line; it relies on no slow attempt."""
        self.waiters[waiter] = None

    def leave(self, waiter: Waiter[TransportT]) -> None:
        """Take a task out of the line, wherever it stands."""
        self.waiters.pop(waiter, None)
        self._relying = None

    def pop(self) -> Waiter[TransportT]:
        """Take the task out of the line that has waited longest."""
        waiter, _ = self.waiters.popitem(last=False)
        self._relying = None
        return waiter

    def begin(
        self, entry: PoolEntry[TransportT], now: float, newest: int | None = None
    ) -> None:
        """Take note that an entry is under way.

        :param newest: number of the newest waiter who may rely on it however long it takes
        """
        entry.begun_for = newest
        entry.slow_at = now + _PATIENCE
        self._fresh[entry] = None

    def concerned(self, entry: PoolEntry[TransportT]) -> Iterator[Waiter[TransportT]]:
        """Yield those who may rely on an attempt that is under way, in order."""
        if entry in self._fresh:
            return iter(self.waiters)
        return takewhile(entry.is_for, self.waiters)

    def end(self, entry: PoolEntry[TransportT]) -> None:
        """Take note that an entry is not under way any more."""
        if entry in self._fresh:
            del self._fresh[entry]
        elif entry in self._slow:
            del self._slow[entry]
            self._relying = None

    def pass_time(self, now: float) -> None:
        """Let everybody rely no longer on what has been under way for too long."""
        while self._fresh:
            entry = next(iter(self._fresh))
            if entry.slow_at > now:
                break
            del self._fresh[entry]
            if entry.begun_for is not None:
                self._slow[entry] = None
                self._relying = None

    def recount_at(self) -> float:
        """Return when somebody in line may have nothing to rely on any more."""
        return next(iter(self._fresh)).slow_at if self.waiters and self._fresh else math.inf

    def provided(self) -> int:
        """Return for how many something is under way: they are the first in line."""
        relying = self._relying
        if relying is None:
            relying = self._relying = self._count_relying()
        return min(relying + len(self._fresh), len(self.waiters))

    def needy(self) -> int:
        """Return for how many nothing is under way: they are the last in line."""
        return len(self.waiters) - self.provided()

    def in_need(self) -> Iterator[Waiter[TransportT]]:
        """Yield those for whom nothing is under way, in order."""
        provided = self.provided()
        needy = len(self.waiters) - provided
        # From the end where fewer have to be passed.
        if needy < provided:
            return reversed(list(islice(reversed(self.waiters), needy)))
        return islice(self.waiters, provided, None)

    def has_spare(self) -> bool:
        """Return whether a newcomer may rely on something that nobody else needs."""
        return self.provided() < (self._relying or 0) + len(self._fresh)

    def provides_for(self, waiter: Waiter[TransportT]) -> bool:
        """Return whether a task may rely on anything that is under way, whoever else does."""
        return bool(self._fresh) or bool(self._slow and next(reversed(self._slow)).is_for(waiter))

    def _count_relying(self) -> int:
        # Whoever waited when an attempt began was before all who came later: the slow attempts
        # stand in the order of their numbers. One that is too old for the first who still has
        # nothing is too old for all after it, for good.
        waiters = iter(self.waiters)
        waiter = next(waiters, None)
        relying = 0
        for entry in self._slow:
            if waiter is not None and entry.is_for(waiter):
                relying += 1
                waiter = next(waiters, None)
        return relying
