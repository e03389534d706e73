"""The cable is cut while a connection is being opened, or before."""

from __future__ import annotations

import errno
import math

import pytest
from anyio import (
    BrokenResourceError,
    ConnectionFailed,
    create_task_group,
    current_time,
    fail_after,
    sleep,
)

from anyconnpool import KeepAlive, Retry
from tests.sockets.checks import ask, ask_next, eventually

from .cable import Cable, counters
from .conftest import Serve

# What a busy machine may add, in seconds.
_SLACK = 5


def root_cause(error: BaseException) -> OSError:
    """Return what an error was in the beginning."""
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, OSError)
    return error


async def test_a_cut_is_silent(cable: Cable, serve: Serve) -> None:
    """connect_timeout ends the wait and says so; no message of the network comes before it."""
    server = serve()
    cable.cut()
    async with server.pool(connect_timeout=1) as pool:
        began = current_time()
        with pytest.raises(ConnectionFailed, match=r"longer than connect_timeout, 1 s"):
            await pool.send_receive_line(b"is anybody there?")
        assert 1 <= current_time() - began <= 1 + _SLACK
        assert not counters()["Icmp.InDestUnreachs"]
        cable.mend()
        assert not await ask_next(pool)


async def test_an_unplugged_server_is_unreachable(cable: Cable, serve: Serve) -> None:
    """The client's kernel says so before any timeout; who waits for a reply learns it at the end.

    The errors are those of the docs, and the kernel's own word is their cause.
    """
    server = serve()
    async with server.pool(keepalive=KeepAlive(user_timeout=3.5)) as pool:
        async with pool.acquire() as connection:
            await ask(connection)
            cable.cut("unplugged")
            await connection.send_line(b"is anybody there?")
            with fail_after(20), pytest.raises(ConnectionFailed) as refused:
                await pool.send_receive_line(b"is anybody there?")
            assert root_cause(refused.value).errno == errno.EHOSTUNREACH
            with fail_after(20), pytest.raises(BrokenResourceError) as broken:
                await connection.receive_line()
            assert root_cause(broken.value).errno == errno.EHOSTUNREACH
        assert counters()["Icmp.InDestUnreachs"]


async def test_retry_brings_the_waiting_through(cable: Cable, serve: Serve, how: str) -> None:
    """With connect_retry, requests that wait are answered when the cable is mended."""
    server = serve()
    cable.cut(how)
    retry = Retry(math.inf, interval=0.05, max_interval=0.2)
    async with server.pool(connect_timeout=0.2, connect_retry=retry, max_size=3) as pool:
        with fail_after(30):
            async with create_task_group() as tasks:
                for number in range(6):
                    tasks.start_soon(ask_next, pool, b"%d" % number)
                await eventually(lambda: pool.statistics().open_failed >= 3)
                assert pool.statistics().tasks_waiting == 6
                cable.mend()
        assert pool.statistics().acquired == 6


async def test_a_connect_rides_out_a_short_cut(cable: Cable, serve: Serve) -> None:
    """The kernel asks again after a second, so that one attempt is enough."""
    server = serve()
    cable.cut()
    async with server.pool() as pool:
        with fail_after(30):
            async with create_task_group() as tasks:
                tasks.start_soon(ask_next, pool)
                await eventually(lambda: pool.statistics().connecting)
                await sleep(0.2)
                cable.mend()
        assert pool.statistics().open_failed == 0
