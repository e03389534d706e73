"""The pool's own errors: few, flat, each with the facts as attributes and advice in its text.

Errors of others (connecting, TLS, the peer) pass through the pool unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from anyio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    DelimiterNotFound,
    EndOfStream,
    IncompleteRead,
    WouldBlock,
)

from anyconnpool._statistics import PoolStatistics
from anyconnpool._util.errors import make_error, survives_pickling
from anyconnpool._util.log import describe_with_cause

#: what :exc:`PoolFull` says where nobody else may wait
FULL_AND_AWAITED = (
    "is in full use, and as many tasks as max_waiting allows wait already, not counting those for "
    "whom a connection is on its way"
)
#: how pickle and copy make an object: a function, its arguments, and what to set afterwards
_Recipe = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def _state(statistics: PoolStatistics, running_hooks: Mapping[str, int] | None = None) -> str:
    hooks = f", of which {statistics.in_hook} in a hook" if statistics.in_hook else ""
    if running_hooks:
        named = " and ".join(f"{count} in {hook}" for hook, count in running_hooks.items())
        hooks = f", of which {named}"
    shared = f", {statistics.in_flight} exchanges in flight" if statistics.in_flight else ""
    return (
        f"max_size {statistics.max_size}, {statistics.in_use} in use{shared}, "
        f"{statistics.idle} idle, "
        f"{statistics.connecting} connecting{hooks}, {statistics.closing} closing, "
        f"{statistics.tasks_waiting} tasks waiting"
    )


def _recipe_for(error: BaseException, kind: type[BaseException]) -> _Recipe:
    """Return how an error is made anew: of its text and its attributes, not of parameters."""
    attributes = dict(vars(error))
    if "__notes__" in attributes:
        attributes["__notes__"] = list(attributes["__notes__"])
    return make_error, (kind, error.args), attributes


class PoolError(Exception):
    """Base class of the errors that the pool itself raises.

    They can be copied and pickled.
    """

    def __reduce__(self) -> _Recipe:
        return _recipe_for(self, type(self))


class PoolClosed(PoolError, ClosedResourceError):
    """Raised when a pool is used outside its block: before it is entered or opened, or after.

    Also raised in tasks that wait in acquire when the block ends, and by every operation on a
    connection that was still borrowed when ``close_timeout`` was over. A connection that was given
    back raises :exc:`anyio.ClosedResourceError` instead.

    :ivar name: the pool's name
    """

    def __init__(self, name: str, advice: str) -> None:
        super().__init__(f"pool {name!r} {advice}")
        self.name = name


class PoolFull(PoolError, WouldBlock):
    """Raised instead of waiting: nothing is idle, or ``max_waiting`` tasks are waiting already.

    After a wait that was too long, :exc:`AcquireTimeout` is raised instead.

    :ivar statistics: the pool's state at that moment
    """

    def __init__(self, statistics: PoolStatistics, advice: str) -> None:
        super().__init__(f"pool {statistics.name!r} {advice} ({_state(statistics)})")
        self.statistics = statistics


class AcquireTimeout(PoolError, TimeoutError):
    """Raised when no connection became available in time.

    It says nothing about an exchange: a timeout of the exchange itself is a plain
    :exc:`TimeoutError`.

    :ivar timeout: the time limit in seconds
    :ivar statistics: the pool's state when time ran out
    :ivar last_connect_error: the newest failure to connect since the last success, or ``None``
    :ivar held: how many connections of the pool the task that waited has borrowed itself
    :ivar running_hooks: on how many of those connecting a hook was at work, by the hook's name
    """

    def __init__(
        self,
        timeout: float,
        statistics: PoolStatistics,
        last_connect_error: BaseException | None,
        held: int = 0,
        running_hooks: Mapping[str, int] | None = None,
    ) -> None:
        message = (
            f"no connection of pool {statistics.name!r} within {round(timeout, 3) or timeout:g} s "
            f"({_state(statistics, running_hooks)})"
        )
        if last_connect_error is not None:
            message += f"; last connect error: {describe_with_cause(last_connect_error)}"
        if held:
            message += (
                f"; the waiting task itself holds {held} of those in use: give them back first"
            )
        elif running_hooks:
            message += f"; {' and '.join(running_hooks)} had not returned by then"
        elif last_connect_error is None and statistics.in_use >= statistics.max_size:
            message += "; give connections back sooner or raise max_size"
            message += " or pipeline" if statistics.in_flight else ""
        super().__init__(message)
        self.timeout = timeout
        self.statistics = statistics
        self.last_connect_error = last_connect_error
        self.held = held
        self.running_hooks: Mapping[str, int] = dict(running_hooks or {})

    def __reduce__(self) -> _Recipe:
        make, arguments, attributes = super().__reduce__()
        error = self.last_connect_error
        # It may be anything that on_connect raises.
        if error is not None and not survives_pickling(error):
            attributes["last_connect_error"] = PoolError(describe_with_cause(error))
        return make, arguments, attributes


class PackageTooLarge(PoolError, ValueError):
    """Raised when a package is larger than its format allows.

    When sending, nothing has been written and the connection is as good as before. When receiving,
    the peer announced the size, nothing of the body was read, and the connection is not reused.

    :ivar size: length of the body in bytes
    :ivar max_size: what the format allows, in bytes
    """

    def __init__(self, size: int, max_size: int) -> None:
        super().__init__(
            f"a package of {size} bytes exceeds the {max_size} bytes that its format allows; "
            f"use a PackageFormat with a larger max_size or header_size"
        )
        self.size = size
        self.max_size = max_size


class PackageTooSmall(PoolError, ValueError):
    """Raised when a package's header announces less than its own size.

    It happens only with formats whose length includes the header (``includes_header=True``). The
    connection is not reused.

    :ivar size: what the header announces, in bytes
    :ivar header_size: length of the header, in bytes
    """

    def __init__(self, size: int, header_size: int) -> None:
        super().__init__(
            f"a package announces {size} bytes, less than the {header_size} bytes of its header; "
            f"use includes_header=False if the peer counts the body alone"
        )
        self.size = size
        self.header_size = header_size


class StreamBusy(BusyResourceError):
    """AnyIO's error for two tasks that use one stream, with advice.

    This one and the next two exist because AnyIO's can't be pickled; unpickled, they are AnyIO's.
    """

    def __init__(self, action: str) -> None:
        super().__init__(action)
        self.args = (f"{self}: give each task a connection of its own, by pool.acquire()",)

    def __reduce__(self) -> _Recipe:
        return _recipe_for(self, BusyResourceError)


class FrameTooLong(DelimiterNotFound):
    """AnyIO's error for a line or frame that is too long, with advice.

    :param remedy: what to do if it is not too long
    """

    def __init__(
        self, max_bytes: int, remedy: str = "raise max_bytes or the pool's max_line_bytes"
    ) -> None:
        super().__init__(max_bytes)
        self.args = (f"{self}: {remedy}, or check that the peer speaks this protocol",)

    def __reduce__(self) -> _Recipe:
        return _recipe_for(self, DelimiterNotFound)


class FrameCut(IncompleteRead):
    """AnyIO's error for a peer that closes in mid-frame, with what had arrived.

    :param received: how many bytes
    """

    def __init__(self, received: int) -> None:
        super().__init__()
        self.args = (
            f"the peer closed the connection in the middle of what was asked for: {received} bytes "
            f"of it had arrived",
        )

    def __reduce__(self) -> _Recipe:
        return _recipe_for(self, IncompleteRead)


# They are AnyIO's errors to those who read tracebacks.
for _kind in (StreamBusy, FrameTooLong, FrameCut):
    _kind.__module__, _kind.__name__ = "anyio", _kind.__bases__[0].__name__
    _kind.__qualname__ = _kind.__name__
del _kind

#: All that can go wrong in an exchange because of the pool, the connection or the peer, for
#: ``except``. :exc:`TimeoutError` and :exc:`~anyio.ConnectionFailed` are kinds of :exc:`OSError`.
ExchangeError: Final = (
    PoolError,
    OSError,
    EndOfStream,
    IncompleteRead,
    DelimiterNotFound,
    BrokenResourceError,
    ClosedResourceError,
)
