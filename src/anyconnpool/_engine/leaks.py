"""Mistakes of borrowers that show in the books: to name those who make them, in the log."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable

from anyconnpool._core.states import PoolEntry, State, Waiter
from anyconnpool._engine.event_loop import HomeLoop
from anyconnpool._statistics import CloseReason, PoolStatistics
from anyconnpool._streams.transport import Transport
from anyconnpool._util.checks import make_printable
from anyconnpool._util.log import GuardedLogger

_logger = GuardedLogger("anyconnpool.leaks")
_pool_logger = GuardedLogger("anyconnpool.pool")

# How long a task may wait for what it holds itself, in seconds, before it is logged.
_LONG_WAIT = 5
# So many connections closed in a row are a mistake, not an accident.
_MANY_SENDS = 10
_MANY_GREETINGS = 3

_PACKAGE = "anyconnpool."


def find_call_site() -> str:
    """Return the file and line outside this package that the running code was called from."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" if frame else ""


class BorrowCounts:
    """Count how many connections each task has borrowed.

    They are counted anew only if anything was acquired or released since, so that a crowd of tasks
    that run out of time in one moment doesn't count the same once each.

    :param held: returns the pool's connections
    """

    def __init__(self, held: Callable[[], Iterable[PoolEntry[Transport]]]) -> None:
        self._held = held
        self._counted_at = (0, 0)
        self._counts: Counter[int] = Counter()

    def of(self, task: object, statistics: PoolStatistics) -> int:
        """Return how many a task has borrowed.

        :param task: the backend's task
        :param statistics: the pool's, as they are now
        """
        now = (statistics.acquired, statistics.in_use)
        if now != self._counted_at:
            self._counted_at = now
            self._counts = Counter(
                id(entry.borrower) for entry in self._held() if entry.state is State.IN_USE
            )
        return self._counts[id(task)] if statistics.in_use else 0


class BlockBorrows:
    """Count how many connections each task has borrowed from all pools of a manager.

    They are counted at most once a second, since each of many pools may ask.

    :param held: returns the connections of all pools
    :param now: returns the time, in seconds
    """

    def __init__(
        self, held: Callable[[], Iterable[PoolEntry[Transport]]], now: Callable[[], float]
    ) -> None:
        self._held, self._now = held, now
        self._counted_at = -math.inf
        self._counts: Counter[int] = Counter()

    def of(self, task: object) -> tuple[int, int]:
        """Return how many a task has borrowed, and how many are borrowed in all."""
        if self._now() - self._counted_at >= 1:
            self._counted_at = self._now()
            self._counts = Counter(
                id(entry.borrower) for entry in self._held() if entry.state is State.IN_USE
            )
        return self._counts[id(task)], self._counts.total()


class SelfWaits:
    """Log which task waits for connections that it holds itself, each wait once.

    :param pool: the pool's name
    :param counts: counts what each task has borrowed
    :param home: the event loop of the pool
    """

    def __init__(self, pool: str, counts: BorrowCounts, home: HomeLoop) -> None:
        self._pool = pool
        self._counts = counts
        self._home = home

    def look(
        self,
        waiters: Iterable[Waiter[Transport]],
        statistics: PoolStatistics,
        borrows: BlockBorrows | None = None,
    ) -> None:
        """Look at those who wait; called by the housekeeper.

        :param waiters: those who wait for a connection
        :param statistics: the pool's, as they are now
        :param borrows: those of all pools, if it is they that leave no room for another connection
        """
        # What is being opened, checked or closed will serve somebody soon.
        if statistics.connecting or statistics.closing:
            return
        now = self._home.now()
        for waiter in waiters:
            if waiter.seen_at is None:
                waiter.seen_at = now
            held, in_use = self._counts.of(waiter.task, statistics), statistics.in_use
            if borrows is not None:
                held, in_use = borrows.of(waiter.task)
            if held and not waiter.warned and now - waiter.seen_at >= _LONG_WAIT:
                waiter.warned = True
                _pool_logger.warning(
                    "pool %s: task %s has been waiting for a connection for %d s or longer, and "
                    "holds %d of the %d in use itself: have it use what it holds, or give it back "
                    "before it asks for another",
                    self._pool,
                    make_printable(repr(self._home.task_name(waiter.task))),
                    _LONG_WAIT,
                    held,
                    in_use,
                )


class UnansweredSends:
    """Warn, once, of a pool that closes one connection after the other after a send.

    :param pool: the pool's name
    """

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._closed = self._in_a_row = self._others = 0
        self._warned = False

    def note(self, statistics: PoolStatistics) -> None:
        """Take note of a connection that is about to be closed because a send came last.

        :param statistics: the pool's, in which the connection is still in use
        """
        # The borrows that have ended in another way, well or not.
        others = statistics.acquired - statistics.in_use - self._closed
        if others != self._others:
            self._others, self._in_a_row = others, 0
        self._closed += 1
        self._in_a_row += 1
        if self._in_a_row >= _MANY_SENDS and not self._warned:
            self._warned = True
            _pool_logger.warning(
                "pool %s: the last %d connections were closed after one borrow, because a send was "
                "the last thing done on each and a reply might follow; if the protocol has no "
                "replies, make the pool with one_way=True, else receive each reply",
                self._pool,
                _MANY_SENDS,
            )


class UnreadGreetings:
    """Warn, once, of a server whose new connections are closed because of what nobody has read.

    :param pool: the pool's name
    """

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._in_a_row = self._reused = 0
        self._warned = False

    def note(self, entry: PoolEntry[Transport], reused: int) -> None:
        """Take note of a connection that is closed.

        :param entry: the connection
        :param reused: how many borrows there have been of connections used before
        """
        if entry.close_reason is not CloseReason.UNREAD_DATA or entry.borrows > 1:
            return
        if reused != self._reused:
            self._reused, self._in_a_row = reused, 0
        self._in_a_row += 1
        if self._in_a_row >= _MANY_GREETINGS and not self._warned:
            self._warned = True
            _pool_logger.warning(
                "pool %s: the last %d connections were closed after their first use, because "
                "something was waiting on them that nobody had read; if the server greets, receive "
                "the greeting in on_connect, else receive each reply whole",
                self._pool,
                self._in_a_row,
            )


class LeakDetector:
    """Log which task has borrowed a connection for too long.

    :param pool: the pool's name
    :param leak_after: how long a connection may be borrowed before it is logged, in seconds
    :param home: the event loop of the pool
    """

    def __init__(self, pool: str, leak_after: float, home: HomeLoop) -> None:
        self._pool = pool
        self._leak_after = leak_after
        self._home = home
        self._logged: dict[PoolEntry[Transport], float] = {}

    def log_leaks(self, held: Iterable[PoolEntry[Transport]]) -> None:
        """Log the connections that have been borrowed for too long, each borrow once.

        :param held: the pool's connections
        """
        latest = self._home.now() - self._leak_after
        late = {
            e: e.acquired_at
            for e in held
            if e.state is State.IN_USE
            and e.acquired_at <= latest
            and not (e.lane is not None and e.lane.is_shared)
        }
        for entry, acquired_at in late.items():
            if self._logged.get(entry) != acquired_at:
                _logger.warning(
                    "pool %s: %s and has not been given back for leak_after, %g s",
                    self._pool,
                    self._describe(entry),
                    self._leak_after,
                )
        self._logged = late

    def log_unreleased(self, entry: PoolEntry[Transport]) -> None:
        """Log that a connection is closed under its borrower's hands, as the pool ends."""
        _logger.warning(
            "pool %s: %s and is still borrowed at the end of the pool's block: it is closed now",
            self._pool,
            self._describe(entry),
        )

    def _describe(self, entry: PoolEntry[Transport]) -> str:
        age = self._home.now() - entry.acquired_at
        borrower = self._home.task_name(entry.borrower)
        call_site = f" at {entry.call_site}" if entry.call_site else ""
        return make_printable(
            f"{entry.transport} was borrowed {age:.1f} s ago by task {borrower!r}{call_site}"
        )
