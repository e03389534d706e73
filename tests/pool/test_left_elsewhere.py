"""A block that is left in another task than it was entered in: it says so, and is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import pytest

from anyconnpool import ConnectionPool, PoolManager
from tests.cases import table

from .network import MemoryNetwork, delayed, fill, hang


async def in_task(name: str, function: Callable[[], Awaitable[object]]) -> object:
    """Run something in an asyncio task of its own."""

    async def run() -> object:
        return await function()

    return await asyncio.create_task(run(), name=name)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_pool_says_in_which_tasks_it_was_entered_and_left() -> None:
    """Fixtures of test frameworks do so. It can be entered again, and no task is left."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, name="mem", min_idle=2)

    async def leave() -> None:
        await pool.__aexit__(None, None, None)

    before = asyncio.all_tasks()
    await in_task("enterer", pool.__aenter__)
    await fill(pool, 2)
    with pytest.raises(RuntimeError) as caught:
        await in_task("leaver", leave)
    assert str(caught.value).startswith(
        "pool 'mem': its async with block was entered in task 'enterer' and left in task 'leaver': "
        "enter and leave it in one task, or begin with "
    )
    assert '"await open()" on asyncio' in str(caught.value)
    assert network.open_now == pool.statistics().size == 0
    async with pool:
        assert await pool.send_receive_line(b"x") == b"x"
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_bodys_exception_leaves_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """The log tells of the tasks then; a generator that is closed elsewhere raises it."""
    network = MemoryNetwork()
    manager, error = PoolManager(), LookupError("the body's own")

    async def leave() -> bool | None:
        return await manager.__aexit__(LookupError, error, None)

    await in_task("enterer", manager.__aenter__)
    await manager.pool(network).send_receive_line(b"x")
    assert not await in_task("leaver", leave)
    assert network.open_now == 0
    (line,) = [record.getMessage() for record in caplog.records]
    assert "entered in task 'enterer' and left in task 'leaver'" in line

    async def generate() -> AsyncGenerator[ConnectionPool]:
        async with ConnectionPool(network, name="mem") as pool:
            yield pool

    generator = generate()
    done = asyncio.Event()

    async def enter() -> bool:
        await generator.__anext__()
        return await done.wait()

    enterer = asyncio.create_task(enter(), name="enterer")
    await asyncio.sleep(0.1)
    with pytest.raises(RuntimeError, match="entered in task 'enterer'"):
        await in_task("leaver", generator.aclose)
    # The first task has done nothing wrong.
    done.set()
    assert await enterer


@pytest.mark.usefixtures("on_asyncio")
@table("goodbye", [0, 1, 9])
async def test_it_takes_as_long_as_the_closing_does(goodbye: float) -> None:
    """Of idle and borrowed connections and of an attempt, with ``close_timeout`` as the limit."""
    network = MemoryNetwork(on_close=delayed(goodbye))
    manager = PoolManager(close_timeout=2)

    async def leave() -> None:
        await manager.__aexit__(None, None, None)

    await in_task("enterer", manager.__aenter__)
    await fill(manager.pool(network), 2)
    pool = manager.pool(network)
    network.on_connect = hang
    held = [await pool.acquire() for _ in range(2)]
    with anyio.move_on_after(1):
        await pool.acquire()
    for connection in held:
        await connection.aclose()
    assert pool.statistics().connecting == 1
    began = anyio.current_time()
    with pytest.raises(RuntimeError, match="left in task 'leaver'"):
        await in_task("leaver", leave)
    assert anyio.current_time() - began == pytest.approx(min(goodbye, 2))
    assert network.open_now == 0


@pytest.mark.usefixtures("on_asyncio")
@table("needs", [2, 60])
async def test_it_takes_as_long_as_an_attempt_needs_to_be_given_up(needs: float) -> None:
    """Where nothing is open yet, the end of the last attempt is the end, or ``close_timeout``."""

    async def take_leave(number: int) -> None:
        try:
            await hang()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(needs)

    network = MemoryNetwork(take_leave)
    pool = ConnectionPool(network, close_timeout=4)

    async def leave() -> None:
        await pool.__aexit__(None, None, None)

    await in_task("enterer", pool.__aenter__)
    with anyio.move_on_after(1):
        await pool.acquire()
    began = anyio.current_time()
    with pytest.raises(RuntimeError, match="left in task 'leaver'"):
        await in_task("leaver", leave)
    assert anyio.current_time() - began == pytest.approx(min(needs, 4), abs=0.02)
    await anyio.sleep(needs)
    assert network.open_now == 0


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_survives_it_as_long_as_the_first_task_does() -> None:
    """The pool closes its connections, and says so; what trio makes of the first task is trio's."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, name="mem")
    texts: list[str] = []

    async def enter(done: anyio.Event) -> None:
        await pool.__aenter__()
        await fill(pool, 2)
        await done.wait()

    async def leave(done: anyio.Event) -> None:
        try:
            await pool.__aexit__(None, None, None)
        except RuntimeError as error:
            texts.append(str(error))
        texts.append(f"{network.open_now} open")
        done.set()

    async def run() -> None:
        import trio

        done = anyio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter, done, name="enterer")
            await anyio.sleep(0.1)
            nursery.start_soon(leave, done, name="leaver")

    with pytest.raises(BaseException, match=r"corrupted|Trio nursery"):
        await run()
    assert "entered in task 'enterer' and left in task 'leaver'" in texts[0]
    assert texts[1] == "0 open"
