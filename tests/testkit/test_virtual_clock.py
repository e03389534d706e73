"""Virtual clocks on asyncio and trio, and what a pool's times are like on them."""

import asyncio
import math
import time
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import AcquireTimeout, ConnectionPool
from anyconnpool.testing import AutojumpLoop, MemoryConnectable, virtual_clock_backend
from tests.cases import table

from .peers import answer_lines, say_nothing


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Return the backend of one test, with a clock of its own that starts at zero."""
    return virtual_clock_backend(request.param)


async def test_hours_pass_at_once() -> None:
    """A long sleep ends when it should on the virtual clock, and takes no real time."""
    began, really_began = anyio.current_time(), time.monotonic()
    await anyio.sleep(80_000.5)
    assert anyio.current_time() - began == 80_000.5
    assert time.monotonic() - really_began < 5


async def test_every_clock_starts_at_zero() -> None:
    """No test sees the time that another one spent."""
    assert anyio.current_time() == 0


async def test_time_stands_still_while_a_task_can_run() -> None:
    """A deadline that is due in a microsecond can't overtake tasks that are ready."""
    with anyio.move_on_after(1e-6) as scope:
        for _ in range(1000):
            await checkpoint()
    assert not scope.cancelled_caught
    assert anyio.current_time() == 0


async def test_timers_fire_in_order() -> None:
    """Sleepers wake up in the order of their deadlines, each at its own."""
    woken: list[float] = []

    async def sleeper(delay: float) -> None:
        await anyio.sleep(delay)
        woken.append(anyio.current_time())

    async with anyio.create_task_group() as task_group:
        for delay in (30.0, 10.0, 20.0):
            task_group.start_soon(sleeper, delay)
    assert woken == [10, 20, 30]


async def test_a_timer_for_ever_is_none() -> None:
    """The clock stands still beside one, and the event loop waits for what a thread does."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, math.inf)
        await anyio.to_thread.run_sync(time.sleep, 0.05)
        assert anyio.current_time() == 0
        tasks.cancel_scope.cancel()


async def test_idle_connections_are_closed_in_their_time() -> None:
    """Ten minutes after their last use, and not before; nobody has to wait for it."""
    async with MemoryConnectable(answer_lines) as remote, ConnectionPool(remote) as pool:
        await pool.send_receive_line(b"hello")
        await anyio.sleep(599)
        assert remote.open_now == 1
        await anyio.sleep(2)
        assert remote.open_now == 0
        assert pool.statistics().closed == {"max_idle_time": 1}


async def test_connecting_takes_as_long_as_it_is_told() -> None:
    """It is refused after the delay; one without an end meets the pool's limit."""
    async with MemoryConnectable(answer_lines, connect_delay=3) as remote:
        await (await remote.connect()).aclose()
        assert anyio.current_time() == 3
        remote.refuse()
        with pytest.raises(anyio.ConnectionFailed, match="refused"):
            await remote.connect()
        assert anyio.current_time() == 6
        remote.connect_delay = float("inf")
        async with ConnectionPool(remote, connect_timeout=30) as pool:
            with pytest.raises(anyio.ConnectionFailed, match="30"):
                await pool.acquire()
            with pytest.raises(AcquireTimeout):
                await pool.acquire(timeout=20)
        assert anyio.current_time() == 56


async def test_a_connect_that_is_cancelled_has_made_no_connection() -> None:
    """Neither is a peer started for it."""
    async with MemoryConnectable(say_nothing, connect_delay=3) as remote:
        with anyio.move_on_after(1):
            await remote.connect()
        await anyio.sleep(10)
        assert remote.opened == 0


async def test_limits_are_exact() -> None:
    """An exchange with a peer that says nothing ends when its time is over."""
    async with MemoryConnectable(say_nothing) as remote, ConnectionPool(remote) as pool:
        with pytest.raises(TimeoutError):
            await pool.send_receive_line(b"hello", timeout=3600)
        assert anyio.current_time() == 3600


@table("name", ["asyncio", "trio"])
def test_the_backend_is_what_anyio_runs(name: str) -> None:
    """The pair fits anyio.run()."""
    backend, options = virtual_clock_backend(name)
    anyio.run(anyio.sleep, 86_400, backend=backend, backend_options=options)


def test_asyncio_runs_on_the_loop_without_anyio() -> None:
    """It is an event loop like any other."""
    loop = AutojumpLoop()
    loop.run_until_complete(asyncio.wait_for(asyncio.sleep(86_400, "slept"), 90_000))
    assert loop.time() == 86_400
    loop.close()


@table("name", ["uvloop", "asyncio+uvloop", "curio"])
def test_other_backends_have_no_virtual_clock(name: str) -> None:
    """Who asks for one is told which ones have."""
    with pytest.raises(ValueError, match='"asyncio" and "trio", not'):
        virtual_clock_backend(name)
