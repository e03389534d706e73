"""Many tasks over few connections: what they do, and what becomes of it, is drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

import anyio
from anyio.abc import TaskGroup

from anyconnpool import ConnectionPool, PackageFormat, PooledConnection, PoolStatistics, Retry
from anyconnpool._settings import IdleOrder
from tests.sockets.checks import client_sockets, eventually

from .oracle_cuts import Cuts, Exchange, Interrupt
from .oracle_deeds import DEEDS, HANG_UPS, BodyError, Step, draw_request
from .oracle_dialog import Dialog, Report
from .oracle_process import Endpoint
from .oracle_wire import HEADER, Request

_LONG = 20.0
_FORMAT = PackageFormat(HEADER, max_size=1 << 20)


@dataclass(frozen=True)
class Round:
    """So many clients over one pool, until so many exchanges were begun."""

    clients: int
    max_size: int
    idle_order: IdleOrder
    share: float

    def __str__(self) -> str:
        return f"{self.clients} clients over {self.max_size} connections ({self.idle_order})"


# In the crowd, connections go from hand to hand; where there are few clients, they lie idle.
ROUNDS = (
    Round(24, 4, "lifo", 0.4),
    Round(2, 1, "lifo", 0.2),
    Round(6, 5, "fifo", 0.2),
    Round(5, 5, "lifo", 0.2),
)


@dataclass(frozen=True)
class Run:
    """What all rounds over one kind of socket on one backend share."""

    endpoint: Endpoint
    seed: int
    #: whether tasks can be cancelled natively, by asyncio's ``task.cancel()``
    native: bool
    report: Report


class Client:
    """The exchanges of one task, or of several.

    :param run: where, and with which chances
    :param pool: the pool
    :param tasks: a group for those who cancel from outside
    :param where: seed and round, for the faults
    """

    def __init__(self, run: Run, pool: ConnectionPool, tasks: TaskGroup, where: str) -> None:
        self._pool = pool
        self._tasks = tasks
        self._report = run.report
        self._kind = run.endpoint.kind
        self._where = where
        self._deeds = DEEDS
        self._cuts = ["", "", "timeout", "native" if run.native else "timeout"]
        cuts = Cuts(tasks, self._count)
        self._interrupt: list[Interrupt | None] = [None] * 6
        self._interrupt += [cuts.by_timeout, cuts.by_scope]
        if run.native:
            self._interrupt.append(cuts.by_native_cancel)

    async def make_exchange(self, key: int) -> None:
        """Make one exchange; whatever it draws, only foreign bytes are a fault."""
        rng = Random(f"{self._where}, key {key}")
        exchange = self._draw_exchange(rng, key)
        interrupt = self._draw_interrupt(rng)
        self._count("exchanges")
        try:
            if interrupt is None:
                await exchange()
            else:
                await interrupt(rng.uniform(0, 0.008), exchange)
        except Exception as error:
            self._judge(error, key)
        if rng.random() < 0.3:
            await anyio.sleep(rng.uniform(0, 0.003))

    def _draw_exchange(self, rng: Random, key: int) -> Exchange:
        first, second = draw_request(rng, key), draw_request(rng, key + 1)
        ways = [self._by_pool, self._in_block, self._by_hand, self._by_run]
        return partial(rng.choices(ways, [6, 3, 1, 1])[0], rng, first, second)

    def _draw_interrupt(self, rng: Random) -> Interrupt | None:
        return rng.choice(self._interrupt)

    def _judge(self, error: Exception, key: int) -> None:
        """Count an error that may happen; note a fault if it may not."""
        if isinstance(error, TimeoutError):
            self._count("timeouts")
        elif isinstance(error, HANG_UPS):
            self._count("hang-ups")
        elif isinstance(error, BodyError):
            self._count("body errors")
        else:
            self._report.faults.append(f"{self._where}, key {key}: {error!r}")

    def _place(self, request: Request) -> str:
        return f"{self._where}, key {request.key}"

    async def _by_pool(self, rng: Random, request: Request, second: Request) -> None:
        """Leave the whole exchange to the pool."""
        retry = Retry(2, interval=0) if rng.random() < 0.3 else None
        timeout = rng.choice([_LONG, _LONG, rng.uniform(0, 0.008)])
        if request.form == "line":
            reply = await self._pool.send_receive_line(request.text, timeout=timeout, retry=retry)
        elif request.form == "package":
            reply = await self._pool.send_receive_package(
                request.text, timeout=timeout, retry=retry
            )
        else:
            reply = await self._pool.send_receive(
                request.text + b"\n", request.size, timeout=timeout, retry=retry
            )
        self._report.check(request, reply, self._place(request))

    async def _in_block(self, rng: Random, request: Request, second: Request) -> None:
        async with self._pool.acquire(timeout=_LONG) as connection:
            await self._use(connection, rng, request, second)

    async def _by_hand(self, rng: Random, request: Request, second: Request) -> None:
        connection = await self._pool.acquire(timeout=_LONG)
        try:
            await self._use(connection, rng, request, second)
        finally:
            await connection.aclose()

    async def _by_run(self, rng: Random, request: Request, second: Request) -> None:
        await self._pool.run(self._use, rng, request, second)

    async def _use(
        self, connection: PooledConnection, rng: Random, request: Request, second: Request
    ) -> None:
        deed = rng.choices([*self._deeds], [*self._deeds.values()])[0]
        dialog = await self._begin(connection, f"{self._place(request)}, {deed.__name__}")
        cut = rng.choice(self._cuts)
        step = Step(rng, self._kind, request, second, cut, self._count, self._tasks)
        try:
            await deed(step, dialog)
        finally:
            dialog.look_at_buffer()

    async def _begin(self, connection: PooledConnection, where: str) -> Dialog:
        return Dialog(connection, self._report, where)

    def _count(self, what: str) -> None:
        self._report.counts[what] += 1


async def run_round(plan: Round, run: Run, exchanges: int) -> None:
    """Run clients over one pool, until enough exchanges were begun or one went wrong."""
    run.endpoint.figures()
    where = f"seed {run.seed}, {run.endpoint.kind}, {plan}"
    pool = run.endpoint.pool(
        max_size=plan.max_size,
        idle_order=plan.idle_order,
        package_format=_FORMAT,
        close_timeout=1,
    )
    async with pool:
        async with anyio.create_task_group() as tasks:
            client = Client(run, pool, tasks, where)
            numbers = iter(range(exchanges))
            for _ in range(plan.clients):
                tasks.start_soon(_exchange_all, client, numbers, run.report, pool)
        _expect(run, where, pool.statistics(), in_use=0, tasks_waiting=0)
        await eventually(lambda: pool.statistics().size == pool.statistics().idle)
        _expect(run, where, pool.statistics(), size=client_sockets(run.endpoint))
    _expect(run, where, pool.statistics(), size=0)
    if client_sockets(run.endpoint):
        run.report.faults.append(f"{where}: the block has left sockets")
    figures = run.endpoint.figures()
    run.report.counts["requests"] += figures["requests"]
    if figures["most"] > plan.max_size:
        run.report.faults.append(f"{where}: the server saw {figures}")


async def _exchange_all(
    client: Client, numbers: Iterator[int], report: Report, pool: ConnectionPool
) -> None:
    for number in numbers:
        if report.faults:
            return
        await client.make_exchange(2 * number)
        statistics = pool.statistics()
        if statistics.size > statistics.max_size:
            report.faults.append(f"after exchange {number}: {statistics}")


def _expect(run: Run, where: str, statistics: PoolStatistics, **counts: int) -> None:
    """Note a fault if the pool's counts are not those given."""
    for name, count in counts.items():
        if getattr(statistics, name) != count:
            run.report.faults.append(f"{where}: {name} is not {count}: {statistics}")
