"""Misuses that type checkers must refuse; `nox -s types` reads this, nobody runs it.

Where a checker finds nothing wrong, it complains of a comment that ignores nothing.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from anyconnpool import ConnectionPool, PackageFormat, PooledConnection, PoolManager, Retry
from anyconnpool.events import ConnectionAcquired, Observer, PoolObserver

ADDRESS = ("127.0.0.1", 8999)


async def count(connection: PooledConnection, word: bytes) -> int:
    """Do an exchange with one argument."""
    return len(await connection.send_receive_line(word))


async def begin_session(connection: PooledConnection) -> str:
    """Return what is kept with the connection."""
    return "alice"


async def use_session(connection: PooledConnection[str]) -> int:
    """Do an exchange that needs a session."""
    return len(connection.session)


def forget_async(connection: PooledConnection) -> int:
    """Be no async function."""
    return 1


def make_pools() -> None:
    """Settings have names and types."""
    ConnectionPool("127.0.0.1", 8999)  # type: ignore[call-overload]
    ConnectionPool(8999)  # type: ignore[call-overload]
    ConnectionPool(ADDRESS, max_sise=1)  # type: ignore[call-overload]
    ConnectionPool(ADDRESS, max_size="10")  # type: ignore[call-overload]
    ConnectionPool(ADDRESS, idle_order="random")  # type: ignore[call-overload]
    ConnectionPool(ADDRESS, connect_retry=3)  # type: ignore[call-overload]
    ConnectionPool(ADDRESS, on_connect=forget_async)  # type: ignore[arg-type]
    PoolManager(10)  # type: ignore[call-overload]
    Retry(3, 0.5)  # type: ignore[call-arg]
    PackageFormat("4")  # type: ignore[arg-type]


async def borrow(pool: ConnectionPool) -> None:
    """A connection is borrowed by entering or awaiting what acquire returns."""
    with pool.acquire():  # type: ignore[attr-defined]
        pass
    await pool.acquire().send(b"")  # type: ignore[attr-defined]
    await pool.acquire(5)  # type: ignore[call-arg]
    with pool:  # type: ignore[attr-defined]
        pass


async def exchange(pool: ConnectionPool, manager: PoolManager) -> None:
    """What is sent is bytes, and a retry is a Retry."""
    await pool.send("text")  # type: ignore[arg-type]
    await pool.send_receive_line(b"", retry=3)  # type: ignore[arg-type]
    await pool.send_receive_package(b"", 2)  # type: ignore[arg-type]
    await manager.send_receive_line(b"word")  # type: ignore[call-arg]


async def run(pool: ConnectionPool, manager: PoolManager) -> None:
    """The arguments after an async function are its own."""
    await pool.run(forget_async)  # type: ignore[arg-type]
    await pool.run(count)  # type: ignore[arg-type]
    await pool.run(count, "word")  # type: ignore[arg-type]
    await pool.run(count, b"word", b"more")  # type: ignore[arg-type]
    await manager.run(count, b"word")  # type: ignore[arg-type]
    result: str = await pool.run(count, b"word")  # type: ignore[arg-type]
    print(result)


async def keep_sessions(pool: ConnectionPool, sessions: ConnectionPool[str]) -> None:
    """What on_connect returns is the type of the sessions, and without it there are none."""
    bare: ConnectionPool[str] = ConnectionPool(ADDRESS)  # type: ignore[assignment]
    several: PoolManager[str] = PoolManager(max_total=1)  # type: ignore[assignment]
    wrong: ConnectionPool[int] = ConnectionPool(ADDRESS, on_connect=begin_session)  # type: ignore[arg-type]
    ConnectionPool.from_url("tcp://h:1", on_connect=forget_async)  # type: ignore[arg-type]
    await pool.run(use_session)  # type: ignore[arg-type]
    sessions.acquire_nowait().session = "bob"  # type: ignore[misc]
    sessions.acquire_nowait().session.append("bob")  # type: ignore[attr-defined]
    plain: ConnectionPool = sessions  # type: ignore[assignment]
    ConnectionPool(ADDRESS, harmless=ValueError)  # type: ignore[call-overload]
    print(bare, several, wrong, plain)


def change(pool: ConnectionPool) -> None:
    """Values stay as they are."""
    PackageFormat().header_size = 4  # type: ignore[misc]
    Retry(3).count = 4  # type: ignore[misc]
    pool.statistics().idle = 0  # type: ignore[misc]
    pool.statistics().closed["unclean"] = 0  # type: ignore[index]
    pool.name = "another"  # type: ignore[misc]


def observe(event: ConnectionAcquired) -> None:
    """An observer has to take every event, and says so."""
    observer: Observer = observe  # type: ignore[assignment]
    print(observer, event.use_time)  # type: ignore[attr-defined]
    ConnectionPool(ADDRESS, observers=PoolObserver())  # type: ignore[call-overload]
    ConnectionPool(ADDRESS, observers=[observe])  # type: ignore[list-item]
    ConnectionPool(ADDRESS, leak_after=None)  # type: ignore[call-overload]


class Watcher(PoolObserver):
    """Expect another event than the one that comes."""

    def released(self, event: ConnectionAcquired) -> None:  # type: ignore[override]
        """Be told of the wrong thing."""
