"""When a load begins its requests: one after the other, or at a rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Not the event loop's clock: that of uvloop goes in steps of 1 ms.
from time import perf_counter  # noqa: TID251
from typing import Protocol

from anyio import Lock, sleep
from anyio.lowlevel import checkpoint

# A server that refuses everything is asked again after this time, in seconds.
_PAUSE_AFTER_FAILURE = 0.05
# The timers of event loops have steps of a millisecond, so that for the rest of the time a task
# looks at the clock again and again, in seconds.
_COARSE = 0.0012
# How far off a number of requests may be that was computed of a duration and a rate.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Extent:
    """How long requests are begun, and when each is.

    :ivar duration: for how long, in seconds; infinite if their number says
    :ivar requests: how many; infinite if the duration says
    :ivar rate: how many to begin in a second, whether the others are answered or not; if there is
        none, each task begins one when its last one is answered
    """

    duration: float
    requests: float = math.inf
    rate: float | None = None

    def pace(self) -> Pace:
        """Begin: return what says when the next request is due."""
        return ClosedPace(self) if self.rate is None else OpenPace(self, self.rate)


class Pace(Protocol):
    """Says when requests are due.

    :ivar begun_at: when the first one is
    :ivar begun: how many were begun
    """

    begun_at: float
    begun: int

    async def first(self) -> float | None:
        """Wait until the first request of a task is due, and return since when; or nothing."""
        ...

    async def next(self) -> float | None:
        """Wait until a task's next request is due, and return since when; or nothing."""
        ...

    async def rest(self) -> None:
        """Wait after a failure."""
        ...

    def missed(self) -> int:
        """Return how many requests were due so far and have not been begun."""
        ...


class ClosedPace:
    """A task's next request is due when its last one has ended.

    :param extent: when it is over; every task makes one request at least
    """

    def __init__(self, extent: Extent) -> None:
        self.begun_at = perf_counter()
        self.begun = 0
        self._end = self.begun_at + extent.duration
        self._requests = extent.requests

    async def first(self) -> float | None:
        if self.begun >= self._requests:
            return None
        self.begun += 1
        return perf_counter()

    async def next(self) -> float | None:
        now = perf_counter()
        if now >= self._end or self.begun >= self._requests:
            return None
        self.begun += 1
        return now

    async def rest(self) -> None:
        await sleep(_PAUSE_AFTER_FAILURE)

    def missed(self) -> int:
        return 0


class OpenPace:
    """Requests are due at regular intervals, whatever became of the earlier ones.

    One that no task was free for is begun late. It is due since its own time all the same, as the
    user would be who came then: what it waits for a task is part of its latency.

    :param extent: when it is over
    :param rate: requests per second
    """

    def __init__(self, extent: Extent, rate: float) -> None:
        self.begun_at = perf_counter()
        self.begun = 0
        self._rate = rate
        self._duration = extent.duration
        self._requests = min(extent.requests, self._due_within(extent.duration))
        self._line = Lock(fast_acquire=True)

    async def first(self) -> float | None:
        return await self.next()

    async def next(self) -> float | None:
        # Whoever is cancelled in here has begun nothing.
        async with self._line:
            due = self.begun_at + self.begun / self._rate
            over = perf_counter() - self.begun_at >= self._duration
            if over or self.begun >= self._requests:
                return None
            if (left := due - perf_counter()) > _COARSE:
                await sleep(left - _COARSE)
            while perf_counter() < due:
                await checkpoint()
            self.begun += 1
            return due

    async def rest(self) -> None:
        """Don't wait: the rate is the limit."""

    def missed(self) -> int:
        elapsed = min(perf_counter() - self.begun_at, self._duration)
        return int(max(0, min(self._due_within(elapsed), self._requests) - self.begun))

    def _due_within(self, seconds: float) -> float:
        # The first one is due at once. What is due in the very moment of the end is not.
        due = seconds * self._rate
        return math.ceil(due - _ROUNDING) if math.isfinite(due) else due
