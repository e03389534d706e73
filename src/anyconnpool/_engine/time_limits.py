"""The time limits of a pool's exchanges, in one line: a scope for each would cost far more.

An exchange that ends in time, as nearly all do, costs an entry in a heap and a mark in it. When the
earliest limit is over, the stream that is late is interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Protocol

from anyconnpool._engine.alarms import Alarms
from anyconnpool._engine.connection import PooledConnection
from anyconnpool._streams.exchanges import Exchange
from anyconnpool._util.deadline import describe_timeout

# Fewer limits that are over already than this are not worth being cleared away.
_FEW = 64


class Interruptible(Protocol):
    """What can be late."""

    def interrupt(self, error: Exception) -> None:
        """Raise an error in whoever waits for it."""


class TimeLimit:
    """The time limit of one exchange.

    :param stream: what to interrupt when it is over
    :param seconds: how long the exchange may take
    :param exchange: the exchange
    """

    __slots__ = ("connection", "exchange", "seconds", "stream")

    def __init__(self, stream: Interruptible, seconds: float, exchange: Exchange[Any]) -> None:
        #: ``None`` when the exchange has ended
        self.stream: Interruptible | None = stream
        self.seconds = seconds
        self.exchange: Exchange[Any] | None = exchange
        #: what receives the reply, if that didn't come in one piece
        self.connection: PooledConnection[Any] | None = None


class TimeLimits:
    """Interrupt the exchanges of one pool that take too long.

    :param pool: name of the pool, for errors
    :param now: returns the time, in seconds
    :param alarms: rings when a limit is over
    """

    def __init__(self, pool: str, now: Callable[[], float], alarms: Alarms) -> None:
        self._pool = pool
        self._now = now
        self._heap: list[tuple[float, int, TimeLimit]] = []
        self._numbers = count()
        self._ended = 0
        self._alarm = alarms.new(self._interrupt_late_ones)

    def begin(self, stream: Interruptible, seconds: float, exchange: Exchange[Any]) -> TimeLimit:
        """Limit an exchange that begins now; whoever begins it has to :meth:`end` it.

        :param stream: what the exchange uses
        :param seconds: how long it may take
        :param exchange: the exchange
        """
        if self._ended > _FEW and self._ended * 2 > len(self._heap):
            self._clear_away()
        limit = TimeLimit(stream, seconds, exchange)
        end = self._now() + seconds
        heappush(self._heap, (end, next(self._numbers), limit))
        if end < self._alarm.rings_at:
            self._alarm.set(end)
        return limit

    def end(self, limit: TimeLimit) -> None:
        """Forget the limit of an exchange that has ended."""
        if limit.stream is not None:
            limit.stream = limit.connection = limit.exchange = None
            self._ended += 1

    def stop(self) -> None:
        """Interrupt nobody any more."""
        self._heap.clear()
        self._alarm.set(math.inf)

    def _clear_away(self) -> None:
        self._heap = [entry for entry in self._heap if entry[2].stream is not None]
        heapify(self._heap)
        self._ended = 0

    def _interrupt_late_ones(self) -> None:
        now, heap = self._now(), self._heap
        while heap and (heap[0][0] <= now or heap[0][2].stream is None):
            _, _, limit = heappop(heap)
            if limit.stream is None:
                self._ended -= 1
            else:
                stream, limit.stream = limit.stream, None
                stream.interrupt(TimeoutError(self._describe(limit)))
                limit.connection = limit.exchange = None
        self._alarm.set(heap[0][0] if heap else math.inf)

    def _describe(self, limit: TimeLimit) -> str:
        received = limit.connection.bytes_received if limit.connection else 0
        subject, exchange = f"no reply from pool {self._pool!r}", limit.exchange
        assert exchange is not None
        lack = exchange.describe_lack(received)
        return describe_timeout(subject, limit.seconds, len(exchange.request), received, lack)
