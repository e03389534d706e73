"""Remotes that fail: their own connection ends for it, and the proxy goes on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import anyio
import pytest
from anyio import (
    BrokenResourceError,
    BusyResourceError,
    EndOfStream,
    as_connectable,
    fail_after,
    sleep_forever,
    wait_all_tasks_blocked,
)
from anyio.abc import ByteStream

from anyconnpool.testing import FaultProxy, Faults, Flow
from tests.cases import table
from tests.sockets.checks import eventually
from tests.sockets.servers import Peer, Script, Server

from .wire import Recorder, client_of

_CANCELLED, _NEVER = "was cancelled", "never ends"
_FAILURES = [
    LookupError("a mistake in the test"),
    EndOfStream(),
    BrokenResourceError(),
    BusyResourceError("writing to"),
    UnicodeError("label too long"),
    OSError(113, "No route to host"),
    _CANCELLED,
]


class Failing(Recorder):
    """A remote that fails the first time that it is asked for one thing, and then no more.

    :param method: the name of that thing
    :param failure: what it raises, or awaits: what somebody has cancelled, which only asyncio
        knows, or what never ends
    """

    def __init__(self, method: str, failure: BaseException | str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self._method = method
        self._failure = failure

    async def _fail_in(self, method: str) -> None:
        if method != self._method or self.asked:
            return
        self.asked.append(method)
        if isinstance(self._failure, BaseException):
            raise self._failure
        if self._failure is _NEVER:
            await sleep_forever()
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def connect(self) -> ByteStream:
        await self._fail_in("connect")
        self._closed = anyio.Event()
        return self

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await self._fail_in("receive")
        return await super().receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._fail_in("send")
        await super().send(item)

    async def send_eof(self) -> None:
        await self._fail_in("send_eof")
        await super().send_eof()

    async def aclose(self) -> None:
        await self._fail_in("aclose")
        await super().aclose()


async def is_ended(proxy: FaultProxy) -> None:
    """See that the proxy ends a client's connection."""
    async with client_of(proxy.remote) as client:
        with suppress(OSError):
            await client.send(b"hello")
            client.socket.shutdown(socket.SHUT_WR)
            assert await client.receive(1) == b""
    await eventually(lambda: not proxy.connections)


def hang_up(peer: Peer) -> None:
    peer.socket.recv(1)


def reset(peer: Peer) -> None:
    peer.reset()


def speak_otherwise(peer: Peer) -> None:
    peer.send(b"220 ready\r\n" * 9)
    peer.socket.recv(65_536)


@table("script", [hang_up, reset, speak_otherwise])
async def test_a_handshake_that_fails_ends_its_connection(
    serve: Callable[..., Server], script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """And no more than that: the proxy accepts others, its body goes on, and the log says why."""
    caplog.clear()
    async with FaultProxy(as_connectable(serve(script=script).remote, tls=True)) as proxy:
        for _ in range(2):
            await is_ended(proxy)
    assert len(caplog.messages) == 2
    assert all("connecting to the remote failed" in message for message in caplog.messages)


@table("method", ["connect", "receive", "send", "send_eof", "aclose"])
@table("failure", _FAILURES)
async def test_a_connectable_that_fails_ends_its_connection(
    method: str, failure: Exception | str, anyio_backend_name: str
) -> None:
    """Whatever its methods raise or await, the next client is served as if nothing had been."""
    if failure is _CANCELLED and anyio_backend_name == "trio":
        return
    remote = Failing(method, failure)
    with fail_after(20):
        async with FaultProxy(remote) as proxy:
            if method == "aclose":
                async with client_of(proxy.remote) as client:
                    await client.send(b"hello")
                    await eventually(lambda: remote.pieces == [b"hello"])
                proxy.reset()
                await eventually(lambda: remote.asked)
            else:
                await is_ended(proxy)
            remote.pieces.clear()
            async with client_of(proxy.remote) as client:
                await client.send(b"again")
                await eventually(lambda: remote.pieces == [b"again"])


@table("failure", [LookupError("a mistake in the test"), _CANCELLED])
async def test_a_fault_that_cannot_be_passed_on_ends_its_connection(
    failure: Exception | str, anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A remote that can't half-close, when told to at once, ends no more than its connection."""
    if failure is _CANCELLED and anyio_backend_name == "trio":
        return
    caplog.clear()
    remote = Failing("send_eof", failure)
    async with FaultProxy(remote) as proxy, client_of(proxy.remote) as client:
        await client.send(b"hello")
        await eventually(lambda: remote.pieces == [b"hello"])
        proxy.faults = Faults(requests=Flow(half_close_after=0))
        await eventually(lambda: not proxy.connections)
        assert caplog.messages[0].startswith("passing an end on")


async def test_a_fault_that_is_not_passed_on_holds_nobody_up() -> None:
    """A remote that never half-closes ends with its connection."""
    remote = Failing("send_eof", _NEVER)
    with fail_after(20):
        async with FaultProxy(remote) as proxy, client_of(proxy.remote) as client:
            await client.send(b"hello")
            await eventually(lambda: remote.pieces == [b"hello"])
            proxy.faults = Faults(requests=Flow(half_close_after=0))
            await eventually(lambda: remote.asked == ["send_eof"])


async def test_what_no_connection_can_take_ends_the_block() -> None:
    """What is no ``Exception`` cancels the body and leaves in a group, as with a pool."""

    class Outcome(BaseException):
        pass

    with pytest.raises(BaseException, match=r"unhandled|nursery") as raised:
        async with FaultProxy(Failing("connect", Outcome())) as proxy, client_of(proxy.remote):
            await sleep_forever()
    assert raised.group_contains(Outcome)


async def test_an_end_is_not_passed_on_while_frozen(server: Server) -> None:
    """Also if it is a new fault's; it is when the connection thaws."""
    async with FaultProxy(server.remote) as proxy, client_of(proxy.remote) as client:
        await client.send(b"hello")
        assert await client.receive(5) == b"hello"
        proxy.freeze()
        proxy.faults = Faults(replies=Flow(half_close_after=0))
        await wait_all_tasks_blocked()
        assert client.silent
        proxy.thaw()
        assert await client.receive(1) == b""
