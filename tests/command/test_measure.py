"""Measuring, in this process and against servers that are known."""

from __future__ import annotations

import math
import socket
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import pytest
from anyio import Event, create_task_group

from anyconnpool import PackageFormat, PoolStatistics
from anyconnpool.command._framing import Framing
from anyconnpool.command._measure import Answer, Meter, Requests, ask_from_many, open_beforehand
from anyconnpool.command._pace import Extent
from anyconnpool.command._payload import Field, Payload
from anyconnpool.command._reasons import CommandError
from anyconnpool.command._results import PoolUse, Report
from anyconnpool.command._sweep import Plan, measure
from anyconnpool.command._target import Target
from tests.sockets.checks import eventually
from tests.sockets.servers import Peer, Server, one_reply

LINES = Framing("line", PackageFormat())
PING = Payload([b"ping"])


def plan_for(server: Server) -> Plan:
    """Make a plan of short measurements."""
    target = Target(server.remote, None)
    requests = Requests(LINES, PING, 10)
    return Plan(target, requests, 10, (1, 3), 4, Extent(0.2), warm_up=0, unpooled=True)


async def test_each_size_and_no_pool_are_measured(server: Server) -> None:
    """A sweep has a point for each size in order, without failures, and one without a pool."""
    report = Report()
    await measure(plan_for(server), report, None)
    assert [point.max_size for point in report.points] == [1, 3, None]
    for point in report.points:
        assert point.answered > 0
        assert not point.errors
        # No exchange over sockets is faster; the clocks of some event loops have steps of 1 ms.
        assert point.latency["p50"] > 5e-6
        assert [*point.latency.values()] == sorted(point.latency.values())
        assert sum(bar.count for bar in point.histogram) == point.answered
        # Four bytes there, and as many back after "> ".
        assert point.received == pytest.approx(1.5 * point.sent)
        assert point.sent == pytest.approx(4 * point.throughput)
        assert 0 <= point.waiting <= 1
        assert point.elapsed == pytest.approx(0.2)
    assert [point.pool for point in report.pooled] == [PoolUse(1, 0, 1, {}), PoolUse(3, 0, 1, {})]


async def test_no_more_connections_than_the_size(server: Server) -> None:
    """While a size is measured, the server never sees more connections than that."""
    await measure(replace(plan_for(server), sizes=(3,), unpooled=False), Report(), None)
    # The very first request, which is made without a pool, may still be about to close.
    assert server.most <= 3 + 1


async def test_a_server_that_hangs_up_after_each_reply(tmp_path: Path) -> None:
    """Where nothing can be reused, the share of reused borrows says so."""
    with Server("tcp", tmp_path, one_reply) as server:
        report = Report()
        await measure(replace(plan_for(server), sizes=(2,), unpooled=False), report, None)
    use = report.pooled[0].pool
    assert use is not None
    assert use.reused < 0.5
    assert use.opened > 2
    assert sum(use.closed.values()) > 2


async def test_failures_are_counted_by_their_kind(tmp_path: Path) -> None:
    """A server that fails after the first request makes failures, not the end of the sweep."""

    def answer_the_first(peer: Peer) -> None:
        line = peer.receive_line()
        if len(server.peers) == 1:
            peer.send(line + b"\n")

    with Server("tcp", tmp_path, answer_the_first) as server:
        report = Report()
        await measure(replace(plan_for(server), sizes=(2,)), report, None)
    for point in report.points:
        assert not point.answered
        (kind,) = point.errors
        assert kind in {
            "the server closed the connection before its reply was complete",
            "the connection broke",
        }
        # Each of the 4 tasks pauses after a failure: there is no busy loop.
        assert 4 <= point.failed <= 4 * (0.2 / 0.05 + 1)


async def test_the_very_first_failure_ends_it() -> None:
    """A server that can't be reached is told at once, by the URL and the cause."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        remote = listener.getsockname()
    requests = Requests(LINES, PING, 10)
    plan = Plan(Target(remote, None), requests, 10, (1,), 1, Extent(10), 0, unpooled=True)
    with pytest.raises(CommandError, match=r"^tcp://127\.0\.0\.1:\d+: connection refused"):
        await measure(plan, Report(), None)


async def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    """The timeout of a request bounds the first one too."""
    with Server("tcp", tmp_path, None) as server:
        plan = replace(plan_for(server), requests=Requests(LINES, PING, 0.05))
        with pytest.raises(CommandError, match="no reply in time"):
            await measure(plan, Report(), None)


async def test_an_interrupted_sweep_keeps_what_there_is(server: Server) -> None:
    """After a cancellation the report has the point under way, with the time it really had."""

    class CancelAfterSome:
        def look(self, size: int | None, meter: Meter, statistics: PoolStatistics | None) -> None:
            if meter.latencies.count > 4:
                tasks.cancel_scope.cancel()

    report = Report()
    async with create_task_group() as tasks:
        await measure(replace(plan_for(server), extent=Extent(60.0)), report, CancelAfterSome())
    (point,) = report.points
    assert point.answered > 4
    assert 0 < point.elapsed < 60
    assert point.throughput == pytest.approx(point.answered / point.elapsed)


async def test_the_watcher_sees_the_state_of_the_pool(server: Server) -> None:
    """A watcher is shown the size and the pool's statistics, and neither without a pool."""
    seen: list[tuple[int | None, float | None]] = []

    class Remember:
        def look(self, size: int | None, meter: Meter, statistics: PoolStatistics | None) -> None:
            seen.append((size, None if statistics is None else statistics.max_size))

    await measure(plan_for(server), Report(), Remember())
    assert list(dict.fromkeys(seen)) == [(1, 1), (3, 3), (None, None)]


async def test_a_request_under_way_at_the_end_is_finished() -> None:
    """A request that is answered after the time is over has a latency, but is no throughput."""
    meter = Meter(Extent(0.05))

    async def answer_late() -> Answer:
        asked_at = perf_counter()
        await eventually(lambda: meter.progress == 1)
        return Answer(asked_at, perf_counter(), 4, 4)

    await meter.keep_asking(answer_late)
    point = meter.point(None)
    assert point.answered == 1
    assert point.throughput == point.sent == point.received == 0
    assert point.latency["max"] > 0


async def test_every_task_asks_once_at_least(server: Server) -> None:
    """On a machine so busy that the time is over at once, there is a measurement all the same."""
    meter = Meter(Extent(1e-6))
    async with server.pool() as pool:
        await ask_from_many(meter, Requests(LINES, PING, 10).through(pool), 3)
    assert meter.point(None).answered == 3


async def test_requests_share_connections_where_that_is_asked_for(tmp_path: Path) -> None:
    """One connection carries what many tasks ask, in every format."""

    def echo(peer: Peer) -> None:
        while data := peer.socket.recv(65536):
            peer.send(data)

    for format in ("line", "package", "raw"):
        framing = Framing(format, PackageFormat(), 4 if format == "raw" else None)
        with Server("tcp", tmp_path, echo) as server:
            target = Target(server.remote, None)
            async with target.pool(max_size=1, timeout=10, pipeline=8) as pool:
                ask = Requests(framing, PING, 10).through(pool, shared=True)
                await ask_from_many(Meter(Extent(1e-6)), ask, 5)
                # Fewer borrows than exchanges.
                assert pool.statistics().acquired < 5


async def test_connections_are_open_before_it_begins(server: Server) -> None:
    """What is opened beforehand is idle when the measurement begins."""
    async with server.pool(max_size=5) as pool:
        await open_beforehand(pool, 5, math.inf)
        assert pool.statistics().idle == 5


async def test_opening_beforehand_takes_failures(server: Server) -> None:
    """A connection that can't be opened beforehand does not keep the measurement from beginning."""
    failing = Event()

    async def fail_once(_: object) -> None:
        if not failing.is_set():
            failing.set()
            raise OSError("not this one")

    async with server.pool(max_size=3, on_connect=fail_once) as pool:
        await open_beforehand(pool, 3, math.inf)
        assert pool.statistics().open_failed == 1
        # Two, and a third one if it took so long that the pool made one more attempt.
        assert pool.statistics().idle >= 2


async def test_a_number_of_requests(server: Server) -> None:
    """Exactly so many are made by all tasks together, and the time is what they took."""
    report = Report()
    await measure(replace(plan_for(server), extent=Extent(math.inf, 10)), report, None)
    for point in report.points:
        assert point.answered == 10
        assert point.throughput == pytest.approx(10 / point.elapsed)
        assert point.elapsed >= point.latency["max"]
    meter = Meter(Extent(math.inf, 2))
    async with server.pool() as pool:
        await ask_from_many(meter, Requests(LINES, PING, 10).through(pool), 5)
    assert meter.point(None).answered == 2
    assert meter.progress == 1


async def test_warming_up_is_not_measured(server: Server) -> None:
    """Requests are made before the measurement, over the pool that is measured then."""
    numbered = Payload([Field(lambda number, _: b"%d" % number, None)])
    plan = replace(
        plan_for(server),
        requests=Requests(LINES, numbered, 10),
        extent=Extent(math.inf, 1),
        warm_up=0.01,
        sizes=(2,),
        tasks=3,
        unpooled=False,
    )
    report = Report()
    await measure(plan, report, None)
    assert [point.answered for point in report.points] == [1]
    # The very first one, one of each task at least, and the one that was measured.
    assert int(numbered.make()) >= 1 + 3 + 1


async def test_warming_up_at_a_rate(server: Server) -> None:
    """Nobody is asked more often than at the rate before the measurement either."""
    numbered = Payload([Field(lambda number, _: b"%d" % number, None)])
    plan = replace(
        plan_for(server),
        requests=Requests(LINES, numbered, 10),
        extent=Extent(math.inf, 1, rate=5.0),
        warm_up=0.1,
        sizes=(2,),
        unpooled=False,
    )
    await measure(plan, Report(), None)
    # The very first one, the only one that is due while warming up, and the one that was measured.
    assert int(numbered.make()) <= 3
