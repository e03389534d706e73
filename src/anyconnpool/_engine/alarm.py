"""A clock that rings for a pool, in a task that is started when it is first needed."""

from __future__ import annotations

import math
from collections.abc import Callable

from anyio import CancelScope, sleep_forever
from anyio.abc import TaskGroup

from anyconnpool._util.interrupts import defer_interrupts


class Alarm:
    """Call a function at a time that can be set anew; after that at no time.

    :param tasks: the group to run in
    :param ring: the function; it may set the alarm
    """

    def __init__(self, tasks: TaskGroup, ring: Callable[[], object]) -> None:
        self._tasks = tasks
        self._ring = ring
        #: when it rings, in seconds on the event loop's clock
        self.rings_at = math.inf
        self._scope: CancelScope | None = None
        self._started = self._stopped = False

    def set(self, at: float) -> None:
        """Have it ring at this time instead; infinity for never."""
        self.rings_at = at
        if self._scope is not None:
            self._scope.deadline = at
        elif not self._started and at < math.inf:
            self._started = True
            self._tasks.start_soon(self._run)

    @defer_interrupts
    def stop(self) -> None:
        """Ring no more."""
        self._stopped = True
        if self._scope is not None:
            self._scope.cancel()

    @defer_interrupts
    async def _run(self) -> None:
        while not self._stopped:
            # Shielded like all that goes on until the pool stops it.
            with CancelScope(deadline=self.rings_at, shield=True) as self._scope:
                await sleep_forever()
            if not self._stopped:
                self.rings_at = math.inf
                self._ring()
