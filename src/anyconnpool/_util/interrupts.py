"""Keep Ctrl-C out of the middle of a step.

asyncio turns SIGINT into a cancellation of the main task. trio raises :exc:`KeyboardInterrupt`
wherever the main thread happens to be: for example, after a connection has left the state machine
and before it reaches its borrower. In functions that ask for it, trio waits for the main task's
next checkpoint.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])

_functions: list[Callable[..., Any]] = []


def defer_interrupts(function: _Function) -> _Function:
    """Mark a function in which, and in what it calls, Ctrl-C has to wait for a checkpoint."""
    _functions.append(function)
    return function


def protect_on_trio() -> None:
    """Have trio protect the functions that were marked; only to be called while trio is running."""
    from trio.lowlevel import enable_ki_protection

    while _functions:
        enable_ki_protection(inspect.unwrap(_functions.pop()))
