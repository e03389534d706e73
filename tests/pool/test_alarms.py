"""The alarm clocks of a block of pools."""

from __future__ import annotations

import gc
from contextvars import copy_context

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool._engine.alarms import Alarm, Alarms
from anyconnpool._engine.spawning import PoolTasks


async def test_each_alarm_rings_at_the_time_that_was_set_last() -> None:
    """Whatever is set for later, before or after it, and whatever it was set for before."""
    rings: list[tuple[str, float]] = []
    async with anyio.create_task_group() as group:
        alarms = Alarms(PoolTasks(group, copy_context()), anyio.current_time, "alarms")
        began = anyio.current_time()

        def new(name: str) -> Alarm:
            return alarms.new(lambda: rings.append((name, anyio.current_time() - began)))

        first, later, moved = new("first"), new("later"), new("moved")
        first.set(began + 2)
        moved.set(began + 1)
        await checkpoint()
        later.set(began + 9)
        moved.set(began + 5)
        await anyio.sleep(20)
        alarms.stop()
    assert [name for name, _ in rings] == ["first", "moved", "later"]
    assert [at for _, at in rings] == pytest.approx([2, 5, 9])


async def test_alarms_that_have_ended_are_forgotten() -> None:
    """A manager's pools come and go; what was set for much later must not pile up."""
    kept = 0
    async with anyio.create_task_group() as group:
        alarms = Alarms(PoolTasks(group, copy_context()), anyio.current_time, "alarms")
        later = anyio.current_time() + 10_000
        alarms.new(bool).set(later)
        for _ in range(500):
            alarm = alarms.new(bool)
            alarm.set(later)
            alarm.end()
        kept = sum(isinstance(thing, Alarm) for thing in gc.get_objects())
        alarms.stop()
    assert kept < 150


async def test_an_alarm_that_is_always_due_lets_others_run() -> None:
    """Whatever it is set for while it rings, everybody else gets a turn first."""
    rings = 0

    def ring() -> None:
        nonlocal rings
        rings += 1
        alarm.set(anyio.current_time() - 1)
        assert rings < 100, "nobody else had a turn"

    async with anyio.create_task_group() as group:
        alarms = Alarms(PoolTasks(group, copy_context()), anyio.current_time, "alarms")
        alarm: Alarm = alarms.new(ring)
        alarm.set(anyio.current_time())
        while rings < 3:
            await checkpoint()
        alarms.stop()
