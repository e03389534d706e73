"""Run code of somebody's in the context variables of that somebody."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
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
