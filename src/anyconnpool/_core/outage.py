"""The failures to connect in a row, and when the next attempt may begin.

This module decides; it opens nothing, and gets the time from outside.
"""

from __future__ import annotations

import math

from anyconnpool._retry import Retry


class Outage:
    """Count the failures to connect since the last success, and say when to try again.

    A burst counts once: attempts that began before the last failure was counted add nothing.

    :param retry: the pool's ``connect_retry``
    """

    def __init__(self, retry: Retry | None) -> None:
        self._retry = retry
        #: failures in a row, and ever
        self.failures = 0
        self.all_failures = 0
        #: when the pause after the last failure is over; in the past if there is none
        self.retry_at = -math.inf
        #: number of the newest of those who waited for the end of the last one
        self.awaited_by = -1

    def failed(self, known: int, now: float) -> bool:
        """Count a failure that a repeat may mend; false if it belongs to a burst.

        :param known: :attr:`all_failures` when the attempt began
        """
        if known != self.all_failures:
            return False
        self.failures += 1
        self.all_failures += 1
        if self._retry is not None:
            self.retry_at = now + self._retry.pause(self.failures)
        return True

    def succeeded(self, newest: int) -> None:
        """Forget the failures.

        :param newest: number of the newest waiter
        """
        if self.failures:
            self.awaited_by = newest
        self.failures = 0
        self.retry_at = -math.inf
