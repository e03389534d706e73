"""Run code of somebody's in the context variables of that somebody."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any


class RestInContext:
    """Await the rest of a coroutine in a context, by whatever task, without a task of its own.

    :param context: the context
    :param coroutine: what was begun there
    :param asked: what it has asked the event loop for
    """

    __slots__ = ("_asked", "_context", "_coroutine")

    def __init__(
        self, context: Context, coroutine: Coroutine[Any, Any, object], asked: object
    ) -> None:
        self._context, self._coroutine, self._asked = context, coroutine, asked

    def __await__(self) -> Generator[Any, Any, Any]:
        run, coroutine, asked = self._context.run, self._coroutine, self._asked
        try:
            while True:
                try:
                    answer = yield asked
                except BaseException as error:
                    asked = run(coroutine.throw, error)
                else:
                    asked = run(coroutine.send, answer)
        except StopIteration as stop:
            return stop.value


async def run_in_context(
    context: Context,
    function: Callable[..., Coroutine[Any, Any, object]],
    argument: object,
    before_waiting: Callable[[], object],
) -> Any:
    """Call a function in a context, and await there what it returns.

    :param context: the context
    :param function: the function, which returns a coroutine
    :param argument: its argument
    :param before_waiting: called before it waits for the first time, if it does
    :return: what the coroutine returns
    """
    coroutine = context.run(function, argument)
    try:
        asked = context.run(coroutine.send, None)
    except StopIteration as stop:
        return stop.value
    before_waiting()
    return await RestInContext(context, coroutine, asked)
