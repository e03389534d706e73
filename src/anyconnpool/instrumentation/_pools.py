"""Which pools are running, and the figures of those that have one name together.

Exporters ask from threads of their own while pools come and go. No figure is read with the lock
held: a pool has a lock too.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from anyconnpool._remote import Endpoint
from anyconnpool._statistics import PoolStatistics
from anyconnpool._util.checks import check_count
from anyconnpool._util.locks import make_lock
from anyconnpool.events import PoolEnded, PoolStarted, ReplicaBack, ReplicaResting

# Upper bounds of the histograms' buckets, in seconds. prometheus_client's own begin with 5 ms and
# OpenTelemetry's with 5 s; to borrow an idle connection takes some microseconds, and an exchange in
# a local network less than a millisecond.
BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


#: what the pools are called together that are too many for a name each, and likewise remotes
OTHER = "other"

# A service that is found anew again and again may have ever new addresses.
_MOST_REMOTES = 100


_PEAKS = ("peak_in_use", "peak_waiting")


class ReplicaFigures(NamedTuple):
    """What there is of one of several replicas.

    :ivar connections: to it, those included that are being opened
    :ivar in_use: how many of them are borrowed
    :ivar failures: in a row, until it answers again; of pools with the same name, the most
    """

    connections: int
    in_use: int
    failures: int


class Pools:
    """Keep track of pools as they start and end, and give each the name that it is reported under.

    Everything that is reported is kept for each name, here and in other libraries. So there is a
    limit: pools that come when it is reached are reported together, as :data:`OTHER`.

    :param most: how many names there may be, besides that one
    :param forget: called with the name of pools that have ended, to forget what is kept for it, so
        that another one can take its place; without it, the names that came first stay
    """

    def __init__(self, most: float, forget: Callable[[str], object] | None = None) -> None:
        check_count("max_pools", most, least=1)
        self._most = most
        self._forget = forget
        self._lock = make_lock()
        #: the names, and how many pools are running under each
        self._names: dict[str, int] = {}
        #: those of pools that have ended, the longest ended first
        self._free: OrderedDict[str, None] = OrderedDict()
        self._running: dict[Callable[[], PoolStatistics], tuple[PoolStarted, str]] = {}
        self._ended: dict[str, PoolStatistics] = {}

    def name(self, pool: str) -> str:
        """Return the name that a pool is reported under.

        :param pool: the pool's own name
        """
        if pool not in self._names:
            if len(self._names) >= self._most:
                return OTHER
            with self._lock:
                # Its start was not observed.
                self._names.setdefault(pool, 0)
        return pool

    def start(self, event: PoolStarted) -> str:
        """Add a pool, and return the name that it is reported under."""
        with self._lock:
            name = self._take_name(event.pool)
            self._running[event.statistics] = event, name
            return name

    def end(self, event: PoolEnded) -> None:
        """Remove a pool, and remember what it has counted."""
        last = event.statistics()
        with self._lock:
            _, name = self._running.pop(event.statistics)
            _add(self._ended, name, last)
            if name in self._names:
                self._names[name] -= 1
                if not self._names[name] and self._forget is not None:
                    self._free[name] = None

    def now(self) -> Iterable[PoolStatistics]:
        """Return the figures of the running pools, one for each name."""
        return _sums((name, event.statistics()) for event, name in self._started()).values()

    def ever(self) -> Iterable[PoolStatistics]:
        """Return what the pools have counted, those included that have ended."""
        with self._lock:
            running, ended = [*self._running.values()], [*self._ended.items()]
        return _sums([*ended, *((name, event.statistics()) for event, name in running)]).values()

    def min_idle(self) -> Iterable[tuple[str, int]]:
        """Return how many connections are kept ready, by the pools' names."""
        sums: Counter[str] = Counter()
        for event, name in self._started():
            sums[name] += event.min_idle
        return sums.items()

    def replicas(self) -> Mapping[tuple[str, str], ReplicaFigures]:
        """Return the figures of each of several replicas, by the names of pool and remote."""
        found: dict[tuple[str, str], ReplicaFigures] = {}
        remotes: Counter[str] = Counter()
        for event, pool in self._started():
            if event.replicas is None:
                continue
            for remote, state in event.replicas().items():
                key = pool, Endpoint.of(remote).name
                if key not in found and remotes[pool] >= _MOST_REMOTES:
                    key = pool, OTHER
                remotes[pool] += key not in found
                connections, in_use, failures = found.get(key, (0, 0, 0))
                found[key] = ReplicaFigures(
                    connections + state.connections,
                    in_use + state.in_use,
                    max(failures, state.failures),
                )
        return found

    def _take_name(self, pool: str) -> str:
        if pool == OTHER:
            return OTHER
        if pool not in self._names:
            if len(self._names) >= self._most:
                if not self._free:
                    return OTHER
                self._drop(self._free.popitem(last=False)[0])
            self._names[pool] = 0
        self._names[pool] += 1
        self._free.pop(pool, None)
        return pool

    def _drop(self, name: str) -> None:
        del self._names[name], self._ended[name]
        if self._forget is not None:
            self._forget(name)

    def _started(self) -> list[tuple[PoolStarted, str]]:
        with self._lock:
            return [*self._running.values()]


class Rests:
    """Count the rests of replicas, and note which ones rest, by the names of pools and remotes.

    Events come in the pools' event loops, and exporters ask from threads of their own.
    """

    def __init__(self) -> None:
        self._lock = make_lock()
        #: for each pool and remote: whether it rests, and how often it has begun to
        self._known: dict[str, dict[str, tuple[bool, int]]] = {}

    def rest(self, pool: str, event: ReplicaResting) -> None:
        """Note that a replica rests; to prolong a rest is no other one."""
        with self._lock:
            remotes = self._known.setdefault(pool, {})
            name = Endpoint.of(event.remote).name
            if name not in remotes and len(remotes) >= _MOST_REMOTES:
                name = OTHER
            rests, count = remotes.get(name, (False, 0))
            remotes[name] = (True, count + (not rests))

    def back(self, pool: str, event: ReplicaBack) -> None:
        """Note that a replica is back."""
        with self._lock:
            remotes = self._known.get(pool, {})
            name = Endpoint.of(event.remote).name
            if name in remotes:
                remotes[name] = (False, remotes[name][1])

    def end(self, pool: str) -> None:
        """Note that a pool has ended: nothing of it rests any more."""
        with self._lock:
            for name, (_, count) in self._known.get(pool, {}).items():
                self._known[pool][name] = (False, count)

    def forget(self, pool: str) -> None:
        """Forget what was counted under the name of a pool."""
        with self._lock:
            self._known.pop(pool, None)

    def now(self) -> list[tuple[str, str, bool, int]]:
        """Return pool, remote, whether it rests, and its rests, of all that have rested."""
        with self._lock:
            return [
                (pool, remote, rests, count)
                for pool, remotes in self._known.items()
                for remote, (rests, count) in remotes.items()
            ]


def _sums(many: Iterable[tuple[str, PoolStatistics]]) -> dict[str, PoolStatistics]:
    sums: dict[str, PoolStatistics] = {}
    for name, one in many:
        _add(sums, name, one)
    return sums


def _add(sums: dict[str, PoolStatistics], name: str, one: PoolStatistics) -> None:
    sums[name] = _sum(sums[name], one) if name in sums else replace(one, name=name)


def _sum(first: PoolStatistics, second: PoolStatistics) -> PoolStatistics:
    figures: dict[str, Any] = {
        field.name: getattr(first, field.name) + getattr(second, field.name)
        for field in fields(PoolStatistics)
        if field.name not in ("name", "closed", "failing_for", *_PEAKS)
    }
    # Their peaks may have been at different times: the sum would be that of no moment.
    figures |= {peak: max(getattr(first, peak), getattr(second, peak)) for peak in _PEAKS}
    lasting = [one.failing_for for one in (first, second) if one.failing_for is not None]
    closed = Counter(first.closed)
    closed.update(second.closed)
    # Of pools that connect to different remotes, one may be down: that is what to know.
    longest = max(lasting, default=None)
    return PoolStatistics(name=first.name, closed=closed, failing_for=longest, **figures)
