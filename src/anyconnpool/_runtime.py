"""The event loop that a pool was entered in: its clock, and a check that it is the running one."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Callable
from weakref import WeakSet

from anyio import current_effective_deadline
from anyio.lowlevel import current_token

from anyconnpool._exceptions import PoolError
from anyconnpool._interrupts import tell_trio

# Where a pool belongs that a forked child has got from its parent.
_PARENT_PROCESS = object()

_runtimes: WeakSet[Runtime] = WeakSet()


class Runtime:
    """Remember the running event loop, and the process.

    :param name: how to call the pool in errors
    """

    __slots__ = ("__weakref__", "_home", "_name", "_where", "now")

    def __init__(self, name: str) -> None:
        self._name = name
        self._home: object = current_token().native_token
        # What AnyIO asks the backends, without the detour that costs several times as much.
        if isinstance(self._home, asyncio.AbstractEventLoop):
            #: returns the loop's time in seconds
            self.now: Callable[[], float] = self._home.time
            self._where: Callable[[], object] = asyncio.get_running_loop
        else:
            from trio.lowlevel import current_clock, current_trio_token

            self.now = current_clock().current_time
            self._where = current_trio_token
            tell_trio()
        _runtimes.add(self)

    def leave_to_the_parent(self) -> None:
        """Refuse all use from now on: this is a forked child, the connections are its parent's."""
        self._home = _PARENT_PROCESS

    def check(self) -> None:
        """Refuse to be used from another event loop, thread or process.

        :raises PoolError: if the running event loop, if any, is not the remembered one
        """
        try:
            here = self._where()
        except RuntimeError:
            here = None
        if here is not self._home:
            raise PoolError(f"pool {self._name!r} {self._describe_home()}")

    def _describe_home(self) -> str:
        if self._home is _PARENT_PROCESS:
            return (
                "belongs to the process that this one was forked from, and so do its connections: "
                "enter a pool of this process's own"
            )
        return (
            "was entered in another event loop or thread: use it only where its async with block "
            "runs (from threads: anyio.from_thread.run)"
        )


def _leave_pools_to_the_parent() -> None:
    for runtime in _runtimes:
        runtime.leave_to_the_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_pools_to_the_parent)


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
