"""A PostgreSQL client: a login by SCRAM-SHA-256, statements with parameters, transactions.

Run ``PGPASSWORD=... python examples/postgresql_client.py [port]``; the user is ``PGUSER``, or else
``postgres``, and the database has the user's name. It creates a temporary table, which ends with
its transaction. The protocol is that of https://www.postgresql.org/docs/current/protocol.html;
parameters and values are text.

An error of SQL costs no connection (``harmless``), a transaction that its borrower leaves open is
rolled back before anybody else gets the connection (``on_release``), and PostgreSQL is told before
a connection is closed (``on_close``).
"""

from __future__ import annotations

import hmac
import os
import secrets
import sys
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import pbkdf2_hmac, sha256
from typing import Any, TypeAlias

import anyio

from anyconnpool import ConnectionPool, PackageFormat, PooledConnection, Retry

Row: TypeAlias = "list[str | None]"

# A message: a byte for its type, a length that counts itself, the content.
SIZED = PackageFormat(4, max_size=16 * 1024 * 1024, includes_header=True)
VERSION_3 = (3 << 16).to_bytes(4, "big")
# Classes of errors that end a session, or refuse one, for reasons that pass: too many connections,
# shutting down, starting up, idle for too long.
PASSING = ("08", "25", "53", "57", "58")


class SQLError(Exception):
    """PostgreSQL has refused something; ``code`` is its SQLSTATE."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text, code)
        self.text, self.code = text, code

    def __str__(self) -> str:
        return f"{self.text} ({self.code})"


class Session:
    """Whether the connection is in a transaction: no (I), yes (T), in one that has failed (E)."""

    status = b"I"


def text(*strings: str) -> bytes:
    """Return strings as PostgreSQL wants them, each with a zero byte behind it."""
    if any("\0" in string for string in strings):
        raise ValueError("a string for PostgreSQL can't have a zero byte")
    return b"".join(string.encode() + b"\0" for string in strings)


def counted(value: str | None) -> bytes:
    """Return a value with its length before it; NULL has the length -1."""
    data = b"" if value is None else value.encode()
    return (-1 if value is None else len(data)).to_bytes(4, "big", signed=True) + data


def values_in(content: bytes) -> Row:
    """Return the values of a row."""
    row: Row = []
    start = 2
    while start < len(content):
        size = int.from_bytes(content[start : start + 4], "big", signed=True)
        end = start + 4 + max(size, 0)
        row.append(None if size < 0 else content[start + 4 : end].decode())
        start = end
    return row


async def receive(connection: PooledConnection[Any]) -> tuple[bytes, bytes]:
    """Receive the type and the content of a message; pass over notices, and raise errors."""
    while True:
        kind = await connection.receive_exactly(1)
        content = await connection.receive_package(SIZED)
        if kind == b"E":
            fields = {part[:1]: part[1:] for part in content.decode(errors="replace").split("\0")}
            if fields["V"] != "ERROR" and fields["C"].startswith(PASSING):
                raise ConnectionError(f"{fields['M']} ({fields['C']})")
            raise SQLError(fields["M"], fields["C"])
        if kind not in b"ANS":
            return kind, content


async def receive_step(connection: PooledConnection[Any], step: int) -> bytes:
    """Receive what the server says in one step of the login."""
    kind, content = await receive(connection)
    if kind != b"R" or content[:4] != step.to_bytes(4, "big"):
        raise ValueError("PostgreSQL wants another login than by SCRAM-SHA-256")
    return content[4:]


def scram(password: str, opening: str, challenge: str) -> tuple[str, bytes]:
    """Return the answer to a challenge, and how the server has to end the dialog (RFC 5802)."""
    fields = dict(part.split("=", 1) for part in challenge.split(","))
    nonce, rounds = fields["r"], int(fields["i"])
    if not nonce.startswith(opening.partition("r=")[2]) or rounds > 1_000_000:
        raise ValueError("this challenge is not for us")
    secret = unicodedata.normalize("NFKC", password).encode()  # nearly what RFC 4013 asks for
    salted = pbkdf2_hmac("sha256", secret, b64decode(fields["s"]), rounds)
    answer = f"c=biws,r={nonce}"
    dialog = f"{opening},{challenge},{answer}".encode()
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(sha256(key).digest(), dialog, "sha256")
    proof = b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))
    ending = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), dialog, "sha256")
    return f"{answer},p={proof.decode()}", b"v=" + b64encode(ending)


async def log_in(connection: PooledConnection, user: str, password: str, database: str) -> Session:
    """Log in on a new connection, and see that the server knows the password as well."""
    settings = text("user", user, "database", database, "client_encoding", "UTF8")
    await connection.send_package(VERSION_3 + settings + b"\0", SIZED)
    await receive_step(connection, 10)
    opening = f"n=,r={secrets.token_urlsafe(18)}"
    start = text("SCRAM-SHA-256") + counted("n,," + opening)
    await connection.send(b"p" + SIZED.encode(start))
    challenge = (await receive_step(connection, 11)).decode()
    answer, ending = scram(password, opening, challenge)
    await connection.send(b"p" + SIZED.encode(answer.encode()))
    if not hmac.compare_digest(await receive_step(connection, 12), ending):
        raise ValueError("this server doesn't know the password: it is not ours")
    await receive_step(connection, 0)
    while (await receive(connection))[0] != b"Z":
        pass
    return Session()


async def query(
    connection: PooledConnection[Session], sql: str, *parameters: str | None
) -> list[Row]:
    """Run one statement, in which $1 is the first parameter, and return its rows."""
    values = len(parameters).to_bytes(2, "big") + b"".join(map(counted, parameters))
    parse = SIZED.encode(text("", sql) + bytes(2))
    bind = SIZED.encode(text("", "") + bytes(2) + values + bytes(2))
    execute, sync = SIZED.encode(bytes(5)), SIZED.encode(b"")
    await connection.send(b"P" + parse + b"B" + bind + b"E" + execute + b"S" + sync)
    rows: list[Row] = []
    error: SQLError | None = None
    while True:
        try:
            kind, content = await receive(connection)
        except SQLError as refusal:
            error = refusal
            continue
        if kind == b"D":
            rows.append(values_in(content))
        elif kind == b"Z":
            connection.session.status = content
            break
        elif kind not in b"12CIn":
            raise ValueError(f"this client doesn't know messages of type {kind!r}")
    # Raised with the whole reply read, an error of SQL leaves the connection as it was.
    if error is not None:
        raise error
    return rows


async def roll_back(connection: PooledConnection[Session]) -> None:
    """End the transaction that a borrower has left open, if any."""
    if connection.session.status != b"I":
        await query(connection, "ROLLBACK")


async def say_goodbye(connection: PooledConnection[Session]) -> None:
    """Terminate the session."""
    await connection.send(b"X" + SIZED.encode(b""))


def make_pool(
    host: str, port: int, user: str, password: str, database: str
) -> ConnectionPool[Session]:
    """Make a pool of sessions of one user."""
    return ConnectionPool(
        (host, port),
        max_size=4,
        on_connect=partial(log_in, user=user, password=password, database=database),
        on_release=roll_back,
        on_close=say_goodbye,
        harmless=(SQLError,),
    )


class PostgreSQL:
    """Run statements on connections of a pool."""

    def __init__(self, pool: ConnectionPool[Session]) -> None:
        self._pool = pool

    async def query(
        self, sql: str, *parameters: str | None, retry: Retry | None = None
    ) -> list[Row]:
        """Run one statement; with a retry, it may be run more than once."""
        return await self._pool.run(
            lambda connection: query(connection, sql, *parameters), timeout=5, retry=retry
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[PooledConnection[Session]]:
        """Begin a transaction, and commit it unless the block raises something."""
        async with self._pool.acquire() as connection:
            await query(connection, "BEGIN")
            yield connection
            if connection.session.status == b"E":
                raise SQLError("a statement has failed, so that nothing was committed", "25P02")
            await query(connection, "COMMIT")


async def main(port: int) -> None:
    """Ask, fail, and fail within a transaction."""
    user, password = os.environ.get("PGUSER", "postgres"), os.environ["PGPASSWORD"]
    async with make_pool("127.0.0.1", port, user, password, user) as pool:
        postgresql = PostgreSQL(pool)
        print(await postgresql.query("SELECT $1::int + 2, upper($2), $3", "40", "it's", None))
        try:
            await postgresql.query("SELECT 1 / 0")
        except SQLError as error:
            print(error)
        try:
            async with postgresql.transaction() as connection:
                await query(connection, "CREATE TEMPORARY TABLE numbers (number int PRIMARY KEY)")
                for number in ("1", "2", "1"):
                    await query(connection, "INSERT INTO numbers VALUES ($1)", number)
        except SQLError as error:
            print(error.code)
        print(await postgresql.query("SELECT to_regclass('numbers')"))
        print("connections closed:", pool.statistics().closed)


if __name__ == "__main__":
    # backend="trio" would do as well.
    anyio.run(main, int(sys.argv[1]) if sys.argv[1:] else 5432)
