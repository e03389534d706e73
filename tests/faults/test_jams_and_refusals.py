"""Exchanges with a peer that doesn't read, with nobody at all, and with no reply to wait for."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import pytest
from anyio import ConnectionFailed, create_task_group, fail_after, sleep

from anyconnpool import ConnectionPool, Retry
from anyconnpool.testing import FaultProxy, Faults, Flow
from tests.cases import table
from tests.sockets.checks import eventually
from tests.sockets.servers import Peer, Server

from .afflictions import (
    AMPLE,
    ENDS,
    IMMEDIATE_ENDS,
    KEY,
    RETRY,
    SHORT,
    SILENCES,
    WAYS,
    afflicted,
    be_cut_off,
    of,
    pairs,
    pool_through,
)
from .exchanges import ASKING, HANG_UPS, LARGE, TELLING, Exchange, ask_line, by_hand

PERSISTENT = Retry(math.inf, interval=0.01, max_interval=0.01)


@table("timeout", [None, SHORT])
@of((*ASKING, *TELLING))
async def test_a_jammed_request_can_be_given_up(
    server: Server, exchange: Exchange, timeout: float | None
) -> None:
    """By the time limit and by the caller; what is still unsent holds up nothing."""
    unread = Faults(requests=Flow(stall_after=0))
    async with afflicted(server, unread, used=True, one_way=exchange in TELLING) as pool:
        request = exchange(pool, b"x" * LARGE, timeout=timeout, retry=RETRY)
        await be_cut_off(request, timeout)


@of((*ASKING, *TELLING))
async def test_nobody_there_is_said_at_once(server: Server, exchange: Exchange) -> None:
    """A refused connection is an error unless it may be repeated, which the time limit ends."""
    async with FaultProxy(server.remote) as proxy:
        proxy.refuse()
        async with pool_through(proxy, server, one_way=exchange in TELLING) as pool:
            for timeout in (None, AMPLE):
                with pytest.raises(ConnectionFailed):
                    await exchange(pool, KEY, timeout=timeout, retry=None)
            if exchange is not by_hand:
                with pytest.raises(TimeoutError):
                    await exchange(pool, KEY, timeout=SHORT, retry=PERSISTENT)
            await eventually(lambda: pool.statistics().size == 0)
            proxy.admit()
            assert await exchange(pool, KEY, timeout=None, retry=None) == KEY


@of(tuple(each for each in (*ASKING, *TELLING) if each is not by_hand))
async def test_who_may_repeat_waits_until_somebody_is_there(
    server: Server, exchange: Exchange
) -> None:
    """A remote that comes back is found at the same address, without a new pool."""
    replies: list[bytes] = []

    async def ask(pool: ConnectionPool, timeout: float | None) -> None:
        replies.append(await exchange(pool, KEY, timeout=timeout, retry=PERSISTENT))

    async with (
        FaultProxy(server.remote) as proxy,
        pool_through(proxy, server, one_way=exchange in TELLING) as pool,
    ):
        assert await ask_line(pool, KEY, timeout=None, retry=None) == KEY
        proxy.refuse()
        proxy.reset()
        async with create_task_group() as tasks:
            tasks.start_soon(ask, pool, None)
            tasks.start_soon(ask, pool, AMPLE)
            await eventually(lambda: pool.statistics().open_failed)
            proxy.admit()
    assert replies == [KEY, KEY]


@pairs(TELLING, ENDS | IMMEDIATE_ENDS | SILENCES)
async def test_who_only_tells_is_never_held_up(
    serve: Callable[..., Server], exchange: Exchange, faults: Faults
) -> None:
    """A small request is sent or fails, at once; after the fault, what is told arrives."""
    heard = bytearray()

    def listen(peer: Peer) -> None:
        while data := peer.socket.recv(65_536):
            heard.extend(data)

    async with (
        FaultProxy(serve(script=listen).remote) as proxy,
        ConnectionPool(proxy.remote, one_way=True) as pool,
    ):
        for timeout, retry in WAYS:
            proxy.faults = faults
            with suppress(*HANG_UPS), fail_after(AMPLE):
                await exchange(pool, KEY, timeout=timeout, retry=retry)
        proxy.faults = Faults()
        with fail_after(AMPLE):
            while b"the next" not in heard:
                with suppress(*HANG_UPS):
                    await pool.send_line(b"the next")
                await sleep(0.002)
        assert pool.statistics().in_use == 0
