"""TLS through the proxy: faults within records, and within handshakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from anyio import create_task_group

from anyconnpool import Retry
from anyconnpool.testing import Faults, Flow
from tests.sockets.servers import Server

from .afflictions import (
    DELAYS,
    ENDS,
    IMMEDIATE_ENDS,
    KEY,
    SHORT,
    SILENCES,
    WAYS,
    afflicted,
    be_cut_off,
    each,
    pairs,
    used_or_fresh,
)
from .exchanges import HANG_UPS, Exchange, ask_line, by_hand

TLS = ("tls12", "tls13")
EXCHANGES: tuple[Exchange, ...] = (ask_line, by_hand)

#: in the middle of the server's part of the handshake, and of the client's
HANDSHAKE_ENDS = {
    "hello cut": Faults(replies=Flow(cut_after=50)),
    "hello reset": Faults(replies=Flow(reset_after=50)),
    "client's hello cut": Faults(requests=Flow(cut_after=50)),
    **IMMEDIATE_ENDS,
}


@pytest.fixture(params=TLS)
def server(request: pytest.FixtureRequest, serve: Callable[..., Server]) -> Server:
    """Return an echo server on TLS."""
    return serve(request.param)


@pairs(EXCHANGES, DELAYS)
async def test_a_slow_line_does_no_harm(server: Server, exchange: Exchange, faults: Faults) -> None:
    """A record that comes in pieces is whole in the end, on the first connection."""
    async with afflicted(server, faults, used=True) as pool:
        for timeout, retry in WAYS:
            assert await exchange(pool, KEY, timeout=timeout, retry=retry) == KEY
        assert pool.statistics().opened == 1


@each({name: DELAYS[name] for name in ("late", "one byte at a time")})
async def test_a_slow_handshake_is_waited_for(server: Server, faults: Faults) -> None:
    """It may come in pieces too."""
    async with afflicted(server, faults, used=False) as pool:
        assert await ask_line(pool, KEY, timeout=None, retry=None) == KEY
        assert pool.statistics().opened == 1


@pairs(EXCHANGES, {**ENDS, **HANDSHAKE_ENDS})
async def test_an_end_within_a_record_or_a_handshake_is_an_error_unless_it_may_be_repeated(
    server: Server, exchange: Exchange, faults: Faults
) -> None:
    """A record that is not whole is no reply."""
    used = faults in ENDS.values()
    for timeout, retry in WAYS:
        async with afflicted(server, faults, used=used) as pool:
            try:
                reply = await exchange(pool, KEY, timeout=timeout, retry=retry)
            except HANG_UPS:
                assert retry is None or exchange is by_hand
            else:
                assert reply == KEY
                assert retry is not None
                assert exchange is not by_hand


@used_or_fresh
@pairs(EXCHANGES, SILENCES)
async def test_silence_lasts_until_the_time_limit_or_the_caller_ends_it(
    server: Server, exchange: Exchange, faults: Faults, used: bool
) -> None:
    """A handshake that was given up goes on when the line does, and serves the next exchange."""

    async def try_one(timeout: float | None, retry: Retry | None) -> None:
        async with afflicted(server, faults, used=used) as pool:
            await be_cut_off(exchange(pool, KEY, timeout=timeout, retry=retry), timeout)
            if not used:
                assert pool.statistics().connecting == 1

    async with create_task_group() as tasks:
        for timeout in (None, SHORT):
            tasks.start_soon(try_one, timeout, Retry(2, interval=0))
