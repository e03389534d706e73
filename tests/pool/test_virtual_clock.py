"""The virtual clocks that the tests of this directory rely on."""

import time

import anyio
from anyio.lowlevel import checkpoint


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
