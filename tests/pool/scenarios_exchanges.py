"""Exchanges, repeats and hooks, each to be struck by a cancellation at every step."""

from __future__ import annotations

import math

import anyio
from anyio.lowlevel import checkpoint

from anyconnpool import PooledConnection, Retry

from .network import delayed, failing, fill, peer_of
from .scenarios import (
    acquire_and_exchange,
    another,
    exchange,
    got,
    held_and_wanted,
    one_idle,
    slow_remote,
)
from .sweep import Scenario, Stage

RETRY = Retry(3, interval=0.05, jitter=0)
OUTAGE = Retry(math.inf, interval=0.1, backoff=1, jitter=0)


async def send_and_receive(stage: Stage) -> None:
    """Do one exchange of the pool."""
    assert await stage.pool.send_receive_line(b"ping", timeout=5) == b"ping"


async def repeat(stage: Stage) -> None:
    """Do an exchange that meets dead connections, then a failure, and waits before the next try."""
    network = stage.network

    def answer(data: bytes) -> bytes:
        for peer in network.peers[:3]:
            peer.hang_up()
        return data if network.opened > 3 else b""

    network.answer = answer
    try:
        assert await stage.pool.send_receive_line(b"ping", timeout=5, retry=RETRY) == b"ping"
    finally:
        network.answer = bytes


async def two_idle(stage: Stage) -> None:
    """Have two connections idle."""
    await fill(stage.pool, 2)


def silence(data: bytes) -> bytes:
    """Answer nothing."""
    return b""


async def run_out_of_time(stage: Stage) -> None:
    """Do an exchange with a server that doesn't answer."""
    stage.network.answer = silence
    try:
        # Not after a tenth of a second, when the pool's own alarm rings: on Python 3.10 AnyIO can't
        # distinguish a native cancellation from the end of a time limit in the same turn.
        await stage.pool.send_receive(b"ping", 4, timeout=0.15)
    finally:
        stage.network.answer = bytes


async def come_along(stage: Stage, count: int) -> None:
    """Have other tasks that borrow a moment after the victim."""

    async def come_later() -> None:
        await checkpoint()
        await another(stage)

    for _ in range(count):
        stage.tasks.start_soon(come_later)


async def outage(stage: Stage) -> None:
    """Have the first connects fail, with two more who wait."""
    refused = ConnectionRefusedError("down")
    stage.network.on_connect = failing(refused, only=lambda number: number < 6)
    await come_along(stage, 2)


async def two_of_three_down(stage: Stage) -> None:
    """Have most connects fail, slowly."""
    refused = ConnectionRefusedError("down")

    async def connect(number: int) -> None:
        await anyio.sleep(0.02)
        if number % 3:
            raise refused

    stage.network.on_connect = connect
    await come_along(stage, 3)


async def log_in(connection: PooledConnection) -> None:
    """Be a hook that makes an exchange."""
    await anyio.sleep(0.05)
    await exchange(connection)


async def fail(connection: PooledConnection) -> None:
    """Be a hook that makes an exchange and fails, while the remote is a slow one."""
    await exchange(connection)
    if peer_of(connection).network.on_connect is not None:
        raise ValueError("no")


async def one_idle_and_two_wanted(stage: Stage) -> None:
    """Have one connection idle, and others who want it too."""
    await one_idle(stage)
    await slow_remote(stage)
    await come_along(stage, 2)


async def enter_and_fail(stage: Stage) -> None:
    """Run a pool whose login fails."""
    await slow_remote(stage)
    async with stage.pool:
        await acquire_and_exchange(stage)


async def leave_an_outage(stage: Stage) -> None:
    """Leave a pool while it backs off, with one task that waits."""
    stage.network.on_connect = failing(ConnectionRefusedError("down"))
    async with stage.pool:
        stage.tasks.start_soon(another, stage)
        await anyio.sleep(0.25)


async def leave_hooks(stage: Stage) -> None:
    """Leave a pool while connections are logged in, and one is checked."""
    async with stage.pool as pool:
        await fill(pool, 1)
        stage.tasks.start_soon(another, stage)
        stage.tasks.start_soon(another, stage)
        stage.network.on_close = delayed(0.1)
        await anyio.sleep(0.02)


def told_or_served(results: list[object]) -> bool:
    """Check that each of the other tasks was served, or told that the pool has ended."""
    return set(results) <= {"served", "PoolClosed", "ClosedResourceError"}


EXCHANGE_SCENARIOS = {
    "exchange": Scenario(
        send_and_receive, {"max_size": 1}, held_and_wanted, got("served", "served")
    ),
    "exchange with retry": Scenario(repeat, {"max_size": 2}, two_idle),
    "exchange timing out": Scenario(run_out_of_time, {"max_size": 1}, ends_with=TimeoutError),
    "outage": Scenario(
        acquire_and_exchange,
        {"max_size": 2, "connect_retry": OUTAGE},
        outage,
        got("served", "served"),
    ),
    "outage, one slot": Scenario(
        acquire_and_exchange,
        {"max_size": 1, "connect_retry": OUTAGE},
        outage,
        got("served", "served"),
    ),
    "unsteady remote": Scenario(
        acquire_and_exchange,
        {"max_size": 4, "connect_retry": OUTAGE, "min_idle": 1},
        two_of_three_down,
        got("served", "served", "served"),
    ),
    "login": Scenario(
        acquire_and_exchange,
        {"max_size": 1, "on_connect": log_in},
        held_and_wanted,
        got("served", "served"),
    ),
    "check": Scenario(
        acquire_and_exchange,
        {"max_size": 1, "check": log_in, "check_after": 0},
        one_idle_and_two_wanted,
        got("served", "served"),
    ),
    "check failing": Scenario(
        acquire_and_exchange,
        {"max_size": 2, "check": fail, "check_after": 0},
        one_idle_and_two_wanted,
        got("served", "served"),
    ),
    "login failing": Scenario(
        enter_and_fail, {"on_connect": fail}, own_block=True, ends_with=ValueError
    ),
    "leave an outage": Scenario(
        leave_an_outage,
        {"max_size": 3, "min_idle": 2, "connect_retry": OUTAGE},
        others=told_or_served,
        own_block=True,
    ),
    "leave hooks": Scenario(
        leave_hooks,
        {"max_size": 3, "on_connect": log_in, "check": log_in, "check_after": 0},
        others=told_or_served,
        own_block=True,
    ),
}
