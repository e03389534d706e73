"""Start the pool's tasks in its own context, whoever it is that needs them.

They belong to the pool alone. A program may cancel them natively all the same: one that cancels all
tasks of the event loop, or somebody with a debugger. AnyIO ends a task group for that, where
asyncio's own goes on. So a task that is cancelled like this just ends, which whoever has cancelled
it may wait for, and if its work has no end another task goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio.abc import TaskGroup

from anyconnpool._util.cancellation import outlive_stray_cancellation
from anyconnpool._util.interrupts import defer_interrupts

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Args = TypeVarTuple("Args")


class PoolTasks:
    """Start tasks in a group, each in a copy of one context.

    A task of its own would start in the context of whoever borrows at that moment. The hooks would
    see the variables of somebody's request, and uvloop keeps the context in which a connection was
    made as long as that is open.

    :param group: the group
    :param context: the context in which the pool was entered
    """

    __slots__ = ("_context", "_group")

    def __init__(self, group: TaskGroup, context: Context) -> None:
        self._group = group
        self._context = context

    def start_soon(
        self,
        name: str,
        function: Callable[[Unpack[Args]], Coroutine[Any, Any, object]],
        *args: Unpack[Args],
    ) -> None:
        """Start a task.

        :param name: what it does for which pool, for whoever looks at the tasks of the program
        :param function: an async function
        :param args: its arguments
        """
        self._start(name, outlive_stray_cancellation, partial(function, *args))

    def keep_running(self, name: str, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Start a task that goes on until the pool stops it, and another one if it is cancelled.

        :param name: what it does for which pool
        :param function: an async function, which returns when it was stopped, or True if another
            task is to go on with it; called again, it goes on
        """
        self._start(name, self._run_on, name, function)

    @defer_interrupts
    async def _run_on(self, name: str, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        if await outlive_stray_cancellation(function):
            self.keep_running(name, function)

    def _start(self, name: str, *call: Any) -> None:
        # A copy: what one hook sets is none of the next one's.
        self._context.copy().run(partial(self._group.start_soon, *call, name=name))
