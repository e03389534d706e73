"""Measure one size of the pool after the other, and then without a pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from anyio import create_task_group, sleep

from anyconnpool import ConnectionPool, PoolStatistics
from anyconnpool.command._measure import (
    Ask,
    Meter,
    Requests,
    ask_from_many,
    open_beforehand,
    use_since,
)
from anyconnpool.command._pace import Extent
from anyconnpool.command._results import Point, Report
from anyconnpool.command._spread import Spread
from anyconnpool.command._target import Service, Target

# How often a watcher is shown where things stand, in seconds: looking costs what is measured.
_LOOK_INTERVAL = 0.25


@dataclass(frozen=True)
class Plan:
    """What to measure.

    :ivar target: the server, or several
    :ivar requests: what it is asked
    :ivar timeout: limit for one request, in seconds
    :ivar sizes: sizes of the pool, ascending
    :ivar tasks: how many tasks ask
    :ivar extent: for how long and when they do, for each point
    :ivar warm_up: for how long they do so before, without being measured, in seconds
    :ivar unpooled: whether to measure without a pool too
    :ivar pipeline: how many requests share a connection
    """

    target: Target | Service
    requests: Requests
    timeout: float
    sizes: Sequence[int]
    tasks: int
    extent: Extent
    warm_up: float
    unpooled: bool
    pipeline: int = 1


class Watcher(Protocol):
    """Who is shown how a measurement goes."""

    def look(self, size: int | None, meter: Meter, statistics: PoolStatistics | None) -> None:
        """See where things stand.

        :param size: of the pool that is measured; ``None`` means without a pool
        :param meter: what was measured so far
        :param statistics: the pool's
        """


async def measure(plan: Plan, report: Report, watcher: Watcher | None) -> None:
    """Measure everything; what has been measured when this is cancelled is in the report.

    :raises CommandError: if the very first request fails, to any of the servers
    """
    for server in plan.target.servers:
        await plan.requests.try_once(server)
    for size in plan.sizes:
        await _measure_pool(plan, size, report, watcher)
    if plan.unpooled:
        await _measure_unpooled(plan, report, watcher)


async def _measure_pool(plan: Plan, size: int, report: Report, watcher: Watcher | None) -> None:
    pool, spread = _make_pool(plan, size)
    async with pool:
        shared = plan.pipeline > 1
        if spread is None:
            ask = plan.requests.through(pool, shared=shared)
        else:
            ask = plan.requests.spread_through(pool, spread, shared=shared)
        await open_beforehand(pool, min(size, plan.tasks), plan.timeout)
        await _warm_up(plan, ask)
        before = pool.statistics()
        meter = Meter(plan.extent, spread)

        def show(watcher: Watcher) -> None:
            watcher.look(size, meter, pool.statistics())

        try:
            await _ask(plan, meter, ask, watcher, show)
        finally:
            point = meter.point(use_since(before, pool.statistics()))
            if _says_something(point):
                report.pooled.append(point)


def _make_pool(plan: Plan, size: int) -> tuple[ConnectionPool, Spread | None]:
    target, timeout, pipeline = plan.target, plan.timeout, plan.pipeline
    greet = plan.requests.greet
    if isinstance(target, Target):
        pool = target.pool(max_size=size, timeout=timeout, pipeline=pipeline, greet=greet)
        return pool, None
    spread = Spread(target.names)
    pool = target.pool(
        max_size=size, timeout=timeout, pipeline=pipeline, greet=greet, spread=spread
    )
    return pool, spread


async def _measure_unpooled(plan: Plan, report: Report, watcher: Watcher | None) -> None:
    spread = None
    if isinstance(plan.target, Target):
        ask = plan.requests.without_pool(plan.target.connectable())
    else:
        spread = Spread(plan.target.names)
        ask = plan.requests.spread_without_pool(plan.target.opener(), spread)
    await _warm_up(plan, ask)
    meter = Meter(plan.extent, spread)

    def show(watcher: Watcher) -> None:
        watcher.look(None, meter, None)

    try:
        await _ask(plan, meter, ask, watcher, show)
    finally:
        point = meter.point(None)
        if _says_something(point):
            report.unpooled = point


async def _warm_up(plan: Plan, ask: Ask) -> None:
    if plan.warm_up:
        meter = Meter(Extent(plan.warm_up, rate=plan.extent.rate))
        await ask_from_many(meter, ask, plan.tasks)


def _says_something(point: Point) -> bool:
    return bool(point.answered or point.failed)


async def _ask(
    plan: Plan,
    meter: Meter,
    ask: Ask,
    watcher: Watcher | None,
    show: Callable[[Watcher], None],
) -> None:
    async def keep_showing(watcher: Watcher) -> None:
        while True:
            show(watcher)
            await sleep(_LOOK_INTERVAL)

    async with create_task_group() as tasks:
        if watcher is not None:
            tasks.start_soon(keep_showing, watcher)
        await ask_from_many(meter, ask, plan.tasks)
        if watcher is not None:
            show(watcher)
        tasks.cancel_scope.cancel()
