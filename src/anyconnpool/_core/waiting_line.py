"""Who waits for a connection, in order, and for how many of them one may be opened now.

The rules:

- What is under way belongs to nobody: whatever becomes available goes to whoever has waited
  longest. So those for whom nothing is under way are the last in line, and counting is enough.
- What has been under way for a tenth of a second may hang. Then an attempt to connect counts for
  those only who waited when it began, and a hook on an open connection for nobody.
- A failure to connect concerns those who may rely on the attempt in that moment.
- With ``connect_retry``, attempts take turns while connecting fails, and after that until all who
  waited for it are served: a remote that comes back meets no stampede. The pause after a failure
  holds no slot, and its length follows from how many failures whoever has waited longest has seen.
  Those who come during the pause get one attempt at once. If nobody is left then who has seen a
  failure, the pause was nobody's any more, and theirs begins.
- There are at most ``max_connecting`` attempts. While the pool fails fast, there is only one of its
  own (:mod:`anyconnpool._core.outage`).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice, takewhile
from operator import attrgetter
from typing import Generic

from anyconnpool._core.outage import Outage
from anyconnpool._core.states import PoolEntry, Totals, TransportT, Waiter
from anyconnpool._settings import Settings

# So long, in seconds, everybody may rely on what is under way.
_PATIENCE = 0.1

_shares = attrgetter("shares")


class WaitingLine(Generic[TransportT]):
    """Count for how many of the tasks that wait a connection may be opened.

    :param settings: the pool's settings
    :param totals: what the pool counts
    """

    def __init__(self, settings: Settings, totals: Totals) -> None:
        self._totals = totals
        self.waiters: OrderedDict[Waiter[TransportT], None] = OrderedDict()
        #: those of them for whom a place on a shared connection will do
        self.sharers: OrderedDict[Waiter[TransportT], None] = OrderedDict()
        #: those who wait until enough connections are idle
        self.watchers: dict[Waiter[TransportT], None] = {}
        #: failures to connect in a row, with ``connect_retry``; a burst counts once
        self.failures = 0
        self._all_failures = 0
        #: whether it is not yet time for the next attempt
        self.pausing = False
        #: how many attempts to connect are under way
        self.attempts = 0
        self.outage = Outage(settings.fail_fast_after)
        self._max_connecting = settings.max_connecting
        self._min_idle = settings.min_idle
        retry = settings.connect_retry
        #: the count of connect_retry; negative if there is none
        self._most_repeats: float = retry.count if retry else -1
        self._retry_at = -math.inf
        #: numbers below this are those of waiters who waited for the end of the last outage
        self._ended_at = -1
        #: what everybody may rely on, and the attempts that may hang; the oldest first
        self._fresh: dict[PoolEntry[TransportT], None] = {}
        self._slow: dict[PoolEntry[TransportT], None] = {}
        #: how many waiters rely on the slow ones; None if that has to be counted again
        self._relying: int | None = 0
        #: whether there is a slow one for every waiter, as long as there are enough of them; to be
        #: unset when one joins
        self.slow_suffice = True

    def watch(self, watcher: Waiter[TransportT], number: int, now: float) -> None:
        """Let a task wait until enough connections are idle."""
        watcher.number = number
        self.watchers[watcher] = None
        self.outage.asked_at = now

    def add(self, waiter: Waiter[TransportT], number: int) -> None:
        """Put a task at the end of the line."""
        waiter.number = number
        self.waiters[waiter] = None
        if waiter.shares:
            self.sharers[waiter] = None
        self.slow_suffice = False

    def note_peak(self) -> None:
        """Take note of how many wait, if there have never been more."""
        if (waiting := len(self.waiters)) > self._totals.peak_waiting:
            self._totals.peak_waiting = waiting

    def add_again(self, returning: Collection[Waiter[TransportT]]) -> None:
        """Let tasks stand in line again where their numbers say: before most of the others.

        :param returning: tasks that share, in the order of their numbers
        """
        newest = max(waiter.number for waiter in returning)
        older = takewhile(lambda waiter: waiter.number < newest, self.waiters)
        first = sorted((*older, *returning), key=lambda waiter: waiter.number)
        for waiter in reversed(first):
            for line in (self.waiters, self.sharers) if waiter.shares else (self.waiters,):
                line[waiter] = None
                line.move_to_end(waiter, last=False)
        self.slow_suffice = False
        self._forget_count()

    def leave(self, waiter: Waiter[TransportT]) -> None:
        """Take a task out of the line, wherever it stands."""
        if waiter in self.waiters:
            del self.waiters[waiter]
            if waiter.shares:
                del self.sharers[waiter]
            if self._slow:
                self._forget_count()

    def pop(self) -> Waiter[TransportT]:
        """Take the task out of the line that has waited longest."""
        waiter, _ = self.waiters.popitem(last=False)
        if waiter.shares:
            del self.sharers[waiter]
        if self._slow:
            self._forget_count()
        return waiter

    def wake(self, waiters: Iterable[Waiter[TransportT]], error: Exception | None) -> None:
        """Wake tasks that have left the line."""
        for number, waiter in enumerate(waiters):
            waiter.error = error
            waiter.shares_error = number > 0
            waiter.wake()

    def wake_watchers(self, error: Exception | None) -> None:
        """Wake those who wait until enough connections are idle."""
        self.wake(self.watchers, error)
        self.watchers.clear()

    def refuse_all(self, error: Callable[[], Exception]) -> None:
        """Wake everybody, for the block has ended, each waiter with an error of his own."""
        self.outage.succeed()
        while self.waiters:
            self.wake([self.pop()], error())
        self.wake_watchers(error())

    def fail_fast(
        self, now: float, error: Exception | None, is_open: bool, numbers: Iterator[int]
    ) -> float:
        """Refuse everybody if connecting has failed for long enough.

        :param error: the latest failure
        :param is_open: whether the pool has any connection that can be used, now or later
        :param numbers: numbers waiters and attempts
        :return: when to call this again
        """
        outage = self.outage
        outage.pass_time(now, is_open=is_open, attempts=self.attempts, numbers=numbers)
        if outage.fails_fast and (self.waiters or self.watchers):
            refused = [*self.waiters, *self.watchers]
            self._totals.refused += len(self.waiters)
            self.waiters.clear()
            self.sharers.clear()
            self.watchers.clear()
            self._forget_count()
            for waiter in refused:
                waiter.error, waiter.failing_since = error, outage.since
                waiter.wake()
        return outage.next_change(now, self.attempts)

    def begin(self, entry: PoolEntry[TransportT], now: float, number: int | None = None) -> None:
        """Take note that an entry is under way.

        :param number: its number among waiters and attempts, if it is being opened
        """
        entry.number = number
        entry.slow_at = now + _PATIENCE
        if number is not None:
            entry.known_failures = None if self.pausing else self._all_failures
            self.attempts += 1
            self.outage.number = None
        self._fresh[entry] = None

    def begun_at(self, entry: PoolEntry[TransportT]) -> float:
        """Return since when an entry is under way."""
        return entry.slow_at - _PATIENCE

    def end(self, entry: PoolEntry[TransportT]) -> None:
        """Take note that an entry is not under way any more."""
        if entry in self._fresh:
            del self._fresh[entry]
        elif entry in self._slow:
            # The oldest is for those only who have waited longest: the others have theirs.
            self.slow_suffice &= entry is next(iter(self._slow))
            del self._slow[entry]
            self._forget_count()
        else:
            return
        if entry.number is not None:
            self.attempts -= 1

    def count_fresh(self) -> int:
        """Return on how many that are under way everybody may rely."""
        return len(self._fresh)

    def under_way(self) -> list[PoolEntry[TransportT]]:
        """Return what is under way and has not failed."""
        return [*self._fresh, *self._slow]

    def is_fresh(self, entry: PoolEntry[TransportT]) -> bool:
        """Return whether everybody may rely on an entry that is under way."""
        return entry in self._fresh

    def succeed(self, entry: PoolEntry[TransportT], number: int) -> None:
        """Take note that an entry is open, which ends an outage.

        :param number: that the next waiter or attempt would have
        """
        self.end(entry)
        self.outage.succeed()
        if self.failures:
            self._ended_at = number
        self.failures = 0
        self.pausing = False

    def fail(
        self, entry: PoolEntry[TransportT], pause: float, now: float
    ) -> list[Waiter[TransportT]]:
        """Take note that an attempt has failed; return those who have no more tries.

        They have left the line.

        :param pause: how long to wait before the next one, in seconds
        """
        charged: list[Waiter[TransportT]] = []
        if entry.known_failures is None and self._seen_by_oldest():
            # Begun in a pause of others, for those who came during it.
            concerned = *self.concerned(entry, self.waiters), *self.concerned(entry, self.watchers)
            charged += [waiter for waiter in concerned if not waiter.failures]
        elif entry.known_failures in (None, self._all_failures):
            charged += self.concerned(entry, self.waiters)
            charged += self.concerned(entry, self.watchers)
            self.failures += 1
            self._all_failures += 1
            self.pausing = True
            self._retry_at = now + pause
        self.end(entry)
        for waiter in charged:
            waiter.failures += 1
        failed = [waiter for waiter in charged if waiter.failures > self._most_repeats]
        for waiter in failed:
            self.leave(waiter)
            self.watchers.pop(waiter, None)
        return failed

    def next_repeat(self) -> int:
        """Return which repeat follows if an attempt fails now.

        The schedule is that of whoever has waited longest. If nobody waits, all that have failed in
        a row count.
        """
        waits = self.waiters or self.watchers
        return (self._seen_by_oldest() if waits else self.failures) + 1

    def fail_for_good(
        self, entry: PoolEntry[TransportT], carries: int = 1
    ) -> list[Waiter[TransportT]]:
        """Take note that an attempt has failed; return whom that concerns.

        That is whoever has waited longest; if it concerns no waiter, all watchers. They have left
        the line.

        :param carries: how many could have shared the connection: it concerns those, too, who stand
            behind the first one to share it, unless they have another attempt to rely on
        """
        concerned = next(self.concerned(entry, self.waiters), None)
        count = 1
        if concerned is not None and carries > 1:
            sharers = takewhile(_shares, self.concerned(entry, self.waiters))
            shared_out = math.ceil(sum(1 for _ in sharers) / max(self.attempts, 1))
            count = max(min(shared_out, carries), 1)
        self.end(entry)
        if concerned is not None:
            return [self.pop() for _ in range(count)]
        watchers = [*self.watchers]
        self.watchers.clear()
        return watchers

    def fail_for_all(self, entry: PoolEntry[TransportT], below: float) -> list[Waiter[TransportT]]:
        """Take note that an attempt has failed, the only one for all; return whom it concerns.

        They have left the line.

        :param below: above the numbers of all whom it may concern
        """
        relying = [*self.concerned(entry, self.waiters), *self.concerned(entry, self.watchers)]
        failed = [waiter for waiter in relying if waiter.number < below]
        self.end(entry)
        for waiter in failed:
            self.leave(waiter)
            self.watchers.pop(waiter, None)
        return failed

    def concerned(
        self, entry: PoolEntry[TransportT], tasks: Iterable[Waiter[TransportT]]
    ) -> Iterator[Waiter[TransportT]]:
        """Yield those of some tasks who may rely on an attempt that is under way, in order."""
        return iter(tasks) if entry in self._fresh else takewhile(entry.is_for, tasks)

    def refills_pause(self) -> bool:
        """Return whether connections that nobody waits for must wait for the next sweep."""
        # Those who wait until enough are idle have their own tries.
        return self.failures > self._most_repeats and not self.watchers

    def pass_time(self, now: float) -> None:
        """Let everybody rely no longer on what has been under way for too long; end a pause."""
        while self._fresh:
            entry = next(iter(self._fresh))
            if entry.slow_at > now:
                break
            del self._fresh[entry]
            if entry.number is not None:
                self._slow[entry] = None
                self._relying = None
        if self.pausing and now >= self._retry_at:
            self.pausing = False

    def end_pause(self) -> None:
        """Let the next attempt be made at once: there is something else to connect to."""
        self.pausing = False

    def next_change(self) -> float:
        """Return when :meth:`pass_time` may change for how many a connection may be opened."""
        at = self._retry_at if self.pausing else math.inf
        if self.waiters and self._fresh:
            at = min(at, next(iter(self._fresh)).slow_at)
        return at

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

    def may_wait(self, freeing: int, most: float) -> bool:
        """Return whether one more task may wait where there is no room.

        :param freeing: how many slots will be free soon
        :param most: how many may wait besides
        """
        waiting = self.needy() - max(freeing, 0)
        return waiting < most or self.has_spare() or self.outage.fails_fast

    def may_begin(self) -> bool:
        """Return whether one more attempt to connect may be made."""
        return self.attempts < self._max_connecting

    def wanted(self) -> int:
        """Count the connections that may be opened now for those in need, or to end an outage."""
        if self.outage.number is not None:
            return 1
        return int(min(self._wanted(), self._max_connecting - self.attempts))

    def missing_idle(self, idle: int, under_way: int) -> int:
        """Count the idle connections that are missing, beyond those under way for nobody.

        :param idle: how many there are
        :param under_way: how many are being opened or checked
        """
        if self.attempts >= self._max_connecting or self.outage.fails_fast:
            return 0
        if self.takes_turns() and (self.attempts or (self.pausing and not self._has_new_watcher())):
            return 0
        return self._min_idle - idle - (under_way - self.provided())

    def first_in_need(self) -> Iterator[int]:
        """Yield the numbers of those for whom a connection may be opened now, in order."""
        if self.outage.number is not None:
            return iter((self.outage.number,))
        return (waiter.number for waiter in islice(self.in_need(), self.wanted()))

    def _wanted(self) -> int:
        needy = self.needy()
        if not needy or not self.takes_turns():
            return needy
        newest = next(reversed(self.waiters))
        if self._fresh or (self._slow and next(reversed(self._slow)).is_for(newest)):
            return 0
        return 0 if self.pausing and newest.failures else 1

    def takes_turns(self) -> bool:
        """Return whether there is one attempt at a time, for all who want a connection."""
        if self._most_repeats < 0:
            return False
        oldest = next(iter(self.waiters), None)
        recovering = oldest is not None and oldest.number < self._ended_at
        return recovering or self.failures > 0

    def _has_new_watcher(self) -> bool:
        """Return whether somebody has come for whom no attempt has failed yet."""
        newest = next(reversed(self.watchers), None)
        return newest is not None and not newest.failures

    def _seen_by_oldest(self) -> int:
        """Return how many failures those have seen who have waited longest."""
        oldest = (next(iter(waiting), None) for waiting in (self.waiters, self.watchers))
        return max((waiter.failures for waiter in oldest if waiter is not None), default=0)

    def _forget_count(self) -> None:
        """Have it counted again how many rely on the slow ones, unless that is known."""
        # To count takes a step for each: a thousand who leave at once must not count each time.
        suffice = self.slow_suffice
        self._relying = min(len(self._slow), len(self.waiters)) if suffice else None

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
        self.slow_suffice = waiter is None
        return relying
