"""Peers in memory that fail, or end because their clients hang up: what the block raises."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, FramedStream
from anyconnpool.testing import MemoryConnectable
from tests.cases import table

from .peers import say_nothing


async def test_a_peer_that_fails_shows_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Its client reads the end of the stream, later ones are refused, the error leaves as it is."""
    failure = AssertionError("this is no PING")

    async def fail(stream: FramedStream) -> None:
        await stream.receive_line()
        raise failure

    met: list[Exception] = []
    with pytest.raises(AssertionError) as caught:
        async with MemoryConnectable(fail) as remote, ConnectionPool(remote) as pool:
            for _ in range(2):
                try:
                    await pool.send_receive_line(b"PONG")
                except Exception as error:
                    met.append(error)
    assert caught.value is failure
    assert [type(error) for error in met] == [anyio.EndOfStream, anyio.ConnectionFailed]
    assert str(met[1]) == "refused: a peer has failed: AssertionError: this is no PING"
    assert caplog.messages[0] == "the peer of connection 1 failed: AssertionError: this is no PING"


async def test_what_a_peer_quotes_is_escaped(caplog: pytest.LogCaptureFixture) -> None:
    """A log and a terminal get none of what a client has sent as it is; lines stay lines."""

    async def fail(stream: FramedStream) -> None:
        raise ValueError("got\n\x1b[2J\0")

    with pytest.raises(ValueError, match="got"):
        async with MemoryConnectable(fail) as remote, await remote.connect() as client:
            with pytest.raises(anyio.EndOfStream, match="the peer has closed the connection"):
                await client.receive()
    assert caplog.messages == ["the peer of connection 1 failed: ValueError: got\n\\x1b[2J\\x00"]


async def test_of_peer_and_body_the_first_error_leaves() -> None:
    """What fails for another's failure doesn't hide it."""
    first, second = ValueError("first"), ValueError("second")

    async def fail(stream: FramedStream) -> None:
        raise first

    async def fail_in_the_end(stream: FramedStream) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise second

    with pytest.raises(ValueError, match="first") as caught:
        async with MemoryConnectable(fail) as remote, await remote.connect() as client:
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
            raise second
    assert caught.value is first

    with pytest.raises(ValueError, match="first"):
        async with MemoryConnectable(fail_in_the_end) as remote:
            await remote.connect()
            await checkpoint()
            raise first


async def test_what_pytest_raises_leaves_as_it_is() -> None:
    """In a peer and in the body: its outcomes are no Exceptions."""

    async def fail(stream: FramedStream) -> None:
        pytest.fail("not like this")

    with pytest.raises(pytest.fail.Exception, match="not like this"):
        async with MemoryConnectable(fail) as remote, await remote.connect() as client:
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
    with pytest.raises(pytest.fail.Exception, match="nor like that"):
        async with MemoryConnectable(say_nothing):
            pytest.fail("nor like that")


@table("read", ["receive_line", "receive_exactly", "send"])
async def test_a_client_that_hangs_up_is_no_failure(read: str) -> None:
    """A peer may let pass what tells it that the client is gone."""

    async def serve(stream: FramedStream) -> None:
        if read == "receive_line":
            await stream.receive_line()
        elif read == "receive_exactly":
            await stream.receive_exactly(100)
        else:
            await stream.send(bytes(1_000_000))

    async with MemoryConnectable(serve) as remote, await remote.connect() as client:
        await client.send(b"half a li")


async def test_a_group_of_hang_ups_is_no_failure_either() -> None:
    """Such as the tasks of a peer raise; a group with something else in it leaves as it is."""
    others: list[Exception] = []

    async def serve(stream: FramedStream) -> None:
        async with anyio.create_task_group():
            try:
                await stream.receive_line()
            finally:
                for error in others:
                    raise error

    async with MemoryConnectable(serve) as remote:
        await (await remote.connect()).aclose()
    others.append(ValueError("something else"))
    with pytest.raises(Exception, match=r"unhandled|nursery") as caught:
        async with MemoryConnectable(serve) as remote:
            await (await remote.connect()).aclose()
    assert caught.group_contains(ValueError, match="something else")


async def test_a_peer_that_is_cancelled_by_nobody_has_failed(anyio_backend_name: str) -> None:
    """What it awaits may be cancelled: on asyncio, that ended the body without a word."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no other cancellation")

    async def serve(stream: FramedStream) -> None:
        await stream.receive()
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    went_on = False
    with pytest.raises(RuntimeError, match="the peer, or what it waited for, was cancelled"):
        async with MemoryConnectable(serve) as remote, await remote.connect() as client:
            await client.send(b"hello")
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
            await checkpoint()
            went_on = True
    assert went_on


@table("what, text", [(AssertionError(), "AssertionError"), (None, "must be an async function")])
async def test_a_failure_is_never_told_by_nothing(
    what: Exception | None, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An error without a text has a name, and a peer that is no async function is called one."""
    caplog.clear()

    def serve(stream: FramedStream) -> Any:
        if what is not None:
            raise what

    with pytest.raises((AssertionError, TypeError)):
        async with MemoryConnectable(serve) as remote, await remote.connect() as client:
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
            with pytest.raises(
                anyio.ConnectionFailed, match=f"refused: a peer has failed: .*{text}"
            ):
                await remote.connect()
    assert text in caplog.text
