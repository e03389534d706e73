"""Exceptions of the caller's own protocol, named by ``harmless``, leave a connection as it is."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, PooledConnection, PoolManager
from anyconnpool._streams.exchanges import Exchange
from tests.cases import table

from .network import MemoryNetwork, check_books, peer_of

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class ReplyError(Exception):
    """The server has answered with an error."""


class SyntaxReply(ReplyError):
    """The server doesn't know the command."""


class UnharmedReply(SyntaxReply, OSError):
    """Something else too."""


class Interruption(BaseException):
    """Something that no ``except Exception`` catches."""


Body = Callable[[PooledConnection], Awaitable[object]]
Way = Callable[[Any, Body], Awaitable[object]]


async def ask(connection: PooledConnection) -> None:
    assert await connection.send_receive_line(b"question") == b"question"


def raising(error: BaseException) -> Body:
    """Make a body that raises something after a whole exchange."""

    async def body(connection: PooledConnection) -> None:
        await ask(connection)
        raise error

    return body


async def by_block(pool: ConnectionPool, body: Body) -> None:
    async with pool.acquire() as connection:
        await body(connection)


async def by_block_of_its_own(pool: ConnectionPool, body: Body) -> None:
    async with await pool.acquire() as connection:
        await body(connection)


async def by_finally(pool: ConnectionPool, body: Body) -> None:
    connection = await pool.acquire()
    try:
        await body(connection)
    finally:
        await connection.aclose()


async def by_except(pool: ConnectionPool, body: Body) -> None:
    connection = await pool.acquire()
    try:
        await body(connection)
    except BaseException:
        await connection.aclose()
        raise


async def by_run(pool: ConnectionPool, body: Body) -> None:
    await pool.run(body, timeout=9)


class Conversation(Exchange[None]):
    """An exchange whose reply is a line, and whatever a body does after that."""

    def __init__(self, body: Body) -> None:
        super().__init__(b"x\n")
        self.body = body

    async def receive(self, stream: Any) -> None:
        await stream.receive_line()
        await self.body(stream)


async def by_exchange(pool: ConnectionPool, body: Body) -> None:
    await attrgetter("_exchange")(pool)(Conversation(body), 9, None)


WAYS: list[Way] = [by_block, by_block_of_its_own, by_finally, by_except, by_run, by_exchange]


@table("way", WAYS)
@table("error", [ReplyError("no"), SyntaxReply("no"), UnharmedReply("no")])
async def test_a_harmless_error_leaves_the_connection_reusable(way: Way, error: Exception) -> None:
    """It, or one of a subclass, leaves as the same object, without being changed or repeated."""
    network = MemoryNetwork()
    async with ConnectionPool(network, harmless=(KeyError, ReplyError)) as pool:
        for _ in range(3):
            with pytest.raises(ReplyError) as caught:
                await way(pool, raising(error))
            assert caught.value is error
            assert (error.__cause__, error.args) == (None, ("no",))
        assert (pool.statistics().idle, pool.statistics().reused) == (1, 2)
        assert (network.opened, pool.statistics().replayed) == (1, 0)
        await check_books(pool, network)


async def leave_a_reply_unread(connection: PooledConnection) -> None:
    await connection.send(b"question\nmore\n")
    await connection.receive_line()
    raise ReplyError


async def owe_a_reply(connection: PooledConnection) -> None:
    await connection.send_line(b"question")
    raise ReplyError


async def fail(connection: PooledConnection) -> None:
    peer_of(connection).hang_up()
    try:
        await connection.receive_line()
    except anyio.EndOfStream as error:
        raise ReplyError from error


async def time_out(connection: PooledConnection) -> None:
    with anyio.move_on_after(1):
        await connection.receive_line()
    raise ReplyError


async def be_caused(connection: PooledConnection) -> None:
    await ask(connection)
    raise ValueError from ReplyError()


async def be_raised_from_one(connection: PooledConnection) -> None:
    await ask(connection)
    try:
        raise ReplyError
    finally:
        raise ValueError


async def be_cancelled(connection: PooledConnection) -> None:
    await ask(connection)
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with connection:
            await checkpoint()
    raise ReplyError


HARMFUL: list[tuple[Body, str]] = [
    (leave_a_reply_unread, "unread_data"),
    (owe_a_reply, "unclean"),
    (fail, "unclean"),
    (time_out, "unclean"),
    (be_caused, "unclean"),
    (be_raised_from_one, "unclean"),
    (be_cancelled, "unclean"),
    (raising(ExceptionGroup("several", [ReplyError()])), "unclean"),
    (raising(ValueError()), "unclean"),
    (raising(Interruption()), "unclean"),
]


@table("way", WAYS)
@table("body, reason", HARMFUL)
async def test_what_else_is_wrong_with_a_connection_counts(
    way: Way, body: Body, reason: str
) -> None:
    """What is left unread or owed, what failed or was cancelled, and what else is raised.

    An error is judged by its own class, by nothing that has led to it or that it holds.
    """
    network = MemoryNetwork()
    async with ConnectionPool(network, harmless=(ReplyError,)) as pool:
        with pytest.raises((ReplyError, ValueError, ExceptionGroup, Interruption)):
            await way(pool, body)
        await anyio.sleep(1)
        assert pool.statistics().closed == {reason: 1}
        await check_books(pool, network)


@table("way", [by_run, by_exchange])
async def test_what_ran_out_of_time_is_never_harmless(way: Way) -> None:
    """It was cancelled, wherever it was; ``TimeoutError`` may be named, or ``OSError``."""

    async def think(connection: PooledConnection) -> None:
        await ask(connection)
        await anyio.sleep(10)

    async with ConnectionPool(MemoryNetwork(), harmless=(Exception,)) as pool:
        with pytest.raises(TimeoutError):
            await way(pool, think)
        await anyio.sleep(1)
        assert pool.statistics().closed == {"unclean": 1}


async def test_what_was_being_handled_before_says_nothing_of_a_borrow() -> None:
    """A harmless error in whose handler a connection is borrowed, and one that harms nothing."""
    network = MemoryNetwork()
    async with ConnectionPool(network, harmless=(ReplyError,)) as pool:
        for earlier in (ReplyError(), ValueError()):
            with pytest.raises(ReplyError):
                try:
                    raise earlier
                except Exception:
                    await by_finally(pool, raising(ReplyError()))
        assert (network.opened, pool.statistics().reused) == (1, 1)


async def test_a_foreign_stream_is_closed_whatever_is_raised() -> None:
    """What ``connect()`` returns is never reused."""
    async with ConnectionPool(MemoryNetwork(), harmless=(ReplyError,)) as pool:
        with pytest.raises(ReplyError):
            async with await pool.connect() as connection:
                await raising(ReplyError())(connection)
        await anyio.sleep(1)
        assert pool.statistics().closed == {"discarded": 1}


async def test_a_hook_that_raises_a_harmless_error_has_failed() -> None:
    """The connection is not what its borrowers expect."""
    refuse = raising(ReplyError())
    async with ConnectionPool(MemoryNetwork(), on_connect=refuse, harmless=(ReplyError,)) as pool:
        with pytest.raises(ReplyError):
            await pool.acquire()
        assert (pool.statistics().open_failed, pool.statistics().size) == (1, 0)
    async with ConnectionPool(
        MemoryNetwork(), check=refuse, check_after=0, harmless=(ReplyError,)
    ) as pool:
        for _ in range(2):
            await by_block(pool, ask)
        await anyio.sleep(1)
        assert pool.statistics().closed == {"check_failed": 1}


async def test_a_class_that_knows_no_instances_costs_no_connection() -> None:
    """What its ``isinstance()`` raises comes instead, and the connection is given back."""

    class Confused(type):
        def __instancecheck__(cls, instance: object) -> bool:
            raise LookupError("confused")

    class Odd(Exception, metaclass=Confused):
        """Have a metaclass."""

    network = MemoryNetwork()
    async with ConnectionPool(network, harmless=(Odd,)) as pool:
        for way in WAYS:
            with pytest.raises(LookupError):
                await way(pool, raising(ValueError()))
        await check_books(pool, network)
        assert pool.statistics().in_use == 0


async def test_a_manager_knows_what_is_harmless_too() -> None:
    """It is a setting of each of its pools."""
    network = MemoryNetwork()
    async with PoolManager(harmless=(ReplyError,)) as manager:
        for _ in range(2):
            with pytest.raises(ReplyError):
                await manager.run(network, raising(ReplyError()))
        assert (network.opened, manager.statistics()[network].reused) == (1, 1)
