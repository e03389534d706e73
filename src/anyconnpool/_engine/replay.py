"""When an exchange is repeated on another connection, and after which failures.

An exchange is repeated without being asked only if no byte of its request was handed to the
operating system. With a :class:`Retry` the caller says that the request may be sent again.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

from anyio import BrokenResourceError, EndOfStream, IncompleteRead, sleep

from anyconnpool._engine.connection import AcquireContext, PooledConnection
from anyconnpool._exceptions import PoolError
from anyconnpool._retry import Retry
from anyconnpool._util.deadline import Deadline

T = TypeVar("T")

# So many dead connections are replaced in one exchange before they count as tries: more than a pool
# usually has, so that a restart of the server costs nothing, and still an end.
_FREE_REPLACEMENTS = 100
# AnyIO lets an alert of TLS, other than the closing one, through as it is.
_HANG_UPS = (BrokenResourceError, EndOfStream, IncompleteRead, ConnectionError, ssl.SSLError)


def is_retryable(error: BaseException) -> bool:
    """Return whether a repeat, on another connection, may succeed.

    It never can after a timeout, which says nothing about the connection, or after an error of the
    pool.
    """
    if isinstance(error, (PoolError, TimeoutError)):
        return False
    return isinstance(error, (OSError, BrokenResourceError, EndOfStream, IncompleteRead))


def is_hang_up(error: BaseException) -> bool:
    """Return whether an operation on a dead connection fails like this.

    Any other ``OSError`` comes from something else that the user's code did.
    """
    return isinstance(error, _HANG_UPS)


async def run_exchange(
    exchange: Callable[[PooledConnection], Awaitable[T]],
    acquire: Callable[[float], AcquireContext],
    deadline: Deadline,
    retry: Retry | None,
    count_replay: Callable[[Exception], object],
) -> T:
    """Acquire a connection, do an exchange on it, release it; repeat where that is right.

    :param exchange: does the exchange
    :param acquire: acquires a connection within a limit in seconds
    :param deadline: the limit for all of it
    :param retry: whether the exchange may be repeated after something was sent
    :param count_replay: called with the error that leads to a repeat
    """
    replacements = tries = 0
    while True:
        connection: PooledConnection | None = None
        try:
            async with acquire(deadline.remaining()) as connection:
                with deadline.limit():
                    return await exchange(connection)
        except Exception as error:
            if not is_retryable(error):
                raise
            dead = is_hang_up(error) and _may_replace(connection, retry)
            if dead and replacements < _FREE_REPLACEMENTS:
                replacements += 1
            elif retry is not None and tries < retry.count:
                tries += 1
                with deadline.limit():
                    await sleep(retry.pause(tries))
            else:
                raise
            count_replay(error)


def _may_replace(connection: PooledConnection | None, retry: Retry | None) -> bool:
    """Return whether an exchange that met a hang-up may be repeated at once elsewhere."""
    if connection is None or not connection.reused or connection.bytes_received:
        return False
    return retry is not None or not connection.has_sent


def check_retry(retry: object) -> None:
    """Refuse what is not a :class:`Retry`.

    :raises TypeError: if it is not a :class:`Retry` or ``None``
    """
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry must be a Retry, not {type(retry).__name__}")
