"""Start the pool's tasks in its own context, whoever it is that needs them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio.abc import TaskGroup

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
        # A copy: what one hook sets is none of the next one's.
        self._context.copy().run(partial(self._group.start_soon, function, *args, name=name))
