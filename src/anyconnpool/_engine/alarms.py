"""Alarm clocks for what has to be done at a certain time: one task for a whole block of pools."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

from anyio import CancelScope, sleep_forever

from anyconnpool._engine.spawning import PoolTasks
from anyconnpool._util.interrupts import defer_interrupts

# Fewer alarms that have ended than this are not worth being looked for.
_FEW = 64


def _do_nothing() -> None:
    """Be what an alarm calls that has ended."""


class Alarm:
    """Call a function at a time that can be set anew; after that at no time."""

    __slots__ = ("_alarms", "ring", "rings_at")

    def __init__(self, alarms: Alarms, ring: Callable[[], object]) -> None:
        self._alarms = alarms
        self.ring = ring
        #: when it rings, in seconds on the event loop's clock
        self.rings_at = math.inf

    def set(self, at: float) -> None:
        """Have it ring at this time instead; infinity for never."""
        self.rings_at = at
        if at < math.inf:
            self._alarms.add(at, self)

    def end(self) -> None:
        """Call nothing any more, and keep nothing of what it would have called."""
        self.rings_at, self.ring = math.inf, _do_nothing
        self._alarms.forget_ended()


class Alarms:
    """Let alarms ring, in a task that is started when the first of them is set.

    :param tasks: what to run in
    :param now: returns the time, in seconds
    :param pool: the pool's name, or the manager's
    """

    def __init__(self, tasks: PoolTasks, now: Callable[[], float], pool: str) -> None:
        self._task_name = f"pool {pool!r}: waiting for what is due later"
        self._tasks = tasks
        self._now = now
        # An alarm that was set anew still stands here with its former time.
        self._heap: list[tuple[float, int, Alarm]] = []
        self._numbers = count()
        self._ended = 0
        self._scope: CancelScope | None = None
        self._started = self._stopped = False

    def new(self, ring: Callable[[], object]) -> Alarm:
        """Make an alarm.

        :param ring: what it calls; may set alarms
        """
        return Alarm(self, ring)

    def add(self, at: float, alarm: Alarm) -> None:
        """Have an alarm ring at a time."""
        heap, entry = self._heap, (at, next(self._numbers), alarm)
        heappush(heap, entry)
        # What stands first may be of the same alarm, of a former and earlier time.
        if heap[0] is not entry:
            return
        if self._scope is not None:
            self._scope.deadline = at
        elif not self._started:
            self._started = True
            self._tasks.keep_running(self._task_name, self._run)

    def forget_ended(self) -> None:
        """Take note that an alarm has ended; the heap holds few of those."""
        self._ended += 1
        if self._ended > _FEW and self._ended * 2 > len(self._heap):
            self._heap[:] = [each for each in self._heap if each[2].rings_at == each[0]]
            heapify(self._heap)
            self._ended = 0

    @defer_interrupts
    def stop(self) -> None:
        """Let nothing ring any more."""
        self._stopped = True
        if self._scope is not None:
            self._scope.cancel()

    @defer_interrupts
    async def _run(self) -> None:
        heap = self._heap
        while not self._stopped:
            deadline = heap[0][0] if heap else math.inf
            # Shielded like all that goes on until the pool stops it.
            with CancelScope(deadline=deadline, shield=True) as self._scope:
                await sleep_forever()
            if not self._stopped:
                self._ring()

    def _ring(self) -> None:
        heap, now = self._heap, self._now()
        due: list[Alarm] = []
        while heap and (heap[0][0] <= now or heap[0][2].rings_at != heap[0][0]):
            at, _, alarm = heappop(heap)
            if alarm.rings_at == at:
                alarm.rings_at = math.inf
                due.append(alarm)
        # What they set, for whatever time, rings after others have had their turn.
        for alarm in due:
            alarm.ring()
