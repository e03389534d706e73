"""Connections are closed although the task that closes them is cancelled natively."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, NoReturn, cast

import pytest
from anyio.abc import SocketStream
from anyio.lowlevel import checkpoint

from anyconnpool._engine.lifecycle import PoolLifecycle, RunningPool
from anyconnpool._streams.transport import force_close


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Return the only backend with a native ``task.cancel()``."""
    return "asyncio"


class Struck(SocketStream):
    """A socket whose first close is cut short."""

    def __init__(self) -> None:
        self.calls = 0

    @property
    def _raw_socket(self) -> socket.socket:
        raise AssertionError("nobody asks for it")

    async def receive(self, max_bytes: int = 65536) -> NoReturn:
        raise AssertionError("nobody receives")

    async def send(self, item: bytes) -> NoReturn:
        raise AssertionError("nobody sends")

    async def send_eof(self) -> NoReturn:
        raise AssertionError("nobody sends")

    async def aclose(self) -> None:
        self.calls += 1
        if self.calls == 1:
            strike_oneself()
        await checkpoint()


def strike_oneself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def is_cancelled(function: Callable[..., Any], *args: object) -> bool:
    task: asyncio.Future[Any] = asyncio.ensure_future(function(*args))
    await asyncio.wait([task])
    return task.cancelled()


async def test_a_close_by_force_that_is_struck_is_done_again() -> None:
    """The cancellation is delivered, and the stream is closed all the same."""
    stream = Struck()
    assert await is_cancelled(force_close, stream)
    assert stream.calls == 3


async def test_a_strike_at_one_connection_does_not_save_the_others() -> None:
    """At the end of a block, every connection is disposed of, whatever is cancelled."""
    disposed: list[str] = []

    class Pool:
        def held(self) -> list[str]:
            return ["first", "second"]

        async def dispose(self, entry: str) -> None:
            disposed.append(entry)
            if entry == "first":
                strike_oneself()
            await checkpoint()

        def ended(self) -> None:
            disposed.append("and told")

    block = PoolLifecycle("closing", 0)
    block._pools[cast("RunningPool", Pool())] = None  # pyright: ignore[reportPrivateUsage]
    assert await is_cancelled(block._dispose_of_the_rest)  # pyright: ignore[reportPrivateUsage]
    assert disposed == ["first", "second", "and told"]
