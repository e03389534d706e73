"""asyncio's native cancellation meets a pool's block: as it would meet an asyncio.TaskGroup.

The group of the same Python stands beside the pool in each row of the table, with a child that
takes its time to end as a pool's connection does. On 3.10, which has no such group, the pool is
held against what was recorded.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, cast

import anyio
import pytest
from anyio import CancelScope

from anyconnpool import ConnectionPool
from tests.cases import in_case

from .network import MemoryNetwork, fill, settle

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

#: how long the block may take where something limits it, in seconds
LIMIT = 6.0
#: How many turns of the event loop it takes to leave it. Time stands still while a scope of AnyIO
#: is cancelled: it strikes in every turn.
LEAVING = 40


if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class Boom(Exception):
    """What a body raises."""


@dataclass
class Case:
    """One row: what the body can cancel, and what became of the task."""

    task: asyncio.Task[Any] | None = None
    scope: CancelScope | None = None
    seen: list[object] = field(default_factory=list[object])

    def cancel(self) -> None:
        assert self.task is not None
        self.task.cancel()

    def cancel_later(self) -> None:
        self._cancel_in(LEAVING // 2)

    def _cancel_in(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._cancel_in, turns - 1)
        else:
            self.cancel()


class PoolBlock:
    """A pool that takes some time to leave."""

    async def __aenter__(self) -> None:
        self._pool = ConnectionPool(
            MemoryNetwork(on_close=lambda number: settle(LEAVING)), close_timeout=100
        )
        await self._pool.__aenter__()
        await fill(self._pool, 1)

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._pool.__aexit__(*error)


class GroupBlock:
    """A TaskGroup that takes some time to leave; of its errors, the body's leaves alone."""

    async def __aenter__(self) -> None:
        # Checkers look at it as on 3.10.
        self._group: Any = vars(asyncio)["TaskGroup"]()
        await self._group.__aenter__()
        self._child = self._group.create_task(self._live())
        await asyncio.sleep(0)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._child.cancel()
        try:
            await self._group.__aexit__(exc_type, exc_val, exc_tb)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    @staticmethod
    async def _live() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with suppress(asyncio.CancelledError):
                await settle(LEAVING)


async def returns(case: Case) -> None:
    """Do nothing."""


async def returns_and_is_cancelled_then(case: Case) -> None:
    case.cancel_later()


async def raises(case: Case) -> None:
    raise Boom


async def raises_and_is_cancelled_then(case: Case) -> None:
    case.cancel_later()
    raise Boom


async def raises_while_it_is_cancelled(case: Case) -> None:
    case.cancel()
    raise Boom


async def raises_when_it_is_cancelled(case: Case) -> None:
    case.cancel()
    try:
        await anyio.sleep_forever()
    except asyncio.CancelledError:
        raise Boom from None


async def is_cancelled(case: Case) -> None:
    case.cancel()
    await anyio.sleep_forever()


async def is_cancelled_twice(case: Case) -> None:
    try:
        await is_cancelled(case)
    finally:
        case.cancel()


async def is_cancelled_by_scope(case: Case) -> None:
    (case.scope.cancel if case.scope else case.cancel)()
    await anyio.sleep_forever()


async def raises_when_it_is_cancelled_by_scope(case: Case) -> None:
    try:
        await is_cancelled_by_scope(case)
    except asyncio.CancelledError:
        raise Boom from None


async def lasts_too_long(case: Case) -> None:
    await asyncio.sleep(LIMIT * 9)


async def lasts_too_long_and_raises(case: Case) -> None:
    try:
        await lasts_too_long(case)
    except asyncio.CancelledError:
        raise Boom from None


async def raises_in_the_last_moment(case: Case) -> None:
    await asyncio.sleep(LIMIT)
    raise Boom


Body = Callable[[Case], Awaitable[None]]
Around = Callable[[Case, Callable[[], Awaitable[None]]], Awaitable[None]]

BODIES: list[Body] = [
    *(returns, returns_and_is_cancelled_then, raises, raises_and_is_cancelled_then),
    *(raises_while_it_is_cancelled, raises_when_it_is_cancelled, is_cancelled),
    *(is_cancelled_twice, is_cancelled_by_scope, lasts_too_long, lasts_too_long_and_raises),
    raises_in_the_last_moment,
]


async def nothing(case: Case, run: Callable[[], Awaitable[None]]) -> None:
    await run()


async def fail_after(case: Case, run: Callable[[], Awaitable[None]]) -> None:
    with anyio.fail_after(LIMIT) as case.scope:
        await run()


async def move_on_after(case: Case, run: Callable[[], Awaitable[None]]) -> None:
    with anyio.move_on_after(LIMIT) as case.scope:
        await run()


async def task_group_of_anyio(case: Case, run: Callable[[], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as tasks:
        case.scope = tasks.cancel_scope
        await run()


async def wait_for(case: Case, run: Callable[[], Awaitable[None]]) -> None:
    async def run_in_its_task() -> None:
        case.task = asyncio.current_task()
        await run()

    await asyncio.wait_for(run_in_its_task(), LIMIT)


AROUND: list[Around] = [nothing, fail_after, move_on_after, task_group_of_anyio, wait_for]

if sys.version_info >= (3, 11):

    async def timeout(case: Case, run: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.timeout(LIMIT):
            await run()

    async def task_group_of_asyncio(case: Case, run: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.TaskGroup():
            await run()

    AROUND += [timeout, task_group_of_asyncio]


async def play(
    body: Body, around: Around, block: Callable[[], AbstractAsyncContextManager[Any, Any]]
) -> list[object]:
    """Tell what leaves the block, what arrives outside, and what the task is left with."""
    case = Case()

    async def run() -> None:
        try:
            async with block():
                await body(case)
        except BaseException as error:
            case.seen.append(type(error))
            raise
        case.seen.append(None)

    async def main() -> None:
        case.task = asyncio.current_task()
        try:
            await around(case, run)
        except BaseException as error:
            leaf = error
            while inner := cast("tuple[BaseException, ...]", getattr(leaf, "exceptions", ())):
                (leaf,) = inner
            case.seen.append(type(leaf))
        else:
            case.seen.append(None)
        if sys.version_info >= (3, 11):
            case.seen.append(case.task.cancelling() if case.task is not None else None)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            case.seen.append("is cancelled at the next await")

    await asyncio.wait([asyncio.create_task(main())])
    return case.seen


# It is what the pool is compared with; on 3.10, a record stands in for it, below.
@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has no TaskGroup")
async def test_a_block_meets_native_cancellation_as_a_task_group_does() -> None:
    """What is raised, what is counted, and whether the next ``await`` raises."""
    for around in AROUND:
        for body in BODIES:
            with in_case(around.__name__, body.__name__):
                expected = await play(body, around, GroupBlock)
                assert await play(body, around, PoolBlock) == expected


async def test_the_cancellation_of_a_scope_does_not_replace_what_the_body_raises() -> None:
    """It is none of asyncio's, whose task group would have it raised at the next ``await``."""
    for around in (fail_after, move_on_after, task_group_of_anyio):
        with in_case(around.__name__):
            seen = await play(raises_when_it_is_cancelled_by_scope, around, PoolBlock)
            counted = [0] if sys.version_info >= (3, 11) else []
            assert seen == [Boom, Boom, *counted]


_CANCELLED = asyncio.CancelledError
_AGAIN = "is cancelled at the next await"
_RECORDED: dict[Body, list[object]] = {
    returns: [None, None],
    returns_and_is_cancelled_then: [_CANCELLED, _CANCELLED],
    raises: [Boom, Boom],
    raises_and_is_cancelled_then: [Boom, Boom, _AGAIN],
    raises_while_it_is_cancelled: [Boom, Boom, _AGAIN],
    raises_when_it_is_cancelled: [Boom, Boom],
    is_cancelled: [_CANCELLED, _CANCELLED],
    is_cancelled_twice: [_CANCELLED, _CANCELLED],
}


# What is recorded is 3.10's: later versions are compared with asyncio itself, above.
@pytest.mark.skipif(sys.version_info >= (3, 11), reason="asyncio has a TaskGroup")
async def test_a_cancellation_that_nobody_counts_is_not_lost() -> None:
    """What is caught for an error of the body's is raised again."""
    for around in (nothing, fail_after):
        for body, expected in _RECORDED.items():
            with in_case(around.__name__, body.__name__):
                assert await play(body, around, PoolBlock) == expected
    assert await play(lasts_too_long, fail_after, PoolBlock) == [_CANCELLED, TimeoutError]
    assert await play(lasts_too_long_and_raises, fail_after, PoolBlock) == [Boom, Boom]
