"""Functions of the user's: whether they are asynchronous, and what they are called in errors."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

from anyconnpool._util.checks import check_duration, make_printable, quoted

T = TypeVar("T")


class NotAsyncError(TypeError):
    """A function of the user's is not one as is wanted here; the text is for the log, too.

    To those who read it or pickle it, it is a plain :exc:`TypeError`.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return TypeError, self.args


NotAsyncError.__module__, NotAsyncError.__name__ = "builtins", "TypeError"
NotAsyncError.__qualname__ = "TypeError"


def is_async_function(function: object) -> bool:
    """Return whether calling it only makes something that has yet to be awaited or iterated."""
    while isinstance(function, partial):
        function = function.func
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
        or inspect.isgeneratorfunction(function)
    )


def describe_function(function: Any) -> str:
    """Return what a function is called; its arguments, if it has some already, may be secret."""
    while isinstance(function, partial):
        function = function.func
    try:
        name = str(function.__qualname__)
    except Exception:
        # It has none, or is an object of the user's that fails when it is asked.
        name = type(function).__qualname__
    return make_printable(name)


def as_awaitable(result: Awaitable[T], function: object, role: str) -> Awaitable[T]:
    """Return what a function of the user's has returned, if it can be awaited.

    :param result: what it has returned
    :param function: the function
    :param role: what it is to the pool, as in "on_connect"
    :raises TypeError: if nothing is there to be awaited
    """
    if hasattr(result, "__await__") or inspect.isawaitable(result):
        return result
    raise NotAsyncError(
        f"{role} must be an async function, but {describe_function(function)} returned "
        f"{type(result).__name__}, which can't be awaited"
    )


def call_async(
    function: Callable[..., Awaitable[T]], role: str, *arguments: object
) -> Awaitable[T]:
    """Call an async function of the user's, and return what is to be awaited.

    :param function: the function
    :param role: what it is to the pool, as in "on_connect"
    :raises TypeError: if it doesn't take the arguments, or is no async function
    :raises Exception: what it raises
    """
    try:
        result = function(*arguments)
    except TypeError as error:
        trace = error.__traceback__
        if trace is not None and trace.tb_next is None:
            # It was not even entered: the text has names in it, no values.
            takes = "one argument" if arguments else "no argument"
            raise NotAsyncError(f"{role} must take {takes}: {make_printable(str(error))}") from None
        raise
    return as_awaitable(result, function, role)


def check_predicate(name: str, function: object) -> None:
    """Check a function of the user's that chooses; ``None`` is fine.

    :raises TypeError: if it can't be called, or is an async function, whose result is always true
    """
    if function is not None and (not callable(function) or is_async_function(function)):
        given = quoted(function)
        if callable(function):
            given = f"the async function {describe_function(function)}"
        raise TypeError(f"{name} must be a plain function or None, not {given}")


def check_retirement(where: object, within: object) -> float:
    """Check the arguments of ``retire()``, and return the duration."""
    check_predicate("where", where)
    seconds = check_duration("within", within)
    if seconds == math.inf:
        raise ValueError("within must be finite, or nothing would ever be closed")
    return seconds


def refuse_plain_with(self: object, *args: object) -> NoReturn:
    """Be the ``__enter__`` and ``__exit__`` of what is an asynchronous context manager.

    :raises TypeError: always
    """
    raise TypeError(f'{type(self).__name__} is entered by "async with", not by "with"')


class OtherName:
    """Stand where other libraries have a method, and say what it is called here.

    It is no ``__getattr__``, with which CPython looks up every attribute of the class more slowly.

    :param ours: the name of our method
    """

    def __init__(self, ours: str) -> None:
        self._ours = ours
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__} has no {self._name!r}: use {self._ours}()")
