"""Run one scenario, and see that all that a pool promises holds.

``python -m tests.stress.scenario_run BACKEND SEED [TIMES]`` runs the scenario of a seed, as a
failure names it, alone.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import tempfile
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from anyconnpool import ConnectionPool, PoolClosed, PoolManager, PoolStatistics
from tests.certificates import client_context
from tests.conftest import BACKENDS
from tests.pool.tally import Tally

from .oracle_clients import Run
from .oracle_deeds import BodyError
from .oracle_dialog import Report
from .oracle_process import OracleServer
from .scenario_clients import ScenarioClient, Surroundings
from .scenario_hooks import Hook, MoodyObserver
from .scenario_plan import LONG, Scenario, draw_scenario
from .scenario_reading import PACKAGE
from .scenario_remotes import AnyRemote, ReplicaGroup, open_remote
from .scenario_rules import RuleWatch
from .scenario_watch import Leftovers, Limits, Monitor, no_limit, uncancelled

#: how long a scenario may take, in seconds: much longer than any client's patience
_DEADLINE = 2 * LONG
#: how long it may take to leave the block, beside the closing of connections, in seconds
_LONGEST_END = 5.0
#: keys of two exchanges are so far apart, since some of them make several
_STEP = 100


class Stage:
    """Where one scenario is played: its remotes, its pool or manager, and those who watch.

    :param scenario: what to play
    :param server: the oracle's server
    :param rules: what the state machines must follow
    :param native: whether tasks can be cancelled natively
    """

    def __init__(
        self, scenario: Scenario, server: OracleServer, rules: RuleWatch, *, native: bool
    ) -> None:
        self.scenario = scenario
        self.report = Report()
        self._server = server
        self._native = native
        max_size = scenario.settings.get("max_size", 10)
        self._limits = Limits(
            max_size,
            no_limit(scenario.max_total),
            takes_turns="connect_retry" in scenario.settings,
            checks=bool(scenario.check),
            pipeline=scenario.settings.get("pipeline", 1),
        )
        self._monitor = Monitor(self._look, self._look_at_groups, self._limits, rules)
        self._tally = Tally()
        self._around = Surroundings(scenario, self._limits, [], self.report.errors)
        self._remotes: list[AnyRemote] = []
        self._whole: ConnectionPool | PoolManager | None = None
        self._left_at = 0.0

    async def play(self) -> None:
        """Play the scenario; faults go to the report."""
        async with AsyncExitStack() as stack:
            for plan in self.scenario.remotes:
                opened = open_remote(self._server, plan, self.scenario.seed)
                self._remotes.append(await stack.enter_async_context(opened))
            whole = self._whole = self._make_pool()
            for watches, watch in (
                (self.scenario.signals, self._monitor.by_signal),
                (self.scenario.thread, self._monitor.by_thread),
            ):
                if watches:
                    stack.enter_context(watch())
            async with anyio.create_task_group() as clients, anyio.create_task_group() as watchers:
                watchers.start_soon(self._monitor.run)
                await self._run_block(partial(self._use, whole, clients))
                self._around.ended = True
                self._look_at_the_end(whole)
                watchers.cancel_scope.cancel()
        self._monitor.check_waiting()
        self.report.faults += self._monitor.faults

    def _make_pool(self) -> ConnectionPool | PoolManager:
        scenario = self.scenario
        settings = scenario.settings.copy()
        settings["package_format"] = PACKAGE
        watch = [MoodyObserver(mood, self._monitor.check) for mood in scenario.observers if mood]
        settings["observers"] = [self._tally, *watch] if scenario.observers else []
        where = f"scenario {scenario.seed}"
        # Whose connection a hook of several pools has got, it can't know.
        last_news = self._remotes[0].last_news if len(self._remotes) == 1 else lambda: 0
        tells = last_news if scenario.manners.news_after else None
        hooks: dict[str, Any] = {}
        for name in ("on_connect", "check", "on_release", "on_close"):
            moods = getattr(scenario, name)
            if name == "on_close" and scenario.manners.greets and not scenario.on_connect:
                # A farewell on a connection that nobody has used can be answered by the greeting.
                continue
            if moods:
                greeted = name == "on_connect" and scenario.manners.greets
                # What a server says between the pool's look and a hook's first step is unknown.
                known = tells if name == "on_connect" or tells is None else lambda: 0
                hook = Hook(moods, self.report, where, greeted=greeted, last_news=known)
                self._around.hooks.append(hook)
                hooks[name] = hook
        tls = scenario.uses_tls
        context = client_context() if tls else None
        if scenario.max_total is not None:
            return PoolManager(
                max_total=scenario.max_total, tls=tls, ssl_context=context, **settings, **hooks
            )
        return ConnectionPool(
            self._remotes[0].target, tls=tls, ssl_context=context, **settings, **hooks
        )

    def _look(self) -> list[PoolStatistics]:
        if isinstance(self._whole, PoolManager):
            return list(self._whole.statistics().values())
        return [self._whole.statistics()] if self._whole is not None else []

    def _look_at_groups(self) -> Iterator[tuple[PoolStatistics, ReplicaGroup]]:
        for remote in self._remotes:
            if isinstance(remote, ReplicaGroup):
                if isinstance(self._whole, ConnectionPool):
                    yield self._whole.statistics(), remote
                elif self._whole is not None:
                    found = self._whole.statistics().get(remote.target)
                    if found is not None:
                        yield found, remote

    async def _use(self, whole: ConnectionPool | PoolManager, clients: TaskGroup) -> None:
        """Use the pool or manager within its block, until the scenario leaves it."""
        scenario = self.scenario
        done = anyio.Event()
        running = scenario.clients
        keys = range(0, scenario.exchanges * _STEP, _STEP)

        async def run_client(number: int) -> None:
            nonlocal running
            remote = self._remotes[number % len(self._remotes)]
            with suppress(PoolClosed):
                pool = whole.pool(remote.target) if isinstance(whole, PoolManager) else whole
                run = Run(self._server.endpoint("tcp"), 0, self._native, self.report)
                client = ScenarioClient(run, pool, clients, remote, self._around)
                await client.run_all(list(keys[number :: scenario.clients]))
            running -= 1
            if not running:
                done.set()

        try:
            for number in range(running):
                clients.start_soon(run_client, number)
            if scenario.ending == "done":
                await done.wait()
                return
            await anyio.sleep(scenario.ends_after)
            if scenario.ending not in ("return", "error"):
                await anyio.sleep_forever()
        finally:
            self._around.leaving = True

    async def _run_block(self, body: Callable[[], Awaitable[None]]) -> None:
        """Run the block, end it as the scenario says, and judge what comes out of it."""
        ending, after = self.scenario.ending, self.scenario.ends_after
        error = BodyError()
        outcome: BaseException | None = None

        async def run() -> None:
            assert self._whole is not None
            async with self._whole:
                try:
                    await body()
                finally:
                    self._left_at = anyio.current_time()
                    if ending.endswith("error"):
                        raise error

        try:
            if ending.startswith("native"):
                await self._run_cancelled(run)
            elif ending.startswith("timeout") and sys.version_info >= (3, 11):
                with suppress(*() if ending.endswith("error") else (TimeoutError,)):
                    async with asyncio.timeout(after):
                        await run()
            elif ending.startswith(("scope", "timeout")):
                with anyio.move_on_after(after):
                    await run()
            else:
                await run()
        except anyio.get_cancelled_exc_class() as raised:
            self.report.faults.append(f"nobody has cancelled what ended with {raised!r}")
            raise
        except Exception as raised:
            outcome = raised
        self._judge_end(outcome, error if ending.endswith("error") else None)

    def _judge_end(self, outcome: BaseException | None, expected: BaseException | None) -> None:
        faults = self.report.faults
        if not self._left_at:
            return  # It was cancelled before its body began.
        if outcome is not expected:
            faults.append(f"the block ended with {outcome!r}, not {expected!r}")
        took = anyio.current_time() - self._left_at
        if took > self.scenario.settings.get("close_timeout", 0) + _LONGEST_END:
            faults.append(f"to leave the block took {took:.1f} s")
        if uncancelled():
            faults.append("the block has left a cancellation over")

    async def _run_cancelled(self, run: Callable[[], Any]) -> None:
        """Run the block in a task of its own that is cancelled natively, once or twice."""
        loop = asyncio.get_running_loop()
        task: asyncio.Task[None] = asyncio.ensure_future(run())
        struck = False

        def strike() -> None:
            nonlocal struck
            struck = True
            task.cancel()
            if self.scenario.ending == "native twice":
                loop.call_soon(task.cancel)

        loop.call_later(self.scenario.ends_after, strike)
        await asyncio.wait([task])
        if struck and task.cancelled():
            return
        if not struck:
            self.report.faults.append("the block ended before it was cancelled")
        await task

    def _look_at_the_end(self, whole: ConnectionPool | PoolManager) -> None:
        """See that the end of the block has left nothing."""
        faults = self.report.faults
        for s in self._look():
            if s.size or s.in_use or s.tasks_waiting or s.in_flight:
                faults.append(f"left at the end of the block: {s}")
            if s.opened != sum(s.closed.values()):
                faults.append(f"the totals don't add up: {s}")
        for remote in self._remotes:
            limit = min(self._limits.max_size, self._limits.max_total)
            if (most := remote.most()) > limit:
                faults.append(f"the server saw {most} connections, {limit} are allowed")
            faults += remote.leftovers()
        if self.scenario.observers:
            try:
                self._tally.check()
            except AssertionError as error:
                faults.append(f"the events don't add up: {error}")
        ids = {id(error) for error in self.report.errors}
        if len(ids) < len(self.report.errors):
            faults.append(f"several got one error: {self.report.errors}")


async def run_scenario(
    scenario: Scenario, server: OracleServer, rules: RuleWatch, *, native: bool
) -> Report:
    """Run a scenario and return what came of it."""
    leftovers = Leftovers()
    with leftovers.hear_complaints(), _eager_tasks(scenario.eager):
        stage = Stage(scenario, server, rules, native=native)
        report = stage.report
        try:
            with anyio.fail_after(_DEADLINE):
                await stage.play()
        except Exception as error:
            report.faults.append(f"the scenario ended with {error!r}")
        report.errors.clear()
        del stage
        report.faults += rules.forget()
        report.faults += await leftovers.check()
    return report


@contextmanager
def _eager_tasks(eager: bool) -> Generator[None]:
    """Have tasks begin to run when they are made, where Python can do that."""
    if not eager or sys.version_info < (3, 12):
        yield
        return
    loop = asyncio.get_running_loop()
    takes_all = "kwargs" in inspect.signature(asyncio.eager_task_factory).parameters
    if not (takes_all or isinstance(loop, asyncio.BaseEventLoop)):
        # uvloop gives it more than an older CPython's takes.
        yield
        return
    before = loop.get_task_factory()
    # asyncio's own: AnyIO knows what to make of it.
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        yield
    finally:
        loop.set_task_factory(before)


def forget_garbage() -> None:
    """Make it quick to look for garbage: what is there already is none."""
    gc.collect()
    gc.freeze()


async def _main(native: bool, seed: str, times: int) -> None:
    scenario = draw_scenario(seed, native=native)
    print(scenario)
    forget_garbage()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(OracleServer(Path(directory)))
        rules = RuleWatch(stack.enter_context(pytest.MonkeyPatch.context()))
        for _ in range(times):
            report = await run_scenario(scenario, server, rules, native=native)
            print(dict(report.counts), *report.faults, sep="\n")


if __name__ == "__main__":
    backend, options = BACKENDS[sys.argv[1]]
    times = int(sys.argv[3]) if sys.argv[3:] else 1
    main = partial(_main, backend == "asyncio", sys.argv[2], times)
    anyio.run(main, backend=backend, backend_options=options)
