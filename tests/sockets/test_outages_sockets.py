"""Outages and retirement on real sockets: what a refusal costs, and the addresses to choose by."""

from __future__ import annotations

import math
import time

import anyio
import pytest

from anyconnpool import ConnectionInfo, Retry

from .checks import eventually
from .conftest import Serve


async def test_a_refusal_takes_well_under_a_millisecond_and_the_server_is_found_again(
    serve: Serve,
) -> None:
    """The pool notices by itself that somebody listens again."""
    server = serve()
    own = Retry(0, interval=0.05, backoff=1)
    async with server.pool(fail_fast_after=0, connect_retry=own) as pool:
        server.stop()
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()
        shortest = math.inf
        for _ in range(200):
            began = time.perf_counter()
            with pytest.raises(anyio.ConnectionFailed, match="refuses at once"):
                await pool.acquire()
            shortest = min(shortest, time.perf_counter() - began)
        assert shortest < 0.0005
        server.start()
        await eventually(lambda: pool.statistics().idle == 1)
        assert pool.statistics().failing_for is None
        assert await pool.send_receive_line(b"hello", timeout=20)
        assert pool.statistics().opened == 1


async def test_connections_are_chosen_by_their_addresses(serve: Serve) -> None:
    """Those of this end distinguish them where the server is the same."""
    server = serve()
    async with server.pool() as pool:
        async with pool.acquire() as one, pool.acquire() as other:
            local, remote = one.local_address, other.remote_address
        seen: list[ConnectionInfo] = []

        def choose(info: ConnectionInfo) -> bool:
            seen.append(info)
            return bool(info.local_address == local)

        pool.retire(where=choose)
        assert {info.remote_address for info in seen} == {remote}
        await eventually(lambda: pool.statistics().size == 1)
        async with pool.acquire() as left:
            assert left.local_address != local
