"""The alarm clocks of a block of pools."""

from __future__ import annotations

import gc
from contextvars import copy_context

import anyio
from anyio.lowlevel import checkpoint

from anyconnpool._engine.alarms import Alarm, Alarms
from anyconnpool._engine.spawning import PoolTasks


async def test_alarms_that_have_ended_are_forgotten() -> None:
    """A manager's pools come and go; what was set for much later must not pile up."""
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
