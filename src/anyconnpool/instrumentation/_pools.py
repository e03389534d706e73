"""Which pools are running, and the figures of those that have one name together.

Exporters ask from threads of their own while pools come and go. No figure is read with the lock
held: a pool has a lock too.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from anyconnpool._statistics import PoolStatistics
from anyconnpool.events import PoolEnded, PoolStarted

# Upper bounds of the histograms' buckets, in seconds. prometheus_client's own begin with 5 ms and
# OpenTelemetry's with 5 s; to borrow an idle connection takes some microseconds, and an exchange in
# a local network less than a millisecond.
BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Pools:
    """Keep track of pools as they start and end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Callable[[], PoolStatistics], PoolStarted] = {}
        self._ended: dict[str, PoolStatistics] = {}

    def start(self, event: PoolStarted) -> None:
        """Add a pool."""
        with self._lock:
            self._running[event.statistics] = event

    def end(self, event: PoolEnded) -> None:
        """Remove a pool, and remember what it has counted."""
        last = event.statistics()
        with self._lock:
            del self._running[event.statistics]
            _add(self._ended, last)

    def now(self) -> Iterable[PoolStatistics]:
        """Return the figures of the running pools, one for each name."""
        return _sums(event.statistics() for event in self._started()).values()

    def ever(self) -> Iterable[PoolStatistics]:
        """Return what the pools have counted, those included that have ended."""
        with self._lock:
            running, ended = [*self._running], [*self._ended.values()]
        return _sums([*ended, *(statistics() for statistics in running)]).values()

    def min_idle(self) -> Iterable[tuple[str, int]]:
        """Return how many connections are kept ready, by the pools' names."""
        sums: Counter[str] = Counter()
        for event in self._started():
            sums[event.pool] += event.min_idle
        return sums.items()

    def _started(self) -> list[PoolStarted]:
        with self._lock:
            return [*self._running.values()]


def _sums(many: Iterable[PoolStatistics]) -> dict[str, PoolStatistics]:
    sums: dict[str, PoolStatistics] = {}
    for one in many:
        _add(sums, one)
    return sums


def _add(sums: dict[str, PoolStatistics], one: PoolStatistics) -> None:
    sums[one.name] = _sum(sums[one.name], one) if one.name in sums else one


def _sum(first: PoolStatistics, second: PoolStatistics) -> PoolStatistics:
    figures: dict[str, Any] = {
        field.name: getattr(first, field.name) + getattr(second, field.name)
        for field in fields(PoolStatistics)
        if field.name not in ("name", "closed")
    }
    closed = Counter(first.closed)
    closed.update(second.closed)
    return PoolStatistics(name=first.name, closed=closed, **figures)
