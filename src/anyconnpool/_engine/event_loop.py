"""The event loop that a pool was entered in: its clock, its signals, and use from elsewhere."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Protocol
from weakref import WeakSet

from anyio.lowlevel import current_token

from anyconnpool._exceptions import PoolError
from anyconnpool._util.interrupts import protect_on_trio

# The home of a pool that a forked child has inherited from its parent.
_PARENT_PROCESS = object()

_homes: WeakSet[HomeLoop] = WeakSet()


class Signal(Protocol):
    """A signal that one task waits for and another sets, once."""

    def set(self) -> object:
        """Wake the task that waits, now or later."""

    def wait(self) -> Awaitable[object]:
        """Wait until it is set."""
        ...


class _FutureSignal:
    """A signal on asyncio: a bare future is a quarter of an event of AnyIO's."""

    __slots__ = ("_future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future: asyncio.Future[None] = loop.create_future()

    def set(self) -> None:
        # A cancellation of the task that waits has cancelled the future.
        if not self._future.done():
            self._future.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        return self._future


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock of an event loop, without the method of asyncio's own that only calls it."""
    if type(loop).time is asyncio.BaseEventLoop.time:
        return time.monotonic  # noqa: TID251
    return loop.time


def _or_none(find: Callable[[], object]) -> object:
    """Return what a function finds, or None if there is no event loop."""
    try:
        return find()
    except RuntimeError:
        return None


class HomeLoop:
    """Remember the running event loop, and the process.

    :param name: the pool's name in errors
    :param hosted: whether a task of ``serve`` or ``open`` runs the block
    """

    __slots__ = (
        "__weakref__",
        "_hosted",
        "checkpoint_if_cancelled",
        "current_task",
        "name",
        "new_signal",
        "now",
        "token",
        "where",
    )

    def __init__(self, name: str, *, hosted: bool = False) -> None:
        #: the pool's name
        self.name = name
        self._hosted = hosted
        token = current_token()
        #: what :attr:`where` returns here, and nowhere else
        self.token: object = token.native_token
        #: raises if the running task is cancelled, as AnyIO's function of the name does
        self.checkpoint_if_cancelled: Callable[[], Awaitable[None]]
        # What AnyIO asks the backends, without the detour that costs several times as much.
        if isinstance(self.token, asyncio.AbstractEventLoop):
            #: returns the loop's time in seconds
            self.now: Callable[[], float] = _clock_of(self.token)
            #: makes a signal, for tasks of this event loop
            self.new_signal: Callable[[], Signal] = partial(_FutureSignal, self.token)
            #: returns the running task, of the backend's own kind; None outside of any
            self.current_task: Callable[[], object] = asyncio.current_task
            #: returns what stands for the running event loop; None if there is none
            self.where: Callable[[], object] = asyncio._get_running_loop
            self.checkpoint_if_cancelled = token.backend_class.checkpoint_if_cancelled
        else:
            from trio import Event
            from trio.lowlevel import (
                checkpoint_if_cancelled,
                current_clock,
                current_task,
                current_trio_token,
            )

            self.now = current_clock().current_time
            self.new_signal = Event
            self.current_task = current_task
            self.where = partial(_or_none, current_trio_token)
            self.checkpoint_if_cancelled = checkpoint_if_cancelled
            protect_on_trio()
        _homes.add(self)

    def leave_to_the_parent(self) -> None:
        """Refuse all use from now on: this is a forked child, the connections are its parent's."""
        self.token = _PARENT_PROCESS

    def check(self) -> None:
        """Refuse to be used from another event loop, thread or process.

        :raises PoolError: if the running event loop, if any, is not the remembered one
        """
        if self.where() is not self.token:
            raise PoolError(f"pool {self.name!r} {self._describe_home()}")

    @property
    def on_asyncio(self) -> bool:
        """Whether the event loop is asyncio's, or one of its kind."""
        return isinstance(self.token, asyncio.AbstractEventLoop)

    @property
    def farewell(self) -> str:
        """What the errors of a pool say whose block has ended."""
        if self._hosted:
            return (
                "has been closed: aclose() was called, the task of its block was cancelled, or its "
                "event loop has ended"
            )
        return "has been left: its async with block has ended"

    def is_lost(self) -> bool:
        """Return whether nothing runs here any more: in a closed loop, or in a forked child."""
        token = self.token
        closed = isinstance(token, asyncio.AbstractEventLoop) and token.is_closed()
        return closed or token is _PARENT_PROCESS

    def call_soon(self, function: Callable[[], object]) -> bool:
        """Have a function called in asyncio's event loop, from any thread and at any moment.

        :param function: what to call
        :return: whether that is possible: not in a closed loop, or in a forked child
        """
        if not isinstance(self.token, asyncio.AbstractEventLoop):
            return False
        try:
            self.token.call_soon_threadsafe(function)
        except RuntimeError:
            return False
        return True

    def new_context(self) -> Context:
        """Return a copy of the running context in which AnyIO can start tasks from a callback.

        Where sniffio is installed, as it is with trio, AnyIO asks that for the event loop. Outside
        of tasks, sniffio knows it from the context alone, in which only ``anyio.run()`` puts it.
        """
        context, sniffio = copy_context(), sys.modules.get("sniffio")
        if sniffio is not None and self.on_asyncio:
            context.run(sniffio.current_async_library_cvar.set, "asyncio")
        return context

    @staticmethod
    def task_name(task: object) -> str:
        """Return the name of a task of the backend's own kind."""
        return task.get_name() if isinstance(task, asyncio.Task) else getattr(task, "name", "?")

    def _describe_home(self) -> str:
        if self.token is _PARENT_PROCESS:
            return (
                "belongs to the process that this one was forked from, and so do its connections: "
                "enter a pool of this process's own"
            )
        if self._hosted:
            return (
                "was opened in another event loop or thread: use it and close it only there (from "
                "threads: anyio.from_thread.run)"
            )
        return (
            "was entered in another event loop or thread: use it only where its async with block "
            "runs (from threads: anyio.from_thread.run)"
        )


def _leave_pools_to_the_parent() -> None:
    for home in _homes:
        home.leave_to_the_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_pools_to_the_parent)
