"""Exchanges that share connections, to be struck by a cancellation at every step."""

from __future__ import annotations

import anyio

from anyconnpool import FramedStream, Retry

from .scenarios import another, slow_remote
from .scenarios_exchanges import silence
from .sweep import Scenario, Stage

SHARED = {"max_size": 1, "pipeline": 3}


async def share(stage: Stage) -> None:
    """Do one exchange on a shared connection."""
    assert await stage.pool.send_receive_line(b"ping") == b"ping"


async def slow_read(connection: FramedStream) -> bytes:
    """Read a reply in two steps, with a pause between them."""
    start = await connection.receive_exactly(2)
    await anyio.sleep(0.01)
    return start + await connection.receive_until(b"\n", 9)


async def share_with_read(stage: Stage) -> None:
    """Do one exchange with a function that reads the reply."""
    assert await stage.pool.exchange(b"ping\n", slow_read, timeout=5) == b"ping"


async def share_out_of_time(stage: Stage) -> None:
    """Do an exchange whose reply doesn't come in time."""
    stage.network.answer = silence
    try:
        await stage.pool.send_receive_line(b"ping", timeout=0.15)
    finally:
        stage.network.answer = bytes
        for peer in stage.network.peers:
            peer.push(bytes(peer.received))
            peer.received.clear()


async def sharers(stage: Stage, count: int = 4) -> None:
    """Have other tasks share connections, too; more than there are places."""

    async def one(number: int) -> None:
        stage.others += 1
        line = b"other %d" % number
        outcome = "failed"
        try:
            with anyio.fail_after(9):
                reply = await stage.pool.exchange(
                    line + b"\n", FramedStream.receive_line, retry=Retry(3, interval=0.01)
                )
            outcome = "served" if reply == line else "wrong reply"
        except anyio.ClosedResourceError:
            outcome = "PoolClosed"
        finally:
            stage.got.append(outcome)

    for number in range(count):
        stage.tasks.start_soon(one, number)


async def sharers_and_borrower(stage: Stage) -> None:
    """Have tasks that share connections, and one that borrows."""
    await sharers(stage, 3)
    stage.tasks.start_soon(another, stage)


async def sharers_on_a_slow_remote(stage: Stage) -> None:
    """Have tasks that share, and connects that take time."""
    await slow_remote(stage)
    await sharers(stage)


async def share_where_connections_break(stage: Stage) -> None:
    """Do exchanges on connections of which the first two end after the first reply."""
    network = stage.network

    def answer(data: bytes) -> bytes:
        for peer in network.peers[:2]:
            peer.hang_up()
        return data if network.opened > 2 else data[:6]

    network.answer = answer
    try:
        retry = Retry(5, interval=0.01, jitter=0)
        assert await stage.pool.send_receive_line(b"ping", timeout=5, retry=retry) == b"ping"
    finally:
        network.answer = bytes


async def leave_while_shared(stage: Stage) -> None:
    """Leave a pool with exchanges in flight, and some that wait for a place."""
    stage.network.answer = silence
    async with stage.pool:
        await sharers(stage, 5)
        await anyio.sleep(0.1)
    stage.network.answer = bytes


def served(results: list[object]) -> bool:
    """Check that everybody has got his own reply."""
    return set(results) <= {"served"}


def served_or_told(results: list[object]) -> bool:
    """Check that everybody was served, or told that the pool has ended."""
    return set(results) <= {"served", "PoolClosed", "failed"}


PIPELINE_SCENARIOS = {
    "a shared exchange": Scenario(share, SHARED, sharers, served),
    "a shared exchange with a slow read": Scenario(share_with_read, SHARED, sharers, served),
    "sharing beside a borrower": Scenario(share, SHARED, sharers_and_borrower, served),
    "sharing where connecting takes time": Scenario(
        share, {"max_size": 2, "pipeline": 2}, sharers_on_a_slow_remote, served
    ),
    "a shared exchange out of time": Scenario(share_out_of_time, SHARED, ends_with=TimeoutError),
    "sharing connections that break": Scenario(share_where_connections_break, SHARED),
    "the end with exchanges in flight": Scenario(
        leave_while_shared, SHARED, others=served_or_told, own_block=True
    ),
}
