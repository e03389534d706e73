"""The parts of one running pool, put together, and the block that runs pools to their end."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import partial
from types import NoneType, TracebackType
from typing import Any, TypeAlias, cast

from anyio import (
    CancelScope,
    CapacityLimiter,
    Event,
    create_task_group,
    get_cancelled_exc_class,
    move_on_after,
)
from anyio.abc import TaskGroup

from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import PoolEntry, State
from anyconnpool._engine.alarms import Alarms
from anyconnpool._engine.connector import Connector
from anyconnpool._engine.discovery import Discovery
from anyconnpool._engine.event_loop import HomeLoop
from anyconnpool._engine.housekeeper import Housekeeper
from anyconnpool._engine.leaks import BlockBorrows, LeakDetector
from anyconnpool._engine.leasing import Leasing
from anyconnpool._engine.observed_leasing import ObservedLeasing
from anyconnpool._engine.pipelines import Pipelines
from anyconnpool._engine.replicas import ReplicaSource, RunningReplicas
from anyconnpool._engine.spawning import PoolTasks
from anyconnpool._engine.tasks import ConnectionTasks
from anyconnpool._engine.time_limits import TimeLimits
from anyconnpool._exceptions import PoolClosed
from anyconnpool._settings import Settings
from anyconnpool._streams.connectable import Target
from anyconnpool._streams.transport import Transport, force_close
from anyconnpool._util.cancellation import (
    count_native_cancellations,
    ends_program,
    is_cancelled_by_nobody,
    redeliver_native_cancellation,
)
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.log import GuardedLogger
from anyconnpool.events import PoolEnded, PoolEvent, PoolStarted, notify

MachineFactory: TypeAlias = Callable[
    [Settings, CapacityLimiter, Callable[[], None]],
    PoolStateMachine[Transport],
]


_logger = GuardedLogger("anyconnpool.pool")

# How long closing by force may take after its time has come, in seconds.
_SHORT = 0.01


class RunningPool:
    """Put together what one running pool consists of.

    :param settings: the pool's settings
    :param target: what it connects to: one remote, or several replicas
    :param tasks: starts the pool's tasks
    :param alarms: rings for the pool
    :param home: the event loop of the block
    :param make_machine: makes the state machine
    """

    def __init__(
        self,
        settings: Settings,
        target: Target | ReplicaSource,
        tasks: PoolTasks,
        alarms: Alarms,
        home: HomeLoop,
        make_machine: MachineFactory,
    ) -> None:
        self._settings = settings
        self._now = home.now
        self._slots = CapacityLimiter(settings.max_size)
        self._drained = Event()
        self.machine = machine = make_machine(settings, self._slots, self._run_actions)
        self._replicas: RunningReplicas | None = None
        self._discovery: Discovery | None = None
        remote = target if isinstance(target, Target) else None
        if not isinstance(target, Target):
            self._replicas = RunningReplicas(target, settings, machine, home)
            self._discovery = self._replicas.discovery
        connector = Connector(remote, settings, home.now, machine, self._discovery)
        self._connection_tasks = ConnectionTasks(
            machine, connector, settings, home.now, tasks, alarms
        )
        self._leaks = LeakDetector(settings.name, settings.leak_after, home)
        watched = settings.observers or settings.leak_after < math.inf
        leasing_class = ObservedLeasing if watched else Leasing
        self._time_limits = TimeLimits(settings.name, home.now, alarms)
        self.leasing = leasing_class(
            settings, machine, self._connection_tasks, home, self._time_limits, self.held
        )
        self._pipelines = self._make_pipelines(tasks, alarms, home)
        self._housekeeper = Housekeeper(
            settings, machine, self._connection_tasks, home, self._look_for_leaks
        )
        tasks.keep_running(f"pool {settings.name!r}: housekeeper", self._housekeeper.run)
        if self._discovery is not None:
            self._connection_tasks.on_rest = self._discovery.wake
            tasks.keep_running(f"pool {settings.name!r}: discovery", self._discovery.run)
        self._notify(self._started(target))

    def _started(self, target: Target | ReplicaSource) -> PoolStarted:
        """Return the event that says that the pool has started."""
        settings = self._settings
        states = None if isinstance(target, Target) else target.states
        return PoolStarted(settings.name, self.leasing.statistics, settings.min_idle, states)

    def _make_pipelines(self, tasks: PoolTasks, alarms: Alarms, home: HomeLoop) -> Pipelines | None:
        """Make what does the exchanges that share connections, in a pool that pipelines."""
        machine = self.machine
        if machine.sharing is None:
            return None
        pipelines = Pipelines(
            machine.sharing, self.leasing, machine, tasks, alarms, home, self._time_limits
        )
        self._connection_tasks.share = pipelines.wake
        self.leasing.pipelines = pipelines
        return pipelines

    def end(self) -> None:
        """Refuse every acquire from now on, and close what is idle."""
        self._housekeeper.stop()
        if self._discovery is not None:
            self._discovery.stop()
        self._connection_tasks.stop()
        self.leasing.end(self._drained.set)
        if self._pipelines is not None:
            self._pipelines.end()

    async def wait_drained(self) -> None:
        """Wait until nothing is borrowed any more."""
        await self._drained.wait()

    async def wait_closed(self) -> None:
        """Wait until everything is closed, when nothing is borrowed any more."""
        await self._connection_tasks.wait_closed()

    def seize(self, *, silent: bool) -> None:
        """Close what is still borrowed.

        :param silent: whether to log nothing, because borrowers had no time to release anything
        """
        self._time_limits.stop()
        for entry in self.held():
            if self._pipelines is not None and self._pipelines.seize(entry):
                continue
            if entry.state is State.IN_USE and not silent:
                self._leaks.log_unreleased(entry)
            self.leasing.seize(entry)

    async def dispose(self, entry: PoolEntry[Transport]) -> None:
        """Close a connection that no task looks after any more."""
        opened = entry.state is not State.OPENING
        try:
            if opened:
                await force_close(entry.transport.stream)
        finally:
            self.machine.lost(entry, self._now())
            if opened:
                self._connection_tasks.notify_closed(entry)

    def ended(self) -> None:
        """Notify the observers that everything is closed."""
        self._time_limits.stop()
        self._connection_tasks.end_alarm()
        if self._pipelines is not None:
            self._pipelines.end_alarm()
        if self._replicas is not None:
            self._replicas.end()
        self._notify(PoolEnded(self._settings.name, self.leasing.statistics))

    def held(self) -> tuple[PoolEntry[Transport], ...]:
        """Return the pool's connections."""
        return cast("tuple[PoolEntry[Transport], ...]", self._slots.statistics().borrowers)

    def _run_actions(self) -> None:
        self._connection_tasks.run_actions()

    def _look_for_leaks(self) -> None:
        self.leasing.warn_of_self_waits()
        if self._settings.leak_after < math.inf:
            self._leaks.log_leaks(self.held())

    def _notify(self, event: PoolEvent) -> None:
        notify(self._settings.observers, event)


class PoolLifecycle:
    """Run pools inside one ``async with`` block: one pool, or those of a manager.

    :param name: the pool's name in errors, or the manager's
    :param close_timeout: how long borrowed connections may stay out when the block ends, in seconds
    :param hosted: whether a task of ``serve`` or ``open`` runs the block
    """

    def __init__(self, name: str, close_timeout: float, *, hosted: bool = False) -> None:
        self._home = HomeLoop(name, hosted=hosted)
        #: what the errors of its pools say after the block's end
        self.farewell = self._home.farewell
        self._close_timeout = close_timeout
        self._tasks = create_task_group()
        self._pool_tasks = PoolTasks(self._tasks, self._home.new_context())
        self._alarms = Alarms(self._pool_tasks, self._home.now, name)
        self._scopes: set[CancelScope] = set()
        self._pools: dict[RunningPool, None] = {}
        self._borrows = BlockBorrows(self._held, self._home.now)
        self._leaving = False

    def start(
        self,
        settings: Settings,
        target: Target | ReplicaSource,
        make_machine: MachineFactory = PoolStateMachine[Transport],
    ) -> RunningPool:
        """Start a pool, inside the block.

        :raises PoolError: in another event loop, thread or process than the block's
        """
        self._home.check()
        pool = RunningPool(
            settings, target, self._pool_tasks, self._alarms, self._home, make_machine
        )
        pool.leasing.block_borrows = self._borrows
        self._pools[pool] = None
        return pool

    def _held(self) -> Iterator[PoolEntry[Transport]]:
        """Yield the connections of all pools."""
        for pool in self._pools:
            yield from pool.held()

    def stop(self, pool: RunningPool) -> None:
        """End a pool that has nothing borrowed, inside the block; at its end they all end."""
        if self._leaving:
            return
        pool.end()
        del self._pools[pool]
        pool.ended()

    def spawn(self, name: str, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a task until the block ends.

        :param name: the task's name
        :param function: the task, an async function
        """
        self._pool_tasks.keep_running(name, partial(self._run_until_the_end, function))

    @defer_interrupts
    async def _run_until_the_end(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._leaving:
            return
        with CancelScope(shield=True) as scope:
            self._scopes.add(scope)
            try:
                await function()
            finally:
                self._scopes.discard(scope)

    @defer_interrupts
    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None]:
        """Run the pools that are started until the body ends, then close everything.

        What the body raises leaves as the same object: it is kept out of the task groups, which
        would wrap it, and nothing that the clean-up meets replaces it. If one of the pool's tasks
        was ended by what nobody catches (a hook's ``SystemExit``), that leaves in an exception
        group; the body was cancelled for it.
        """
        body_error: BaseException | None = None
        hurry = False
        group = _TasksOfOneTask(self._tasks, self._home)
        caught = ended = False
        known = count_native_cancellations()
        try:
            try:
                async with group:
                    try:
                        yield
                    except BaseException as error:
                        body_error = error
                    ended = self._tasks.cancel_scope.cancel_called
                    hurry = not isinstance(body_error, (Exception, NoneType))
                    await self._leave(hurry=hurry and group.at_home())
                    if not group.at_home():
                        await self._wait_closed()
            finally:
                await self._dispose_of_the_rest()
        except BaseException as error:
            cancelled = get_cancelled_exc_class()
            if body_error is None or ends_program(error) or (group.left_elsewhere and hurry):
                raise
            if group.left_elsewhere:
                _logger.error("%s", error)
            if isinstance(body_error, cancelled) and not isinstance(error, cancelled):
                raise
            caught = isinstance(error, cancelled)
        if body_error is not None:
            if isinstance(body_error, Exception):
                redeliver_native_cancellation(caught=caught)
            try:
                if ended and isinstance(body_error, get_cancelled_exc_class()):
                    self._tell_of_a_task_that_was_cancelled(known)
                raise body_error
            finally:
                body_error = None

    def _tell_of_a_task_that_was_cancelled(self, known: int) -> None:
        """Say so if AnyIO has cancelled the body because a task of the pool never began.

        Nobody else would know where that cancellation has come from.

        :param known: how many native cancellations the block's task had to answer at the beginning
        :raises PoolClosed: if nobody has cancelled the body
        """
        if is_cancelled_by_nobody(known):
            raise PoolClosed(
                self._home.name,
                "has ended, because one of its own tasks was cancelled by task.cancel() before it "
                "had begun: leave those to the pool, which ends when its block does",
            )

    async def _wait_closed(self) -> None:
        """Wait until the pools' tasks have closed everything; nobody waits for these tasks."""
        with move_on_after(self._close_timeout + _SHORT):
            for pool in self._pools:
                await pool.wait_closed()

    async def _dispose_of_the_rest(self) -> None:
        """Close what is open because its task was natively cancelled before its first step.

        All of it, although the first ``await`` may be cancelled.
        """
        interruption: BaseException | None = None
        for pool in self._pools:
            for entry in pool.held():
                try:
                    await pool.dispose(entry)
                except get_cancelled_exc_class() as error:
                    interruption = error
            pool.ended()
        if interruption is not None:
            raise interruption

    async def _leave(self, *, hurry: bool) -> None:
        """End all pools; borrowers get some time, except if the block was cancelled."""
        # From here on, no pool comes and none goes.
        self._leaving = True
        for pool in self._pools:
            pool.end()
        for scope in [*self._scopes]:
            scope.cancel()
        if hurry:
            self._tasks.cancel_scope.cancel()
        try:
            with move_on_after(self._close_timeout):
                for pool in self._pools:
                    await pool.wait_drained()
        finally:
            self._alarms.stop()
            for pool in self._pools:
                pool.seize(silent=hurry)


class _TasksOfOneTask:
    """Enter and leave a task group, in one and the same task.

    AnyIO's text for a group that is left in another task speaks of cancel scopes, and trio
    doesn't survive it.

    :param tasks: the group
    :param home: the event loop of the pool
    """

    def __init__(self, tasks: TaskGroup, home: HomeLoop) -> None:
        self._tasks = tasks
        self._home = home
        self._task: object = None
        self.left_elsewhere = False

    def at_home(self) -> bool:
        """Return whether this is the task that has entered the group."""
        return self._home.current_task() is self._task

    async def __aenter__(self) -> None:
        await self._tasks.__aenter__()
        self._task = self._home.current_task()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        if self.at_home():
            return await self._tasks.__aexit__(exc_type, exc_val, exc_tb)
        self.left_elsewhere = True
        entered, left = map(self._home.task_name, (self._task, self._home.current_task()))
        raise RuntimeError(
            f"pool {self._home.name!r}: its async with block was entered in task {entered!r} and "
            f'left in task {left!r}: enter and leave it in one task, or begin with "await '
            f'open()" on asyncio, "await task_group.start(pool.serve)" elsewhere, and end with '
            f'"await aclose()"; the pool is closed all the same'
        )
