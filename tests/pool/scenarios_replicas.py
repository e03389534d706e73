"""Several servers behind one pool, which fail and return while a cancellation strikes."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import anyio
from anyio.abc import ByteStreamConnectable

from anyconnpool import FramedStream, Replicas, Retry

from .network import MemoryNetwork, MemoryStream, delayed, failing, fill
from .scenarios import acquire_and_exchange, another, exchange, held, only_served
from .sweep import Scenario, Stage

REFUSED = ConnectionRefusedError("no")
REST = Retry(0, interval=0.02, max_interval=0.05, jitter=0)


class Door(ByteStreamConnectable):
    """One of several servers on one network, which keeps the books of all of them."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network

    async def connect(self) -> MemoryStream:
        return await self.network.connect()


def three(network: MemoryNetwork) -> Replicas:
    """Make three servers."""
    return Replicas([Door(network) for _ in range(3)], rest=REST)


def in_order(network: MemoryNetwork) -> Replicas:
    """Make a primary and a stand-by."""
    return Replicas([Door(network) for _ in range(2)], order="in_order", rest=REST)


def found(network: MemoryNetwork) -> Replicas:
    """Find two servers, after a while, again and again."""
    doors: list[Any] = [Door(network) for _ in range(3)]

    async def find() -> list[Any]:
        await anyio.sleep(0.01)
        doors.append(doors.pop(0))
        return doors[:2]

    return Replicas(find, rest=REST, refresh=0.02)


async def two_attempts_fail(stage: Stage) -> None:
    """Have the first two attempts fail, and another task wait beside the victim."""
    stage.network.on_connect = failing(REFUSED, only=lambda number: number <= 2)
    stage.tasks.start_soon(another, stage)


async def all_fail_at_first(stage: Stage) -> None:
    """Have all attempts fail for a while, which two other tasks are told, or wait for."""

    async def refuse(number: int) -> None:
        await anyio.sleep(0.001)
        if number <= 6:
            raise REFUSED

    stage.network.on_connect = refuse
    for _ in range(2):
        stage.tasks.start_soon(another, stage)


async def ask_until_served(stage: Stage) -> None:
    """Do an exchange; ask again if all fail."""
    while True:
        try:
            return await acquire_and_exchange(stage)
        except anyio.ConnectionFailed:
            await anyio.sleep(0.01)


async def one_comes_back(stage: Stage) -> None:
    """Have one that failed come back in a pool that is full, and wanted by two."""
    stage.network.on_connect = failing(REFUSED, only=lambda number: number in (1, 5))
    await fill(stage.pool, 2)
    await held(stage)
    stage.tasks.start_soon(another, stage, 0.02)


async def exchange_for_a_while(stage: Stage) -> None:
    """Do some exchanges, while rests end and shares are given."""
    for _ in range(4):
        await acquire_and_exchange(stage)
        await anyio.sleep(0.03)


async def repeat_elsewhere(stage: Stage) -> None:
    """Do an exchange whose first connection ends in the middle."""
    broken = False

    def hang_up_once(data: bytes) -> bytes:
        nonlocal broken
        if broken:
            return data
        broken = True
        for peer in stage.network.peers[:1]:
            peer.hang_up()
        return b""

    stage.network.answer = hang_up_once
    retry = Retry(2, interval=0.01)
    try:
        assert await stage.pool.send_receive_line(b"ping", retry=retry) == b"ping"
    finally:
        stage.network.answer = bytes


async def swap(stage: Stage) -> None:
    """Replace the servers while connections to the former ones are borrowed."""
    replicas = attrgetter("_target")(stage.pool)
    async with stage.pool.acquire() as connection:
        replicas.set([Door(stage.network), Door(stage.network)])
        await exchange(connection)
    await acquire_and_exchange(stage)


async def one_hangs_in_the_only_slot(stage: Stage) -> None:
    """Have an attempt at the first one hang that holds the only slot, until it is given up."""

    async def connect(number: int) -> None:
        if number == 1:
            raise REFUSED
        if number == 3:
            await anyio.sleep_forever()

    stage.network.on_connect = connect
    await fill(stage.pool, 1)
    await anyio.sleep(0.05)
    stage.tasks.start_soon(another, stage)


async def log_in(connection: FramedStream) -> None:
    """Be an on_connect hook or a check that takes two steps."""
    await connection.send_line(b"hello")
    assert await connection.receive_line() == b"hello"


async def enter_and_leave(stage: Stage) -> None:
    """Run a pool to its end while an attempt of its own is under way."""
    stage.network.on_connect = failing(REFUSED, only=lambda number: number == 1)
    async with stage.pool:
        await acquire_and_exchange(stage)
        stage.network.on_connect = delayed(10)
        await anyio.sleep(0.05)


def served_or_failed(results: list[object]) -> bool:
    """Check that each of the other tasks was served, or given the error of all replicas."""
    return set(results) <= {"served", "ConnectionFailed"}


REPLICA_SCENARIOS = {
    "replicas-fail-over": Scenario(
        acquire_and_exchange, prepare=two_attempts_fail, others=only_served, remote=three
    ),
    "replicas-all-rest": Scenario(
        ask_until_served, prepare=all_fail_at_first, others=served_or_failed, remote=three
    ),
    "replicas-come-back": Scenario(
        exchange_for_a_while,
        {"max_size": 2},
        prepare=one_comes_back,
        others=only_served,
        remote=three,
    ),
    "replicas-checked": Scenario(
        exchange_for_a_while,
        {"max_size": 2, "on_connect": log_in, "check": log_in},
        prepare=one_comes_back,
        others=only_served,
        remote=three,
    ),
    "replicas-give-up": Scenario(
        exchange_for_a_while,
        {"max_size": 1},
        prepare=one_hangs_in_the_only_slot,
        others=only_served,
        remote=in_order,
    ),
    "replicas-in-order": Scenario(
        exchange_for_a_while, prepare=two_attempts_fail, others=served_or_failed, remote=in_order
    ),
    "replicas-repeat": Scenario(repeat_elsewhere, remote=three),
    "replicas-shared": Scenario(repeat_elsewhere, {"max_size": 2, "pipeline": 3}, remote=three),
    "replicas-discovery": Scenario(exchange_for_a_while, {"max_size": 2}, remote=found),
    "replicas-set": Scenario(swap, remote=three),
    "replicas-leave": Scenario(enter_and_leave, own_block=True, remote=three),
}
