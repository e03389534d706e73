"""Both exporters as observers of real pools over loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio import CancelScope, create_task_group

from anyconnpool import (
    AcquireTimeout,
    ConnectionPool,
    PoolManager,
    PoolStatistics,
    Replicas,
    Retry,
)
from anyconnpool.instrumentation.opentelemetry import PoolMetrics
from tests.sockets.checks import ask, eventually
from tests.sockets.servers import Peer, Server

from .collection import Collection, Exposition

STATES = ("idle", "in_use", "connecting", "closing")


class Observed:
    """Both exporters, to be given to a pool, and what they say."""

    def __init__(self) -> None:
        self.collection = Collection()
        self.exposition = Exposition()
        self.observers = [PoolMetrics(self.collection.provider), self.exposition.collector]

    def check_gauges(self, figures: PoolStatistics) -> None:
        """See that both show what a pool is doing."""
        name, show, values = figures.name, self.exposition.value, self.collection.values
        assert {state: show("connections", name, state=state) for state in STATES} == {
            state: getattr(figures, state) for state in STATES
        }
        assert show("tasks_waiting", name) == figures.tasks_waiting
        assert show("max_connections", name) == figures.max_size
        assert show("peak_in_use", name) == figures.peak_in_use
        assert show("peak_tasks_waiting", name) == figures.peak_waiting
        assert values("peak.used", name) == [figures.peak_in_use]
        assert values("count", name) == [figures.idle, figures.in_use]
        assert values("pending_requests", name) == [figures.tasks_waiting]
        assert values("max", name) == values("idle.max", name) == [figures.max_size]

    def check_no_gauges(self, name: str) -> None:
        """See that neither shows a pool that has ended."""
        assert self.exposition.value("tasks_waiting", name) is None
        assert self.exposition.value("max_connections", name) is None
        for metric in ("count", "idle.min", "idle.max", "max", "pending_requests"):
            assert not self.collection.values(metric, name)

    def check_totals(self, figures: PoolStatistics, times: int = 1) -> None:
        """See that both show what a pool has done, a number of times over."""
        name, show, values = figures.name, self.exposition.value, self.collection.values
        for total, figure in {
            "acquired": figures.acquired,
            "reused": figures.reused,
            "opened": figures.opened,
            "open_failures": figures.open_failed,
            "timeouts": figures.timed_out,
            "cancelled": figures.cancelled,
            "replayed": figures.replayed,
            "refused": figures.refused,
        }.items():
            assert show(f"{total}_total", name) == figure * times, total
        for reason, count in figures.closed.items():
            assert show("closed_total", name, reason=reason) == count * times, reason
        for metric, seconds, figure in (
            ("create_time", "connect", figures.opened),
            ("wait_time", "wait", figures.acquired),
            ("use_time", "use", figures.acquired),
        ):
            assert show(f"{seconds}_seconds_count", name) == figure * times, metric
            assert values(metric, name) == [figure * times], metric
        assert values("timeouts", name) == ([figures.timed_out * times] * bool(figures.timed_out))


@pytest.fixture
def observed() -> Observed:
    """Return exporters of the test's own."""
    return Observed()


def hang_up_at_first(peer: Peer) -> None:
    """Answer each line with itself, but hang up at a request that is not a repeated one."""
    while (line := peer.receive_line()) != b"first":
        peer.send(b"> " + line + b"\n")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Return a server."""
    with Server("tcp", tmp_path, hang_up_at_first) as server:
        yield server


async def live(pool: ConnectionPool, server: Server) -> None:
    """Let something of each kind happen to a pool of at most one connection."""
    async with pool.acquire() as connection:
        await ask(connection)
        with pytest.raises(AcquireTimeout):
            await pool.acquire(timeout=0.01)
        async with create_task_group() as task_group:
            task_group.start_soon(pool.connect)
            await eventually(lambda: pool.statistics().tasks_waiting)
            task_group.cancel_scope.cancel()
    async with pool.acquire() as connection:
        await ask(connection)
        connection.discard()
    with pytest.raises(anyio.EndOfStream):
        await pool.send_receive_line(b"first", retry=Retry(1, interval=0))
    server.stop()
    with pytest.raises(anyio.ConnectionFailed):
        await pool.send_receive_line(b"nobody there")
    server.start()
    await pool.send_receive_line(b"again")


async def test_figures_are_those_of_the_pool(observed: Observed, server: Server) -> None:
    """Whatever happens in a pool, both exporters show the figures of its own statistics."""
    pool = server.pool(name="echo", max_size=1, observers=observed.observers)
    for entered in (1, 2):
        async with pool:
            observed.check_gauges(pool.statistics())
            await live(pool, server)
            observed.check_gauges(pool.statistics())
        observed.check_no_gauges("echo")
        observed.check_totals(pool.statistics(), entered)
    done = pool.statistics()
    assert min(done.reused, done.timed_out, done.cancelled, done.replayed, done.open_failed) > 0


async def test_borrowers_and_waiters_are_seen(observed: Observed, server: Server) -> None:
    """While a connection is borrowed and another task waits for it, both exporters say so."""
    pool = server.pool(name="echo", max_size=1, observers=observed.observers)
    async with pool, create_task_group() as task_group, pool.acquire():
        task_group.start_soon(pool.send_receive_line, b"waits")
        await eventually(lambda: pool.statistics().tasks_waiting)
        assert observed.exposition.value("connections", state="in_use") == 1
        assert observed.exposition.value("tasks_waiting") == 1
        observed.check_gauges(pool.statistics())


async def test_pools_of_a_manager_come_and_go(observed: Observed, server: Server) -> None:
    """A pool that its manager drops is no longer shown, its totals are, and it counts on."""
    name = f"tcp://127.0.0.1:{server.remote[1]}"
    async with PoolManager(max_idle_time=0.05, observers=observed.observers) as manager:
        for time in (1, 2):
            await manager.send_receive_line(server.remote, b"ping")
            await eventually(lambda: observed.exposition.value("tasks_waiting", name) is None)
            observed.check_no_gauges(name)
            assert observed.exposition.value("opened_total", name) == time
            assert observed.exposition.value("closed_total", name, reason="max_idle_time") == time
            assert observed.collection.values("create_time", name) == [time]


async def test_pools_of_one_remote_add_up(observed: Observed, server: Server) -> None:
    """Two pools of one remote have the same name by default; each may end before the other."""
    first, second = (server.pool(observers=observed.observers) for _ in range(2))
    async with first:
        await first.send_receive_line(b"ping")
        async with second:
            await second.send_receive_line(b"ping")
            assert observed.collection.values("count", first.name) == [2, 0]
            assert observed.exposition.value("connections", first.name, state="idle") == 2
        observed.check_gauges(first.statistics())
        await first.send_receive_line(b"ping")
        assert observed.exposition.value("acquired_total", first.name) == 3
        assert observed.exposition.value("opened_total", first.name) == 2
    observed.check_no_gauges(first.name)
    assert observed.exposition.value("opened_total", first.name) == 2


async def test_what_replicas_have_is_seen(observed: Observed, server: Server) -> None:
    """Both exporters show what each server of a pool has, and that one of them rests."""
    live, dead = f"tcp://127.0.0.1:{server.remote[1]}", "tcp://127.0.0.1:1"

    def show(metric: str, remote: str) -> float | None:
        return observed.exposition.value(metric, remote=remote)

    replicas = Replicas([("127.0.0.1", 1), server.remote])
    async with ConnectionPool(replicas, name="echo", observers=observed.observers) as pool:
        assert show("replica_rests_total", dead) == show("replica_rests_total", live) == 0
        await pool.send_receive_line(b"ping")
        async with pool.acquire() as connection:
            await ask(connection)
            assert show("replica_connections", live) == show("replica_in_use", live) == 1
        assert show("replica_in_use", live) == 0
        assert show("replica_failures", live) == show("replica_resting", live) == 0
        assert (show("replica_failures", dead) or 0) >= 1
        assert show("replica_resting", dead) == show("replica_rests_total", dead) == 1
        assert sorted(observed.collection.values("replica.used")) == [0, 0]
        assert observed.collection.values("replica.resting") == [1]
    assert show("replica_connections", live) is None


async def test_each_borrow_is_told_twice(observed: Observed, server: Server) -> None:
    """Whenever an acquire is cancelled: what is told to come back was told to have been lent."""

    async def cancel(scope: CancelScope) -> None:
        scope.cancel()

    async with server.pool(name="echo", observers=observed.observers) as pool:
        await pool.send_receive_line(b"ping")
        for _ in range(150):
            async with create_task_group() as task_group:
                task_group.start_soon(cancel, task_group.cancel_scope)
                async with pool.acquire():
                    pass
        lent = observed.exposition.value("wait_seconds_count")
        assert lent == observed.exposition.value("use_seconds_count")
        assert lent == observed.exposition.value("acquired_total")
