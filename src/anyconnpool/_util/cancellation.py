"""asyncio's own cancellation, which strikes once, and past the shields of AnyIO's scopes."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Generator
from contextlib import contextmanager

from anyio import current_effective_deadline, get_cancelled_exc_class


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
        if sys.version_info >= (3, 11):
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()


def redeliver_native_cancellation() -> None:
    """Have a native ``task.cancel()`` that was caught raised again at the next ``await``.

    A cancelled scope of AnyIO does so by itself. asyncio's task groups do the same when both their
    body and their parent have something to raise.
    """
    if _is_cancelled_by_scope():
        return
    task = asyncio.current_task()
    assert task is not None
    if sys.version_info >= (3, 11):
        task.uncancel()
    task.cancel()


def _is_cancelled_by_scope() -> bool:
    return current_effective_deadline() == -math.inf
