"""PoolCollector under prometheus_client's own registry, with events fired by hand."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from anyconnpool import ReplicaState
from anyconnpool._remote import Remote
from anyconnpool.events import (
    CloseReason,
    ConnectionAcquired,
    ConnectionOpened,
    ConnectionReleased,
    HookEnded,
    ReplicaBack,
    ReplicaResting,
)
from anyconnpool.instrumentation import _pools
from anyconnpool.instrumentation.prometheus import PoolCollector
from tests.core.interrupter import Interrupter

from .collection import Exposition
from .fired import FiredPool

KINDS = {
    "connections": "gauge",
    "max_connections": "gauge",
    "in_hook": "gauge",
    "tasks_waiting": "gauge",
    "in_flight": "gauge",
    "peak_in_use": "gauge",
    "peak_tasks_waiting": "gauge",
    "failing_seconds": "gauge",
    "acquired": "counter",
    "reused": "counter",
    "opened": "counter",
    "open_failures": "counter",
    "closed": "counter",
    "timeouts": "counter",
    "cancelled": "counter",
    "replayed": "counter",
    "refused": "counter",
    "hook_failures": "counter",
    "wait_seconds": "histogram",
    "use_seconds": "histogram",
    "connect_seconds": "histogram",
    "hook_seconds": "histogram",
    "replica_connections": "gauge",
    "replica_in_use": "gauge",
    "replica_failures": "gauge",
    "replica_resting": "gauge",
    "replica_rests": "counter",
}


@pytest.fixture
def exposition() -> Exposition:
    """Return a registry of the test's own, with a collector."""
    return Exposition()


@pytest.fixture
def collector(exposition: Exposition) -> PoolCollector:
    """Return the collector under test."""
    return exposition.collector


@pytest.mark.parametrize("namespace", ["anyconnpool", "orders"])
def test_metrics_are_the_documented_ones(namespace: str) -> None:
    """Every metric has its name, under the namespace, and its kind, also before any pool starts."""
    exposition = Exposition(namespace)
    expected = {f"{namespace}_{name}": kind for name, kind in KINDS.items()}
    assert exposition.kinds() == expected
    FiredPool(exposition.collector).start()
    assert exposition.kinds() == expected


def test_what_is_in_a_pool_is_read_when_it_is_asked_for(
    exposition: Exposition, collector: PoolCollector
) -> None:
    """Each reading shows the statistics of its moment, without any event between."""
    pool = FiredPool(collector)
    pool.start()
    pool.show(idle=1, in_use=2, connecting=3, closing=4, tasks_waiting=5, in_flight=6)
    states = ("idle", "in_use", "connecting", "closing")
    assert [exposition.value("connections", state=state) for state in states] == [1, 2, 3, 4]
    assert exposition.value("tasks_waiting") == 5
    assert exposition.value("in_flight") == 6
    assert exposition.value("failing_seconds") == 0
    pool.show(failing_for=2.5)
    assert exposition.value("failing_seconds") == 2.5
    assert exposition.value("max_connections") == 10
    pool.show(in_hook=1, peak_in_use=6, peak_waiting=8)
    assert exposition.value("in_hook") == 1
    assert exposition.value("peak_in_use") == 6
    assert exposition.value("peak_tasks_waiting") == 8
    pool.show(idle=7, max_size=20)
    assert exposition.value("connections", state="idle") == 7
    assert exposition.value("max_connections") == 20


def test_pool_without_limit_has_an_infinite_maximum(
    exposition: Exposition, collector: PoolCollector
) -> None:
    """Prometheus knows infinity: what is in use, divided by it, is no part at all."""
    FiredPool(collector, max_size=float("inf")).start()
    assert exposition.value("max_connections") == float("inf")


def test_totals_are_those_of_the_statistics(
    exposition: Exposition, collector: PoolCollector
) -> None:
    """Each counter shows the figure that it is named after."""
    pool = FiredPool(collector)
    pool.start()
    pool.show(opened=11, open_failed=12, timed_out=13, cancelled=14, replayed=15, refused=16)
    names = ("opened", "open_failures", "timeouts", "cancelled", "replayed", "refused")
    assert [exposition.value(f"{name}_total") for name in names] == [11, 12, 13, 14, 15, 16]


def test_closed_connections_are_counted_by_reason(
    exposition: Exposition, collector: PoolCollector
) -> None:
    """Every reason is there from the start, at 0, so that the first of its kind is a rise."""
    pool = FiredPool(collector)
    pool.start()
    for reason in CloseReason:
        assert exposition.value("closed_total", reason=reason.value) == 0
    pool.show(closed={"unclean": 2, "max_lifetime": 1})
    assert exposition.value("closed_total", reason="unclean") == 2
    assert exposition.value("closed_total", reason="max_lifetime") == 1


def test_borrows_are_counted_from_the_start(
    exposition: Exposition, collector: PoolCollector
) -> None:
    """Borrows are counted as their callers get them, the reused ones too; 0 is shown before."""
    FiredPool(collector).start()
    assert exposition.value("acquired_total") == exposition.value("reused_total") == 0
    collector(ConnectionAcquired("echo", 0.1, reused=False))
    collector(ConnectionAcquired("echo", 0.0, reused=True))
    collector(ConnectionAcquired("echo", 0.0, reused=True))
    assert exposition.value("acquired_total") == 3
    assert exposition.value("reused_total") == 2


def test_grant_that_is_taken_back_lowers_no_counter(
    exposition: Exposition, collector: PoolCollector
) -> None:
    """A pool takes a grant back if its caller is cancelled: the counter of borrows doesn't fall."""
    pool = FiredPool(collector)
    pool.start()
    collector(ConnectionAcquired("echo", 0.0, reused=True))
    pool.show(acquired=2, reused=2)
    before = exposition.value("acquired_total"), exposition.value("reused_total")
    pool.show(acquired=1, reused=1)
    assert (exposition.value("acquired_total"), exposition.value("reused_total")) == before


def test_durations_go_into_histograms(exposition: Exposition, collector: PoolCollector) -> None:
    """Waiting, use and connecting are told apart, in buckets fine enough for a local network."""
    FiredPool(collector).start()
    for number, name in enumerate(("wait", "use", "connect"), 1):
        assert exposition.value(f"{name}_seconds_count") == 0
        for _ in range(number):
            event = {
                "wait": ConnectionAcquired("echo", 0.0004, reused=True),
                "use": ConnectionReleased("echo", 0.0004),
                "connect": ConnectionOpened("echo", 0.0004),
            }[name]
            collector(event)
        assert exposition.value(f"{name}_seconds_count") == number
        assert exposition.value(f"{name}_seconds_sum") == pytest.approx(0.0004 * number)
        assert exposition.value(f"{name}_seconds_bucket", le="0.00025") == 0
        assert exposition.value(f"{name}_seconds_bucket", le="0.0005") == number


def test_hooks_are_told_apart(exposition: Exposition, collector: PoolCollector) -> None:
    """By name, each with how long it took and how often it failed; one that never ran is not there.

    What a name has is forgotten with the name, too.
    """
    FiredPool(collector).start()
    assert exposition.value("hook_seconds_count", hook="check") is None
    collector(HookEnded("echo", "check", 0.2, None))
    collector(HookEnded("echo", "on_close", 0.1, None))
    assert exposition.value("hook_failures_total", hook="check") == 0
    collector(HookEnded("echo", "check", 0.3, TimeoutError()))
    assert exposition.value("hook_seconds_count", hook="check") == 2
    assert exposition.value("hook_seconds_sum", hook="check") == pytest.approx(0.5)
    assert exposition.value("hook_failures_total", hook="check") == 1
    assert exposition.value("hook_failures_total", hook="on_close") == 0


def test_peaks_of_pools_of_one_name_are_not_added_up(
    exposition: Exposition, collector: PoolCollector
) -> None:
    """They may have been at different times: the highest counts."""
    for peak in (3, 5, 4):
        pool = FiredPool(collector)
        pool.start()
        pool.show(peak_in_use=peak, peak_waiting=10 * peak, in_hook=1)
    assert exposition.value("peak_in_use") == 5
    assert exposition.value("peak_tasks_waiting") == 50
    assert exposition.value("in_hook") == 3


def test_rests_of_replicas_are_reported_by_remote(
    exposition: Exposition, collector: PoolCollector
) -> None:
    """One that is prolonged is the same rest; what has ended rests no more, and stays counted."""
    pool = FiredPool(collector)
    pool.start()
    remotes: list[Any] = [("10.0.0.1", 7000), "/run/server"]
    for remote in (*remotes, remotes[0]):
        collector(ReplicaResting("echo", remote, OSError("no"), 1.0))
    names = ["tcp://10.0.0.1:7000", "unix:///run/server"]

    def values(metric: str) -> list[float | None]:
        return [exposition.value(metric, remote=name) for name in names]

    assert values("replica_resting") == [1, 1]
    collector(ReplicaBack("echo", remotes[0], 2.0))
    collector(ReplicaBack("echo", "/run/unknown", 2.0))
    assert values("replica_resting") == [0, 1]
    collector(ReplicaResting("echo", remotes[0], OSError("no"), 1.0))
    pool.end()
    assert values("replica_resting") == [0, 0]
    assert values("replica_rests_total") == [2, 1]


def test_what_each_replica_has_is_reported_by_remote(
    exposition: Exposition, collector: PoolCollector
) -> None:
    """Read at each moment, of pools with one name added up; rests begin at 0, before the first."""
    known: dict[Remote, ReplicaState] = {
        ("10.0.0.1", 7000): ReplicaState(False, 0, None, 4, 3),
        "/run/server": ReplicaState(True, 2, OSError("no"), 1, 0),
    }
    names = ["tcp://10.0.0.1:7000", "unix:///run/server"]

    def values(metric: str) -> list[float | None]:
        return [exposition.value(metric, remote=name) for name in names]

    pools = [FiredPool(collector, states=dict(known)) for _ in range(2)]
    pools[0].start()
    assert values("replica_connections") == [4, 1]
    assert values("replica_in_use") == [3, 0]
    assert values("replica_failures") == [0, 2]
    assert values("replica_rests_total") == values("replica_resting") == [0, 0]
    pools[1].start()
    other: dict[Remote, ReplicaState] = {"/run/server": ReplicaState(True, 5, OSError("no"), 2, 1)}
    pools[1].states = other
    assert values("replica_connections") == [4, 3]
    assert values("replica_in_use") == [3, 1]
    assert values("replica_failures") == [0, 5]
    collector(ReplicaResting("echo", "/run/server", OSError("no"), 1.0))
    assert values("replica_rests_total") == values("replica_resting") == [0, 1]
    for pool in pools:
        pool.end()
    assert values("replica_connections") == [None, None]
    assert values("replica_rests_total") == [None, 1]


def test_ever_new_replicas_take_no_more_room(
    exposition: Exposition, collector: PoolCollector
) -> None:
    """Those that come when there are a hundred are added up."""
    FiredPool(collector).start()
    for port in range(1, 151):
        collector(ReplicaResting("echo", ("h", port), OSError("no"), 1.0))
    assert exposition.value("replica_rests_total", remote="tcp://h:100") == 1
    assert exposition.value("replica_rests_total", remote="tcp://h:101") is None
    assert exposition.value("replica_resting", remote="other") == 1
    state = ReplicaState(False, 0, None, 1, 0)
    FiredPool(collector, "many", states={("h", port): state for port in range(1, 151)}).start()
    assert exposition.value("replica_connections", "many", remote="tcp://h:100") == 1
    assert exposition.value("replica_connections", "many", remote="tcp://h:101") is None
    assert exposition.value("replica_connections", "many", remote="other") == 50


def test_buckets_can_be_chosen() -> None:
    """The bounds of the histograms are the user's, if any are given."""
    registry = CollectorRegistry()
    collector = PoolCollector(registry, buckets=(0.5, 1.5))
    collector(ConnectionReleased("echo", 1.0))
    samples = generate_latest(registry).decode()
    assert 'anyconnpool_use_seconds_bucket{le="1.5",pool="echo"} 1.0' in samples
    assert samples.count("anyconnpool_use_seconds_bucket") == 3


def test_ended_pool_leaves_its_counters(exposition: Exposition, collector: PoolCollector) -> None:
    """At a pool's end its gauges go and its totals stay; entered again, it counts on from there."""
    pool = FiredPool(collector)
    for entered in (1, 2, 3):
        pool.start()
        pool.show(idle=1, opened=5, closed={"unclean": 4})
        collector(ConnectionAcquired("echo", 0.0, reused=False))
        assert exposition.value("opened_total") == 5 * entered
        pool.end()
        # What an ended pool says no longer matters.
        pool.show(opened=0, closed={})
        assert exposition.value("connections", state="idle") is None
        assert exposition.value("max_connections") is None
        assert exposition.value("opened_total") == 5 * entered
        assert exposition.value("closed_total", reason="unclean") == 4 * entered
        assert exposition.value("acquired_total") == entered


def test_pools_are_told_apart_by_name(exposition: Exposition, collector: PoolCollector) -> None:
    """Each name has figures of its own."""
    for name, opened in (("one", 1), ("two", 2)):
        pool = FiredPool(collector, name)
        pool.start()
        pool.show(opened=opened)
        collector(ConnectionReleased(name, float(opened)))
    for name, opened in (("one", 1), ("two", 2)):
        assert exposition.value("opened_total", name) == opened
        assert exposition.value("use_seconds_sum", name) == opened


def test_registry_refuses_the_same_names_twice() -> None:
    """Two collectors in one registry need different namespaces."""
    registry = CollectorRegistry()
    PoolCollector(registry)
    with pytest.raises(ValueError, match="anyconnpool_"):
        PoolCollector(registry)
    with pytest.raises(ValueError, match="anyconnpool_"):
        registry.register(PoolCollector())
    PoolCollector(registry, namespace="other")


def test_some_metrics_alone_can_be_asked_for() -> None:
    """The registry finds the collector by each of its names."""
    registry = CollectorRegistry()
    FiredPool(PoolCollector(registry)).start()
    restricted = registry.restricted_registry(["anyconnpool_opened_total"])
    (family,) = restricted.collect()
    assert [sample.name for sample in family.samples] == ["anyconnpool_opened_total"]


def test_names_are_bounded() -> None:
    """A new name takes the place of the one whose pools ended longest ago, with all that it had."""
    exposition = Exposition(max_pools=2)
    collector = exposition.collector
    pools = {name: FiredPool(collector, name) for name in ("one", "two", "three")}
    for name in ("two", "one"):
        pools[name].start()
        pools[name].show(opened=5)
        collector(HookEnded(name, "check", 0.1, None))
        collector(ConnectionAcquired(name, 0.0, reused=False))
    for name in ("one", "two", "one"):
        pools[name].end()
        pools[name].start()
    pools["two"].end()
    pools["one"].end()
    pools["three"].start()
    assert exposition.pools() == {"one", "three"}
    assert exposition.value("opened_total", "one") == 15
    pools["two"].figures = pools["three"].figures
    pools["two"].show(name="two", opened=1)
    pools["two"].start()
    assert exposition.pools() == {"two", "three"}
    assert exposition.value("opened_total", "two") == 1
    assert exposition.value("acquired_total", "two") == 0
    assert exposition.value("hook_seconds_count", "two", hook="check") is None


def test_pools_that_are_too_many_are_added_up() -> None:
    """While all names are in use, new pools go under one name, whose counters never fall."""
    exposition = Exposition(max_pools=1)
    collector = exposition.collector
    FiredPool(collector, "first").start()
    totals: list[float | None] = []
    for number in range(20):
        pool = FiredPool(collector, f"pool {number}")
        pool.start()
        pool.show(opened=1, idle=1)
        collector(ConnectionAcquired(f"pool {number}", 0.0, reused=False))
        totals.append(exposition.value("opened_total", "other"))
        if number < 18:
            pool.end()
    assert totals == [*range(1, 21)]
    assert exposition.pools() == {"first", "other"}
    assert exposition.value("connections", "other", state="idle") == 2
    assert exposition.value("acquired_total", "other") == 20


def test_ever_new_pools_take_no_more_memory() -> None:
    """The figures of a thousand remotes are no more than those of ten."""
    collector = PoolCollector(CollectorRegistry(), max_pools=10)

    def come_and_go(numbers: range) -> None:
        for number in numbers:
            pool = FiredPool(collector, f"remote {number}")
            pool.start()
            collector(ConnectionAcquired(f"remote {number}", 0.0, reused=False))
            pool.end()

    come_and_go(range(20))
    tracemalloc.start()
    try:
        come_and_go(range(20, 40))
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        come_and_go(range(40, 240))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Of each pool 20 kB would be kept, 4 MB in all.
    assert after - before < 200_000


@pytest.mark.parametrize("most", [0, -1, 1.5, True])
def test_a_limit_that_makes_no_sense_is_refused(most: float) -> None:
    """There is a pool to report at least."""
    with pytest.raises((TypeError, ValueError), match="max_pools"):
        PoolCollector(max_pools=most)


def test_an_event_of_a_pool_whose_start_nobody_saw_has_its_name(
    exposition: Exposition, collector: PoolCollector
) -> None:
    """As long as there is room."""
    collector(ConnectionAcquired("unseen", 0.0, reused=False))
    assert exposition.value("acquired_total", "unseen") == 1


def test_figures_can_be_read_in_the_middle_of_a_change() -> None:
    """By a signal handler, which runs in the thread that changes them, wherever that is."""
    step, steps = 1, 1
    while step <= steps:
        exposition = Exposition(max_pools=1)
        pools = [FiredPool(exposition.collector, name) for name in ("one", "two", "three")]

        def change(pools: list[FiredPool] = pools) -> None:
            for pool in pools:
                pool.start()
            for pool in pools:
                pool.end()
            pools[2].start()

        interrupter = Interrupter(_pools.__file__, step, exposition.pools)
        interrupter.run(change)
        assert exposition.pools() == {"three", "other"}
        steps, step = len(interrupter.places), step + 1
    assert steps > 50
