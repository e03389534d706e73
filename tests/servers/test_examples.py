"""The clients of examples/ talk to a real Redis and a real memcached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anyconnpool import ConnectionPool
from tests.examples.programs import load, run

from .programs import Program, memcached, redis_server

REDIS_SAYS = ["b'OK'", "b'hello'", "None", "b'10'", "ERR value is not an integer or out of range"]
MEMCACHED_SAYS = [repr(b"line 1\r\nline 2"), "True", "None", "False"]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Program]:
    """Run a Redis."""
    with redis_server(tmp_path) as program:
        yield program


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Program]:
    """Run a memcached."""
    with memcached(tmp_path) as program:
        yield program


async def test_the_redis_client(redis: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """It stores, reads and counts on every backend, and leaves no key behind."""
    example = load("redis_client")
    await example.main(redis.remote[1])
    assert capsys.readouterr().out.splitlines() == REDIS_SAYS
    async with example.make_pool(*redis.remote) as pool:
        assert await example.Redis(pool).execute("DBSIZE") == 0


def test_the_redis_client_as_a_program(redis: Program, tmp_path: Path) -> None:
    """Its command runs it to its end."""
    assert run("redis_client", redis.remote[1], directory=tmp_path) == REDIS_SAYS


async def test_an_error_costs_the_redis_client_no_connection(redis: Program) -> None:
    """A reply that is an error is raised, and the next command uses the same connection."""
    example = load("redis_client")
    async with example.make_pool(*redis.remote) as pool:
        client = example.Redis(pool)
        for _ in range(3):
            with pytest.raises(example.RedisError, match="unknown command"):
                await client.execute("NONSENSE")
        assert pool.statistics().opened == 1


async def test_the_redis_client_knows_what_bytes_are_its_own(redis: Program) -> None:
    """Values with line ends, of no length, and in many bytes a letter come back as they were."""
    example = load("redis_client")
    async with example.make_pool(*redis.remote) as pool:
        client = example.Redis(pool)
        for value in ("", "\r\n", "-ERR\r\n$3\r\nabc", "žluťoučký kůň"):
            await client.execute("SET", "key", value)
            assert await client.execute("GET", "key") == value.encode()


async def test_the_memcached_client(cache: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """It stores, reads and deletes on every backend."""
    await load("memcached_client").main(cache.remote[1])
    assert capsys.readouterr().out.splitlines() == MEMCACHED_SAYS


def test_the_memcached_client_as_a_program(cache: Program, tmp_path: Path) -> None:
    """Its command runs it to its end."""
    assert run("memcached_client", cache.remote[1], directory=tmp_path) == MEMCACHED_SAYS


async def test_the_memcached_client_reads_whole_replies(cache: Program) -> None:
    """Nothing of a reply is left behind: one connection does for all commands."""
    example = load("memcached_client")
    async with ConnectionPool(cache.remote) as pool:
        client = example.Memcached(pool)
        for value in (b"", b"END\r\n", bytes(100_000)):
            await client.set("key", value)
            assert await client.get("key") == value
        assert await client.delete("key")
        assert await client.get("key") is None
        assert pool.statistics().opened == 1


async def test_the_memcached_client_tells_errors(cache: Program) -> None:
    """A value that is too large is an error of memcached; a key with a space is never sent."""
    example = load("memcached_client")
    async with ConnectionPool(cache.remote) as pool:
        client = example.Memcached(pool)
        with pytest.raises(example.MemcachedError, match="too large"):
            await client.set("key", bytes(2_000_000))
        for key in ("", "a b", "a\r\nflush_all", "é", "a" * 251):
            with pytest.raises(ValueError, match="can't be a key"):
                await client.get(key)
        assert await client.get("key") is None
