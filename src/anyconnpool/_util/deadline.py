"""Time limits, which cost nothing where none is set."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from anyio import CancelScope, current_time

from anyconnpool._util.checks import check_duration
from anyconnpool._util.interrupts import defer_interrupts

_NO_LIMIT: AbstractContextManager[object] = nullcontext()


def describe_timeout(subject: str, seconds: float, sent: int, received: int, lack: str = "") -> str:
    """Say what is known of an exchange that took too long.

    :param subject: what did not come in time, as in "no reply"
    :param seconds: the time limit
    :param sent: how many bytes were to be sent
    :param received: how many bytes were received
    :param lack: what is missing, if bytes were received, and more is known than that
    """
    whole = f", {lack or 'which is not the whole reply'}" if received else ""
    return (
        f"{subject} within {round(seconds, 3) or seconds:g} s: sent {sent} bytes, "
        f"received {received}{whole}"
    )


def time_limit(
    timeout: float | None, describe: Callable[[], str]
) -> AbstractContextManager[object]:
    """Return a context that raises :exc:`TimeoutError` when its body takes too long.

    :param timeout: the limit in seconds; ``None`` and ``math.inf`` mean none
    :param describe: returns the text of the error
    :raises ValueError: if it is negative or NaN
    :raises TypeError: if it is not a number
    """
    return _NO_LIMIT if timeout is None else Deadline(timeout).limit(describe)


class Deadline:
    """One time limit for several steps.

    :param timeout: the limit in seconds from now; ``None`` and ``math.inf`` mean none
    :raises ValueError: if it is negative or NaN
    :raises TypeError: if it is not a number
    """

    __slots__ = ("_end", "seconds")

    def __init__(self, timeout: float | None) -> None:
        #: the limit, from the beginning
        self.seconds = math.inf if timeout is None else check_duration("timeout", timeout)
        self._end = math.inf if self.seconds == math.inf else current_time() + self.seconds

    def remaining(self) -> float:
        """Return how much time is left, in seconds, 0 when it is over."""
        return math.inf if self._end == math.inf else max(self._end - current_time(), 0)

    def limit(self, describe: Callable[[], str]) -> AbstractContextManager[object]:
        """Return a context that raises :exc:`TimeoutError` if its body isn't done in time.

        :param describe: returns the text of the error
        """
        return _NO_LIMIT if self._end == math.inf else _Limit(self._end, describe)


class _Limit:
    """Do what AnyIO's ``fail_at()`` does, without its generators, which cost half as much again.

    :param end: the time at which it is over
    :param describe: returns the text of the error
    """

    __slots__ = ("_describe", "_scope")

    def __init__(self, end: float, describe: Callable[[], str]) -> None:
        self._scope = CancelScope(deadline=end)
        self._describe = describe

    # A scope that an interrupt kept from being left would cancel its task later on.
    @defer_interrupts
    def __enter__(self) -> None:
        self._scope.__enter__()

    @defer_interrupts
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._scope.__exit__(exc_type, exc_val, exc_tb)
        # Nobody else knows the scope: only the time can have cancelled it.
        if self._scope.cancelled_caught:
            raise TimeoutError(self._describe())
