"""What has to be true of a pool when a test ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anyconnpool._manager import PoolManager
from anyconnpool._pool import ConnectionPool
from anyconnpool._statistics import CloseReason, PoolStatistics
from anyconnpool._util.checks import quoted


def assert_clean(pool: ConnectionPool[Any] | PoolManager[Any]) -> None:
    """Assert that nobody holds a connection of the pool, or waits for one.

    Call it at the end of a test, when all tasks that used the pool have ended. It need not wait:
    connections are given back, and waiting is given up, in one step. Connections that the pool
    still opens or closes in the background, or that its hooks are at work on, are not a mistake of
    its users; they end with the pool's block at the latest.

    After the pool's block, it asserts that nothing was still borrowed when the block ended. Call it
    for a manager inside the manager's block: at the end of that, a manager forgets its pools.

    :param pool: the pool, or a manager, which answers for all its pools
    :raises AssertionError: if something is left; the text says what, and has the statistics
    :raises TypeError: if it is neither a pool nor a manager
    """
    every: tuple[PoolStatistics, ...]
    match pool:
        case PoolManager():
            every = tuple(pool.statistics().values())
        case ConnectionPool():
            every = (pool.statistics(),)
        case _:
            raise TypeError(f"what is clean is a pool or a manager, not {quoted(pool)}")
    left = [line for statistics in every for line in _what_is_left(statistics)]
    if left:
        raise AssertionError("\n".join(left))


def _what_is_left(statistics: PoolStatistics) -> Iterator[str]:
    seized = statistics.closed.get(CloseReason.SEIZED.value, 0)
    found = [
        _describe(statistics.in_use, "connection", "still borrowed"),
        _describe(statistics.tasks_waiting, "task", "still waiting for a connection"),
        _describe(seized, "connection", "still borrowed at the end of the pool's block"),
    ]
    if any(found):
        yield f"pool {statistics.name}: {', '.join(filter(None, found))}\n  {statistics}"


def _describe(number: int, noun: str, state: str) -> str:
    if number == 0:
        return ""
    return f"{number} {noun}{' is' if number == 1 else 's are'} {state}"
