"""Run a command on an event loop until it ends or somebody ends it."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio

from anyconnpool.command._reasons import require

#: exit code of a program that Ctrl-C has ended, as shells have it
INTERRUPTED = 130

BACKENDS = ("asyncio", "uvloop", "trio")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(backend: str, command: Callable[[], Awaitable[object]]) -> bool:
    """Run a command, and cancel it at Ctrl-C or SIGTERM.

    :param backend: one of ``BACKENDS``
    :return: whether it was interrupted
    :raises CommandError: if the backend is not installed
    """
    if backend != "asyncio":
        require(backend, backend)
    # The command reports its failures itself.
    logging.getLogger("anyconnpool").addHandler(logging.NullHandler())
    options = {} if backend == "trio" else {"use_uvloop": backend == "uvloop"}
    name = "trio" if backend == "trio" else "asyncio"
    return anyio.run(_run_until_signal, command, backend=name, backend_options=options)


async def _run_until_signal(command: Callable[[], Awaitable[object]]) -> bool:
    # Where Ctrl-C is ignored, as in the background of a script, it stays so.
    wanted = [one for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    if not wanted:
        await command()
        return False
    interrupted = False
    failure: Exception | None = None

    async def cancel_at_signal(received: AsyncIterator[signal.Signals]) -> None:
        nonlocal interrupted
        async for _ in received:
            interrupted = True
            tasks.cancel_scope.cancel()

    with anyio.open_signal_receiver(*wanted) as received:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_at_signal, received)
            try:
                await command()
            except Exception as error:
                # It must not leave as part of the task group's ExceptionGroup.
                failure = error
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return interrupted
