"""Exchanges in flight on shared connections, on real sockets of every kind."""

from __future__ import annotations

from typing import Any

import pytest
from anyio import create_task_group

from anyconnpool import ConnectionPool, ExchangeError

from .conftest import Serve
from .servers import Peer, every_kind

pytestmark = pytest.mark.usefixtures("no_socket_left")


async def ask(pool: ConnectionPool[Any], line: bytes) -> None:
    assert await pool.send_receive_line(line) == b"> " + line


@every_kind
async def test_a_crowd_shares_one_connection(serve: Serve) -> None:
    """Everybody gets his own reply, by one connection."""
    async with serve().pool(max_size=1, pipeline=64) as pool:
        async with create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(ask, pool, b"line %d" % number)
        assert pool.statistics().opened == 1
        assert pool.statistics().in_flight == 0


@every_kind
async def test_a_server_that_wants_its_replies_read_first_causes_no_deadlock(serve: Serve) -> None:
    """It reads no request while a reply is not taken; both are more than the sockets hold."""
    async with serve().pool(max_size=1, pipeline=64, max_line_bytes=1_000_000) as pool:
        async with create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(ask, pool, b"%d" % number + bytes(400_000).replace(b"\0", b"x"))
        assert pool.statistics().opened == 1


@every_kind
async def test_whoever_is_in_flight_when_the_server_dies_gets_an_error(serve: Serve) -> None:
    """All of them do; the next exchange gets a new connection."""

    def hold_back(peer: Peer) -> None:
        if peer.receive_line() != b"after":
            for _ in range(9):
                peer.receive_line()
            return
        peer.send(b"> after\n")
        peer.receive_line()

    errors: list[Exception] = []

    async def ask_in_vain(pool: ConnectionPool[Any], line: bytes) -> None:
        try:
            await ask(pool, line)
        except ExchangeError as error:
            errors.append(error)

    async with serve(hold_back).pool(max_size=1, pipeline=64) as pool:
        async with create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(ask_in_vain, pool, b"%d" % number)
        assert len({id(error) for error in errors}) == 10
        await ask(pool, b"after")
        assert pool.statistics().opened == 2
