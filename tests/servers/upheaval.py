"""Callers of an example's client who are cancelled at random, while its server comes and goes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import anyio
from anyio import create_task_group, move_on_after, to_thread

from anyconnpool import ConnectionPool
from tests.sockets.checks import client_sockets, eventually

from .checks import HANG_UPS, fill, until_at_rest
from .programs import Program

#: asks what nobody else asks, by the number of the caller and of the question, and sees that the
#: answer is to that; raises AssertionError if not
Ask: TypeAlias = Callable[[int, int], Awaitable[None]]

CALLERS = 24


class Callers:
    """Tasks that ask one question after the other, and are cancelled at random.

    Of three questions, one is cancelled by a scope, one natively (on asyncio), one not at all.

    :param ask: asks a question
    :param seed: what the moments of cancellation are drawn from
    :param refusals: further errors of questions that were asked while the server was away
    """

    def __init__(
        self, ask: Ask, seed: int, native: bool, refusals: tuple[type[Exception], ...] = ()
    ) -> None:
        self._ask = ask
        self._seed = seed
        self._native = native
        self._refusals: tuple[type[Exception], ...] = (*HANG_UPS, OSError, *refusals)
        self._over = False
        self.answered = 0
        self.cut = 0
        self.failed = 0

    async def live_through(self, upheavals: Sequence[Callable[[], None]]) -> None:
        """Ask, while one upheaval after the other happens, and after the last one.

        What is a wrong answer, or an error that no upheaval explains, leaves this.
        """
        async with create_task_group() as tasks:
            for caller in range(CALLERS):
                tasks.start_soon(self._keep_asking, caller)
            for upheaval in upheavals:
                await self._make_progress()
                await to_thread.run_sync(upheaval)
            await self._make_progress()
            self._over = True

    async def _make_progress(self) -> None:
        """Wait until further questions have been answered, and others cancelled."""
        answered, cut = self.answered + 60, self.cut + 30
        await eventually(lambda: self.answered >= answered and self.cut >= cut, tries=12_000)

    async def _keep_asking(self, caller: int) -> None:
        draw = random.Random(f"{self._seed} {caller}")
        turn = 0
        while not self._over:
            turn += 1
            way = (self._ask_fully, self._ask_in_scope, self._ask_in_task)[turn % 3]
            # However fast the machine is, some are to be cut and some to be answered.
            limit = draw.uniform(0, 0.02) * max(1, self.cut / (self.answered + 1))
            try:
                await way(caller, turn, limit)
            except self._refusals:
                self.failed += 1
                # While nothing listens, failing takes no time at all.
                await anyio.sleep(0.005)

    async def _ask_fully(self, caller: int, turn: int, limit: float) -> None:
        await self._ask(caller, turn)
        self.answered += 1

    async def _ask_in_scope(self, caller: int, turn: int, limit: float) -> None:
        with move_on_after(limit) as scope:
            await self._ask_fully(caller, turn, limit)
        self.cut += scope.cancelled_caught

    async def _ask_in_task(self, caller: int, turn: int, limit: float) -> None:
        if not self._native:
            await self._ask_in_scope(caller, turn, limit)
            return
        task = asyncio.create_task(self._ask_fully(caller, turn, limit))
        await asyncio.wait([task], timeout=limit)
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            self.cut += 1
        else:
            task.result()


async def check_survived(pool: ConnectionPool[Any], server: Program | None = None) -> None:
    """See that nobody holds anything, and that all that is open is idle.

    :param server: what this pool alone is connected to
    """
    await until_at_rest(pool)
    statistics = pool.statistics()
    assert statistics.in_use == statistics.tasks_waiting == 0
    if server is not None:
        await eventually(lambda: client_sockets(server) == pool.statistics().idle)


async def live_through_deaths(
    pool: ConnectionPool[Any],
    server: Program,
    ask: Callable[[int], Awaitable[None]],
    seed: int,
    native: bool,
) -> None:
    """Have callers ask while the server is killed, stopped and killed again; then all is well.

    :param pool: by which they ask; nothing else is connected to the server
    :param ask: asks what only this number asks, and raises AssertionError for another answer
    """

    def replace() -> None:
        server.stop()
        server.start()

    async def ask_by_number(caller: int, turn: int) -> None:
        await ask(caller + CALLERS * turn)

    callers = Callers(ask_by_number, seed, native)
    await callers.live_through([server.restart, replace, server.restart])
    await check_survived(pool, server)
    assert pool.statistics().opened > pool.max_size
    await fill(pool)
    assert pool.statistics().idle == pool.max_size
    for number in range(2 * int(pool.max_size)):
        await ask(1_000_000 + number)
