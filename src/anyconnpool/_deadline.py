"""Time limits that cost nothing where there is none."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

from anyio import current_time, fail_after

from anyconnpool._checks import check_duration

_NO_LIMIT: AbstractContextManager[object] = nullcontext()


def time_limit(timeout: float | None) -> AbstractContextManager[object]:
    """Return a context that raises :exc:`TimeoutError` when its body takes too long.

    :param timeout: the limit in seconds; ``None`` and ``math.inf`` mean none
    :raises ValueError: if it is negative or NaN
    :raises TypeError: if it is not a number
    """
    if timeout is None or check_duration("timeout", timeout) == math.inf:
        return _NO_LIMIT
    return fail_after(timeout)


class Deadline:
    """One time limit for several steps.

    :param timeout: the limit in seconds from now; ``None`` and ``math.inf`` mean none
    :raises ValueError: if it is negative or NaN
    :raises TypeError: if it is not a number
    """

    def __init__(self, timeout: float | None) -> None:
        self._limited = timeout is not None and check_duration("timeout", timeout) < math.inf
        self._end = current_time() + timeout if self._limited and timeout is not None else math.inf

    def remaining(self) -> float:
        """Return how much time is left, in seconds, 0 when it is over."""
        return max(self._end - current_time(), 0) if self._limited else math.inf
