"""What a body does with its borrowed connection, in each form of acquire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

import anyio
import pytest
from anyio import CancelScope, create_task_group, wait_all_tasks_blocked

from anyconnpool import ConnectionPool, PooledConnection
from tests.cases import table

from .checks import ask, ask_next, error_group, eventually, expect_closed
from .conftest import Serve
from .servers import every_kind

pytestmark = pytest.mark.usefixtures("no_socket_left")

Body = Callable[[PooledConnection], Awaitable[None]]
Form = Callable[[ConnectionPool, Body], Awaitable[None]]


async def with_block(pool: ConnectionPool, body: Body) -> None:
    async with pool.acquire() as connection:
        await body(connection)


async def with_finally(pool: ConnectionPool, body: Body) -> None:
    connection = await pool.acquire()
    try:
        await body(connection)
    finally:
        await connection.aclose()


async def with_awaited_block(pool: ConnectionPool, body: Body) -> None:
    async with await pool.acquire() as connection:
        await body(connection)


async def with_aclosing(pool: ConnectionPool, body: Body) -> None:
    async with aclosing(await pool.acquire()) as connection:
        await body(connection)


async def with_nowait(pool: ConnectionPool, body: Body) -> None:
    await ask_next(pool)
    await eventually(lambda: pool.statistics().idle)
    async with pool.acquire_nowait() as connection:
        await body(connection)


FORMS = [
    with_block,
    with_finally,
    with_awaited_block,
    with_aclosing,
    with_nowait,
]


each_form = table("form", FORMS)


@every_kind
@each_form
async def test_a_body_that_ends_well_returns_its_connection(serve: Serve, form: Form) -> None:
    """One connection serves all."""
    async with serve().pool() as pool:
        for _ in range(3):
            await form(pool, ask)
        assert pool.statistics().opened == 1
        assert pool.statistics().in_use == 0


@table("make_error", [ValueError, KeyError, StopAsyncIteration, error_group])
@each_form
async def test_a_body_that_raises_loses_its_connection_and_nothing_else(
    serve: Serve, form: Form, make_error: Callable[[], Exception]
) -> None:
    """The exception comes out as the same object, and the connection is not reused."""
    error = make_error()

    async def fail(connection: PooledConnection) -> None:
        await ask(connection)
        raise error

    async with serve().pool(max_size=1) as pool:
        with pytest.raises(type(error)) as caught:
            await form(pool, fail)
        assert caught.value is error
        assert pool.statistics().in_use == 0
        assert not await ask_next(pool)
        await expect_closed(pool, unclean=1)


@each_form
async def test_a_body_cancelled_by_a_scope_loses_its_connection(serve: Serve, form: Form) -> None:
    """A cancellation that leaves the body is like any exception, and its scope catches it."""

    async def cancel(connection: PooledConnection) -> None:
        await ask(connection)
        scope.cancel()
        await anyio.sleep_forever()

    async with serve().pool(max_size=1) as pool:
        with CancelScope() as scope:
            await form(pool, cancel)
        assert scope.cancelled_caught
        assert pool.statistics().in_use == 0
        assert not await ask_next(pool)
        await expect_closed(pool, unclean=1)


@each_form
async def test_a_body_that_discards_loses_its_connection(serve: Serve, form: Form) -> None:
    """However it was borrowed, a discarded connection is closed."""

    async def discard(connection: PooledConnection) -> None:
        await ask(connection)
        connection.discard()

    async with serve().pool(max_size=1) as pool:
        await form(pool, discard)
        assert not await ask_next(pool)
        await expect_closed(pool, discarded=1)


@each_form
async def test_a_body_within_the_handling_of_an_error_returns_its_connection(
    serve: Serve, form: Form
) -> None:
    """An exception that was being handled before the borrow is not the body's."""
    async with serve().pool() as pool:
        await ask_next(pool)
        try:
            raise LookupError
        except LookupError:
            await form(pool, ask)
        assert pool.statistics().opened == 1


@each_form
async def test_an_error_that_the_body_handles_itself_changes_nothing(
    serve: Serve, form: Form
) -> None:
    """What never leaves the body and had nothing to do with the connection keeps it fit."""

    async def stumble(connection: PooledConnection) -> None:
        with suppress(ValueError):
            raise ValueError
        await ask(connection)

    async with serve().pool() as pool:
        await form(pool, stumble)
        assert await ask_next(pool)


async def test_a_refused_argument_keeps_the_connection_fit(serve: Serve) -> None:
    """A call that was refused before it touched the connection did no harm."""
    async with serve().pool() as pool:
        async with pool.acquire() as connection:
            with pytest.raises(ValueError, match="ended by"):
                await connection.send_line(b"two\nlines")
            with pytest.raises(ValueError, match="max_bytes"):
                await connection.receive(0)
            await ask(connection)
        assert await ask_next(pool)


@every_kind
async def test_a_body_may_read_and_write_in_two_tasks(serve: Serve) -> None:
    """One task sends, another receives; what was asked was answered: the connection is reused."""
    lines = [b"%d" % number for number in range(200)]
    async with serve().pool() as pool:
        async with pool.acquire() as connection:

            async def write() -> None:
                for line in lines:
                    await connection.send_line(line)

            async with create_task_group() as task_group:
                task_group.start_soon(write)
                assert [await connection.receive_line() for _ in lines] == [
                    b"> " + x for x in lines
                ]
            await wait_all_tasks_blocked()
        assert await ask_next(pool)
