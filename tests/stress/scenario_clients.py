"""What clients do in scenarios: exchanges of each kind, and all else that one may do to a pool."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

import anyio
from anyio import ClosedResourceError, ConnectionFailed
from anyio.abc import TaskGroup

from anyconnpool import (
    ConnectionPool,
    PackageTooLarge,
    PoolClosed,
    PooledConnection,
    PoolError,
    PoolFull,
    Retry,
)
from anyconnpool._engine.connection import entry_of

from .oracle_clients import Client, Run
from .oracle_cuts import Cuts, Exchange, Interrupt
from .oracle_deeds import DEEDS, HANG_UPS, BodyError, draw_request, exchange
from .oracle_dialog import Dialog, NewsCame
from .oracle_wire import Request
from .scenario_hooks import Hook, HookError
from .scenario_plan import LONG, Scenario
from .scenario_reading import LINE, PACKAGE, ReadError, Reading
from .scenario_remotes import AnyRemote, ReplicaGroup
from .scenario_watch import Limits, uncancelled

#: what may leave an exchange; PackageTooLarge is what news look like to who waits for a package
DOCUMENTED = (
    *(PoolFull, ConnectionFailed, TimeoutError, BodyError, HookError, NewsCame, PackageTooLarge),
    ReadError,
    *HANG_UPS,
    ClosedResourceError,
)
#: errors that have a text in any case
_WITH_TEXT = (PoolError, TimeoutError, ConnectionFailed)


@dataclass
class Surroundings:
    """What the clients of one scenario share."""

    scenario: Scenario
    limits: Limits
    hooks: list[Hook]
    #: errors that clients have got: two of them never get the same object
    errors: list[BaseException]
    #: when the pools of these names were told to replace all that was open then
    retired_at: dict[str, float] = field(default_factory=dict[str, float])
    #: whether the pool's block is being left, and whether it has ended
    leaving: bool = False
    ended: bool = False
    #: connections on which a function is reading a reply
    reading: set[object] = field(default_factory=set[object])

    def may_end_reading(self) -> bool:
        """Return whether a connection may be closed while somebody else than its owner reads."""
        settings = self.scenario.settings
        stalls = settings.get("pipeline", 1) == 1 or settings.get("stall_timeout", 0) < 1
        return stalls or self.leaving or any(remote.replicas for remote in self.scenario.remotes)


class ScenarioClient(Client):
    """A client that does all that one may do.

    :param run: where the faults go
    :param pool: the pool
    :param tasks: a group for those who cancel from outside
    :param remote: what it is a pool of
    :param around: the scenario
    """

    def __init__(
        self,
        run: Run,
        pool: ConnectionPool,
        tasks: TaskGroup,
        remote: AnyRemote,
        around: Surroundings,
    ) -> None:
        super().__init__(run, pool, tasks, f"scenario {around.scenario.seed}")
        self._kind = remote.kind
        self._remote = remote
        self._around = around
        self._news_at_start: int | None = None
        self._began_at = 0.0
        self._deeds = {exchange: 1} if around.scenario.one_way else DEEDS
        cuts = Cuts(tasks, self._count)
        self._interrupt = [None] * 8
        self._interrupt += [cuts.by_timeout, cuts.by_scope, cuts.in_cancelled_scope]
        self._act = ""
        if run.native:
            self._interrupt += [cuts.by_native_cancel, cuts.by_native_cancel_twice, cuts.by_both]
            # Where a scope of AnyIO's and a time limit of asyncio's within it strike in one turn,
            # the cancellation is nobody's: AnyIO 4.16 lets it out of the scope, without any pool.
            if around.scenario.patience > 1:
                self._interrupt += [cuts.by_wait_for]
                if sys.version_info >= (3, 11):
                    self._interrupt += [cuts.by_asyncio_timeout]

    async def run_all(self, keys: list[int]) -> None:
        """Make exchanges until the pool's block has ended or one went wrong."""
        refusals = 2
        for key in keys:
            refusals -= self._around.leaving
            if self._around.ended or self._report.faults or not refusals:
                return
            before = uncancelled()
            with anyio.move_on_after(self._around.scenario.patience) as scope:
                await self.make_exchange(key)
            if scope.cancelled_caught and self._around.scenario.patience > 1:
                self._fault(key, f"no end; {self._pool.statistics()}")
            if uncancelled() != before:
                self._fault(key, "a cancellation is left over")

    def _fault(self, key: int, text: str) -> None:
        self._report.faults.append(f"{self._where}, key {key}: {text}")

    def _draw_exchange(self, rng: Random, key: int) -> Exchange:
        acts = self._around.scenario.acts
        self._act = act = rng.choices([*acts], [*acts.values()])[0]
        self._count(act)
        first, second = draw_request(rng, key), draw_request(rng, key + 1)
        self._news_at_start = self._old_news()
        self._began_at = anyio.current_time()
        return partial(self._acts()[act], rng, first, second)

    def _draw_interrupt(self, rng: Random) -> Interrupt | None:
        # In a bulk, each exchange is cut by itself.
        return None if self._act in ("bulk", "surplus") else super()._draw_interrupt(rng)

    def _acts(self) -> dict[str, Callable[[Random, Request, Request], Awaitable[None]]]:
        return {
            "by pool": self._by_pool,
            "in block": self._in_block,
            "by hand": self._by_hand,
            "by run": self._by_run,
            "connect": self._connect,
            "nowait": self._at_once,
            "use late": self._use_late,
            "wait ready": self._wait_ready,
            "retire": self._retire,
            "resize": self._resize,
            "hold": self._hold,
            "nothing": self._do_nothing,
            "crowd": self._crowd,
            "send": self._send,
            "give up": self._give_up,
            "frame": self._by_frame,
            "exchange": self._by_reading,
            "bulk": self._in_bulk,
            "surplus": self._get_too_much,
            "set": self._change_replicas,
        }

    def _old_news(self) -> int | None:
        tells = self._around.scenario.manners.news_after
        return self._remote.last_news() if tells else None

    async def _begin(self, connection: PooledConnection, where: str) -> Dialog:
        self._report.faults += [f"{where}: lent, {why}" for why in self._unfit(connection)]
        old_news = self._news_at_start
        if old_news is not None and connection.buffer and not connection.reused:
            # News that came with the last reply to on_connect are the first borrower's.
            old_news = 0
        dialog = Dialog(connection, self._report, where, old_news)
        if self._around.scenario.greets_clients and not connection.reused:
            await dialog.be_greeted()
        return dialog

    def _unfit(self, connection: PooledConnection) -> Iterator[str]:
        """Say why a connection must not have been lent."""
        settings, entry = self._around.scenario.settings, entry_of(connection)
        if any(hook.has_refused(connection) for hook in self._around.hooks):
            yield "though a hook has refused it"
        if entry.opened_at < self._around.retired_at.get(self._pool.name, 0) < self._began_at:
            yield "though it has been retired"
        if entry.borrows > settings.get("max_uses", math.inf):
            yield f"for the {entry.borrows}th time"
        if connection.reused and entry.acquired_at > entry.expires_at:
            yield f"{entry.acquired_at - entry.expires_at} s after its lifetime"

    def _judge(self, error: Exception, key: int) -> None:
        if isinstance(error, PoolClosed) and self._around.leaving:
            self._count("pool closed")
        elif type(error) is PoolError and "discard" in self._around.scenario.on_connect:
            self._count("hook gave the connection away")
        elif isinstance(error, PoolClosed) or not isinstance(error, DOCUMENTED):
            self._fault(key, "".join(traceback.format_exception(error)))
        elif isinstance(error, _WITH_TEXT) and not str(error) and not self._own_timeout(error):
            self._fault(key, f"no text: {error!r}")
        else:
            self._count(type(error).__name__)
        self._around.errors.append(error)

    @staticmethod
    def _own_timeout(error: Exception) -> bool:
        """Tell whether it is the limit of a client's own."""
        return type(error) is TimeoutError

    async def _connect(self, rng: Random, request: Request, second: Request) -> None:
        """Connect as foreign code does, and hang up, perhaps in the middle of a reply."""
        async with await self._pool.connect() as connection:
            dialog = await self._begin(connection, f"{self._place(request)}, connect")
            await dialog.ask(request)
            if rng.random() < 0.5:
                await dialog.read(request)

    async def _at_once(self, rng: Random, request: Request, second: Request) -> None:
        connection = self._pool.acquire_nowait()
        try:
            await self._use(connection, rng, request, second)
        finally:
            await connection.aclose()

    async def _use_late(self, rng: Random, request: Request, second: Request) -> None:
        """Go on with a connection that was given back, which must not work."""
        async with self._pool.acquire() as connection:
            dialog = await self._begin(connection, f"{self._place(request)}, late")
            await dialog.ask(request)
            await dialog.read(request)
        for late in (partial(connection.send, b"late\n"), connection.receive):
            with suppress(ClosedResourceError):
                await late()
                self._fault(request.key, "a connection that was given back could be used")

    async def _wait_ready(self, rng: Random, request: Request, second: Request) -> None:
        with anyio.move_on_after(rng.uniform(0, 0.02)):
            await self._pool.wait_ready()

    async def _retire(self, rng: Random, request: Request, second: Request) -> None:
        if rng.random() < 0.5:
            # What may be lent for some more time, and which ones, is nobody's fault.
            self._pool.retire(where=lambda info: rng.random() < 0.5, within=rng.choice([0, 0.01]))
            return
        self._pool.retire()
        self._around.retired_at[self._pool.name] = anyio.current_time()

    async def _resize(self, rng: Random, request: Request, second: Request) -> None:
        """Change the maximum, but not below what is to be ready."""
        least = self._around.scenario.settings.get("min_idle", 0)
        max_size = rng.randrange(max(least, 1), 6)
        self._around.limits.max_size = max(self._around.limits.max_size, max_size)
        self._pool.max_size = max_size

    async def _hold(self, rng: Random, request: Request, second: Request) -> None:
        """Keep a connection, and borrow another one meanwhile if there is one."""
        async with self._pool.acquire() as connection:
            await self._begin(connection, f"{self._place(request)}, hold")
            await anyio.sleep(rng.uniform(0, 0.005))
            with suppress(TimeoutError):
                async with self._pool.acquire(timeout=rng.uniform(0, 0.003)) as other:
                    await self._use(other, rng, request, second)

    async def _do_nothing(self, rng: Random, request: Request, second: Request) -> None:
        async with self._pool.acquire() as connection:
            await self._begin(connection, f"{self._place(request)}, nothing")
            if rng.random() < 0.3:
                raise BodyError

    async def _crowd(self, rng: Random, request: Request, second: Request) -> None:
        """Come with several tasks at once, all of which leave at the first error."""
        errors: list[Exception] = []

        async def come(scope: anyio.CancelScope, key: int) -> None:
            chance = Random(f"{self._where}, {key}")
            try:
                await self._in_block(chance, draw_request(chance, key), draw_request(chance, key))
            except Exception as error:
                errors.append(error)
                scope.cancel()

        async with anyio.create_task_group() as group:
            for number in range(rng.randrange(2, 6)):
                group.start_soon(come, group.cancel_scope, request.key + 2 + 10 * number)
        for error in errors[1:]:
            self._judge(error, request.key)
        if errors:
            raise errors[0]

    async def _send(self, rng: Random, request: Request, second: Request) -> None:
        """Send what gets no reply."""
        mute = Request(request.key, "raw", 0, request.delay)
        await self._pool.send_line(mute.text, timeout=rng.choice([None, 1, 0.002]))

    async def _give_up(self, rng: Random, request: Request, second: Request) -> None:
        """Give an exchange up whose reply is still to come, and make another one at once."""
        delay = rng.randrange(1_000, 5_000)
        patience = rng.uniform(0, delay / 1e6)
        slow = Request(request.key, "line", 40, delay).text
        if rng.random() < 0.5:
            with suppress(TimeoutError):
                await self._pool.send_receive_line(slow, timeout=patience)
        else:
            with anyio.move_on_after(patience):
                await self._pool.send_receive_line(slow)
        await self._by_pool(rng, second, request)

    async def _by_frame(self, rng: Random, request: Request, second: Request) -> None:
        """Exchange frames of a format."""
        form = rng.choice(["line", "package"])
        asked = replace(request, form=form)
        timeout = rng.choice([None, rng.uniform(0, 0.008)])
        reply = await self._pool.send_receive_frame(
            asked.text, LINE if form == "line" else PACKAGE, timeout=timeout
        )
        self._report.check(asked, reply, self._place(asked))

    async def _by_reading(self, rng: Random, request: Request, second: Request) -> None:
        """Leave the exchange to the pool, except the reading of the reply."""
        around = self._around
        way = rng.choice(around.scenario.readings)
        where = self._place(request)
        reading = Reading(request, way, self._report, where, around.reading, around.may_end_reading)
        timeout = rng.choice([None, None, rng.uniform(0, 0.008)])
        retry = Retry(2, interval=0) if rng.random() < 0.3 else None
        try:
            reply = await self._pool.exchange(
                request.framed_text, reading, timeout=timeout, retry=retry
            )
        except (ReadError, RuntimeError) as error:
            if not reading.may_raise(error):
                raise
            self._count("reading raised")
        else:
            await reading.judge(reply)

    async def _in_bulk(self, rng: Random, request: Request, second: Request) -> None:
        """Come with several tasks at once, each of which makes an exchange of its own."""
        async with anyio.create_task_group() as group:
            for number in range(rng.randrange(2, 13)):
                group.start_soon(self._make_one_of_many, request.key + 2 + 5 * number)

    async def _make_one_of_many(self, key: int) -> None:
        rng = Random(f"{self._where}, {key}")
        ways = [self._by_reading, self._by_pool, self._in_block]
        shares_only = "in block" not in self._around.scenario.acts
        way = rng.choices(ways, [6, 4, 0 if shares_only else 1])[0]
        one = partial(way, rng, draw_request(rng, key), draw_request(rng, key + 1))
        interrupt = super()._draw_interrupt(rng)
        self._count("exchanges")
        try:
            await (one() if interrupt is None else interrupt(rng.uniform(0, 0.008), one))
        except Exception as error:
            self._judge(error, key)

    async def _get_too_much(self, rng: Random, request: Request, second: Request) -> None:
        """Get more than the reply, and make another exchange while that is read, or after it."""
        around = self._around
        if around.scenario.patience < LONG:
            # What is given up may be answered later, with the surplus, in the middle of others.
            return
        asked = replace(request, ending="surplus")
        where, has_read = self._place(asked), anyio.Event()
        reading = Reading(asked, "", self._report, where, around.reading, around.may_end_reading)

        async def read(connection: PooledConnection) -> bytes:
            reply = await reading(connection)
            has_read.set()
            await anyio.sleep(rng.choice([0, 0.001, 0.003]))
            return reply

        async def ask_meanwhile() -> None:
            await has_read.wait()
            try:
                await self._by_pool(rng, second, request)
            except Exception as error:
                self._judge(error, second.key)

        async with anyio.create_task_group() as group:
            group.start_soon(ask_meanwhile)
            try:
                await reading.judge(await self._pool.exchange(asked.framed_text, read))
            except Exception as error:
                self._judge(error, asked.key)
            has_read.set()

    async def _change_replicas(self, rng: Random, request: Request, second: Request) -> None:
        if isinstance(self._remote, ReplicaGroup):
            self._remote.change(rng)
