"""When an exchange is repeated on another connection, and after which failures.

An exchange is repeated without being asked only if no byte of its request was handed to the
operating system. With a :class:`Retry` the caller says that the request may be sent again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from anyio import BrokenResourceError, EndOfStream, IncompleteRead, sleep

from anyconnpool._engine.connection import PooledConnection, entry_of, has_failed
from anyconnpool._exceptions import PoolError
from anyconnpool._retry import Retry
from anyconnpool._util.checks import advise, check_duration
from anyconnpool._util.deadline import Deadline
from anyconnpool._util.errors import is_hang_up
from anyconnpool._util.log import describe_with_cause

T = TypeVar("T")

# So many dead connections are replaced in one exchange before they count as tries: more than a pool
# usually has, so that a restart of the server costs nothing, and still an end.
_FREE_REPLACEMENTS = 100


def is_retryable(error: BaseException) -> bool:
    """Return whether a repeat, on another connection, may succeed.

    It never can after a timeout, which says nothing about the connection, or after an error of the
    pool.
    """
    if isinstance(error, (PoolError, TimeoutError)):
        return False
    return isinstance(error, (OSError, BrokenResourceError, EndOfStream, IncompleteRead))


class Attempt:
    """What is known of one try of an exchange, should it fail.

    :ivar connection_failed: whether an operation on its connection failed
    :ivar reused: whether the connection had been used before
    :ivar has_sent: whether anything was sent on it
    :ivar bytes_received: how much was received on it
    :ivar replica: which of several replicas it was a connection to
    :ivar avoided: on which of several replicas the exchange has failed before
    """

    __slots__ = (
        "avoided",
        "bytes_received",
        "connection_failed",
        "has_sent",
        "replica",
        "reused",
    )

    def __init__(self, avoided: tuple[object, ...] = ()) -> None:
        self.connection_failed = self.reused = self.has_sent = False
        self.bytes_received = 0
        self.replica: object = None
        self.avoided: tuple[Any, ...] = avoided

    def note(self, connection: PooledConnection[Any]) -> None:
        """Note how far a try has come that failed on a connection."""
        self.connection_failed = has_failed(connection)
        self.reused = connection.reused
        self.has_sent = connection.has_sent
        self.bytes_received = connection.bytes_received
        self.replica = entry_of(connection).replica

    def may_replace(self, error: Exception, retry: Retry | None) -> bool:
        """Return whether the exchange may be repeated at once: the connection was dead already."""
        if not (self.connection_failed and self.reused and is_hang_up(error)):
            return False
        return not self.bytes_received and (retry is not None or not self.has_sent)


async def repeat(
    exchange: Callable[[Attempt], Awaitable[T]],
    deadline: Deadline,
    retry: Retry | None,
    count_replay: Callable[[Exception], object],
) -> T:
    """Do an exchange, and again where that is right.

    :param exchange: does it once
    :param deadline: the limit for all of it
    :param retry: whether the exchange may be repeated after something was sent
    :param count_replay: called with the error that leads to a repeat
    """
    replacements = tries = 0
    failed_on: tuple[object, ...] = ()
    while True:
        attempt = Attempt(failed_on)
        try:
            return await exchange(attempt)
        except Exception as error:
            if not is_retryable(error):
                raise
            if replacements < _FREE_REPLACEMENTS and attempt.may_replace(error, retry):
                replacements += 1
            elif retry is not None and tries < retry.count:
                tries += 1
                # Of a class of the user's, it may be anything.
                pause = check_duration("the pause of retry", retry.pause(tries))
                with deadline.limit(partial(_describe_failure, deadline.seconds, error)):
                    await sleep(pause)
            else:
                raise
            count_replay(error)
            if attempt.replica is not None and attempt.replica not in failed_on:
                failed_on = (*failed_on, attempt.replica)


def _describe_failure(seconds: float, error: Exception) -> str:
    return f"no success within {seconds:g} s; the last try failed: {describe_with_cause(error)}"


def check_retry(retry: object) -> None:
    """Refuse what is not a :class:`Retry`.

    :raises TypeError: if it is not a :class:`Retry` or ``None``
    """
    if retry is not None and not isinstance(retry, Retry):
        given = "the class itself" if retry is Retry else type(retry).__name__
        raise TypeError(f"retry must be a Retry, not {given}{advise(Retry, retry)}")
