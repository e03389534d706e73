"""What ``on_connect`` returns is kept with its connection, as ``connection.session``."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable
from operator import attrgetter

import anyio
import pytest

from anyconnpool import ConnectionPool, PooledConnection, PoolManager
from tests.cases import table

from .network import MemoryNetwork, fill, number_of

REMOTE = ("127.0.0.1", 8999)


class Session:
    """Belong to one connection.

    :param number: the connection's number
    """

    def __init__(self, number: int) -> None:
        self.number = number


async def log_in(connection: PooledConnection) -> Session:
    """Make a session that knows its connection."""
    assert await connection.send_receive_line(b"user") == b"user"
    return Session(number_of(connection))


async def test_a_session_belongs_to_its_connection() -> None:
    """Every borrower, by whatever way, and ``check`` see the same object; no two have one."""
    checked: list[Session] = []

    async def check(connection: PooledConnection[Session]) -> None:
        checked.append(connection.session)

    async with ConnectionPool(
        MemoryNetwork(), on_connect=log_in, check=check, check_after=5
    ) as pool:
        async with pool.acquire() as first, pool.acquire() as second:
            sessions = [first.session, second.session]
            assert [session.number for session in sessions] == [number_of(first), number_of(second)]
        seen = [(await pool.acquire()).session, pool.acquire_nowait().session]
        assert {*seen} == {*sessions}
        assert (await pool.connect()).session.number == 3

        async def read(connection: PooledConnection[Session]) -> int:
            return connection.session.number

        assert await pool.run(read) == 4
        await anyio.sleep(6)
        assert await pool.run(read) == 4
        assert [session.number for session in checked] == [4]


async def test_without_a_hook_a_session_is_none() -> None:
    """So it is in the hook itself, until that has returned."""
    seen: list[object] = []

    async def hook(connection: PooledConnection) -> str:
        seen.append(connection.session)
        return "session"

    async with ConnectionPool(MemoryNetwork()) as bare, bare.acquire() as connection:
        seen.append(connection.session)
    async with ConnectionPool(MemoryNetwork(), on_connect=hook) as pool:
        await fill(pool, 1)
    assert seen == [None, None]


async def give_back(connection: PooledConnection[Session]) -> None:
    await connection.aclose()


async def discard(connection: PooledConnection[Session]) -> None:
    connection.discard()


async def detach(connection: PooledConnection[Session]) -> None:
    await connection.detach().aclose()


async def be_seized(connection: PooledConnection[Session]) -> None:
    """Keep it beyond the end of the pool's block."""


@table("end", [give_back, discard, detach, be_seized])
async def test_a_session_can_be_read_afterwards(
    end: Callable[[PooledConnection[Session]], Awaitable[None]],
) -> None:
    """Like the addresses: it is a fact about what was borrowed."""
    async with ConnectionPool(MemoryNetwork(), on_connect=log_in) as pool:
        connection = await pool.acquire()
        session = connection.session
        await end(connection)
        assert connection.session is session
        pool.retire()
        await anyio.sleep(1)
        assert connection.session is session
    assert connection.session is session


async def test_a_new_connection_has_a_session_of_its_own() -> None:
    """What takes the place of another one logs in again."""
    async with ConnectionPool(MemoryNetwork(), on_connect=log_in, max_size=1) as pool:
        async with pool.acquire() as connection:
            assert connection.session.number == 1
        pool.retire()
        async with pool.acquire() as connection:
            assert connection.session.number == 2


async def test_a_session_goes_with_its_connection() -> None:
    """The pool keeps none of a connection that is closed."""
    async with ConnectionPool(MemoryNetwork(), on_connect=log_in) as pool:
        async with pool.acquire() as connection:
            session = weakref.ref(connection.session)
        del connection
        gc.collect()
        assert session() is not None
        pool.retire()
        await anyio.sleep(1)
        gc.collect()
        assert session() is None


async def test_a_manager_keeps_sessions_too() -> None:
    """One for each connection, whatever its remote."""
    amber, beryl = MemoryNetwork(), MemoryNetwork()
    async with PoolManager(on_connect=log_in) as manager:
        async with manager.acquire(amber) as first, manager.acquire(beryl) as second:
            assert first.session is not second.session
            kept = first.session
        async with manager.acquire(amber) as again:
            assert again.session is kept


def test_the_types_of_sessions_can_be_written_down() -> None:
    """Also where they are evaluated: as a class, as a base class, in a hint."""

    class SessionPool(ConnectionPool[Session]):
        """Be a pool of one kind."""

    assert isinstance(ConnectionPool[Session](REMOTE, on_connect=log_in), ConnectionPool)
    assert isinstance(SessionPool(REMOTE, on_connect=log_in), ConnectionPool)
    assert isinstance(PoolManager[Session](on_connect=log_in), PoolManager)
    assert PooledConnection[Session].__args__ == (Session,)  # type: ignore[attr-defined]


def test_the_hook_is_a_setting_all_the_same() -> None:
    """Of a pool made from a URL, too; it is checked as a manager is made, not a pool later on."""
    pool = ConnectionPool.from_url("tcp://127.0.0.1:8999", on_connect=log_in)
    assert attrgetter("_settings.on_connect")(pool) is log_in
    with pytest.raises(TypeError, match="on_connect must be an async function, not 5"):
        PoolManager(on_connect=5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="on_connect must be an async function, not 5"):
        ConnectionPool.from_url("tcp://127.0.0.1:8999", on_connect=5)  # type: ignore[call-overload]
