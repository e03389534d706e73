"""Do an exchange of a pool, or run a function with a connection, and repeat it where that is right.

Between two tries a manager may have dropped the pool, so the leasing is asked for anew each time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from anyconnpool._engine.connection import AcquireContext, PooledConnection
from anyconnpool._engine.leasing import Leasing, Pipelining
from anyconnpool._engine.replay import Attempt, check_retry, repeat
from anyconnpool._retry import Retry
from anyconnpool._streams.exchanges import Exchange
from anyconnpool._util.deadline import Deadline

T = TypeVar("T")


def exchange_again(
    exchange: Exchange[T],
    limit: float,
    retry: Retry,
    find_leasing: Callable[[], Leasing],
    acquire_timeout: float,
) -> Awaitable[T]:
    """Do an exchange that may be repeated after something was sent.

    :param limit: limit for all tries together, in seconds
    :param retry: how often it may be repeated
    :param find_leasing: returns the leasing of the pool
    :param acquire_timeout: limit for acquiring a connection, in seconds
    """
    check_retry(retry)
    deadline = Deadline(limit)

    def attempt_once(attempt: Attempt) -> Awaitable[T]:
        leasing = find_leasing()
        way: Leasing | Pipelining = leasing
        if leasing.pipelines is not None and exchange.may_share:
            way = leasing.pipelines
        return way.exchange(exchange, deadline.remaining(), acquire_timeout, attempt)

    return repeat(attempt_once, deadline, retry, _counter(find_leasing))


def run_borrowing(
    function: Callable[[PooledConnection[Any]], Awaitable[T]],
    timeout: float | None,
    retry: Retry | None,
    find_leasing: Callable[[], Leasing],
    acquire_timeout: float,
) -> Awaitable[T]:
    """Acquire a connection, call a function with it, and release it.

    :param timeout: limit for all tries together, in seconds
    :param retry: how often the function may be called again after it has sent something
    :param find_leasing: returns the leasing of the pool
    :param acquire_timeout: limit for acquiring a connection, in seconds
    """
    check_retry(retry)
    deadline = Deadline(timeout)

    def describe() -> str:
        pool = find_leasing().settings.name
        return f"the function run by pool {pool!r} took more than {deadline.seconds:g} s"

    async def attempt_once(attempt: Attempt) -> T:
        limit = min(deadline.remaining(), acquire_timeout)
        leasing = find_leasing()
        acquirer = Elsewhere(leasing, attempt.avoided) if attempt.avoided else leasing
        # Not made by the class with a type in brackets, which takes as long as all the rest.
        context: AcquireContext[Any] = AcquireContext(acquirer, limit)
        async with context as connection:
            try:
                # Given back within the limit: what was cut short by it is never harmless.
                with deadline.limit(describe):
                    async with connection:
                        return await function(connection)
            except Exception as error:
                attempt.note(connection)
                leasing.note_end(connection, error)
                raise

    return repeat(attempt_once, deadline, retry, _counter(find_leasing))


class Elsewhere:
    """Acquire a connection to another replica than those that have failed, if there is one.

    :param leasing: acquires it
    :param avoided: those that have failed
    """

    def __init__(self, leasing: Leasing, avoided: tuple[Any, ...]) -> None:
        self._leasing = leasing
        self._avoided = avoided

    async def acquire(
        self, timeout: float, context: AcquireContext[Any] | None = None
    ) -> PooledConnection[Any]:
        """Acquire it; see :meth:`Leasing.acquire`."""
        return await self._leasing.acquire(timeout, context, avoided=self._avoided)


def _counter(find_leasing: Callable[[], Leasing]) -> Callable[[Exception], object]:
    """Return what counts a repeat."""
    return lambda error: find_leasing().count_replay(error)
