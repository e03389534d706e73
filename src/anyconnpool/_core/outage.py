"""How long connecting has failed in a row, and what a pool does about it by itself.

The rules:

- An outage begins with the first failure and ends with the first success. A burst of attempts that
  were under way together counts as one failure.
- When it has lasted for ``fail_fast_after`` and nothing is open, nobody waits any more: whoever
  asks is refused at once. The pool goes on trying by itself, one attempt at a time, with a pause
  after each that fails.
- A pool that is not kept for itself, one of a manager's, tries no more when nobody has asked for it
  for a while.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from anyconnpool._core.states import PoolEntry


class Outage:
    """Take note of failures and successes, and decide when to fail fast and when to try.

    :param fail_fast_after: how long connecting has to fail before the pool fails fast, in seconds
    """

    def __init__(self, fail_fast_after: float) -> None:
        #: when the first attempt of a row failed; None if the last one didn't fail
        self.since: float | None = None
        #: how many have failed in a row
        self.failures = 0
        #: whether whoever asks is refused
        self.fails_fast = False
        #: the number that an attempt of the pool's own has in the order of waiters; None if it is
        #: not yet time for one
        self.number: int | None = None
        #: whether the pool makes attempts of its own, of which several replicas have theirs instead
        self.tries = True
        #: how long nobody may have asked before the pool tries no more, in seconds
        self.longest_unasked = math.inf
        #: when somebody has asked for a connection last
        self.asked_at = -math.inf
        self._after = fail_fast_after
        self._is_long = False
        self._retry_at = -math.inf
        #: attempts whose numbers are below this one were under way when the last one failed
        self._counted_from = -1

    def fail(self, entry: PoolEntry[Any], now: float, number: int) -> None:
        """Take note that an attempt has failed.

        :param number: that the next waiter or attempt would have
        """
        self.begin(now)
        assert entry.number is not None
        if entry.number >= self._counted_from:
            self.failures += 1
            self._counted_from = number
            self._retry_at = now + entry.rest

    def begin(self, now: float, *, is_used: bool = True) -> None:
        """Take note that connecting fails, if that is new.

        :param is_used: whether anybody has used the pool since the last time
        """
        if self.since is None:
            self.since = now
            if is_used or self.asked_at == -math.inf:
                # A refill is as good a reason to try as somebody who has asked.
                self.asked_at = max(self.asked_at, now)

    def succeed(self) -> None:
        """Take note that connecting doesn't fail any more."""
        self.since = self.number = None
        self.failures, self._counted_from = 0, -1
        self.fails_fast = self._is_long = False

    def pass_time(
        self, now: float, *, is_open: bool, attempts: int, numbers: Iterator[int]
    ) -> None:
        """Take note of the time while connecting fails.

        :param is_open: whether the pool has any connection that can be used, now or later
        :param attempts: how many are under way
        :param numbers: numbers waiters and attempts
        """
        if self.since is None:
            return
        if is_open:
            # Who uses what is open needs nothing else.
            self.asked_at = now
        self._is_long = now >= self.since + self._after
        self.fails_fast = self._is_long and not is_open
        if not self.fails_fast or attempts or not self.is_wanted(now):
            self.number = None
        elif self.number is None and now >= self._retry_at:
            self.number = next(numbers)

    def lasts(self, clock: Callable[[], float] | None) -> float | None:
        """Return how long connecting has failed, in seconds, if it fails; from any thread."""
        since = self.since
        return None if since is None or clock is None else max(clock() - since, 0.0)

    def is_wanted(self, now: float) -> bool:
        """Return whether anybody has asked for a connection of late."""
        return self.tries and now - self.asked_at < self.longest_unasked

    def unasked_since(self) -> float | None:
        """Return since when nobody has asked, if that decides whether the pool is kept."""
        return None if self.since is None or self._after == math.inf else self.asked_at

    def next_change(self, now: float, attempts: int) -> float:
        """Return when :meth:`pass_time` has to be called next, after it was called now.

        :param attempts: how many are under way
        """
        if self.since is None:
            return math.inf
        if not self._is_long:
            return self.since + self._after
        if not self.fails_fast or attempts or self.number is not None:
            return math.inf
        return self._retry_at if self.is_wanted(now) else math.inf
