"""PoolMetrics under OpenTelemetry's own SDK, with events fired by hand."""

from __future__ import annotations

import math

import pytest
from opentelemetry.sdk.metrics.export import Histogram, HistogramDataPoint, Metric, Sum
from opentelemetry.semconv._incubating.attributes import db_attributes  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.semconv._incubating.metrics import db_metrics  # pyright: ignore[reportMissingTypeStubs]

from anyconnpool import ReplicaState
from anyconnpool._remote import Remote
from anyconnpool.events import (
    AcquireTimedOut,
    ConnectionAcquired,
    ConnectionOpened,
    ConnectionReleased,
    HookEnded,
    ReplicaBack,
    ReplicaResting,
)
from anyconnpool.instrumentation.opentelemetry import PoolMetrics

from .collection import PREFIX, Attributes, Collection
from .fired import FiredPool, in_two_threads

NAME = db_attributes.DB_CLIENT_CONNECTION_POOL_NAME
STATE = db_attributes.DB_CLIENT_CONNECTION_STATE
STATES = db_attributes.DbClientConnectionStateValues


@pytest.fixture
def collection() -> Collection:
    """Return a meter provider of the test's own."""
    return Collection()


@pytest.fixture
def metrics(collection: Collection) -> PoolMetrics:
    """Return the observer under test."""
    return PoolMetrics(collection.provider)


def fire_everything(metrics: PoolMetrics) -> None:
    """Let each of the metrics have something to show."""
    FiredPool(metrics, min_idle=2).start()
    metrics(ConnectionOpened("echo", 0.002))
    metrics(ConnectionAcquired("echo", 0.003, reused=False))
    metrics(ConnectionReleased("echo", 0.3))
    metrics(AcquireTimedOut("echo", 5.0))
    metrics(HookEnded("echo", "check", 0.1, None))


# For which the conventions have no names: those that are always there.
OWN = {
    "in_flight": ("Gauge", "{request}", None),
    "failing_time": ("Gauge", "s", None),
    "peak.used": ("Gauge", "{connection}", None),
    "peak.pending_requests": ("Gauge", "{request}", None),
    "open_failures": ("Sum", "{attempt}", True),
    "refused": ("Sum", "{request}", True),
    "replayed": ("Sum", "{exchange}", True),
    "hook_time": ("Histogram", "s", None),
}


def shape(metric: Metric) -> tuple[str, str | None, bool | None]:
    """Return what makes two metrics of one name the same metric."""
    rising = metric.data.is_monotonic if isinstance(metric.data, Sum) else None
    return type(metric.data).__name__, metric.unit, rising


def test_names_units_and_kinds_are_those_of_the_conventions(
    collection: Collection, metrics: PoolMetrics
) -> None:
    """Every metric has name, unit and kind of the conventions' own definition, and none lacks."""
    conventional = Collection()
    meter = conventional.provider.get_meter("conventions")
    for suffix in ("count", "idle_max", "idle_min", "max", "pending_requests", "timeouts"):
        getattr(db_metrics, f"create_db_client_connection_{suffix}")(meter).add(1)
    for suffix in ("create_time", "use_time", "wait_time"):
        getattr(db_metrics, f"create_db_client_connection_{suffix}")(meter).record(1)
    fire_everything(metrics)
    expected = {name: shape(metric) for name, metric in conventional.metrics().items()}
    expected |= {f"{PREFIX}.{name}": shape for name, shape in OWN.items()}
    assert {name: shape(metric) for name, metric in collection.metrics().items()} == expected


def test_attributes_are_those_of_the_conventions(
    collection: Collection, metrics: PoolMetrics
) -> None:
    """The pool's name is everywhere, the state in the count alone, as one of two known values."""
    fire_everything(metrics)
    for name in collection.metrics():
        expected: set[Attributes] = {((NAME, "echo"),)}
        if name == f"{PREFIX}.count":
            expected = {((NAME, "echo"), (STATE, state.value)) for state in STATES}
        elif name == f"{PREFIX}.hook_time":
            expected = {((f"{PREFIX}.hook", "check"), (NAME, "echo"))}
        assert set(collection.points(name)) == expected


def test_prefix_names_all(collection: Collection) -> None:
    """With another prefix, nothing says that the service is a database."""
    fire_everything(PoolMetrics(collection.provider, prefix="pool"))
    names = [metric.removeprefix("pool.") for metric in collection.metrics()]
    assert set(names) == {
        *("count", "create_time", "idle.max", "idle.min", "max"),
        *("pending_requests", "timeouts", "use_time", "wait_time"),
        *OWN,
    }
    assert set(collection.points("pool.count")) == {
        (("pool.pool.name", "echo"), ("pool.state", state)) for state in ("idle", "used")
    }


def test_what_is_in_a_pool_is_read_at_collection(
    collection: Collection, metrics: PoolMetrics
) -> None:
    """Each collection shows the statistics of its moment, without any event between."""
    pool = FiredPool(metrics, min_idle=2, max_size=8)
    pool.start()
    pool.show(idle=3, in_use=4, connecting=1, tasks_waiting=5, in_flight=9)
    assert collection.values("count") == [3, 4]
    assert collection.values("pending_requests") == [5]
    assert collection.values("in_flight") == [9]
    assert collection.values("max") == collection.values("idle.max") == [8]
    assert collection.values("idle.min") == [2]
    assert collection.values("failing_time") == [0]
    pool.show(idle=0, in_use=6, tasks_waiting=0, max_size=6, failing_for=2.5)
    assert collection.values("count") == [0, 6]
    assert collection.values("pending_requests") == [0]
    assert collection.values("failing_time") == [2.5]
    assert collection.values("max") == collection.values("idle.max") == [6]


def test_what_the_conventions_have_no_names_for_is_reported_too(
    collection: Collection, metrics: PoolMetrics
) -> None:
    """Peaks as they are now; totals with those of pools that have ended."""
    for number in (1, 2):
        pool = FiredPool(metrics)
        pool.start()
        pool.show(peak_in_use=3 - number, peak_waiting=4, closed={"unclean": 2, "retired": number})
        pool.show(open_failed=10, refused=20, replayed=30)
        if number == 1:
            pool.end()
    assert collection.values("peak.used") == [1]
    assert collection.values("peak.pending_requests") == [4]
    for name, total in (("open_failures", 20), ("refused", 40), ("replayed", 60)):
        assert collection.values(name) == [total]
    reason = f"{PREFIX}.close_reason"
    assert collection.points(f"{PREFIX}.closed") == {
        ((reason, "retired"), (NAME, "echo")): 3,
        ((reason, "unclean"), (NAME, "echo")): 4,
    }


def test_hooks_are_told_apart_and_failures_have_their_type(
    collection: Collection, metrics: PoolMetrics
) -> None:
    """As the conventions have it of durations; that of a success has none."""
    for hook, error in (("check", None), ("check", TimeoutError()), ("on_close", None)):
        metrics(HookEnded("echo", hook, 0.1, error))
    key = f"{PREFIX}.hook"
    assert collection.points(f"{PREFIX}.hook_time") == {
        ((key, "check"), (NAME, "echo")): 1,
        ((key, "check"), (NAME, "echo"), ("error.type", "TimeoutError")): 1,
        ((key, "on_close"), (NAME, "echo")): 1,
    }


def test_pool_without_limit_has_no_maximum(
    collection: Collection, metrics: PoolMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Infinity is no number of connections: the maxima are left out, and nothing else."""
    FiredPool(metrics, max_size=math.inf).start()
    assert collection.values("max") == collection.values("idle.max") == []
    assert collection.values("count") == [0, 0]
    assert collection.values("idle.min") == [0]
    # The SDK leaves it out too, but complains each time.
    assert not caplog.records


def test_what_each_replica_has_is_reported_by_remote(
    collection: Collection, metrics: PoolMetrics
) -> None:
    """Until the pool ends; a pool of one remote has none of it."""
    FiredPool(metrics, "single").start()
    states: dict[Remote, ReplicaState] = {
        ("h", 1): ReplicaState(False, 0, None, 4, 3),
        ("h", 2): ReplicaState(True, 2, OSError("no"), 1, 0),
    }
    pool = FiredPool(metrics, states=states)
    pool.start()
    for name, expected in (("count", [4, 1]), ("used", [3, 0]), ("failures", [0, 2])):
        assert collection.points(f"{PREFIX}.replica.{name}") == {
            ((NAME, "echo"), (f"{PREFIX}.remote", f"tcp://h:{port}")): value
            for port, value in enumerate(expected, 1)
        }
    pool.end()
    assert collection.values("replica.count") == []


def test_replicas_that_rest_are_reported_by_remote(
    collection: Collection, metrics: PoolMetrics
) -> None:
    """From the first rest on, until the pool ends."""
    pool = FiredPool(metrics)
    pool.start()
    metrics(ReplicaResting("echo", ("h", 1), OSError("no"), 1.0))
    metrics(ReplicaResting("echo", ("h", 2), OSError("no"), 1.0))
    metrics(ReplicaBack("echo", ("h", 2), 1.0))
    assert collection.points(f"{PREFIX}.replica.resting") == {
        ((NAME, "echo"), (f"{PREFIX}.remote", "tcp://h:1")): 1,
        ((NAME, "echo"), (f"{PREFIX}.remote", "tcp://h:2")): 0,
    }
    pool.end()
    assert collection.values("replica.resting") == []


def test_ended_pool_is_forgotten(collection: Collection, metrics: PoolMetrics) -> None:
    """What is in a pool is reported no more once it has ended, and again when it is entered."""
    pool = FiredPool(metrics)
    pool.start()
    pool.end()
    for name in ("count", "idle.min", "idle.max", "max", "pending_requests"):
        assert not collection.values(name)
    pool.start()
    assert collection.values("count") == [0, 0]


def test_pools_are_told_apart_by_name(collection: Collection, metrics: PoolMetrics) -> None:
    """Each name has figures of its own."""
    for name, idle in (("one", 1), ("two", 2)):
        pool = FiredPool(metrics, name)
        pool.start()
        pool.show(idle=idle)
        metrics(AcquireTimedOut(name, 1.0))
    metrics(AcquireTimedOut("two", 1.0))
    assert collection.values("count", "one") == [1, 0]
    assert collection.values("count", "two") == [2, 0]
    assert collection.values("timeouts", "one") == [1]
    assert collection.values("timeouts", "two") == [2]


@pytest.mark.parametrize("name", ["create_time", "wait_time", "use_time"])
def test_durations_go_into_histograms(
    collection: Collection, metrics: PoolMetrics, name: str
) -> None:
    """Each event's duration is recorded in seconds, in buckets fine enough for a local network."""
    for seconds in (0.0002, 0.0004, 3.0):
        event = {
            "create_time": ConnectionOpened("echo", seconds),
            "wait_time": ConnectionAcquired("echo", seconds, reused=True),
            "use_time": ConnectionReleased("echo", seconds),
        }[name]
        metrics(event)
    assert len(collection.metrics()) == 1
    data = collection.metrics()[f"{PREFIX}.{name}"].data
    assert isinstance(data, Histogram)
    (point,) = data.data_points
    assert isinstance(point, HistogramDataPoint)
    assert point.count == 3
    assert point.sum == pytest.approx(3.0006)
    assert sum(count > 0 for count in point.bucket_counts) == 3
    assert max(point.explicit_bounds) == 10


def test_collecting_while_pools_come_and_go(
    collection: Collection, metrics: PoolMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader in another thread always finds whole figures, whatever starts and ends meanwhile."""
    steady = FiredPool(metrics)
    steady.start()
    steady.show(idle=1)

    def collect() -> None:
        assert collection.values("count") == [1, 0]

    with in_two_threads(collect):
        for _ in range(300):
            pools = [FiredPool(metrics, f"remote-{number % 7}") for number in range(20)]
            for pool in pools:
                pool.start()
            for pool in pools:
                pool.end()
    # The SDK logs what a callback raises.
    assert not caplog.records
    assert set(collection.points(f"{PREFIX}.max")) == {((NAME, "echo"),)}


def test_names_are_bounded(collection: Collection) -> None:
    """The first names stay, since OpenTelemetry keeps them; further pools are added up."""
    metrics = PoolMetrics(collection.provider, max_pools=1)
    for name in ("one", "two", "three"):
        pool = FiredPool(metrics, name)
        pool.start()
        metrics(AcquireTimedOut(name, 1.0))
        pool.show(idle=1)
        if name == "one":
            pool.end()
    assert collection.values("count", "other") == [2, 0]
    assert collection.values("timeouts", "one") == [1]
    assert collection.values("timeouts", "other") == [2]
