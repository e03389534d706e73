"""The pool's own tasks: they live as long as its block, whoever cancels what around or in them."""

from __future__ import annotations

import asyncio

import pytest
from anyio import (
    CancelScope,
    ConnectionFailed,
    Event,
    TCPConnectable,
    create_task_group,
    fail_after,
    sleep_forever,
)
from anyio.abc import SocketStream

from anyconnpool import ConnectionPool, PooledConnection

from .checks import LIMIT, ask_next, eventually
from .conftest import Serve
from .servers import Peer

pytestmark = pytest.mark.usefixtures("no_socket_left")


native = pytest.mark.parametrize("anyio_backend", ["asyncio", "asyncio+uvloop"], indirect=True)


def echo_but_silence(peer: Peer) -> None:
    """Answer each line with itself, except this one."""
    while True:
        line = peer.receive_line()
        if line != b"silence":
            peer.send(b"> " + line + b"\n")


async def await_what_is_cancelled(*_: object) -> None:
    """Do what a hook does whose own future somebody has cancelled."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def test_a_body_that_shields_itself_can_use_a_cancelled_block(serve: Serve) -> None:
    """A goodbye gets its one connection, and is interrupted when its own time is over."""
    server = serve(echo_but_silence)
    with CancelScope() as scope:
        async with server.pool(max_size=1) as pool:
            scope.cancel()
            with CancelScope(shield=True), fail_after(LIMIT):
                assert await pool.send_receive_line(b"bye") == b"> bye"
                with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
                    await pool.send_receive_line(b"silence", timeout=0.05)
            assert pool.statistics().opened == 1
    assert scope.cancelled_caught


async def test_a_check_goes_on_while_a_body_shields_itself(serve: Serve) -> None:
    """Nobody is lent a connection on which the reply to the check is still to come."""
    server = serve()
    asked, cancelled = Event(), Event()

    async def check(connection: PooledConnection) -> None:
        await connection.send_line(b"check")
        asked.set()
        await cancelled.wait()
        assert await connection.receive_line() == b"> check"

    async def ask_twice(pool: ConnectionPool) -> None:
        for _ in range(2):
            await ask_next(pool)

    pool = server.pool(max_size=1, check=check, check_after=0)
    async with create_task_group() as tasks:
        with CancelScope() as scope:
            async with pool:
                await ask_next(pool)
                with CancelScope(shield=True), fail_after(LIMIT):
                    tasks.start_soon(ask_twice, pool)
                    await asked.wait()
                    scope.cancel()
                    cancelled.set()
                    await eventually(lambda: pool.statistics().acquired == 3)
                    await eventually(lambda: not pool.statistics().in_use)
    assert pool.statistics().closed == {"pool_closed": 1}


@native
@pytest.mark.parametrize("by", ["the hook", "somebody else"])
async def test_a_check_that_is_cancelled_has_failed(serve: Serve, by: str) -> None:
    """The reply that it has not received is nobody's, and the pool goes on."""
    server = serve()
    checking: list[asyncio.Task[object] | None] = []
    asked = Event()

    async def check(connection: PooledConnection) -> None:
        await connection.send_line(b"check")
        if by == "the hook":
            await await_what_is_cancelled()
        checking.append(asyncio.current_task())
        asked.set()
        await sleep_forever()

    async def strike() -> None:
        await asked.wait()
        (task,) = checking
        assert task is not None
        task.cancel()

    async with server.pool(max_size=1, check=check, check_after=0) as pool:
        await ask_next(pool)
        with fail_after(LIMIT):
            async with create_task_group() as tasks:
                if by != "the hook":
                    tasks.start_soon(strike)
                assert not await ask_next(pool)
        assert pool.statistics().closed == {"check_failed": 1}


class Cancelled(TCPConnectable):
    """A connectable of the user's that awaits something cancelled."""

    async def connect(self) -> SocketStream:
        await await_what_is_cancelled()
        raise AssertionError("it should have been cancelled")


@native
@pytest.mark.parametrize("where", ["on_connect", "the connectable"])
async def test_an_attempt_that_is_cancelled_has_failed(serve: Serve, where: str) -> None:
    """Whoever waits for it gets ConnectionFailed; the block and the next attempt are untouched."""
    server = serve()
    failing = [await_what_is_cancelled] * 2

    async def on_connect(connection: PooledConnection) -> None:
        if failing:
            await failing.pop()()

    pool = server.pool(on_connect=on_connect)
    if where == "the connectable":
        pool = ConnectionPool(Cancelled(*server.remote))
    async with pool:
        for _ in range(2):
            with pytest.raises(ConnectionFailed, match="was cancelled"):
                await pool.send_receive_line(b"ask")
        assert pool.statistics().open_failed == 2
        if where == "on_connect":
            assert not await ask_next(pool)


@native
async def test_a_program_can_cancel_all_other_tasks_and_use_the_pool_once_more(
    serve: Serve,
) -> None:
    """Those of the pool end, which it may wait for; time limits and refills go on."""
    server = serve(echo_but_silence)
    async with server.pool(max_size=2, min_idle=1) as pool:
        with fail_after(LIMIT):
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await pool.send_receive_line(b"silence", timeout=0.05)
                await eventually(lambda: 0 < pool.statistics().idle == pool.statistics().size)
                others = [task for task in asyncio.all_tasks() if task.get_name()[:5] == "pool "]
                assert len(others) >= 2
                for task in others:
                    task.cancel()
                await asyncio.wait(others)
            assert await pool.send_receive_line(b"bye") == b"> bye"
