"""The remote in memory: connecting to it, and what becomes of its peers."""

from __future__ import annotations

import math
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, FramedStream, PoolFull, Retry
from anyconnpool.testing import MemoryConnectable
from tests.sockets.checks import eventually

from .peers import answer_lines, say_nothing


async def test_a_pool_reuses_a_connection_in_memory() -> None:
    """One connection serves one exchange after the other, and closes with the pool."""
    async with MemoryConnectable(answer_lines) as remote:
        async with ConnectionPool(remote) as pool:
            for word in (b"one", b"two", b"three"):
                assert await pool.send_receive_line(word) == b"> " + word
            assert (remote.opened, remote.open_now) == (1, 1)
        assert (remote.opened, remote.open_now) == (1, 0)


async def test_every_connection_has_a_peer_of_its_own() -> None:
    """What one client says is answered to that one."""

    async def ask(word: bytes) -> None:
        async with await remote.connect() as client:
            stream = FramedStream(client)
            for _ in range(10):
                assert await stream.send_receive_line(word) == b"> " + word

    async with MemoryConnectable(answer_lines) as remote:
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(ask, b"%d" % number)
        assert (remote.opened, remote.open_now) == (20, 0)


async def test_a_peer_that_returns_has_closed_its_end() -> None:
    """As a server does whose function ends."""

    async def answer_once(stream: FramedStream) -> None:
        await stream.send_line(await stream.receive_line())

    async with MemoryConnectable(answer_once) as remote, ConnectionPool(remote) as pool:
        for _ in range(3):
            assert await pool.send_receive_line(b"hello") == b"hello"
            for _ in range(5):
                await checkpoint()
        assert remote.opened == 3
        assert pool.statistics().closed == {"peer_closed": 2}


async def test_connecting_is_refused_and_admitted() -> None:
    """Who is connected goes on. Saying so twice does no harm."""
    async with MemoryConnectable(answer_lines) as remote, await remote.connect() as old:
        for _ in range(2):
            remote.refuse()
            remote.refuse()
            with pytest.raises(anyio.ConnectionFailed, match="refused"):
                await remote.connect()
            assert await FramedStream(old).send_receive_line(b"hello") == b"> hello"
            remote.admit()
            remote.admit()
            await (await remote.connect()).aclose()
        assert remote.opened == 3


async def test_a_pool_waits_for_a_remote_that_comes_back() -> None:
    """A remote that refuses is tried again, if the pool is told to."""
    retry = Retry(math.inf, interval=0.001, backoff=1)
    async with MemoryConnectable(answer_lines) as remote:
        remote.refuse()
        async with (
            ConnectionPool(remote, connect_retry=retry) as pool,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(pool.send_receive_line, b"hello")
            await eventually(lambda: pool.statistics().open_failed)
            remote.admit()
        assert remote.opened == 1


async def test_all_connections_are_cut_at_once() -> None:
    """Clients read the end of the stream, peers are cancelled, new connections are made."""
    cancelled = 0

    async def wait(stream: FramedStream) -> None:
        nonlocal cancelled
        await stream.send(b"last words")
        try:
            await stream.receive()
        except anyio.get_cancelled_exc_class():
            cancelled += 1
            raise

    async with MemoryConnectable(wait) as remote:
        clients = [await remote.connect() for _ in range(3)]
        for client in clients:
            assert await client.receive(5) == b"last "
        remote.cut()
        remote.cut()
        for client in clients:
            assert await client.receive() == b"words"
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await client.send(b"too late")
        assert remote.open_now == 3
        for client in clients:
            await client.aclose()
        assert cancelled == 3
        assert await (await remote.connect()).receive() == b"last words"


async def test_a_cut_has_reached_the_clients_when_it_returns() -> None:
    """A pool doesn't lend what was cut off, not even in the same turn."""
    async with MemoryConnectable(answer_lines) as remote, ConnectionPool(remote) as pool:
        await pool.send_receive_line(b"hello")
        remote.cut()
        with pytest.raises(PoolFull):
            pool.acquire_nowait()


async def test_a_peer_that_is_cut_off_while_it_receives_has_not_failed() -> None:
    """Whatever it notices first, what has just come, the cut, or that it is cancelled."""
    async with MemoryConnectable(answer_lines) as remote:
        client = FramedStream(await remote.connect())
        await client.send_receive_line(b"hello")
        await client.send_line(b"too late")
        remote.cut()
        with pytest.raises(anyio.EndOfStream):
            await client.receive_line()


async def test_a_peer_gets_to_read_what_its_client_left() -> None:
    """At the end of the block, what was sent before the client closed is still dealt with."""
    received: list[bytes] = []

    async def collect(stream: FramedStream) -> None:
        while True:
            received.append(await stream.receive_line())

    async with MemoryConnectable(collect) as remote, ConnectionPool(remote, one_way=True) as pool:
        await pool.send_line(b"one")
        await pool.send_line(b"two")
    assert received == [b"one", b"two"]


async def test_no_peer_holds_up_the_end() -> None:
    """One that never ends is cancelled, whether its client has closed or not."""
    with anyio.fail_after(10):
        async with MemoryConnectable(say_nothing) as remote:
            await (await remote.connect()).aclose()
            client = await remote.connect()
        with pytest.raises(anyio.EndOfStream):
            await client.receive()


async def test_the_block_can_be_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """Also while a client and its peer wait for each other; both end."""
    ended = anyio.Event()

    async def wait(stream: FramedStream) -> None:
        scope.cancel()
        try:
            await stream.receive()
        finally:
            ended.set()

    remote = MemoryConnectable(wait)
    with anyio.CancelScope() as scope:
        async with remote, ConnectionPool(remote) as pool, pool.acquire() as connection:
            await connection.receive()
    assert scope.cancelled_caught
    assert ended.is_set()
    assert remote.open_now == 0
    assert not caplog.messages


async def test_a_client_that_gives_up_leaves_a_peer_that_goes_on() -> None:
    """The connection of a cancelled exchange is closed; the next exchange gets another."""
    asked, may_answer = anyio.Event(), anyio.Event()

    async def hesitate(stream: FramedStream) -> None:
        line = await stream.receive_line()
        if remote.opened == 1:
            asked.set()
            await may_answer.wait()
        await stream.send_line(b"> " + line)

    async with MemoryConnectable(hesitate) as remote, ConnectionPool(remote) as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.send_receive_line, b"hello")
            await asked.wait()
            tasks.cancel_scope.cancel()
        may_answer.set()
        assert await pool.send_receive_line(b"hello", timeout=10) == b"> hello"
        assert remote.opened == 2


async def test_a_remote_is_there_inside_its_block_only() -> None:
    """Before and after it, who connects is told so."""
    remote = MemoryConnectable(answer_lines)
    with pytest.raises(RuntimeError, match="async with"):
        await remote.connect()
    async with remote:
        await (await remote.connect()).aclose()
    with pytest.raises(RuntimeError, match="async with"):
        await remote.connect()


async def test_nothing_follows_the_end_that_a_client_has_sent() -> None:
    """A send after send_eof() fails, as on trio's sockets; after aclose() both are refused."""
    async with MemoryConnectable(say_nothing) as remote:
        client = await remote.connect()
        await client.send_eof()
        with pytest.raises(anyio.BrokenResourceError):
            await client.send(b"more")
        await client.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await client.send_eof()


def test_wrong_arguments_are_refused() -> None:
    """When the remote is made, or when the delay is set."""
    with pytest.raises(TypeError, match="peer must be an async function"):
        MemoryConnectable(cast("Any", b"PONG"))
    with pytest.raises(ValueError, match="connect_delay"):
        MemoryConnectable(say_nothing, connect_delay=-1)
    remote = MemoryConnectable(say_nothing)
    with pytest.raises(ValueError, match="connect_delay"):
        remote.connect_delay = math.nan
    assert remote.connect_delay == 0
