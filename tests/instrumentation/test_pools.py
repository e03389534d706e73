"""What both exporters read from, while a pool ends at each step of the reading."""

from __future__ import annotations

import inspect
import sys
import threading
from types import FrameType
from typing import Any

from anyconnpool.events import PoolEnded, PoolEvent, PoolStarted
from anyconnpool.instrumentation import _pools
from anyconnpool.instrumentation._pools import Pools

from .fired import FiredPool


class EndsAtStep:
    """Let a pool end, in another thread, before a certain instruction of the module is run.

    :param pool: the pool
    :param step: which instruction, counted as they are run
    """

    def __init__(self, pool: FiredPool, step: int) -> None:
        self._steps_left = step
        self._thread = threading.Thread(target=pool.end)
        self.began = False

    def __enter__(self) -> EndsAtStep:
        self._usual = sys.gettrace()
        frame = inspect.currentframe()
        assert frame is not None
        # CPython 3.12 traces instructions only if any frame had asked for it before.
        frame.f_trace_opcodes = True
        sys.settrace(self._trace)
        return self

    def __exit__(self, *args: object) -> None:
        sys.settrace(self._usual)
        if self.began:
            self._thread.join()

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename != _pools.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.began:
            self._steps_left -= 1
            if self._steps_left < 0:
                self.began = True
                self._thread.start()
                # It may have to wait until the reading gives up the lock.
                self._thread.join(0.01)
        return self._trace


def test_pool_that_ends_during_a_reading_is_counted_once() -> None:
    """Wherever a reading is when a pool ends, what that has counted is in it once."""
    step, began = 0, True
    while began:
        pools = Pools(10)

        def observe(event: PoolEvent, pools: Pools = pools) -> None:
            if isinstance(event, PoolStarted):
                pools.start(event)
            elif isinstance(event, PoolEnded):
                pools.end(event)

        one, other = FiredPool(observe), FiredPool(observe)
        for pool in (one, other):
            pool.start()
            pool.show(opened=1)
        with EndsAtStep(other, step) as ending:
            (total,) = pools.ever()
        assert total.opened == 2
        step, began = step + 1, ending.began
    assert step > 50


def test_of_pools_with_one_name_the_longest_outage_is_reported() -> None:
    """Durations are not added up; None is what none of them fails for."""
    pools = Pools(10)

    def start(event: PoolEvent) -> None:
        assert isinstance(event, PoolStarted)
        pools.start(event)

    several = [FiredPool(start) for _ in range(3)]
    for pool in several:
        pool.start()
    assert [pool.failing_for for pool in pools.now()] == [None]
    several[0].show(failing_for=2.0)
    several[2].show(failing_for=5.0)
    assert [pool.failing_for for pool in pools.now()] == [5.0]
