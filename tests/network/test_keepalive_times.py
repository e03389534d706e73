"""When a cut is noticed: what docs/keepalive.rst says, to the second."""

from __future__ import annotations

import math

import pytest
from anyio import BrokenResourceError, Event, create_task_group, current_time, fail_after

from anyconnpool import ConnectionPool, KeepAlive
from tests.pool.network import fill
from tests.sockets.checks import ask, ask_next, eventually, expect_closed

from .cable import Cable, counters
from .conftest import Serve

# What a busy machine may add, in seconds.
_SLACK = 5
# How exact the kernel's clock is, in seconds.
_TICK = 0.05
# Looks every 2 ms, for 20 s.
_TRIES = 10_000

_QUICK = KeepAlive(idle=1, interval=1, count=2, user_timeout=math.inf)


async def notice(pool: ConnectionPool, ready: Event, cut: Event, *, sends: bool) -> float:
    """Return how long a borrower without a timeout waits for a reply across a cut, in seconds.

    :param ready: set when the connection is in use
    :param cut: set when the cable is cut
    :param sends: whether a request is sent after the cut; the time is counted from there, and else
        from the last sign of life
    """
    async with pool, pool.acquire() as connection:
        began = current_time()
        await ask(connection)
        ready.set()
        await cut.wait()
        if sends:
            began = current_time()
            await connection.send_line(b"is anybody there?")
        with pytest.raises(BrokenResourceError) as caught:
            await connection.receive_line()
        assert isinstance(caught.value.__cause__, OSError)
        return current_time() - began


async def test_a_cut_is_noticed_when_the_docs_say(cable: Cable, serve: Serve, how: str) -> None:
    """A borrower who waits gets a BrokenResourceError, however the cable was cut.

    Where nothing is being sent, after idle + interval * count; a user timeout takes the place of
    count. Where something was sent, after the user timeout.
    """
    server = serve()
    cut = Event()
    wrong: list[tuple[KeepAlive, float]] = []

    async def check(keepalive: KeepAlive, promised: float, sends: bool, ready: Event) -> None:
        waited = await notice(server.pool(keepalive=keepalive), ready, cut, sends=sends)
        if not promised - _TICK <= waited <= promised + _SLACK:
            wrong.append((keepalive, waited))

    with fail_after(60):
        async with create_task_group() as tasks:
            for count, user_timeout, promised, sends in (
                (2, math.inf, 3, False),
                # As with the defaults, where it is what the other three come to.
                (2, 3, 3, False),
                (1, 3, 3, False),
                (5, 1, 2, False),
                (2, 1, 1, True),
            ):
                keepalive = KeepAlive(idle=1, interval=1, count=count, user_timeout=user_timeout)
                ready = Event()
                tasks.start_soon(check, keepalive, promised, sends, ready)
                await ready.wait()
            cable.cut(how)
            cut.set()
    assert not wrong


async def test_idle_connections_are_given_up_and_replaced(cable: Cable, serve: Serve) -> None:
    """None of them is ever lent again; with the cable mended, a request needs no restart."""
    server = serve()
    before = counters()["TcpExt.TCPAbortOnTimeout"]
    async with server.pool(keepalive=_QUICK) as busy, server.pool(keepalive=_QUICK) as idle:
        began = current_time()
        await fill(busy, 1)
        await fill(idle, 3)
        cable.cut()
        await eventually(lambda: counters()["TcpExt.TCPAbortOnTimeout"] - before == 4, tries=_TRIES)
        assert 3 - _TICK <= current_time() - began <= 3 + _SLACK
        cable.mend()
        # At once, and without anybody asking by the next sweep, after 5 s at the latest.
        assert not await ask_next(busy)
        await eventually(lambda: not idle.statistics().size, tries=_TRIES)
        assert idle.statistics().closed == {"peer_closed": 3}
        assert not await ask_next(idle)


async def test_keepalive_costs_one_empty_segment_each_way(serve: Serve) -> None:
    """A connection at rest sends and receives one for every idle seconds, and lives on."""
    server = serve()
    async with server.pool(keepalive=_QUICK) as pool:
        began = current_time()
        await fill(pool, 2)
        before = counters()

        def grown(name: str) -> int:
            return counters()[name] - before[name]

        def probes() -> int:
            return grown("TcpExt.TCPKeepAlive")

        await eventually(lambda: probes() >= 2, tries=_TRIES)
        assert 1 - _TICK <= current_time() - began <= 1 + _SLACK
        await eventually(lambda: grown("Tcp.InSegs") == grown("Tcp.OutSegs") == probes())
        assert await ask_next(pool)
        assert pool.statistics().opened == 2


async def test_a_server_that_does_not_read_is_given_up(serve: Serve) -> None:
    """The user timeout also ends a send to a peer that is alive and acknowledges no more."""
    server = serve(script=None)
    async with server.pool(keepalive=KeepAlive(user_timeout=1)) as pool:
        began = current_time()
        with fail_after(30), pytest.raises(BrokenResourceError):
            async with pool.acquire() as connection:
                while True:
                    await connection.send(bytes(1_000_000))
        assert 1 - _TICK <= current_time() - began <= 1 + _SLACK
        await expect_closed(pool, unclean=1)
