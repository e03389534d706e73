"""A storm: many ask questions of their own, some give up, and the server dies and comes back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

import anyio
from anyio import create_task_group, to_thread

from anyconnpool import ConnectionPool
from tests.sockets.checks import eventually

from .checks import HANG_UPS, fill, until_at_rest
from .programs import Program

#: asks something that only this number asks, and raises an ``AssertionError`` if the reply is
#: another one's
Ask = Callable[[int], Awaitable[None]]

PATIENT = 12
HASTY = 12
ROUNDS = 60

# What fails a request while the server is down or dies; nothing else may.
_OUTAGES = (OSError, *HANG_UPS)


class Storm:
    """Patient tasks that want their answers, and hasty ones that are cancelled at random moments.

    :param ask: what they do
    :param seed: what the moments are drawn from
    :param native: whether half of the hasty ones are cancelled by asyncio's ``task.cancel()``
    """

    def __init__(self, ask: Ask, seed: int, *, native: bool) -> None:
        self._ask = ask
        self._draw = random.Random(seed)
        self._native = native
        self._numbers = count()
        self._over = False
        # How long an answer takes, in seconds: on average, and the latest ones most of all.
        self._usual = 0.01
        self.right = 0
        self.cut = 0

    async def make_progress(self) -> None:
        """Wait until many more have had their answers, and many more were cut off."""
        right, cut = self.right + ROUNDS, self.cut + ROUNDS
        await eventually(lambda: self.right >= right and self.cut >= cut, tries=10_000)

    def finish(self) -> None:
        """Have the tasks end."""
        self._over = True

    async def patient(self) -> None:
        """Ask, and ask again, whatever fails meanwhile."""
        while not self._over:
            began = anyio.current_time()
            try:
                await self._ask(next(self._numbers))
            except _OUTAGES:
                # Refused at once, while the server is down: others have work to do.
                await anyio.sleep(0.01)
            else:
                self._usual += (anyio.current_time() - began - self._usual) / 10
                self.right += 1

    async def hasty(self) -> None:
        """Ask, and give up after a time in which some are answered and some are not."""
        while not self._over:
            seconds = self._draw.uniform(0, 2 * self._usual)
            give_up = self._draw.choice((self._by_scope, self._by_native_cancel))
            try:
                await (give_up if self._native else self._by_scope)(seconds)
            except _OUTAGES:
                await anyio.sleep(0.01)

    async def _by_scope(self, seconds: float) -> None:
        with anyio.move_on_after(seconds) as scope:
            await self._ask(next(self._numbers))
        self.cut += scope.cancelled_caught

    async def _by_native_cancel(self, seconds: float) -> None:
        task = asyncio.ensure_future(self._ask(next(self._numbers)))
        timer = asyncio.get_running_loop().call_later(seconds, task.cancel)
        try:
            with suppress(asyncio.CancelledError):
                await task
        finally:
            timer.cancel()
        self.cut += task.cancelled()


async def weather(
    pool: ConnectionPool[Any], server: Program, ask: Ask, seed: int, *, native: bool
) -> None:
    """Go through a storm: SIGKILL, SIGTERM, SIGKILL; then all slots are there, and all is well.

    :param pool: of connections to the server
    :param ask: asks the server by way of the pool
    :param seed: of the storm
    :param native: whether the event loop is asyncio's, or one that takes its place
    """
    storm = Storm(ask, seed, native=native)
    async with create_task_group() as tasks:
        for _ in range(PATIENT):
            tasks.start_soon(storm.patient)
        for _ in range(HASTY):
            tasks.start_soon(storm.hasty)
        for end in (server.kill, server.stop, server.kill):
            await storm.make_progress()
            await to_thread.run_sync(end)
            await to_thread.run_sync(server.start)
        await storm.make_progress()
        storm.finish()
    await until_at_rest(pool)
    assert pool.statistics().closed.get("unclean"), "no caller gave up in the middle of an exchange"
    assert pool.statistics().opened > pool.max_size, "no connection was lost"
    await fill(pool)
    assert pool.statistics().idle == pool.max_size
    for number in range(1_000_000, 1_000_000 + 2 * int(pool.max_size)):
        await ask(number)
