"""The cable is cut in the middle of an exchange, or under connections that seem to be alive."""

from __future__ import annotations

import threading

import pytest
from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    Event,
    create_task_group,
    current_time,
    fail_after,
    sleep,
)

from anyconnpool import KeepAlive
from tests.pool.network import fill
from tests.sockets.checks import ask_next, eventually, expect_closed
from tests.sockets.servers import Peer

from .cable import Cable
from .conftest import Serve

# What a busy machine may add, in seconds.
_SLACK = 3


async def test_the_callers_timeout_ends_the_wait(cable: Cable, serve: Serve, kind: str) -> None:
    """It comes in time, the slot comes back, and the connection is never used again."""
    server = serve(kind)
    async with server.pool(max_size=1, close_timeout=0.5) as pool:
        await ask_next(pool)
        cable.cut()
        began = current_time()
        with pytest.raises(TimeoutError):
            await pool.send_receive_line(b"is anybody there?", timeout=0.5)
        assert 0.5 <= current_time() - began <= 0.5 + _SLACK
        await expect_closed(pool, unclean=1)
        assert pool.statistics().size == 0
        cable.mend()
        assert not await ask_next(pool)


async def test_the_user_timeout_ends_a_send(cable: Cable, serve: Serve, kind: str) -> None:
    """Cut while much is on its way, a send without a timeout fails, and the slot comes back."""
    arrived = threading.Event()

    def read(peer: Peer) -> None:
        for _ in range(100):
            peer.socket.recv(65536)
        arrived.set()
        while peer.socket.recv(65536):
            pass

    server = serve(kind, read)
    settings = KeepAlive(user_timeout=1)
    async with server.pool(max_size=1, keepalive=settings, close_timeout=0.5) as pool:
        failed = Event()

        async def send_for_ever() -> None:
            with pytest.raises(BrokenResourceError):
                async with pool.acquire() as connection:
                    while True:
                        await connection.send(bytes(100_000))
            failed.set()

        async with create_task_group() as tasks:
            tasks.start_soon(send_for_ever)
            await eventually(arrived.is_set)
            cable.cut()
            with fail_after(1 + _SLACK):
                await failed.wait()
        await expect_closed(pool, unclean=1)
        cable.mend()
        async with pool.acquire() as connection:
            await connection.send(b"here again")


async def test_a_short_cut_loses_nothing(cable: Cable, serve: Serve, kind: str) -> None:
    """A request and a reply that vanish are sent again by the kernels, on the same connections."""
    asked, gate = threading.Event(), threading.Event()

    def answer_when_told(peer: Peer) -> None:
        while True:
            line = peer.receive_line()
            if line == b"lost reply":
                asked.set()
                gate.wait(20)
            peer.send(b"> " + line + b"\n")

    server = serve(kind, answer_when_told)
    replies: list[bytes] = []
    async with server.pool() as pool:

        async def exchange(line: bytes) -> None:
            replies.append(await pool.send_receive_line(line))

        await fill(pool, 2)
        with fail_after(30):
            async with create_task_group() as tasks:
                tasks.start_soon(exchange, b"lost reply")
                await eventually(asked.is_set)
                cable.cut()
                gate.set()
                tasks.start_soon(exchange, b"lost request")
                # Long enough for the kernels to have tried again in vain.
                await sleep(0.5)
                assert not replies
                cable.mend()
        assert sorted(replies) == [b"> lost reply", b"> lost request"]
        assert pool.statistics().opened == 2
        assert pool.statistics().replayed == 0


async def test_leaving_the_block_does_not_wait_for_the_network(
    cable: Cable, serve: Serve, kind: str
) -> None:
    """It ends within close_timeout, with idle connections, a wait and a send under way."""
    server = serve(kind)
    pool = server.pool(close_timeout=0.5)

    async def wait() -> None:
        async with pool.acquire() as connection:
            await connection.send_line(b"is anybody there?")
            with pytest.raises(ClosedResourceError):
                await connection.receive_line()

    async def send() -> None:
        async with pool.acquire() as connection:
            with pytest.raises(ClosedResourceError):
                await connection.send(bytes(30_000_000))

    async with create_task_group() as tasks:
        async with pool:
            async with create_task_group() as first:
                for _ in range(4):
                    first.start_soon(ask_next, pool)
            cable.cut()
            tasks.start_soon(wait)
            tasks.start_soon(send)
            await eventually(lambda: pool.statistics().in_use == 2)
            began = current_time()
        assert current_time() - began <= 0.5 + _SLACK
        assert pool.statistics().size == 0
        assert pool.statistics().closed["seized"] == 2
