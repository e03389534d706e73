"""The event loop that a pool was entered in: its clock, and a check that it is the running one."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable

from anyio import current_effective_deadline, current_time
from anyio.lowlevel import current_token

from anyconnpool._exceptions import PoolError


def _current_native_token() -> object:
    return current_token().native_token


class Runtime:
    """Remember the running event loop.

    :param name: how to call the pool in errors
    """

    __slots__ = ("_home", "_name", "_where", "now")

    def __init__(self, name: str) -> None:
        self._name = name
        self._home = _current_native_token()
        #: returns the loop's time in seconds
        self.now: Callable[[], float] = current_time
        self._where: Callable[[], object] = _current_native_token
        if isinstance(self._home, asyncio.AbstractEventLoop):
            # What AnyIO does on asyncio, without the detour that costs several times as much.
            self.now = self._home.time
            self._where = asyncio.get_running_loop

    def check(self) -> None:
        """Refuse to be used from another event loop or thread.

        :raises PoolError: if the running event loop, if any, is not the remembered one
        """
        try:
            here = self._where()
        except RuntimeError:
            here = None
        if here is not self._home:
            raise PoolError(
                f"pool {self._name!r} was entered in another event loop or thread: use it only "
                f"where its async with block runs (from threads: anyio.from_thread.run)"
            )


def redeliver_native_cancellation() -> None:
    """Have a native ``task.cancel()`` that was caught delivered again at the next ``await``.

    A cancelled scope of AnyIO does so by itself. asyncio's task groups do the same when both their
    body and their parent have something to raise.
    """
    if current_effective_deadline() == -math.inf:
        return
    task = asyncio.current_task()
    assert task is not None
    if sys.version_info >= (3, 11):
        task.uncancel()
    task.cancel()
