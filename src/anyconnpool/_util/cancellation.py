"""What may leave code of the user's that a task of the pool runs, and who cancelled what.

asyncio's own cancellation strikes once, and past the shields of AnyIO's scopes. It also comes out
of every future that somebody has cancelled, for a reason that has nothing to do with the task that
awaits it.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

from anyio import current_effective_deadline, get_cancelled_exc_class, get_current_task
from anyio.lowlevel import checkpoint

from anyconnpool._util.interrupts import defer_interrupts

if sys.version_info < (3, 11):
    # AnyIO depends on it.
    from exceptiongroup import BaseExceptionGroup


@contextmanager
def fence(subject: str, kind: Callable[[str], Exception]) -> Generator[None]:
    """Run code of the user's, in a task of the pool: whatever it raises ends this block only.

    What leaves it is an :exc:`Exception`, a cancellation that a scope has asked for, or what
    :func:`ends_program`. A cancellation that no scope has asked for (of what the code awaits, or a
    ``task.cancel()`` of a task that belongs to nobody but the pool), a ``GeneratorExit`` and the
    like become an error, with what was raised as its cause.

    :param subject: what is done in the block, for the error
    :param kind: makes the error from its text
    """
    task = get_current_task()
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if ends_program(error) or _is_thrown_away(error, task):
            raise
        cancellation = _find_cancellation(error)
        if cancellation is None:
            text = f"{subject} was ended by {type(error).__name__}, which is not an Exception"
        elif _is_cancelled_by_scope():
            # Without the errors that are in its group: nobody is there any more to get them.
            raise cancellation from None
        else:
            text = f"{subject}, or what it waited for, was cancelled"
            _uncancel()
        raise kind(text) from error


def ends_program(error: BaseException) -> bool:
    """Return whether an error, or one in its group, is meant to end the program."""
    if _is_group(error):
        return any(map(ends_program, _members_of(error)))
    return isinstance(error, (SystemExit, KeyboardInterrupt))


@contextmanager
def survive_stray_cancellation() -> Generator[None]:
    """Leave the block, and go on after it, if it is cancelled and no scope has asked for that.

    It comes from code that awaits what somebody has cancelled, or from a ``task.cancel()`` of a
    task that belongs to nobody but the pool. trio knows no such thing.
    """
    try:
        yield
    except get_cancelled_exc_class():
        if _is_cancelled_by_scope():
            raise
        _uncancel()


@defer_interrupts
async def outlive_stray_cancellation(
    function: Callable[[], Coroutine[Any, Any, object]],
) -> bool:
    """Run what a task of the pool consists of: if that is cancelled by no scope, it ends quietly.

    :param function: an async function, which returns True if its work is not done
    :return: whether its work is not done, because it said so or was cancelled
    """
    unfinished = True
    with survive_stray_cancellation():
        unfinished = await function() is True
    task = _native_task()
    if task is not None and getattr(task, "_must_cancel", False):
        # It was cancelled in its last step. asyncio has a task end as cancelled for that.
        with survive_stray_cancellation():
            await checkpoint()
    return unfinished


def redeliver_native_cancellation(*, caught: bool) -> None:
    """Do with a native ``task.cancel()`` what asyncio's TaskGroup does when it raises an error.

    That of Python 3.13 has it raised again at the next ``await``. Those of 3.11 and 3.12 leave it
    to whoever counts it (``task.cancelling()``): ``asyncio.timeout()`` can't take back there what
    is to be raised again. 3.10 has no TaskGroup and no count: what isn't raised again is lost. A
    cancelled scope of AnyIO goes on to cancel by itself.

    :param caught: whether a cancellation was caught that is not raised now
    """
    task = _native_task()
    if task is None or _is_cancelled_by_scope():
        return
    if sys.version_info >= (3, 13):
        if task.cancelling():
            task.uncancel()
            task.cancel()
    elif sys.version_info < (3, 11) and caught:
        task.cancel()


def count_native_cancellations() -> int:
    """Return how many calls of ``task.cancel()`` the running task has to answer, if that is known.

    3.10 doesn't count them, and trio has none.
    """
    task = _native_task()
    if sys.version_info >= (3, 11) and task is not None:
        return task.cancelling()
    return 0


def is_cancelled_by_nobody(known: int) -> bool:
    """Return whether it is certain that no scope and no ``task.cancel()`` cancels the running task.

    On asyncio the scopes of AnyIO cancel natively, too, and are counted until they have ended. On
    trio nothing but scopes cancels.

    :param known: how many native cancellations it had to answer when what matters began
    """
    is_counted = sys.version_info >= (3, 11) and _native_task() is not None
    return is_counted and count_native_cancellations() <= known


def _is_cancelled_by_scope() -> bool:
    return current_effective_deadline() == -math.inf


def _is_thrown_away(error: BaseException, task: object) -> bool:
    """Return whether a coroutine is closed because nobody will run its task any more."""
    if not isinstance(error, GeneratorExit):
        return False
    try:
        return get_current_task() != task
    except RuntimeError:
        return True


def _is_group(error: BaseException) -> bool:
    # Narrowed by the check itself, it would be a group of unknown members.
    return isinstance(error, BaseExceptionGroup)


def _members_of(group: BaseException) -> tuple[BaseException, ...]:
    members: tuple[BaseException, ...] = getattr(group, "exceptions", ())
    return members


def _find_cancellation(error: BaseException) -> BaseException | None:
    if _is_group(error):
        found = map(_find_cancellation, _members_of(error))
        return next((member for member in found if member is not None), None)
    return error if isinstance(error, get_cancelled_exc_class()) else None


def _uncancel() -> None:
    """Take back a native cancellation of the running task, if there was one."""
    task = _native_task()
    if sys.version_info >= (3, 11) and task is not None:
        task.uncancel()


def _native_task() -> asyncio.Task[object] | None:
    """Return the running task of asyncio; None on trio."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
