"""The example of PostgreSQL: logins, errors, and transactions that somebody has left open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.examples.programs import load, run

from .checks import until_at_rest
from .postgresql import PASSWORD, USER, PostgreSQLServer, postgresql_server
from .upheaval import Callers, check_survived

EXAMPLE = load("postgresql_client")
LINES = ["[['42', \"IT'S\", None]]", "division by zero (22012)", "23505", "[[None]]"]
SAYS = [*LINES, "connections closed: {}"]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQLServer]:
    """Run a PostgreSQL, the same for all tests of this file."""
    with postgresql_server() as program:
        yield program


def pool_of(server: PostgreSQLServer, *, password: str = PASSWORD, database: str = USER) -> Any:
    return EXAMPLE.make_pool(*server.remote, USER, password, database)


def session_of(server: PostgreSQLServer) -> Any:
    """Make a pool that opens no second connection beside one on which a hook is slow."""
    pool = pool_of(server)
    pool.max_size = 1
    return pool


async def test_the_client(
    server: PostgreSQLServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows on every backend what it should."""
    monkeypatch.setenv("PGUSER", USER)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    await EXAMPLE.main(server.remote[1])
    assert capsys.readouterr().out.splitlines() == SAYS


def test_the_client_as_a_program(
    server: PostgreSQLServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command runs it to its end."""
    monkeypatch.setenv("PGUSER", USER)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert run("postgresql_client", server.remote[1], directory=tmp_path) == SAYS


async def test_values_come_back_as_they_were(server: PostgreSQLServer) -> None:
    """Nothing in a parameter is taken for SQL; NULL and no text differ; large ones are whole."""
    async with session_of(server) as pool:
        postgresql = EXAMPLE.PostgreSQL(pool)
        values = ["", None, "'; DROP TABLE x; --", "žluťoučký kůň\r\n", "x" * 1_000_000]
        asked = ", ".join(f"${number}::text" for number in range(1, len(values) + 1))
        assert await postgresql.query(f"SELECT {asked}", *values) == [values]
        rows = await postgresql.query("SELECT * FROM generate_series(1, 10000)")
        assert rows == [[str(number)] for number in range(1, 10_001)]
        assert await postgresql.query("") == []
        with pytest.raises(ValueError, match="zero byte"):
            await postgresql.query("SELECT 1\0")
        assert pool.statistics().opened == 1


async def test_errors_of_sql_cost_no_login(server: PostgreSQLServer) -> None:
    """Twenty statements that fail, and what follows them, use one connection."""
    async with session_of(server) as pool:
        postgresql = EXAMPLE.PostgreSQL(pool)
        for _ in range(20):
            with pytest.raises(EXAMPLE.SQLError, match="division by zero") as caught:
                await postgresql.query("SELECT 1 / 0")
            assert caught.value.code == "22012"
        assert await postgresql.query("SELECT 1") == [["1"]]
        assert (pool.statistics().opened, pool.statistics().closed) == (1, {})


async def process_of(connection: Any) -> str:
    ((number,),) = await EXAMPLE.query(connection, "SELECT pg_backend_pid()")
    return str(number)


async def test_a_transaction_left_open_is_rolled_back_before_the_next_borrow(
    server: PostgreSQLServer,
) -> None:
    """Failed or not, it is over when somebody else gets the same session."""
    async with session_of(server) as pool:
        for last_words in ("SELECT 1", "SELECT 1 / 0"):
            async with pool.acquire() as connection:
                process = await process_of(connection)
                await EXAMPLE.query(connection, "BEGIN")
                await EXAMPLE.query(connection, "CREATE TABLE left_behind ()")
                with suppress(EXAMPLE.SQLError):
                    await EXAMPLE.query(connection, last_words)
                assert connection.session.status in (b"T", b"E")
            await until_at_rest(pool)
            async with pool.acquire() as connection:
                assert connection.session.status == b"I"
                assert await process_of(connection) == process
                left = await EXAMPLE.query(connection, "SELECT to_regclass('left_behind')")
                assert left == [[None]]
            await until_at_rest(pool)
        assert (pool.statistics().opened, pool.statistics().closed) == (1, {})


async def test_a_transaction_is_committed_whole_or_not_at_all(server: PostgreSQLServer) -> None:
    """Its error leaves as it is; one that the block has caught doesn't pass for a success."""
    async with pool_of(server) as pool:
        postgresql = EXAMPLE.PostgreSQL(pool)
        await postgresql.query("DROP TABLE IF EXISTS counted")
        await postgresql.query("CREATE TABLE counted (number int PRIMARY KEY)")
        add = "INSERT INTO counted VALUES ($1)"
        async with postgresql.transaction() as connection:
            await EXAMPLE.query(connection, add, "1")
        with pytest.raises(EXAMPLE.SQLError, match="duplicate key"):
            async with postgresql.transaction() as connection:
                await EXAMPLE.query(connection, add, "2")
                await EXAMPLE.query(connection, add, "2")
        with pytest.raises(EXAMPLE.SQLError, match="nothing was committed"):
            async with postgresql.transaction() as connection:
                await EXAMPLE.query(connection, add, "3")
                with pytest.raises(EXAMPLE.SQLError, match="duplicate key"):
                    await EXAMPLE.query(connection, add, "3")
        assert await postgresql.query("SELECT number FROM counted") == [["1"]]
        assert pool.statistics().closed == {}


async def test_a_session_is_terminated_and_not_abandoned(server: PostgreSQLServer) -> None:
    """PostgreSQL, which counts the clients that hang up without a word, counts none."""
    others = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
    abandoned = "SELECT sessions, sessions_abandoned FROM pg_stat_database WHERE datname = $1"
    async with session_of(server) as watch:
        watching = EXAMPLE.PostgreSQL(watch)

        async def count() -> list[int]:
            # A session is counted before it is gone.
            while await watching.query(others, USER):
                pass
            ((sessions, lost),) = await watching.query(abandoned, USER)
            return [int(sessions), int(lost)]

        before = await count()
        async with pool_of(server) as pool:
            await EXAMPLE.PostgreSQL(pool).query("SELECT 1")
        assert await count() == [before[0] + 1, before[1]]


@pytest.mark.parametrize(
    ("wrong", "code"), [({"password": "pen"}, "28P01"), ({"database": "nowhere"}, "3D000")]
)
async def test_a_login_that_is_refused_says_why(
    server: PostgreSQLServer, wrong: dict[str, str], code: str
) -> None:
    """The caller gets PostgreSQL's error, which is no outage: nothing is tried again."""
    async with pool_of(server, **wrong) as pool:
        with pytest.raises(EXAMPLE.SQLError) as caught:
            await EXAMPLE.PostgreSQL(pool).query("SELECT 1")
        assert caught.value.code == code
        await until_at_rest(pool)
        assert (pool.statistics().opened, pool.statistics().open_failed) == (0, 1)


def test_the_login_is_that_of_the_standard() -> None:
    """The dialog that RFC 7677 shows in section 3: what the client proves, and the server."""
    opening = "n=user,r=rOprNGfwEbeRWgbNEkqO"
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    challenge = f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    answer, ending = EXAMPLE.scram("pencil", opening, challenge)
    assert answer == f"c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    assert ending == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    for foreign in (challenge.replace("r=r", "r=R"), challenge.replace("4096", "2000000000")):
        with pytest.raises(ValueError, match="not for us"):
            EXAMPLE.scram("pencil", opening, foreign)


class Clerks:
    """Callers who ask, fail, and book: each entry in two rows of one transaction.

    :param pool: of sessions
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._postgresql = EXAMPLE.PostgreSQL(pool)
        self._committed: set[str] = set()

    async def open(self) -> None:
        """Make the table that they book in."""
        await self._postgresql.query("DROP TABLE IF EXISTS booked")
        await self._postgresql.query("CREATE TABLE booked (entry text)")

    async def work(self, caller: int, turn: int) -> None:
        """Do the next thing, and see that PostgreSQL answers to that."""
        entry = f"{caller} {turn}"
        work = (self._ask, self._fail, self._book, self._forget)[(caller + turn) % 4]
        await work(entry)

    async def _ask(self, entry: str) -> None:
        question = entry + "x" * (len(entry) * 10_000)
        assert await self._postgresql.query("SELECT $1, length($1)", question) == [
            [question, str(len(question))]
        ]

    async def _fail(self, entry: str) -> None:
        with pytest.raises(EXAMPLE.SQLError, match=f'"{entry}"'):
            await self._postgresql.query(f'SELECT "{entry}"')

    async def _book(self, entry: str) -> None:
        async with self._postgresql.transaction() as connection:
            await self._add(connection, entry)
            await self._add(connection, entry)
        self._committed.add(entry)

    async def _forget(self, entry: str) -> None:
        async with self._pool.acquire() as connection:
            await EXAMPLE.query(connection, "BEGIN")
            await self._add(connection, "forgotten")

    async def _add(self, connection: Any, entry: str) -> None:
        await EXAMPLE.query(connection, "INSERT INTO booked VALUES ($1)", entry)

    async def check(self) -> None:
        """See that each entry was booked in whole, and whatever was committed."""
        booked = await self._postgresql.query("SELECT entry, count(*) FROM booked GROUP BY entry")
        assert [entry for entry, count in booked if count != "2"] == []
        assert self._committed <= {entry for entry, _ in booked}
        assert self._committed


async def test_it_survives_restarts_kills_and_cancellation(
    server: PostgreSQLServer, seed: int, anyio_backend_name: str
) -> None:
    """Every answer is to its own question, and nothing is booked by half or from a lost borrow."""
    async with pool_of(server) as pool:
        clerks = Clerks(pool)
        await clerks.open()

        def restart() -> None:
            server.stop()
            server.start()

        callers = Callers(clerks.work, seed, anyio_backend_name == "asyncio")
        await callers.live_through([restart, server.kill_a_session, server.restart])
        await check_survived(pool, server)
        await clerks.check()
