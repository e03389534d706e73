"""What happens in the life of a pool, each to be struck by a cancellation at every step."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.lowlevel import checkpoint

from anyconnpool import AcquireTimeout, PooledConnection

from .network import delayed, failing, fill, gated
from .sweep import Scenario, Stage


async def exchange(connection: PooledConnection) -> None:
    """Do one exchange with the echoing server."""
    await connection.send_line(b"ping")
    assert await connection.receive_line() == b"ping"


async def acquire(stage: Stage) -> None:
    """Borrow and give back."""
    async with stage.pool.acquire():
        await checkpoint()


async def acquire_and_exchange(stage: Stage) -> None:
    """Borrow for one exchange."""
    async with stage.pool.acquire() as connection:
        await exchange(connection)


async def await_and_close(stage: Stage) -> None:
    """Borrow without a block."""
    connection = await stage.pool.acquire()
    try:
        await exchange(connection)
    finally:
        await connection.aclose()


async def another(stage: Stage, hold: float = 0) -> None:
    """Be another task that borrows, and take down how that went."""
    stage.others += 1
    try:
        async with stage.pool.acquire() as connection:
            await exchange(connection)
            await anyio.sleep(hold)
    except Exception as error:
        stage.got.append(type(error).__name__)
    else:
        stage.got.append("served")


def got(*expected: object) -> Callable[[list[object]], bool]:
    """Make a check that the other tasks got just this, in whatever order."""
    return lambda results: sorted(map(str, results)) == sorted(map(str, expected))


def only_served(results: list[object]) -> bool:
    """Check that no other task was refused."""
    return set(results) <= {"served"}


def at_most(count: int) -> Callable[[list[object]], bool]:
    """Make a check that so many tasks at most were there, and that each was served or told why."""
    told = {"served", "PoolClosed", "ClosedResourceError", "BrokenResourceError"}
    return lambda results: len(results) <= count and set(results) <= told


async def slow_remote(stage: Stage) -> None:
    """Make every connect take a while."""
    stage.network.on_connect = delayed(0.1)


async def one_idle(stage: Stage) -> None:
    """Have one connection idle."""
    await fill(stage.pool, 1)


async def two_dead(stage: Stage) -> None:
    """Have two idle connections whose server hung up, and a slow close."""
    await fill(stage.pool, 2)
    for peer in stage.network.peers:
        peer.hang_up()
    stage.network.on_close = delayed(0.1)


async def held(stage: Stage) -> None:
    """Have another task hold a connection for a moment."""
    stage.tasks.start_soon(another, stage, 0.1)
    await anyio.sleep(0.001)


async def held_and_wanted(stage: Stage) -> None:
    """Have another task in the pool, and one more that comes after the victim."""
    await held(stage)

    async def come_later() -> None:
        await anyio.sleep(0.01)
        await another(stage)

    stage.tasks.start_soon(come_later)


async def half_of_connects_fail(stage: Stage) -> None:
    """Have the first connect fail, and another task wait beside the victim."""
    refused = ConnectionRefusedError("no")
    stage.network.on_connect = failing(refused, only=lambda number: number == 1)

    async def come_later() -> None:
        await checkpoint()
        await another(stage)

    stage.tasks.start_soon(come_later)


async def slow_first_connect(stage: Stage) -> None:
    """Have a connection come back before the victim's own connect is done."""
    await held(stage)
    gate = anyio.Event()
    stage.network.on_connect = gated(gate, gate)

    async def open_gate() -> None:
        await anyio.sleep(0.2)
        gate.set()

    stage.tasks.start_soon(open_gate)


async def body_raises(stage: Stage) -> None:
    """Leave the borrow by an error in mid-exchange."""
    async with stage.pool.acquire() as connection:
        await connection.send(b"ping")
        await connection.receive(2)
        raise RuntimeError("the body")


async def time_out(stage: Stage) -> None:
    """Wait in vain."""
    async with stage.pool.acquire(timeout=0.05):
        await checkpoint()


async def nested(stage: Stage) -> None:
    """Hold three connections."""
    async with stage.pool.acquire() as one, stage.pool.acquire() as two:
        await exchange(one)
        async with stage.pool.acquire() as three:
            await exchange(three)
        await exchange(two)


async def retire_meanwhile(stage: Stage) -> None:
    """Retire what is borrowed, idle and being opened."""
    async with stage.pool.acquire() as connection:
        stage.tasks.start_soon(another, stage)
        await checkpoint()
        stage.pool.retire()
        await exchange(connection)
    await acquire_and_exchange(stage)


async def resize(stage: Stage) -> None:
    """Shrink and grow while connections are out."""
    async with stage.pool.acquire() as connection:
        stage.pool.max_size = 1
        await exchange(connection)
    async with stage.pool.acquire():
        stage.pool.max_size = 3
        await acquire_and_exchange(stage)


async def wait_ready(stage: Stage) -> None:
    """Wait for the idle connections, take one, and wait again."""
    await stage.pool.wait_ready()
    async with stage.pool.acquire():
        await stage.pool.wait_ready()


async def discard_and_detach(stage: Stage) -> None:
    """Close one borrowed connection, and own another."""
    async with stage.pool.acquire() as connection:
        connection.discard()
    async with stage.pool.acquire() as connection:
        await exchange(connection)
        stream = connection.detach()
        try:
            await stream.send(b"mine")
        finally:
            await anyio.aclose_forcefully(stream)


async def enter_and_leave(stage: Stage) -> None:
    """Run a pool for one exchange."""
    async with stage.pool:
        await acquire_and_exchange(stage)


async def enter_and_wait_ready(stage: Stage) -> None:
    """Run a pool that fills itself."""
    stage.network.on_connect = delayed(0.1)
    async with stage.pool as pool:
        await pool.wait_ready()


async def leave_borrowers(stage: Stage) -> None:
    """Leave a pool whose connections are borrowed for long, with one task waiting for one."""
    async with stage.pool:
        for _ in range(3):
            stage.tasks.start_soon(another, stage, 30)
        await anyio.sleep(0.01)


async def ask_slowly(connection: PooledConnection) -> None:
    """Take a while to ask a peer whether it is there."""
    await anyio.sleep(0.5)


async def leave_in_disorder(stage: Stage) -> None:
    """Leave a pool while connections are idle, opened, checked and closed, all of it slow."""
    async with stage.pool as pool:
        await fill(pool, 4)
        stage.network.on_connect = stage.network.on_close = delayed(0.5)
        for _ in range(2):
            stage.tasks.start_soon(another, stage)
        await anyio.sleep(0.001)
        connection = await pool.acquire()
        for _ in range(3):
            stage.tasks.start_soon(another, stage)
        await checkpoint()
        connection.discard()
        pool.retire()
        await checkpoint()


async def leave_by_error(stage: Stage) -> None:
    """Leave a pool by an error, with something idle and something borrowed."""
    async with stage.pool as pool:
        await fill(pool, 2)
        async with pool.acquire():
            raise RuntimeError("the body")


SCENARIOS = {
    "connect": Scenario(acquire_and_exchange),
    "slow connect": Scenario(acquire_and_exchange, prepare=slow_remote),
    "hot": Scenario(acquire_and_exchange, prepare=one_idle),
    "await": Scenario(await_and_close, prepare=one_idle),
    "contended": Scenario(
        acquire_and_exchange, {"max_size": 1}, held_and_wanted, got("served", "served")
    ),
    "no exchange": Scenario(acquire, {"max_size": 1}, held_and_wanted, got("served", "served")),
    "dead idle": Scenario(acquire_and_exchange, {"max_size": 2}, two_dead),
    "connect failing": Scenario(
        acquire_and_exchange,
        {"max_size": 1},
        half_of_connects_fail,
        lambda results: results in (["served"], ["ConnectionFailed"]),
        ends_with=anyio.ConnectionFailed,
    ),
    "back before connected": Scenario(
        acquire_and_exchange, {"max_size": 2}, slow_first_connect, got("served")
    ),
    "body raises": Scenario(body_raises, prepare=one_idle, ends_with=RuntimeError),
    "timeout": Scenario(time_out, {"max_size": 1}, held, got("served"), ends_with=AcquireTimeout),
    "timeout of a connect": Scenario(time_out, prepare=slow_remote, ends_with=AcquireTimeout),
    "nested": Scenario(nested, {"max_size": 3}, one_idle),
    "retire": Scenario(retire_meanwhile, {"max_size": 2}, others=only_served),
    "resize": Scenario(resize, {"max_size": 3}, held, got("served")),
    "wait ready": Scenario(wait_ready, {"max_size": 3, "min_idle": 2}, slow_remote),
    "discard, detach": Scenario(discard_and_detach, {"max_size": 2}, one_idle),
    "enter": Scenario(enter_and_leave, own_block=True),
    "enter, fill": Scenario(enter_and_wait_ready, {"min_idle": 2}, own_block=True),
    "leave borrowers": Scenario(
        leave_borrowers, {"max_size": 2}, others=at_most(3), own_block=True
    ),
    "leave in disorder": Scenario(
        leave_in_disorder,
        {"max_size": 6, "min_idle": 1, "check": ask_slowly, "check_after": 0},
        others=at_most(5),
        own_block=True,
    ),
    "leave by error": Scenario(leave_by_error, own_block=True, ends_with=RuntimeError),
}
