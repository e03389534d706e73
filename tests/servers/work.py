"""Tasks that make exchanges which must not fail, while what they rely on comes and goes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio import create_task_group

from anyconnpool import Replicas, ReplicaState
from tests.sockets.checks import eventually

from .programs import Program

TASKS = 50
# 30 s at least, on machines that are busy with other tests.
_TRIES = 15_000


class Work:
    """What has been done by tasks that ask again and again.

    :param ask: makes an exchange, or several, given the numbers of the task and of the turn
    """

    def __init__(self, ask: Callable[[int, int], Awaitable[object]]) -> None:
        self._ask = ask
        self._over = False
        self.done = 0

    async def keep_asking(self, task: int) -> None:
        turn = 0
        while not self._over:
            turn += 1
            await self._ask(task, turn)
            self.done += 1
            await anyio.sleep(0.001)

    def end(self) -> None:
        """Let each task end after its present turn."""
        self._over = True

    async def go_on(self, turns: int = 300) -> None:
        """Wait until so many more turns have gone well."""
        until = self.done + turns
        await eventually(lambda: self.done >= until, tries=_TRIES)


@asynccontextmanager
async def at_work(ask: Callable[[int, int], Awaitable[object]]) -> AsyncGenerator[Work]:
    """Have tasks ask for the length of the block; what one raises leaves it."""
    work = Work(ask)
    async with create_task_group() as tasks:
        for task in range(TASKS):
            tasks.start_soon(work.keep_asking, task)
        yield work
        work.end()


async def until_states(
    replicas: Replicas, condition: Callable[[Mapping[Any, ReplicaState]], object]
) -> None:
    """Wait until what is known of replicas fulfils a condition."""
    try:
        await eventually(lambda: condition(replicas.states()), tries=_TRIES)
    except AssertionError:
        raise AssertionError(f"it stays so: {dict(replicas.states())}") from None


async def until_even(replicas: Replicas, size: int) -> None:
    """Wait until each of several replicas has as many connections as the next.

    :param size: the number of connections to all of them
    """

    def is_even(states: Mapping[Any, ReplicaState]) -> bool:
        return {state.connections for state in states.values()} == {size // len(states)}

    await until_states(replicas, is_even)


async def until_alone(replicas: Replicas, server: Program) -> None:
    """Wait until only one of several replicas has connections."""

    def is_alone(states: Mapping[Any, ReplicaState]) -> bool:
        return {remote for remote, state in states.items() if state.connections} == {server.remote}

    await until_states(replicas, is_alone)
