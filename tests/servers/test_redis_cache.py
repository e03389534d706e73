"""The example with hiredis: what Redis pushes reaches the cache, and costs no connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio import EndOfStream
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, FramedStream
from anyconnpool.testing import MemoryConnectable
from tests.cases import table
from tests.examples.programs import load, run
from tests.sockets.checks import eventually

from .checks import until_at_rest
from .programs import Program, redis_server
from .upheaval import CALLERS, Callers, check_survived

EXAMPLE = load("redis_cache")
SAYS = ["b'hello'", "b'hello'", "b'goodbye'", "connections closed: {}"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Program]:
    """Run a Redis."""
    with redis_server(tmp_path) as program:
        yield program


async def test_the_client(server: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows on every backend what it should, and leaves no key behind."""
    await EXAMPLE.main(server.remote[1])
    assert capsys.readouterr().out.splitlines() == SAYS
    async with EXAMPLE.make_pool(*server.remote) as pool:
        assert await EXAMPLE.Redis(pool).execute("DBSIZE") == 0


def test_the_client_as_a_program(server: Program, tmp_path: Path) -> None:
    """Its command runs it to its end."""
    assert run("redis_cache", server.remote[1], directory=tmp_path) == SAYS


async def test_a_push_on_an_idle_connection_is_read_and_costs_nothing(server: Program) -> None:
    """A value comes from the cache until another client changes it; the connection stays."""
    async with EXAMPLE.make_pool(*server.remote) as pool, EXAMPLE.make_pool(*server.remote) as them:
        redis, other = EXAMPLE.Redis(pool), EXAMPLE.Redis(them)
        await other.execute("SET", "key", "old")
        assert await redis.get("key") == b"old"
        asked = await count_commands(other)
        assert await redis.get("key") == b"old"
        # This command and no other.
        assert await count_commands(other) == asked + 1
        async with pool.acquire() as connection:
            session = connection.session
        await other.execute("SET", "key", "new")
        # On asyncio and uvloop at once, on trio when the pool looks, every five seconds.
        await eventually(lambda: not session.cache, tries=12_000)
        await until_at_rest(pool)
        assert await redis.get("key") == b"new"
        assert (pool.statistics().opened, pool.statistics().closed) == (1, {})
        await other.execute("FLUSHALL")
        # Found when the connection is to be lent, it comes before the loan.
        while await redis.get("key") is not None:
            pass
        assert pool.statistics().closed == {}


async def count_commands(redis: Any) -> int:
    """Return how many commands Redis has carried out."""
    told = (await redis.execute("INFO", "stats")).decode()
    return int(told.partition("total_commands_processed:")[2].split()[0])


async def test_a_client_reads_what_it_has_written(server: Program) -> None:
    """Redis tells a connection, too, what this itself has changed; that is no reply."""
    async with EXAMPLE.make_pool(*server.remote) as pool, pool.acquire() as connection:
        for turn in range(50):
            assert await EXAMPLE.exchange(connection, "SET", "key", turn) == b"OK"
            # What Redis has pushed by now comes before this reply.
            assert await EXAMPLE.exchange(connection, "ECHO", turn) == b"%d" % turn
            assert await EXAMPLE.look_up(connection, b"key") == b"%d" % turn
        assert connection.session.pushes == 49


PUSH = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"


@table("cut", range(1, len(PUSH)))
async def test_a_push_right_behind_a_reply_keeps_the_value_out(cut: int) -> None:
    """Cut anywhere, it is read to its end; the value isn't kept, since it has changed since."""

    async def answer(stream: FramedStream) -> None:
        await stream.receive_until(b"PING\r\n", 1000)
        await stream.send(b"+OK\r\n+OK\r\n+PONG\r\n")
        for value in (b"old", b"new"):
            await stream.receive_until(b"key\r\n", 1000)
            await stream.send(b"+" + value + b"\r\n" + PUSH[:cut])
            await checkpoint()
            await stream.send(PUSH[cut:])
        with pytest.raises(EndOfStream):
            await stream.receive()

    async with (
        MemoryConnectable(answer) as remote,
        ConnectionPool(remote, on_connect=EXAMPLE.log_in, on_unread=EXAMPLE.read_pushes) as pool,
    ):
        redis = EXAMPLE.Redis(pool)
        assert [await redis.get("key"), await redis.get("key")] == [b"old", b"new"]
        assert pool.statistics().closed == {}


async def test_a_reply_that_nobody_has_asked_for_ends_the_connection() -> None:
    """It is neither taken for a push nor left to the next caller."""

    async def answer(stream: FramedStream) -> None:
        await stream.receive_until(b"PING\r\n", 1000)
        await stream.send(b"+OK\r\n+OK\r\n+PONG\r\n")
        await stream.receive_until(b"key\r\n", 1000)
        await stream.send(b"+value\r\n+value of another\r\n")

    async with (
        MemoryConnectable(answer) as remote,
        ConnectionPool(remote, on_connect=EXAMPLE.log_in, on_unread=EXAMPLE.read_pushes) as pool,
    ):
        with pytest.raises(ValueError, match="nobody asked for"):
            await pool.run(EXAMPLE.exchange, "GET", "key")
        await until_at_rest(pool)
        assert pool.statistics().closed == {"unclean": 1}


async def test_an_error_costs_no_connection(server: Program) -> None:
    """A reply that is an error is raised, and neither cached nor taken for the next reply."""
    async with EXAMPLE.make_pool(*server.remote) as pool:
        redis = EXAMPLE.Redis(pool)
        await redis.execute("LPUSH", "list", "value")
        for _ in range(3):
            with pytest.raises(EXAMPLE.hiredis.ReplyError, match="WRONGTYPE"):
                await redis.get("list")
        assert await redis.execute("LRANGE", "list", 0, -1) == [b"value"]
        assert pool.statistics().opened == 1


async def test_it_survives_restarts_kills_and_cancellation(
    server: Program, seed: int, anyio_backend_name: str
) -> None:
    """No caller is given what is another's, and no cache keeps what was changed."""
    async with EXAMPLE.make_pool(*server.remote) as pool:
        redis = EXAMPLE.Redis(pool)

        async def ask(caller: int, turn: int) -> None:
            question = f"{caller} {turn} {'x' * (turn % 5 * 20_000)}"
            assert await redis.execute("ECHO", question) == question.encode()
            await redis.execute("SET", f"key {caller}", f"{caller} {turn}")
            for neighbour in (caller, (caller + 1) % CALLERS):
                value = await redis.get(f"key {neighbour}")
                assert value is None or value.split()[0] == b"%d" % neighbour

        def restart() -> None:
            server.stop()
            server.start()

        callers = Callers(ask, seed, anyio_backend_name == "asyncio")
        await callers.live_through([restart, server.restart, restart, server.restart])
        await check_survived(pool, server)
        await check_caches(pool)


async def check_caches(pool: Any) -> None:
    """See that whatever connection a value is asked of, it is soon the one that Redis has."""
    redis = EXAMPLE.Redis(pool)
    connections = [await pool.acquire() for _ in range(4)]
    try:
        for caller in range(CALLERS):
            key = f"key {caller}"
            value = await EXAMPLE.exchange(connections[0], "GET", key)
            for connection in connections:
                # A push that has not been read yet comes before the reply to this.
                await EXAMPLE.exchange(connection, "PING")
                assert await EXAMPLE.look_up(connection, key.encode()) == value
    finally:
        for connection in connections:
            await connection.aclose()
    assert await redis.execute("PING") == b"PONG"
