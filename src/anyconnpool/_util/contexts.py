"""Run code of somebody's in the context variables of that somebody."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any


class InContext:
    """Await something in a context, by whatever task, without a task of its own.

    :param context: the context
    :param coroutine: what to await
    :param before_waiting: called before it waits for the first time
    """

    __slots__ = ("_before_waiting", "_context", "_coroutine")

    def __init__(
        self,
        context: Context,
        coroutine: Coroutine[Any, Any, object],
        before_waiting: Callable[[], object],
    ) -> None:
        self._context = context
        self._coroutine = coroutine
        self._before_waiting = before_waiting

    def __await__(self) -> Generator[Any, Any, Any]:
        run, coroutine = self._context.run, self._coroutine
        try:
            asked = run(coroutine.send, None)
            self._before_waiting()
            while True:
                try:
                    answer = yield asked
                except BaseException as error:
                    asked = run(coroutine.throw, error)
                else:
                    asked = run(coroutine.send, answer)
        except StopIteration as stop:
            return stop.value
