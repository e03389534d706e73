"""Who has borrowed which connection: to name the borrowers that forget to release theirs."""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterable

from anyconnpool._core.states import PoolEntry, State
from anyconnpool._engine.event_loop import HomeLoop
from anyconnpool._statistics import PoolStatistics
from anyconnpool._streams.transport import Transport

_logger = logging.getLogger("anyconnpool.leaks")

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
            e: e.acquired_at for e in held if e.state is State.IN_USE and e.acquired_at <= latest
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
        return f"{entry.transport} was borrowed {age:.1f} s ago by task {borrower!r}{call_site}"
