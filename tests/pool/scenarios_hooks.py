"""Hooks at work on open connections, each to be struck by a cancellation at every step."""

from __future__ import annotations

import anyio

from anyconnpool import PooledConnection

from .network import MemoryNetwork, delayed, fill
from .scenarios import acquire_and_exchange, another, exchange, got, held_and_wanted, only_served
from .scenarios_exchanges import come_along, fail, one_idle_and_two_wanted, told_or_served
from .sweep import Scenario, Stage


async def ask(connection: PooledConnection) -> None:
    """Make an exchange, after a while."""
    await anyio.sleep(0.05)
    await exchange(connection)


async def read_notice(connection: PooledConnection) -> None:
    """Read what has arrived, after a while, and answer."""
    await anyio.sleep(0.05)
    assert await connection.receive() == b"notice"
    await connection.send(b"read")


def notify(network: MemoryNetwork) -> None:
    """Have the server say something on every connection that is open."""

    def answer(data: bytes) -> bytes:
        return b"" if data == b"read" else data

    network.answer = answer
    for peer in network.peers:
        peer.push(b"notice")


async def noticed(stage: Stage) -> None:
    """Have two idle connections on which something has arrived, and others who want them."""
    await fill(stage.pool, 2)
    notify(stage.network)
    await come_along(stage, 2)


async def exchange_twice(stage: Stage) -> None:
    """Do one exchange after the other."""
    assert await stage.pool.send_receive_line(b"ping") == b"ping"
    await acquire_and_exchange(stage)


async def part_from_two(stage: Stage) -> None:
    """Retire two idle connections, and wait for the room of one."""
    stage.pool.retire()
    await anyio.sleep(0.02)
    await acquire_and_exchange(stage)


async def two_idle(stage: Stage) -> None:
    """Have two connections idle, which close slowly."""
    await fill(stage.pool, 2)
    stage.network.on_close = delayed(0.1)


async def wait_for_rounds(stage: Stage) -> None:
    """Come while idle connections are checked in the background."""
    await anyio.sleep(10.01)
    await acquire_and_exchange(stage)


async def leave_hooks(stage: Stage) -> None:
    """Leave a pool while hooks are at work: on what came back, is noticed, is retired."""
    async with stage.pool as pool:
        await fill(pool, 4)
        await anyio.sleep(0.1)
        pool.acquire_nowait().discard()
        async with pool.acquire(), pool.acquire():
            pool.retire()
        await fill(pool, 3)
        await anyio.sleep(0.1)
        connection = await pool.acquire()
        notify(stage.network)
        stage.tasks.start_soon(another, stage)
        await connection.aclose()
        stage.network.on_close = delayed(0.1)
        await anyio.sleep(0.01)


HOOK_SCENARIOS = {
    "reset": Scenario(
        exchange_twice,
        {"max_size": 1, "on_release": ask},
        held_and_wanted,
        got("served", "served"),
    ),
    "reset failing": Scenario(
        exchange_twice,
        {"max_size": 2, "on_release": fail},
        one_idle_and_two_wanted,
        got("served", "served"),
    ),
    "unread": Scenario(
        acquire_and_exchange,
        {"max_size": 2, "on_unread": read_notice, "on_release": ask},
        noticed,
        got("served", "served"),
    ),
    "farewell": Scenario(part_from_two, {"max_size": 2, "on_close": ask}, two_idle, only_served),
    "checked in the background": Scenario(
        wait_for_rounds,
        {"max_size": 2, "check": ask, "check_every": 10, "min_idle": 1},
        two_idle,
        only_served,
    ),
    "leave hooks at work": Scenario(
        leave_hooks,
        {
            "max_size": 4,
            "on_release": ask,
            "on_unread": read_notice,
            "on_close": ask,
        },
        others=told_or_served,
        own_block=True,
    ),
}
