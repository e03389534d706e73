"""What an open connection does not keep: its borrower's context, and what received a late reply."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from contextvars import ContextVar
from typing import Any
from weakref import ref

import pytest
from anyio import create_task_group

from anyconnpool import ConnectionPool, PooledConnection

from .checks import LIMIT, eventually
from .conftest import Serve
from .servers import Peer

pytestmark = pytest.mark.usefixtures("no_socket_left")


_variable: ContextVar[object] = ContextVar("variable", default=None)


class Token:
    """Stand in the context of a borrower."""


async def test_a_connection_does_not_keep_the_context_in_which_it_was_asked_for(
    serve: Serve,
) -> None:
    """Nor does the task that watches over the time limits, which the first of them starts."""
    tokens: list[ref[Token]] = []

    async def ask(pool: ConnectionPool) -> None:
        token = Token()
        tokens.append(ref(token))
        _variable.set(token)
        assert await pool.send_receive_line(b"hello") == b"> hello"
        assert await pool.send_receive_line(b"hello", timeout=LIMIT) == b"> hello"

    async with serve().pool() as pool:
        async with create_task_group() as tasks:
            tasks.start_soon(ask, pool)
        gc.collect()
        assert pool.statistics().idle == 1
        assert tokens[0]() is None


_HALF = 50_000


async def test_what_has_come_of_a_reply_is_kept_once(serve: Serve) -> None:
    """While the rest is waited for: where it is gathered, and not as the chunk that it came in."""
    go_on = threading.Event()

    def reply_by_halves(peer: Peer) -> None:
        while True:
            peer.receive_line()
            peer.send(b"x" * _HALF)
            go_on.wait(LIMIT)
            peer.send(b"x" * _HALF)

    def used() -> int:
        return tracemalloc.get_traced_memory()[0]

    async with serve(reply_by_halves).pool(max_size=1) as pool:
        go_on.set()
        for _ in range(3):
            await pool.send_receive(b"hello\n", 2 * _HALF, timeout=LIMIT)
        go_on.clear()
        gc.collect()
        tracemalloc.start()
        try:
            async with create_task_group() as tasks:
                tasks.start_soon(pool.send_receive, b"hello\n", 2 * _HALF)
                # In the turns in which it arrives, it is there twice.
                await eventually(lambda: used() > _HALF)
                await eventually(lambda: used() < 2 * _HALF)
                go_on.set()
        finally:
            tracemalloc.stop()


def reply_at_length(peer: Peer) -> None:
    """Answer each line with more than what a stream receives at once."""
    while True:
        peer.receive_line()
        peer.send(b"x" * 200_000)


async def test_a_time_limit_that_is_met_keeps_no_connection(serve: Serve) -> None:
    """Its entry in the heap stays for a while; what has received the reply does not."""
    server = serve(reply_at_length)
    async with server.pool(max_size=1) as pool:
        for _ in range(3):
            reply = await pool.send_receive(b"hello\n", 200_000, timeout=LIMIT)
            assert reply == b"x" * 200_000
        gc.collect()
        objects: list[Any] = gc.get_objects()
        connections = [repr(each) for each in objects if issubclass(type(each), PooledConnection)]
        assert not [text for text in connections if str(server.remote[1]) in text]
