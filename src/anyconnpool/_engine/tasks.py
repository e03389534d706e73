"""Carry out what the core decides: open, check and close connections, each in a task."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

from anyio import CancelScope, ConnectionFailed, Event

from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import Action, PoolEntry
from anyconnpool._engine.alarms import Alarms
from anyconnpool._engine.connector import Connector
from anyconnpool._engine.hooks import make_runners, say_goodbye
from anyconnpool._engine.leaks import UnreadGreetings
from anyconnpool._engine.replay import is_retryable
from anyconnpool._engine.replicas import ReplicaNews
from anyconnpool._engine.spawning import PoolTasks
from anyconnpool._retry import Retry
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason
from anyconnpool._streams.transport import Transport
from anyconnpool._util.cancellation import fence
from anyconnpool._util.checks import check_duration
from anyconnpool._util.errors import copy_for_caller
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.liveness import Liveness
from anyconnpool._util.log import GuardedLogger
from anyconnpool.events import ConnectionClosed, FailFastBegan, FailFastEnded, notify

_logger = GuardedLogger("anyconnpool.pool")

# After which pauses a pool tries by itself that fails fast, without a connect_retry.
_OWN_RETRY = Retry(math.inf, max_interval=5)


class ConnectionTasks:
    """Run the tasks that connections need.

    :param machine: the state machine whose actions are run
    :param connector: opens connections
    :param settings: the pool's settings
    :param now: returns the time, in seconds
    :param tasks: what to run them in
    :param alarms: rings when the state machine wants to be told the time
    """

    def __init__(
        self,
        machine: PoolStateMachine[Transport],
        connector: Connector,
        settings: Settings,
        now: Callable[[], float],
        tasks: PoolTasks,
        alarms: Alarms,
    ) -> None:
        self._machine = machine
        self._connector = connector
        self._settings = settings
        self._now = now
        self._tasks = tasks
        self._prefix = f"pool {settings.name!r}:"
        self._hooks = make_runners(settings, now)
        self._greetings = UnreadGreetings(settings.name)
        #: what is being opened, or in the hands of a hook
        self._scopes: dict[PoolEntry[Transport], CancelScope] = {}
        #: what ends the grace of a connection that is being closed
        self._graces: dict[PoolEntry[Transport], CancelScope] = {}
        self._alarm = alarms.new(self._tick)
        #: has the requests sent that share a connection
        self.share: Callable[[PoolEntry[Transport]], object] = _refuse_to_share
        self._news = ReplicaNews(settings, now)
        #: called when a replica has begun to rest
        self.on_rest: Callable[[], object] | None = None
        self._stopped = self._fails_fast = False
        self._fails_fast_since = 0.0
        self._all_closed = Event()

    @defer_interrupts
    def run_actions(self) -> None:
        """Start a task for every action."""
        actions = self._machine.actions
        while actions:
            try:
                action, entry = actions.popleft()
            except IndexError:
                # A finalizer or a signal handler came in between, and has run them all.
                break
            if action is Action.OPEN:
                name = f"{self._prefix} opening a connection"
                self._tasks.start_soon(name, self._until_stopped, self._open, entry)
            elif action is Action.SHARE:
                self.share(entry)
            elif action is Action.CLOSE:
                name = f"{self._prefix} closing {entry.transport}, {entry.close_reason.value}"
                self._tasks.start_soon(name, self._close, entry)
            elif action is Action.HURRY or action is Action.INTERRUPT:
                scopes = self._graces if action is Action.HURRY else self._scopes
                if entry in scopes:
                    scopes[entry].cancel()
            else:
                name = f"{self._prefix} running {self._hooks[action].role} on {entry.transport}"
                self._tasks.start_soon(name, self._until_stopped, self._run_hook, entry)
        rings_at, replicas = self._machine.alarm_at, self._machine.replicas
        if replicas is not None and replicas.health.news:
            # Told in a task of the pool: an observer may end the program.
            rings_at = self._now()
        if rings_at < self._alarm.rings_at:
            self._alarm.set(rings_at)

    def _note_fail_fast(self) -> None:
        """Log and notify if the pool has begun to refuse whoever asks, or has ended it.

        Called in tasks of the pool only, after an event: an observer may end the program.
        """
        name, now, machine = self._settings.name, self._now(), self._machine
        outage, error = machine.line.outage, machine.supply.last_error
        if outage.fails_fast is self._fails_fast or self._stopped:
            return
        self._fails_fast = outage.fails_fast
        if outage.since is not None and error is not None:
            self._fails_fast_since = now
            failing_for = now - outage.since
            text = "pool %s: connecting has failed for %.1f s: callers are refused from now on"
            _logger.warning(text, name, failing_for)
            notify(self._settings.observers, FailFastBegan(name, failing_for, error))
        else:
            duration = now - self._fails_fast_since
            _logger.info(
                "pool %s: callers wait again, after they were refused for %.1f s", name, duration
            )
            notify(self._settings.observers, FailFastEnded(name, duration))

    def _tick(self) -> None:
        replicas = self._machine.replicas
        if replicas is not None and self._news.report(replicas.health) and self.on_rest is not None:
            self.on_rest()
        self._machine.tick(self._now())
        self._note_fail_fast()

    @defer_interrupts
    def stop(self) -> None:
        """Cancel what is being opened and checked, now and from now on; closing goes on."""
        self._stopped = True
        for scope in self._scopes.values():
            scope.cancel()

    def end_alarm(self) -> None:
        """Let the alarm keep nothing of a pool that has ended."""
        self._alarm.end()

    async def wait_closed(self) -> None:
        """Wait, after :meth:`stop`, until everything is closed; nothing may be borrowed."""
        if not self._machine.supply.unused():
            await self._all_closed.wait()

    def _note_end(self) -> None:
        if self._stopped and self._machine.supply.unused():
            self._all_closed.set()

    @defer_interrupts
    async def _until_stopped(
        self, work: Callable[[PoolEntry[Transport]], Awaitable[None]], entry: PoolEntry[Transport]
    ) -> None:
        # Shielded: it goes on until the pool stops it, however long a body that shields itself goes
        # on in a cancelled block.
        with CancelScope(shield=True) as scope:
            self._scopes[entry] = scope
            if self._stopped:
                scope.cancel()
            try:
                await work(entry)
            finally:
                if self._scopes.get(entry) is scope:
                    # It may be another hook's already.
                    del self._scopes[entry]
                self._note_end()

    async def _open(self, entry: PoolEntry[Transport]) -> None:
        try:
            # Cancelled here, the connector leaves nothing open.
            with fence(f"connecting to {self._settings.name}", ConnectionFailed):
                await self._connector.open(entry)
        except Exception as error:
            self._fail(entry, error)
        except BaseException:
            self._machine.lost(entry, self._now())
            raise
        else:
            # First of all: the log may end the program.
            self._machine.opened(entry, self._now())
            _logger.debug("pool %s: opened %s", self._settings.name, entry.transport)
            self._note_fail_fast()

    def _fail(self, entry: PoolEntry[Transport], error: Exception) -> None:
        """Report an attempt that has failed, and how long to wait before the next one, if any."""
        retry, pause = self._settings.connect_retry, None
        line = self._machine.line
        if may_fail_fast := self._settings.fail_fast_after < math.inf:
            entry.rest = _OWN_RETRY.pause(line.outage.failures + 1)
        if retry is not None:
            try:
                with fence(f"connect_retry of {self._settings.name}", ConnectionFailed):
                    if is_retryable(error):
                        pause = _pause_of(retry, line.next_repeat())
                    if may_fail_fast:
                        entry.rest = _pause_of(retry, line.outage.failures + 1)
            except Exception as failure:
                error, pause = failure, None
        self._machine.open_failed(entry, error, self._now(), pause)
        if self._machine.supply.last_error is error:
            # Whoever is given the error itself, after this, would be kept by its traceback.
            self._machine.supply.last_error = copy_for_caller(error)
        self._note_fail_fast()

    async def _run_hook(self, entry: PoolEntry[Transport]) -> None:
        found: Liveness | CloseReason | None = None
        try:
            # Stopped before it has begun, the connection is as good as it was.
            found = entry.look() if self._stopped else await self._hooks[entry.hook].run(entry)
        finally:
            # Cancelled above, the connection is in doubt for good.
            self._machine.checked(entry, found, self._now())

    def notify_closed(self, entry: PoolEntry[Transport]) -> None:
        """Notify the observers that a connection has left the pool."""
        age = self._now() - entry.opened_at
        event = ConnectionClosed(self._settings.name, entry.close_reason, age)
        notify(self._settings.observers, event)

    @defer_interrupts
    async def _close(self, entry: PoolEntry[Transport]) -> None:
        if entry.lane is not None:
            entry.lane.stop()
        try:
            try:
                self._note_close(entry)
            finally:
                # Also if the log, for example, ends the program.
                with suppress(Exception), fence("closing", RuntimeError), CancelScope() as grace:
                    self._graces[entry] = grace
                    await self._close_in_time(entry)
        finally:
            self._graces.pop(entry, None)
            self._machine.closed(entry, self._now())
            self._note_end()
            self.notify_closed(entry)
            self._note_fail_fast()

    def _note_close(self, entry: PoolEntry[Transport]) -> None:
        self._greetings.note(entry, self._machine.totals.reused)
        reason = entry.close_reason.value
        _logger.debug("pool %s: closing %s: %s", self._settings.name, entry.transport, reason)
        if entry.ended_early:
            self._note_early_end(entry)

    def _note_early_end(self, entry: PoolEntry[Transport]) -> None:
        error = self._connector.count_early_end(entry)
        self._machine.died_unused(error)
        if self._machine.replicas is not None:
            self._machine.replicas.break_off(entry, copy_for_caller(error), self._now(), False)

    async def _close_in_time(self, entry: PoolEntry[Transport]) -> None:
        """Say goodbye, if that is in order, and close the socket, all in ``close_timeout``."""
        grace = 0.0
        try:
            if entry.close_reason.orderly and not entry.hurried:
                limit = self._settings.close_timeout
                ends_at = self._now() + limit
                await say_goodbye(entry, self._settings, self._now, limit)
                grace = max(ends_at - self._now(), 0) if limit < math.inf else limit
        finally:
            # Cancelled above or here, or after what ends the program, it closes at once.
            await entry.transport.close(grace)


def _pause_of(retry: Retry, repeat: int) -> float:
    """Return a pause of what may be a class of the user's: the state machine reckons with it."""
    return check_duration("the pause of connect_retry", retry.pause(repeat))


def _refuse_to_share(entry: PoolEntry[Transport]) -> None:
    raise RuntimeError("this pool doesn't pipeline")
