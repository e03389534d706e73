"""Metrics of pools for Prometheus: the extra ``prometheus``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from anyconnpool._statistics import CloseReason, PoolStatistics
from anyconnpool.events import (
    ConnectionAcquired,
    ConnectionOpened,
    ConnectionReleased,
    PoolEnded,
    PoolObserver,
    PoolStarted,
)
from anyconnpool.instrumentation._pools import BUCKETS, Pools

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
)


class PoolCollector(PoolObserver, Collector):
    """Collect metrics of pools, for a registry of ``prometheus_client``.

    Pass the same object to all pools, as ``observers=[collector]``. Under the namespace there are
    the gauges ``connections`` (by ``state``: ``idle``, ``in_use``, ``connecting``, ``closing``),
    ``max_connections``, ``tasks_waiting`` and ``failing_seconds``, for how long connecting has
    failed in a row (of pools with the same name, the longest); the counters ``acquired_total``,
    ``reused_total``, ``opened_total``, ``open_failures_total``, ``closed_total`` (by ``reason``,
    the values of :class:`~anyconnpool.events.CloseReason`), ``timeouts_total``, ``cancelled_total``
    and ``replayed_total``; and the histograms ``wait_seconds``, ``use_seconds`` and
    ``connect_seconds``.

    All have the label ``pool``, the pool's name; the figures of pools with the same name are added
    up. The gauges are read whenever metrics are collected, from any thread. When a pool
    ends, its gauges go and its counters stay, as long as there is room.

    Each name takes some 20 kB here, and its series at the server. A manager's pools are named after
    their remotes, and there may be ever new ones. So there is a limit: when ``max_pools`` names are
    there, a new one takes the place of the one whose pools ended longest ago; its counters go, and
    begin at 0 should it come back, which ``rate()`` and its like know how to read. Where none has
    ended, new pools are added up under the name ``other``.

    :param registry: where to register; by default nowhere:
        ``REGISTRY.register(PoolCollector())`` does it later
    :param namespace: what all names begin with, an underscore follows
    :param buckets: upper bounds of the histograms' buckets, in seconds
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
        # Not read from the statistics: there a grant that its caller never got is subtracted again,
        # and a counter must not fall.
        self._acquired = self._counter("acquired", "Borrows of a connection.")
        self._reused = self._counter(
            "reused", "Borrows of a connection that had been borrowed before."
        )
        self._wait_time = self._histogram("wait_seconds", "Time to get a connection.")
        self._use_time = self._histogram("use_seconds", "Time for which a connection was borrowed.")
        self._connect_time = self._histogram("connect_seconds", "Time to open a connection.")
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

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now; for the registry."""
        yield from self._gauges([*self._pools.now()])
        yield from self._totals([*self._pools.ever()])
        for metric in self._recorded():
            yield from metric.collect()

    def describe(self) -> Iterable[Metric]:
        """Return the metrics for their names, which are always the same; for the registry."""
        return self.collect()

    def _forget(self, name: str) -> None:
        for metric in self._recorded():
            with suppress(KeyError):
                metric.remove(name)

    def _recorded(self) -> tuple[Counter | Histogram, ...]:
        return self._acquired, self._reused, self._wait_time, self._use_time, self._connect_time

    def _counter(self, name: str, documentation: str) -> Counter:
        return Counter(name, documentation, ["pool"], self._namespace, registry=None)

    def _histogram(self, name: str, documentation: str) -> Histogram:
        return Histogram(
            name, documentation, ["pool"], self._namespace, registry=None, buckets=self._buckets
        )

    def _gauges(self, pools: Sequence[PoolStatistics]) -> Iterable[Metric]:
        connections = GaugeMetricFamily(
            f"{self._namespace}_connections", "Connections by state.", labels=["pool", "state"]
        )
        most = GaugeMetricFamily(
            f"{self._namespace}_max_connections", "Most connections at once.", labels=["pool"]
        )
        waiting = GaugeMetricFamily(
            f"{self._namespace}_tasks_waiting", "Tasks blocked in acquire.", labels=["pool"]
        )
        failing = GaugeMetricFamily(
            f"{self._namespace}_failing_seconds",
            "For how long connecting has failed in a row; 0 if it doesn't.",
            labels=["pool"],
        )
        for pool in pools:
            failing.add_metric([pool.name], pool.failing_for or 0.0)
            for state in ("idle", "in_use", "connecting", "closing"):
                connections.add_metric([pool.name, state], getattr(pool, state))
            most.add_metric([pool.name], pool.max_size)
            waiting.add_metric([pool.name], pool.tasks_waiting)
        return connections, most, waiting, failing

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
