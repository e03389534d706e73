"""The idle connections of a pool, by how long they have been idle.

One that turns out dead leaves at once. It stays in the deque until somebody comes by, marked by
its state, so that a thousand deaths in one moment cost a thousand steps.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Generic

from anyconnpool._core.states import IDLE, IN_USE, PoolEntry, TransportT

_IDLE_NUMBER = attrgetter("idle_number")


class RestNumbers:
    """Count what becomes idle: many may do so in one moment, on a coarse clock."""

    __slots__ = ("latest",)

    def __init__(self) -> None:
        self.latest = 0


class IdleConnections(Generic[TransportT]):
    """Keep the idle entries, those first that have been idle longest.

    :param order: which is acquired next: "lifo", the one that was used last, or "fifo"
    """

    def __init__(self, order: str) -> None:
        entries: deque[PoolEntry[TransportT]] = deque()
        self.entries = entries
        #: where the one stands that is to be acquired next, and what takes it out
        self.next, self.pop = (-1, entries.pop) if order == "lifo" else (0, entries.popleft)
        self.numbers = RestNumbers()
        #: how many in the deque are idle no longer
        self.ghosts = 0
        #: for how long nothing has to be done with a connection that was used, in seconds
        self.longest_rest = math.inf

    def __len__(self) -> int:
        # Not negative: this may be asked in the middle of an event, by a signal handler.
        return max(len(self.entries) - self.ghosts, 0)

    def oldest(self) -> PoolEntry[TransportT] | None:
        """Return the entry that has been idle longest, the first of the deque, if there is one."""
        entries = self.entries
        while entries and entries[0].state is not IDLE:
            self.ghosts -= 1
            entries.popleft()
        return entries[0] if entries else None

    def oldest_since(self) -> float:
        """Return since when one has been idle longest; infinity if there is none."""
        oldest = self.oldest()
        return math.inf if oldest is None else oldest.idle_since

    def pop_stale(self, now: float, longest: float, limit: int) -> list[PoolEntry[TransportT]]:
        """Take out those that have been idle for so long or longer, a few at most."""
        stale: list[PoolEntry[TransportT]] = []
        while len(stale) < limit and now >= self.oldest_since() + longest:
            stale.append(self.entries.popleft())
        return stale

    def lose(self, entry: PoolEntry[TransportT], *, for_good: bool) -> None:
        """Take note that an entry leaves by itself, wherever it stands."""
        if for_good:
            self.ghosts += 1
        else:
            # It comes back, and must not stand there twice.
            self.take_out(entry)

    def take_out(self, entry: PoolEntry[TransportT]) -> None:
        """Take out an entry, wherever it stands."""
        del self.entries[bisect_left(self.entries, entry.idle_number, key=_IDLE_NUMBER)]

    def pop_oldest(self) -> PoolEntry[TransportT] | None:
        """Take out the entry that has been idle longest, if there is one."""
        return None if self.oldest() is None else self.entries.popleft()

    def begin_rest(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Take note that from now on nobody uses an entry, whether or not a hook does."""
        self.numbers.latest += 1
        entry.idle_number = self.numbers.latest
        entry.idle_since = entry.rested_since = now

    def give_out(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Grant the entry that is the next one: at one stroke, for readers in other threads."""
        entry.acquired_at, entry.noticed = now, False
        entry.borrows += 1
        entry.state = IN_USE
        self.pop()

    def take_in(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Make a connection idle that was borrowed: at one stroke, for readers in other threads."""
        # What begin_rest() does, without a call for it: this is on the path of every borrow.
        entry.idle_since = entry.rested_since = now
        numbers = self.numbers
        entry.idle_number = numbers.latest = numbers.latest + 1
        if entry.replica is not None:
            entry.replica.in_use -= 1
        recheck_at = now + self.longest_rest
        entry.recheck_at = recheck_at if recheck_at < entry.expires_at else entry.expires_at
        entry.state = IDLE
        self.entries.append(entry)

    def put_back(self, entry: PoolEntry[TransportT]) -> None:
        """Put an entry that a hook was at work on where it stood, or would have stood."""
        insort(self.entries, entry, key=_IDLE_NUMBER)

    def sift(
        self, start: int, limit: int, is_bad: Callable[[PoolEntry[TransportT]], bool]
    ) -> int | None:
        """Take out what is bad, a slice at a time, and keep the order of the others.

        :param start: how many of those that stood longest to pass over
        :param limit: how many to look at
        :return: where the next slice starts, if there is one
        """
        entries, kept = self.entries, 0
        entries.rotate(-start)
        try:
            for _ in range(min(limit, len(entries) - start)):
                entry = entries[0]
                if entry.state is not IDLE:
                    self.ghosts -= 1
                    entries.popleft()
                elif is_bad(entry):
                    entries.popleft()
                else:
                    entries.rotate(-1)
                    kept += 1
        finally:
            entries.rotate(start + kept)
        return start + kept if start + kept < len(entries) else None
