"""The ways in which an exchange is cancelled from outside after some time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from anyio.abc import TaskGroup

Exchange = Callable[[], Awaitable[None]]
#: cancels an exchange after so many seconds
Interrupt = Callable[[float, Exchange], Awaitable[None]]


class Cuts:
    """Run exchanges, and cancel them if they take too long.

    :param tasks: a group for those who cancel
    :param count: is told each time an exchange was cancelled
    """

    def __init__(self, tasks: TaskGroup, count: Callable[[str], None]) -> None:
        self._tasks = tasks
        self._count = count

    async def by_timeout(self, seconds: float, exchange: Exchange) -> None:
        """Let AnyIO's time limit end the exchange."""
        with anyio.fail_after(seconds):
            await exchange()

    async def by_scope(self, seconds: float, exchange: Exchange) -> None:
        """Cancel the exchange by its scope, from another task."""
        with anyio.CancelScope() as scope:
            self._tasks.start_soon(self._cancel_after, seconds, scope)
            await exchange()
        if scope.cancelled_caught:
            self._count("cancelled by scope")

    async def in_cancelled_scope(self, seconds: float, exchange: Exchange) -> None:
        """Run the exchange shielded, in a scope that is cancelled from the beginning."""
        with anyio.CancelScope() as scope:
            scope.cancel()
            with anyio.move_on_after(seconds, shield=True):
                await exchange()

    @staticmethod
    async def _cancel_after(seconds: float, scope: anyio.CancelScope) -> None:
        await anyio.sleep(seconds)
        scope.cancel()

    async def by_native_cancel(self, seconds: float, exchange: Exchange) -> None:
        """Cancel the exchange's task, by asyncio's ``task.cancel()``."""
        task = asyncio.ensure_future(exchange())
        timer = asyncio.get_running_loop().call_later(seconds, task.cancel)
        try:
            await self._wait_for(task)
        finally:
            timer.cancel()

    async def by_native_cancel_twice(self, seconds: float, exchange: Exchange) -> None:
        """Cancel the exchange's task twice, in one turn of the event loop or in two."""
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(exchange())

        def strike() -> None:
            task.cancel()
            if seconds < 0.004:
                task.cancel()
            else:
                loop.call_soon(task.cancel)

        timer = loop.call_later(seconds, strike)
        try:
            await self._wait_for(task)
        finally:
            timer.cancel()

    async def by_both(self, seconds: float, exchange: Exchange) -> None:
        """Cancel the exchange by its scope and its task natively, in one turn."""
        scope = anyio.CancelScope()

        async def exchange_in_scope() -> None:
            with scope:
                await exchange()

        task = asyncio.ensure_future(exchange_in_scope())

        def strike() -> None:
            scope.cancel()
            task.cancel()

        timer = asyncio.get_running_loop().call_later(seconds, strike)
        try:
            await self._wait_for(task)
        finally:
            timer.cancel()

    async def by_asyncio_timeout(self, seconds: float, exchange: Exchange) -> None:
        """Let asyncio's time limit end the exchange."""
        if sys.version_info >= (3, 11):
            async with asyncio.timeout(seconds):
                await exchange()

    async def by_wait_for(self, seconds: float, exchange: Exchange) -> None:
        """Let ``asyncio.wait_for`` end the exchange."""
        try:
            await asyncio.wait_for(exchange(), seconds)
        except asyncio.TimeoutError as error:
            # On Python 3.10 it is no TimeoutError of Python's.
            raise TimeoutError from error

    async def _wait_for(self, task: asyncio.Future[None]) -> None:
        with suppress(asyncio.CancelledError):
            await task
        if task.cancelled():
            self._count("cancelled natively")
