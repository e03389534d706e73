"""Bring what the machine does by chance to one state, so that runs can be compared."""

from __future__ import annotations

import os

_ONE_MEBIBYTE = 1 << 20


def stay_on_one() -> bool:
    """Keep this process, and those that it starts, on one processor, where that is possible.

    On two, an exchange mostly waits for the other processor to wake up: that takes several times as
    long as all the code, and hides it.

    :return: whether it is possible
    """
    if not hasattr(os, "sched_setaffinity"):
        return False
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return True


def free_a_large_block() -> None:
    """Let glibc see that large blocks come and go, as they do in any program sooner or later.

    Until then it asks the kernel for each block of 128 KiB or more, which makes a receive of
    asyncio's take twice as long.
    """
    bytes(_ONE_MEBIBYTE)
