"""Metrics of pools for Prometheus: the extra ``prometheus``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from anyconnpool._statistics import CloseReason, PoolStatistics
from anyconnpool.events import (
    ConnectionAcquired,
    ConnectionOpened,
    ConnectionReleased,
    HookEnded,
    PoolEnded,
    PoolObserver,
    PoolStarted,
    ReplicaBack,
    ReplicaResting,
)
from anyconnpool.instrumentation._pools import BUCKETS, Pools, Rests

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as _error:
    raise ImportError(
        "anyconnpool.instrumentation.prometheus needs prometheus_client: "
        'pip install "anyconnpool[prometheus]"'
    ) from _error

__all__ = ["PoolCollector"]

# Counters without labels of their own: the name, what it says, where it stands in the statistics.
_TOTALS = (
    ("opened", "Connections opened.", "opened"),
    ("open_failures", "Attempts to open a connection that failed.", "open_failed"),
    ("timeouts", "Acquires that ran out of time.", "timed_out"),
    ("cancelled", "Acquires that were cancelled while they waited.", "cancelled"),
    ("replayed", "Exchanges repeated on another connection.", "replayed"),
    ("refused", "Acquires refused at once: max_waiting, or failing fast.", "refused"),
)

# Gauges without labels of their own, likewise.
_GAUGES = (
    ("max_connections", "Most connections at once.", "max_size"),
    ("in_hook", "Open connections that a hook is at work on.", "in_hook"),
    ("tasks_waiting", "Tasks blocked in acquire.", "tasks_waiting"),
    ("in_flight", "Exchanges on shared connections.", "in_flight"),
    ("peak_in_use", "Most connections in use at once since the pool was entered.", "peak_in_use"),
    (
        "peak_tasks_waiting",
        "Most tasks blocked in acquire at once since the pool was entered.",
        "peak_waiting",
    ),
    (
        "failing_seconds",
        "For how long connecting has failed in a row; 0 if it doesn't.",
        "failing_for",
    ),
)

# Gauges of each of several replicas, likewise.
_REPLICA_GAUGES = (
    ("replica_connections", "Connections to one of several servers.", "connections"),
    ("replica_in_use", "Those of them that are borrowed.", "in_use"),
    ("replica_failures", "Failures of one of several servers in a row.", "failures"),
)

_HOOKS = ("check", "on_release", "on_unread", "on_close")


class PoolCollector(PoolObserver, Collector):
    """Collect metrics of pools, for a registry of ``prometheus_client``.

    Pass the same object to all pools, as ``observers=[collector]``. Under the namespace there are
    the gauges ``connections`` (by ``state``: ``idle``, ``in_use``, ``connecting``, ``closing``),
    ``max_connections``, ``in_hook``, ``tasks_waiting``, ``in_flight``, ``peak_in_use``,
    ``peak_tasks_waiting`` and ``failing_seconds``, for how long connecting has failed in a row; the
    counters ``acquired_total``, ``reused_total``, ``opened_total``, ``open_failures_total``,
    ``closed_total`` (by ``reason``, the values of :class:`~anyconnpool.events.CloseReason`),
    ``timeouts_total``, ``cancelled_total``, ``replayed_total``, ``refused_total`` and
    ``hook_failures_total`` (by ``hook``); and the histograms ``wait_seconds``, ``use_seconds``,
    ``connect_seconds`` and ``hook_seconds`` (by ``hook``, of those that have run). Each of several
    :class:`~anyconnpool.Replicas` has, by ``remote``, the gauges ``replica_connections``,
    ``replica_in_use``, ``replica_failures``, those in a row, and ``replica_resting``, 1 while it
    rests; and the counter ``replica_rests_total``.

    All have the label ``pool``, the pool's name; the figures of pools with the same name are added
    up, except for peaks and ``failing_seconds``, where the highest counts. The gauges are read
    whenever metrics are collected, from any thread. When a pool ends, its gauges go and its
    counters stay, as long as there is room.

    Each name takes some 20 kB here, and its series at the server. A manager's pools are named after
    their remotes, and there may be ever new ones. So there is a limit: when ``max_pools`` names are
    there, a new one takes the place of the one whose pools ended longest ago; its counters go, and
    begin at 0 if it comes back, which ``rate()`` and its like know how to read. Where none has
    ended, new pools are added up under the name ``other``.

    :param registry: where to register; by default nowhere:
        ``REGISTRY.register(PoolCollector())`` does it later
    :param namespace: the beginning of all names, before an underscore
    :param buckets: upper bounds of the histograms' buckets, in seconds; by default 16 from
        0.0001 to 10
    :param max_pools: how many names of pools to report at most, besides ``other``
    :raises ValueError: if ``max_pools`` is less than 1
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        namespace: str = "anyconnpool",
        buckets: Sequence[float] = BUCKETS,
        max_pools: float = 1000,
    ) -> None:
        self._namespace = namespace
        self._buckets = buckets
        self._pools = Pools(max_pools, self._forget)
        self._rests = Rests()
        # Not read from the statistics: there a grant that its caller never got is subtracted again,
        # and a counter must not fall.
        self._acquired = self._counter("acquired", "Borrows of a connection.")
        self._reused = self._counter(
            "reused", "Borrows of a connection that had been borrowed before."
        )
        self._wait_time = self._histogram("wait_seconds", "Time to get a connection.")
        self._use_time = self._histogram("use_seconds", "Time for which a connection was borrowed.")
        self._connect_time = self._histogram("connect_seconds", "Time to open a connection.")
        self._hook_time = self._histogram(
            "hook_seconds", "Time that a hook took on an open connection.", "hook"
        )
        self._hook_failures = self._counter(
            "hook_failures", "Hooks that failed on an open connection.", "hook"
        )
        if registry is not None:
            registry.register(self)

    def started(self, event: PoolStarted) -> None:
        """Report the pool from now on."""
        name = self._pools.start(event)
        # What counts from 0 is seen to rise by the first event, too.
        for metric in self._recorded():
            metric.labels(name)

    def ended(self, event: PoolEnded) -> None:
        """Report nothing more of the pool, except what it has counted."""
        self._pools.end(event)
        self._rests.end(self._pools.name(event.pool))

    def resting(self, event: ReplicaResting) -> None:
        """Count a rest of a replica."""
        self._rests.rest(self._pools.name(event.pool), event)

    def back(self, event: ReplicaBack) -> None:
        """Note that a replica rests no more."""
        self._rests.back(self._pools.name(event.pool), event)

    def opened(self, event: ConnectionOpened) -> None:
        """Record how long it took to open a connection."""
        self._connect_time.labels(self._pools.name(event.pool)).observe(event.connect_time)

    def acquired(self, event: ConnectionAcquired) -> None:
        """Count a borrow, and record how long its caller has waited."""
        name = self._pools.name(event.pool)
        self._acquired.labels(name).inc()
        if event.reused:
            self._reused.labels(name).inc()
        self._wait_time.labels(name).observe(event.wait_time)

    def released(self, event: ConnectionReleased) -> None:
        """Record how long a connection was borrowed."""
        self._use_time.labels(self._pools.name(event.pool)).observe(event.use_time)

    def hook_ended(self, event: HookEnded) -> None:
        """Record how long a hook took, and whether it failed."""
        labels = self._pools.name(event.pool), event.hook
        self._hook_time.labels(*labels).observe(event.duration)
        failures = self._hook_failures.labels(*labels)
        if event.error is not None:
            failures.inc()

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now; for the registry."""
        yield from self._gauges([*self._pools.now()])
        yield from self._totals([*self._pools.ever()])
        yield from self._replicas()
        for metric in (*self._recorded(), self._hook_time, self._hook_failures):
            yield from metric.collect()

    def describe(self) -> Iterable[Metric]:
        """Return the metrics for their names, which are always the same; for the registry."""
        return self.collect()

    def _replicas(self) -> Iterable[Metric]:
        labels = ["pool", "remote"]
        figures = self._pools.replicas()
        for name, documentation, figure in _REPLICA_GAUGES:
            gauge = GaugeMetricFamily(f"{self._namespace}_{name}", documentation, labels=labels)
            for key, value in figures.items():
                gauge.add_metric(key, getattr(value, figure))
            yield gauge
        resting = GaugeMetricFamily(
            f"{self._namespace}_replica_resting",
            "Whether one of several servers rests.",
            labels=labels,
        )
        rests = CounterMetricFamily(
            f"{self._namespace}_replica_rests",
            "How often one of several servers has begun to rest.",
            labels=labels,
        )
        # What counts from 0 is seen to rise by the first rest, too.
        known = dict.fromkeys(figures, (False, 0))
        known |= {(pool, remote): (now, count) for pool, remote, now, count in self._rests.now()}
        for key, (now, count) in known.items():
            resting.add_metric(key, float(now))
            rests.add_metric(key, count)
        yield resting
        yield rests

    def _forget(self, name: str) -> None:
        self._rests.forget(name)
        for metric in self._recorded():
            with suppress(KeyError):
                metric.remove(name)
        for metric in (self._hook_time, self._hook_failures):
            for hook in _HOOKS:
                with suppress(KeyError):
                    metric.remove(name, hook)

    def _recorded(self) -> tuple[Counter | Histogram, ...]:
        return self._acquired, self._reused, self._wait_time, self._use_time, self._connect_time

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, ["pool", *labels], self._namespace, registry=None)

    def _histogram(self, name: str, documentation: str, *labels: str) -> Histogram:
        return Histogram(
            name,
            documentation,
            ["pool", *labels],
            self._namespace,
            registry=None,
            buckets=self._buckets,
        )

    def _gauges(self, pools: Sequence[PoolStatistics]) -> Iterable[Metric]:
        connections = GaugeMetricFamily(
            f"{self._namespace}_connections", "Connections by state.", labels=["pool", "state"]
        )
        for pool in pools:
            for state in ("idle", "in_use", "connecting", "closing"):
                connections.add_metric([pool.name, state], getattr(pool, state))
        yield connections
        for name, documentation, figure in _GAUGES:
            gauge = GaugeMetricFamily(f"{self._namespace}_{name}", documentation, labels=["pool"])
            for pool in pools:
                # What is None (failing_for) lasts for no time.
                gauge.add_metric([pool.name], getattr(pool, figure) or 0.0)
            yield gauge

    def _totals(self, pools: Sequence[PoolStatistics]) -> Iterable[Metric]:
        for name, documentation, figure in _TOTALS:
            total = CounterMetricFamily(f"{self._namespace}_{name}", documentation, labels=["pool"])
            for pool in pools:
                total.add_metric([pool.name], getattr(pool, figure))
            yield total
        closed = CounterMetricFamily(
            f"{self._namespace}_closed",
            "Connections that left the pool.",
            labels=["pool", "reason"],
        )
        for pool in pools:
            for reason in CloseReason:
                closed.add_metric([pool.name, reason.value], pool.closed.get(reason.value, 0))
        yield closed
