"""An observer that keeps an account: what begins has to end."""

from __future__ import annotations

from collections import Counter

from anyconnpool.events import (
    ConnectionAcquired,
    ConnectionClosed,
    ConnectionOpened,
    ConnectionReleased,
    PoolEnded,
    PoolEvent,
    PoolStarted,
)


class Tally:
    """Count the events by their kinds."""

    def __init__(self) -> None:
        self.counts: Counter[type[PoolEvent]] = Counter()

    def __call__(self, event: PoolEvent) -> None:
        self.counts[type(event)] += 1

    def check(self) -> None:
        """Assert that the account is even, after all blocks and borrowers have ended."""
        for began, ended in (
            (PoolStarted, PoolEnded),
            (ConnectionOpened, ConnectionClosed),
            (ConnectionAcquired, ConnectionReleased),
        ):
            assert self.counts[began] == self.counts[ended], self.counts
