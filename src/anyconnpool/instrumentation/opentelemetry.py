"""Metrics of pools for OpenTelemetry: the extra ``opentelemetry``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

from anyconnpool._statistics import PoolStatistics
from anyconnpool.events import (
    AcquireTimedOut,
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
    from opentelemetry.metrics import (
        CallbackOptions,
        Histogram,
        MeterProvider,
        Observation,
        get_meter_provider,
    )
except ImportError as _error:
    raise ImportError(
        "anyconnpool.instrumentation.opentelemetry needs OpenTelemetry: "
        'pip install "anyconnpool[opentelemetry]"'
    ) from _error

__all__ = ["PoolMetrics"]

_Read: TypeAlias = Callable[[CallbackOptions], Iterable[Observation]]

# What the conventions have no names for: the name, the unit, what it says, where it stands in the
# statistics.
_GAUGES = (
    ("in_flight", "{request}", "Exchanges on shared connections.", "in_flight"),
    (
        "failing_time",
        "s",
        "For how long connecting has failed in a row; 0 if it doesn't.",
        "failing_for",
    ),
    ("peak.used", "{connection}", "Most connections used at once.", "peak_in_use"),
    ("peak.pending_requests", "{request}", "Most tasks waiting at once.", "peak_waiting"),
)
_REPLICA_GAUGES = (
    ("replica.count", "{connection}", "Connections to one of several servers.", "connections"),
    ("replica.used", "{connection}", "Those of them that are borrowed.", "in_use"),
    ("replica.failures", "{failure}", "Failures of one of several servers in a row.", "failures"),
)
_TOTALS = (
    ("open_failures", "{attempt}", "Attempts to open a connection that failed.", "open_failed"),
    ("refused", "{request}", "Acquires refused: max_waiting, or failing fast.", "refused"),
    ("replayed", "{exchange}", "Exchanges repeated on another connection.", "replayed"),
)


class PoolMetrics(PoolObserver):
    """Report pools by the semantic conventions for the connection pools of database clients.

    Pass the same object to all pools, as ``observers=[metrics]``. The metrics are, each under the
    prefix: ``count`` (of connections, by ``state``: ``idle`` or ``used``), ``idle.min``,
    ``idle.max``, ``max``, ``pending_requests``, ``timeouts``, and the histograms ``create_time``,
    ``wait_time`` and ``use_time`` in seconds. Connections that are being opened or closed, or that
    a hook is at work on, are in neither state. All that a pool has open may be idle, so
    ``idle.max`` is ``max``; without a limit both are left out.

    The conventions have no names for the following, which are under the prefix all the same: the
    gauge ``failing_time``, for how many seconds connecting has failed in a row; ``in_flight``, how
    many exchanges there are on shared connections; the gauges ``peak.used`` and
    ``peak.pending_requests``; by ``remote``, the gauges ``replica.count``, ``replica.used`` and
    ``replica.failures``, those in a row, of each of several :class:`~anyconnpool.Replicas`, and
    ``replica.resting``, of those that have rested, 1 while one rests; the counters
    ``open_failures``, ``refused``, ``replayed`` and ``closed`` (by ``close_reason``, the values of
    :class:`~anyconnpool.events.CloseReason`); the histogram ``hook_time`` in seconds (by ``hook``,
    and by ``error.type`` if it failed, as the conventions have it of durations).

    All have the attribute ``pool.name``, under the prefix too; the figures of pools with the same
    name are added up, except for peaks and ``failing_time``, where the highest counts. The gauges
    are read whenever metrics are collected, from any thread; the counters of a pool that has ended
    stay.

    OpenTelemetry keeps what it has recorded for each name, for good. A manager's pools are named
    after their remotes, and there may be ever new ones. So there is a limit: pools whose names come
    after the first ``max_pools`` are added up under the name ``other``.

    :param meter_provider: where the metrics go; by default what
        :func:`opentelemetry.metrics.set_meter_provider` sets, before or after
    :param prefix: the beginning of the names of metrics and attributes, for services that are not
        databases
    :param max_pools: how many names of pools to report at most, besides ``other``
    :raises ValueError: if ``max_pools`` is less than 1
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        *,
        prefix: str = "db.client.connection",
        max_pools: float = 1000,
    ) -> None:
        self._prefix = prefix
        self._name_key = f"{prefix}.pool.name"
        self._state_key = f"{prefix}.state"
        self._hook_key = f"{prefix}.hook"
        self._reason_key = f"{prefix}.close_reason"
        self._pools = Pools(max_pools)
        self._rests = Rests()
        self._meter = (meter_provider or get_meter_provider()).get_meter("anyconnpool")
        self._observe("count", "Connections, idle or used.", self._read_states)
        self._observe("idle.min", "Fewest idle connections kept.", self._read_min_idle)
        self._observe("idle.max", "Most idle connections allowed.", self._read_max_size)
        self._observe("max", "Most open connections allowed.", self._read_max_size)
        self._observe(
            "pending_requests",
            "Tasks waiting for a connection.",
            self._read_waiting,
            "{request}",
        )
        self._observe_what_has_no_convention()
        self._hook_time = self._histogram("hook_time", "Time that a hook took.")
        self._timeouts = self._meter.create_counter(
            f"{prefix}.timeouts", "{timeout}", "Acquires that ran out of time."
        )
        self._create_time = self._histogram("create_time", "Time to open a connection.")
        self._wait_time = self._histogram("wait_time", "Time to get a connection from the pool.")
        self._use_time = self._histogram("use_time", "Time for which a connection was borrowed.")

    def _observe_what_has_no_convention(self) -> None:
        for name, unit, description, figure in _GAUGES:
            self._meter.create_observable_gauge(
                f"{self._prefix}.{name}", [self._reader(self._pools.now, figure)], unit, description
            )
        for name, unit, description, figure in _TOTALS:
            self._meter.create_observable_counter(
                f"{self._prefix}.{name}",
                [self._reader(self._pools.ever, figure)],
                unit,
                description,
            )
        for name, unit, description, figure in _REPLICA_GAUGES:
            self._meter.create_observable_gauge(
                f"{self._prefix}.{name}", [self._replica_reader(figure)], unit, description
            )
        self._meter.create_observable_gauge(
            f"{self._prefix}.replica.resting",
            [self._read_resting],
            "1",
            "Whether one of several servers rests, of those that ever have.",
        )
        self._meter.create_observable_counter(
            f"{self._prefix}.closed", [self._read_closed], "{connection}", "Connections that left."
        )

    def started(self, event: PoolStarted) -> None:
        """Report the pool from now on."""
        self._pools.start(event)

    def ended(self, event: PoolEnded) -> None:
        """Forget the pool."""
        self._pools.end(event)
        self._rests.forget(self._pools.name(event.pool))

    def resting(self, event: ReplicaResting) -> None:
        """Note that a replica rests."""
        self._rests.rest(self._pools.name(event.pool), event)

    def back(self, event: ReplicaBack) -> None:
        """Note that a replica rests no more."""
        self._rests.back(self._pools.name(event.pool), event)

    def opened(self, event: ConnectionOpened) -> None:
        """Record how long it took to open a connection."""
        self._create_time.record(event.connect_time, self._name(self._pools.name(event.pool)))

    def acquired(self, event: ConnectionAcquired) -> None:
        """Record how long a caller has waited."""
        self._wait_time.record(event.wait_time, self._name(self._pools.name(event.pool)))

    def released(self, event: ConnectionReleased) -> None:
        """Record how long a connection was borrowed."""
        self._use_time.record(event.use_time, self._name(self._pools.name(event.pool)))

    def timed_out(self, event: AcquireTimedOut) -> None:
        """Count an acquire that ran out of time."""
        self._timeouts.add(1, self._name(self._pools.name(event.pool)))

    def hook_ended(self, event: HookEnded) -> None:
        """Record how long a hook took, and whether it failed."""
        attributes = {**self._name(self._pools.name(event.pool)), self._hook_key: event.hook}
        if event.error is not None:
            attributes["error.type"] = type(event.error).__qualname__
        self._hook_time.record(event.duration, attributes)

    def _observe(
        self, name: str, description: str, read: _Read, unit: str = "{connection}"
    ) -> None:
        name = f"{self._prefix}.{name}"
        self._meter.create_observable_up_down_counter(name, [read], unit, description)

    def _histogram(self, name: str, description: str) -> Histogram:
        return self._meter.create_histogram(
            f"{self._prefix}.{name}",
            "s",
            description,
            explicit_bucket_boundaries_advisory=BUCKETS,
        )

    def _name(self, pool: str) -> dict[str, str]:
        return {self._name_key: pool}

    def _read_states(self, _: CallbackOptions) -> Iterable[Observation]:
        for pool in self._pools.now():
            for state, count in ("idle", pool.idle), ("used", pool.in_use):
                yield Observation(count, {**self._name(pool.name), self._state_key: state})

    def _read_min_idle(self, _: CallbackOptions) -> Iterable[Observation]:
        for name, count in self._pools.min_idle():
            yield Observation(count, self._name(name))

    def _read_max_size(self, _: CallbackOptions) -> Iterable[Observation]:
        for pool in self._pools.now():
            if pool.max_size != math.inf:
                yield Observation(pool.max_size, self._name(pool.name))

    def _read_waiting(self, _: CallbackOptions) -> Iterable[Observation]:
        for pool in self._pools.now():
            yield Observation(pool.tasks_waiting, self._name(pool.name))

    def _reader(self, find: Callable[[], Iterable[PoolStatistics]], figure: str) -> _Read:
        """Return what reads one figure of the pools that a function finds."""

        def read(_: CallbackOptions) -> Iterable[Observation]:
            # What is None (failing_for) lasts for no time.
            return [
                Observation(getattr(pool, figure) or 0, self._name(pool.name)) for pool in find()
            ]

        return read

    def _read_closed(self, _: CallbackOptions) -> Iterable[Observation]:
        for pool in self._pools.ever():
            for reason, count in pool.closed.items():
                yield Observation(count, {**self._name(pool.name), self._reason_key: reason})

    def _replica_reader(self, figure: str) -> _Read:
        """Return what reads one figure of each of several replicas."""

        def read(_: CallbackOptions) -> Iterable[Observation]:
            for (pool, remote), figures in self._pools.replicas().items():
                attributes = {**self._name(pool), f"{self._prefix}.remote": remote}
                yield Observation(getattr(figures, figure), attributes)

        return read

    def _read_resting(self, _: CallbackOptions) -> Iterable[Observation]:
        for pool, remote, rests, _count in self._rests.now():
            attributes = {**self._name(pool), f"{self._prefix}.remote": remote}
            yield Observation(int(rests), attributes)
