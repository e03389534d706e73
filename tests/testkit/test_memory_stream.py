"""Connections in memory are like connections of sockets: each test runs on both."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeAlias

import anyio
import pytest
from anyio.abc import ByteStream, ByteStreamConnectable, SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, FramedStream
from anyconnpool.testing import MemoryConnectable
from tests.cases import table
from tests.sockets.checks import eventually

PeerFunction: TypeAlias = Callable[[FramedStream], Awaitable[object]]
Serve: TypeAlias = Callable[[PeerFunction], AbstractAsyncContextManager[ByteStreamConnectable]]

#: more than two sockets buffer, in bytes
MUCH = 30_000_000


@asynccontextmanager
async def serve_on_a_socket(peer: PeerFunction) -> AsyncGenerator[ByteStreamConnectable]:
    async def handle(stream: SocketStream) -> None:
        async with stream:
            await peer(FramedStream(stream))

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(listener.serve, handle))
        port = listener.extra(SocketAttribute.local_port)
        yield anyio.as_connectable(("127.0.0.1", port))
        tasks.cancel_scope.cancel()


@pytest.fixture(params=[MemoryConnectable, serve_on_a_socket], ids=["memory", "socket"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Return what starts a server of either kind."""
    kind: Serve = request.param
    return kind


async def a_few_turns() -> None:
    """Let every task run until it waits for something."""
    for _ in range(10):
        await checkpoint()


async def cancel_after(turns: int, scope: anyio.CancelScope) -> None:
    for _ in range(turns):
        await checkpoint()
    scope.cancel()


async def wait_for_the_end(stream: FramedStream) -> None:
    """Read whatever comes: a peer."""
    with pytest.raises(anyio.EndOfStream):
        while True:
            await stream.receive()


async def echo(stream: FramedStream) -> None:
    """Answer what comes with itself, until there is no more: a peer."""
    try:
        while True:
            await stream.send(await stream.receive())
    except anyio.EndOfStream:
        await stream.aclose()


async def test_what_was_sent_comes_before_the_end(serve: Serve) -> None:
    """A peer that closes loses nothing; afterwards the stream has ended, again and again."""

    async def say_goodbye(stream: FramedStream) -> None:
        await stream.send(b"good")
        await stream.send(b"bye")
        await stream.aclose()

    async with serve(say_goodbye) as remote, await remote.connect() as client:
        stream = FramedStream(client)
        assert await stream.receive_exactly(7) == b"goodbye"
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await client.receive()


async def test_a_chunk_is_no_longer_than_asked_for(serve: Serve) -> None:
    """What is left of it comes next."""
    async with serve(echo) as remote, await remote.connect() as client:
        await client.send(b"abcdef")
        received = b""
        while len(received) < 6:
            chunk = await client.receive(4)
            assert 0 < len(chunk) <= 4
            received += chunk
        assert received == b"abcdef"


async def test_either_direction_ends_by_itself(serve: Serve) -> None:
    """After the end of what a client sends, the reply still comes."""

    async def count(stream: FramedStream) -> None:
        received = b""
        with pytest.raises(anyio.EndOfStream):
            while True:
                received += await stream.receive()
        await stream.send(b"%d bytes" % len(received))
        await stream.aclose()

    async with serve(count) as remote, await remote.connect() as client:
        await client.send(b"hello")
        await client.send_eof()
        assert await FramedStream(client).receive_until(b"s", 20) == b"5 byte"


async def test_sending_to_an_end_that_is_closed_fails(serve: Serve) -> None:
    """At the latest when the other end has had the time to say so."""
    async with serve(FramedStream.aclose) as remote, await remote.connect() as client:
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        with pytest.raises(anyio.BrokenResourceError), anyio.fail_after(10):
            while True:
                await client.send(b"too late")


async def test_who_sends_waits_for_a_slow_reader(serve: Serve) -> None:
    """Nothing is buffered without a limit, and nothing is lost when the reader goes on."""
    may_read, received, sent = anyio.Event(), 0, False

    async def read_late(stream: FramedStream) -> None:
        nonlocal received
        await may_read.wait()
        with pytest.raises(anyio.EndOfStream):
            while True:
                received += len(await stream.receive())

    async def send_much(client: ByteStream) -> None:
        nonlocal sent
        await client.send(bytes(MUCH))
        sent = True

    async with serve(read_late) as remote, await remote.connect() as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_much, client)
            await a_few_turns()
            assert not sent
            may_read.set()
        await eventually(lambda: received == MUCH)


async def test_the_reader_can_close_on_a_sender_that_waits(serve: Serve) -> None:
    """The sender is told that nobody will ever read."""

    async def close_late(stream: FramedStream) -> None:
        await stream.receive()
        await stream.aclose()

    async with serve(close_late) as remote, await remote.connect() as client:
        with pytest.raises(anyio.BrokenResourceError), anyio.fail_after(10):
            await client.send(bytes(MUCH))


async def test_a_stream_that_is_closed_refuses_every_use(serve: Serve) -> None:
    """Closing it again does no harm."""
    async with serve(wait_for_the_end) as remote:
        client = await remote.connect()
        await client.aclose()
        await client.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await client.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await client.send(b"too late")


@table("operation", ["receive", "send"])
async def test_closing_wakes_who_waits(serve: Serve, operation: str) -> None:
    """A task that receives or sends on the same end is told that it was closed."""
    told, finished = anyio.Event(), anyio.Event()

    async def use(client: ByteStream) -> None:
        with pytest.raises((anyio.ClosedResourceError, anyio.BrokenResourceError)):
            await (client.receive() if operation == "receive" else client.send(bytes(MUCH)))
        told.set()

    async def stand_still(stream: FramedStream) -> None:
        await finished.wait()

    async with serve(stand_still) as remote, anyio.create_task_group() as tasks:
        client = await remote.connect()
        tasks.start_soon(use, client)
        await a_few_turns()
        await client.aclose()
        with anyio.fail_after(10):
            await told.wait()
        finished.set()


async def test_one_task_at_a_time_may_receive(serve: Serve) -> None:
    """A second one is refused, and the first one goes on."""
    async with (
        serve(echo) as remote,
        await remote.connect() as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(client.receive)
        await a_few_turns()
        with pytest.raises(anyio.BusyResourceError):
            await client.receive()
        await client.send(b"for the first one")


async def test_one_task_at_a_time_may_send(serve: Serve) -> None:
    """A second one is refused, and the first one goes on."""
    may_read = anyio.Event()

    async def read_late(stream: FramedStream) -> None:
        await may_read.wait()
        await wait_for_the_end(stream)

    async with (
        serve(read_late) as remote,
        await remote.connect() as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(client.send, bytes(MUCH))
        await a_few_turns()
        with pytest.raises(anyio.BusyResourceError):
            await client.send(b"in between")
        may_read.set()


async def test_a_cancelled_receive_loses_nothing(serve: Serve) -> None:
    """What comes later is there for the next one."""
    received = b""
    async with serve(echo) as remote, await remote.connect() as client:
        for number in range(50):
            await client.send(b"%d" % (number % 10))
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cancel_after, number % 7, scope)
                    received += await client.receive()
        received += await FramedStream(client).receive_exactly(50 - len(received))
        assert received == b"0123456789" * 5


async def test_a_receive_that_need_not_wait_can_be_cancelled_too(serve: Serve) -> None:
    """What is there stays there."""
    async with serve(echo) as remote, await remote.connect() as client:
        await client.send(b"abc")
        await a_few_turns()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.receive()
        assert scope.cancelled_caught
        assert await client.receive() == b"abc"


async def test_the_pool_sees_what_an_idle_connection_has(serve: Serve) -> None:
    """It lends neither one that the peer has closed nor one with bytes that nobody asked for."""
    number = 0

    async def misbehave(stream: FramedStream) -> None:
        nonlocal number
        number += 1
        mine = number
        await stream.send_line(await stream.receive_line())
        await a_few_turns()
        if mine == 1:
            await stream.aclose()
        elif mine == 2:
            await stream.send(b"surplus")
        done[mine - 1].set()
        await finished.wait()

    done, finished = [anyio.Event() for _ in range(3)], anyio.Event()
    async with serve(misbehave) as remote, ConnectionPool(remote) as pool:
        for event in done:
            assert await pool.send_receive_line(b"hello") == b"hello"
            await event.wait()
            await a_few_turns()
        assert pool.statistics().idle == 1
        assert pool.statistics().closed == {"peer_closed": 1, "unread_data": 1}
        assert pool.statistics().reused == 0
        finished.set()
