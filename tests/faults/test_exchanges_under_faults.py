"""Every exchange under each fault: it ends, with its own reply or an honest error.

The fault meets the first connection only, fresh or used. So it is lifted for a repeat, if the
exchange is allowed one, and for the next exchange, which must get its own reply.
"""

from __future__ import annotations

from collections.abc import Callable

from anyio import create_task_group

from anyconnpool import ConnectionPool, Retry
from anyconnpool.testing import FaultProxy, Faults
from tests.cases import table
from tests.sockets.servers import Server

from .afflictions import (
    DELAYS,
    ENDS,
    IMMEDIATE_ENDS,
    KEY,
    RETRY,
    SHORT,
    SILENCES,
    WAYS,
    afflicted,
    be_cut_off,
    each,
    of,
    pairs,
    used_or_fresh,
)
from .exchanges import ASKING, FRAMED, HANG_UPS, Exchange, ask_until_silence, by_hand


@used_or_fresh
@pairs(FRAMED, DELAYS)
async def test_a_slow_line_delays_a_reply_and_does_no_harm(
    server: Server, exchange: Exchange, faults: Faults, used: bool
) -> None:
    """However late, and in however many pieces: the reply is whole, on the first connection."""
    async with afflicted(server, faults, used=used) as pool:
        for timeout, retry in WAYS:
            assert await exchange(pool, KEY, timeout=timeout, retry=retry) == KEY
        assert pool.statistics().opened == 1


@used_or_fresh
async def test_a_late_reply_that_comes_at_once_is_whole_without_a_frame(
    server: Server, used: bool
) -> None:
    """Where silence ends a reply, what comes before it is none."""
    async with afflicted(server, DELAYS["late"], used=used) as pool:
        for timeout, retry in WAYS:
            assert await ask_until_silence(pool, KEY, timeout=timeout, retry=retry) == KEY


@used_or_fresh
@pairs(ASKING, ENDS)
async def test_an_end_in_mid_frame_is_an_error_unless_it_may_be_repeated(
    server: Server, exchange: Exchange, faults: Faults, used: bool
) -> None:
    """Never half a reply as if it were whole, but where silence or the end is what ends a reply."""
    framed = exchange in FRAMED
    for timeout, retry in WAYS:
        async with afflicted(server, faults, used=used) as pool:
            try:
                reply = await exchange(pool, KEY, timeout=timeout, retry=retry)
            except HANG_UPS:
                assert retry is None or exchange is by_hand
            else:
                assert reply == KEY if framed else reply and KEY.startswith(reply)
                assert not framed or (retry is not None and exchange is not by_hand)


@pairs(ASKING, IMMEDIATE_ENDS)
async def test_a_connection_that_ends_as_it_begins_is_an_error_unless_it_may_be_repeated(
    server: Server, exchange: Exchange, faults: Faults
) -> None:
    """Whether the end is seen while connecting, sending or receiving."""
    for timeout, retry in WAYS:
        async with afflicted(server, faults, used=False) as pool:
            try:
                assert await exchange(pool, KEY, timeout=timeout, retry=retry) == KEY
            except HANG_UPS:
                assert retry is None or exchange is by_hand


@table("end", [FaultProxy.cut, FaultProxy.reset])
@of(ASKING)
async def test_an_end_while_idle_costs_nothing_but_the_reconnect(
    server: Server, exchange: Exchange, end: Callable[[FaultProxy], None]
) -> None:
    """No exchange sees that its connection's predecessor ended, in whatever form it is made."""
    async with FaultProxy(server.remote) as proxy, ConnectionPool(proxy.remote) as pool:
        for timeout, retry in WAYS:
            assert await exchange(pool, KEY, timeout=timeout, retry=retry) == KEY
            end(proxy)
        assert await exchange(pool, KEY, timeout=None, retry=None) == KEY
        assert pool.statistics().opened == len(WAYS) + 1
        assert pool.statistics().replayed == 0


@used_or_fresh
@pairs(FRAMED, SILENCES)
async def test_silence_lasts_until_the_time_limit_or_the_caller_ends_it(
    server: Server, exchange: Exchange, faults: Faults, used: bool
) -> None:
    """It is never repeated, with leave or without: the request may have arrived."""

    async def try_one(timeout: float | None, retry: Retry | None) -> None:
        async with afflicted(server, faults, used=used) as pool:
            await be_cut_off(exchange(pool, KEY, timeout=timeout, retry=retry), timeout)
            assert pool.statistics().replayed == 0

    async with create_task_group() as tasks:
        for timeout in (None, SHORT):
            for retry in (None, RETRY):
                tasks.start_soon(try_one, timeout, retry)


@used_or_fresh
@each({name: SILENCES[name] for name in ("request unread", "no reply", "black hole")})
async def test_silence_before_a_reply_is_none(server: Server, faults: Faults, used: bool) -> None:
    """Also where silence ends a reply: only what follows the first byte counts."""
    for timeout in (None, SHORT):
        async with afflicted(server, faults, used=used) as pool:
            exchange = ask_until_silence(pool, KEY, timeout=timeout, retry=RETRY)
            await be_cut_off(exchange, timeout)
