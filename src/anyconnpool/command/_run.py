"""Run a command on an event loop until it ends or somebody ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Thread
from typing import Any

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
    started = command if backend == "trio" else partial(_with_abandoned_threads, command)
    return anyio.run(_run_until_signal, started, backend=name, backend_options=options)


class _AbandonedThreads(ThreadPoolExecutor):
    """A thread for each call, for which nobody waits at the end, as on trio.

    asyncio looks host names up in threads, waits for them when it ends, and so does Python: Ctrl-C
    would take as long as a lookup that gets no answer.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def call() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        future.set_running_or_notify_cancel()
        Thread(target=call, daemon=True).start()
        return future


async def _with_abandoned_threads(command: Callable[[], Awaitable[object]]) -> object:
    asyncio.get_running_loop().set_default_executor(_AbandonedThreads())
    return await command()


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
