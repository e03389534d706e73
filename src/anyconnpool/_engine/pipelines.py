"""Exchanges that share connections, from the side of their callers.

The callers only wait. One that is cancelled takes its request out or leaves its reply to the
reader: it owns neither the connection nor anything that is under way on it. The tasks that send and
read are in :mod:`anyconnpool._engine.lane_tasks`.
"""

from __future__ import annotations

import math
from typing import TypeVar

from anyio.lowlevel import checkpoint

from anyconnpool._core.pipeline import Lane
from anyconnpool._core.sharing import Sharing
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import PoolEntry
from anyconnpool._engine.alarms import Alarms
from anyconnpool._engine.event_loop import HomeLoop
from anyconnpool._engine.lane_tasks import LaneTasks, SharedExchange
from anyconnpool._engine.leasing import Leasing
from anyconnpool._engine.replay import Attempt
from anyconnpool._engine.replicas import join, place_elsewhere
from anyconnpool._engine.spawning import PoolTasks
from anyconnpool._engine.time_limits import TimeLimits
from anyconnpool._exceptions import FULL_AND_AWAITED, PoolFull
from anyconnpool._statistics import CloseReason
from anyconnpool._streams.exchanges import Exchange
from anyconnpool._streams.transport import Transport
from anyconnpool._util.deadline import describe_timeout
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool.events import AcquireTimedOut, ConnectionAcquired, notify

# So many are refused before the others get a turn, less one.
_TURN_MASK = 63

T = TypeVar("T")


class Pipelines:
    """Do the exchanges of one pool that share connections.

    :param sharing: decides
    :param leasing: acquires and releases the pool's connections
    :param machine: the pool's state machine
    :param tasks: what to run the tasks in
    :param alarms: rings when a connection may have stalled
    :param home: the event loop of the pool
    :param time_limits: says when the time of an exchange is up
    """

    def __init__(
        self,
        sharing: Sharing[Transport],
        leasing: Leasing,
        machine: PoolStateMachine[Transport],
        tasks: PoolTasks,
        alarms: Alarms,
        home: HomeLoop,
        time_limits: TimeLimits,
    ) -> None:
        self.sharing = sharing
        self.leasing = leasing
        self.settings = leasing.settings
        self.tasks = tasks
        self.now = home.now
        self.new_signal = home.new_signal
        self.replicas = machine.replicas
        self._machine = machine
        self._home = home
        self._where, self._checkpoint_if_cancelled = home.where, home.checkpoint_if_cancelled
        self._time_limits = time_limits
        self._alarm = alarms.new(self._close_stalled)
        self._stall_timeout = self.settings.stall_timeout
        self._refusals = 0

    @defer_interrupts
    async def exchange(
        self, exchange: Exchange[T], timeout: float, acquire_timeout: float, attempt: Attempt | None
    ) -> T:
        """Do an exchange on a shared connection, or on one of its own if there are enough.

        :param exchange: what to send and to receive
        :param timeout: limit for all of it, in seconds
        :param acquire_timeout: limit for waiting for a place, in seconds
        :param attempt: where to note how far it has come, should it fail
        """
        # What check() does, without a call for it where all is right.
        if not self.leasing.running or self._where() is not self._home.token:
            self.leasing.check()
        # Nothing is owned yet: a cancellation here leaves nothing behind.
        await self._checkpoint_if_cancelled()
        signal = self.new_signal()
        place = SharedExchange(self, signal, exchange, attempt)
        if attempt is not None and attempt.avoided:
            lane = place_elsewhere(self._machine, self.sharing, place, attempt.avoided, place.began)
        else:
            lane = self.sharing.place(place, place.began)
        if lane is None:
            await self._join(place)
        try:
            if (patience := min(timeout, acquire_timeout)) != math.inf:
                place.ends_at, place.patience = place.began + timeout, patience
                self.limit(place)
            if lane is not None:
                tasks = lane.tasks or self._tasks_of(lane)
                if not tasks.stirred:
                    tasks.wake()
            await signal.wait()
        except BaseException:
            # What was not sent is taken out; else its reply will be read for nobody.
            self._give_up(place)
            raise
        if place.limit is not None:
            self._time_limits.end(place.limit)
        if place.error is None:
            reply: T = place.reply
            return reply
        raise self.leasing.error_of(place)

    async def _join(self, place: SharedExchange) -> None:
        """Wait in line, from now on; whoever is refused learns it at once."""
        place.task = self._home.current_task()
        avoided = () if place.attempt is None else place.attempt.avoided
        if not join(self._machine, place, avoided, self.now()):
            raise PoolFull(
                self.leasing.statistics(),
                FULL_AND_AWAITED,
            )
        if place.failing_since is not None:
            # It fails fast: a loop that does nothing but ask must not starve the attempts.
            self._refusals += 1
            if not self._refusals & _TURN_MASK:
                await checkpoint()
            raise self.leasing.error_of(place)

    def limit(self, place: SharedExchange) -> None:
        """See to it that the time of an exchange is up when it is, to wait or for all of it."""
        now = self.now()
        if place.limit is not None:
            self._time_limits.end(place.limit)
            place.limit = None
        seconds = place.ends_at - now
        if place.lane is None:
            seconds = min(seconds, place.patience)
        if seconds < math.inf:
            place.limit = self._time_limits.begin(place, max(seconds, 0), place.exchange)

    def time_is_up(self, place: SharedExchange) -> None:
        """Let an exchange go on no longer, unless only its time to wait for a place is over."""
        error: Exception
        waits = place in self._machine.line.sharers
        if not waits and place.lane is None:
            return
        now = self.now()
        if not waits and place.ends_at > now:
            # It got a place while there was still time to wait.
            self.limit(place)
            return
        if not waits:
            # The limit may have begun anew on the way, and the request may never have been sent.
            subject = f"no reply from pool {self.settings.name!r}"
            sent = received = 0
            if place.sent and place.lane is not None:
                sent = len(place.request)
                received = self._tasks_of(place.lane).received_for(place)
            seconds = place.ends_at - place.began
            lack = place.exchange.describe_lack(received)
            error = TimeoutError(describe_timeout(subject, seconds, sent, received, lack))
        else:
            error = self.leasing.note_timeout(place, place.patience)
            notify(self.settings.observers, AcquireTimedOut(self.settings.name, now - place.began))
        lane = self.sharing.give_up(place, now)
        place.error = error
        place.wake()
        if lane is not None:
            tasks = self._tasks_of(lane)
            if place.sent:
                tasks.note_timeout(place, error)
            tasks.note_loss()

    def note_begin(self, lane: Lane[Transport]) -> None:
        """Take note that exchanges begin to share a connection."""
        entry, observers = lane.entry, self.settings.observers
        entry.borrower = None
        entry.call_site = ""
        if observers:
            reused = entry.borrows > lane.load
            place = next(iter(lane.unsent))
            assert isinstance(place, SharedExchange)
            notify(
                observers,
                ConnectionAcquired(self.settings.name, self.now() - place.began, reused=reused),
            )

    def _give_up(self, place: SharedExchange) -> None:
        """Let nobody wait for an exchange any more, whatever has become of it."""
        if place.limit is not None:
            self._time_limits.end(place.limit)
        if place.lane is None and place in self._machine.line.sharers:
            self._machine.totals.cancelled += 1
        lane = self.sharing.give_up(place, self.now())
        if lane is not None:
            self._tasks_of(lane).note_loss()

    @defer_interrupts
    def wake(self, entry: PoolEntry[Transport]) -> None:
        """Have the requests sent that have got places on a connection."""
        lane: Lane[Transport] | None = entry.lane
        if lane is not None and lane.unsent:
            self._tasks_of(lane).wake()

    def _tasks_of(self, lane: Lane[Transport]) -> LaneTasks:
        if lane.tasks is None:
            lane.tasks = LaneTasks(self, lane)
        tasks: LaneTasks = lane.tasks
        return tasks

    def keep_watch(self, lane: Lane[Transport]) -> None:
        """See to it that a connection which owes replies is closed if it stalls."""
        at = lane.heard_at + self._stall_timeout
        if at < self._alarm.rings_at:
            self._alarm.set(at)

    def _close_stalled(self) -> None:
        now, pipeline = self.now(), self.sharing.pipeline
        for lane in pipeline.stalled(now):
            self._tasks_of(lane).end_stalled(self._stall_timeout)
        self._alarm.set(pipeline.next_stall())

    @defer_interrupts
    def end(self) -> None:
        """Close the connections that nobody waits for any more: the block ends."""
        for lane in [*self.sharing.pipeline.lanes]:
            self._tasks_of(lane).note_loss()

    def end_alarm(self) -> None:
        """Let the alarm keep nothing of a pool that has ended."""
        self._alarm.end()

    @defer_interrupts
    def seize(self, entry: PoolEntry[Transport]) -> bool:
        """Close a connection in the middle of exchanges; false if it is not shared."""
        lane: Lane[Transport] | None = entry.lane
        if lane is None:
            return False
        if not lane.is_shared:
            # If it is being closed: that task may have been cancelled before its first step.
            lane.stop()
            return False
        self._tasks_of(lane).end(CloseReason.SEIZED, self.leasing.closed_error)
        return True
