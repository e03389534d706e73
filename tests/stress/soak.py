"""What the tests of great numbers and long runs count with: costs, figures that must not grow."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import pytest
import trio
from anyio.lowlevel import checkpoint

import anyconnpool
from anyconnpool._core import idle_connections, shared_limit, state_machine, states, waiting_line
from anyconnpool._engine import lifecycle

if TYPE_CHECKING:
    from typing_extensions import Self

_PACKAGE = str(Path(anyconnpool.__file__).parent)
# The virtual clock of the tests is no work of the pool's.
_TESTING = str(Path(_PACKAGE, "testing"))


class CostMeter:
    """Count what the pool's own code does: a measure of its work that no busy machine disturbs.

    Counted are the calls that its modules make and the entries that its containers iterate over or
    compare, which Python does without a call. To be used with ``with``, again and again.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._running = False

        meter = self

        class CountedDeque(deque[Any]):
            def __iter__(self) -> Iterator[Any]:
                return meter.steps(super().__iter__())

        class CountedDict(OrderedDict[Any, Any]):
            def __iter__(self) -> Iterator[Any]:
                return meter.steps(super().__iter__())

            def __reversed__(self) -> Any:
                return meter.steps(super().__reversed__())

        def is_same(one: object, other: object) -> bool:
            self.count += self._running
            return one is other

        for module in (state_machine, idle_connections):
            monkeypatch.setattr(module, "deque", CountedDeque)
        monkeypatch.setattr(waiting_line, "OrderedDict", CountedDict)
        monkeypatch.setattr(shared_limit, "OrderedDict", CountedDict)
        for kind in (states.PoolEntry, states.Waiter, lifecycle.RunningPool):
            monkeypatch.setattr(kind, "__eq__", is_same)

    def __enter__(self) -> Self:
        self.count = 0
        self._running = True
        sys.setprofile(self._profile)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sys.setprofile(None)
        self._running = False

    async def longest_turn(self, done: Callable[[], bool]) -> int:
        """Return the most that is done in one turn of the event loop, until a condition holds."""
        turns = Turns(self)
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.add_instrument(turns)
        while not done():
            await checkpoint()
            if not trio.lowlevel.in_trio_run():
                turns.end()
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.remove_instrument(turns)
        return turns.longest

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            path = frame.f_code.co_filename
            self.count += path.startswith(_PACKAGE) and not path.startswith(_TESTING)

    def steps(self, items: Iterator[Any]) -> Iterator[Any]:
        """Iterate on, and count."""
        for item in items:
            self.count += self._running
            yield item


class Turns(trio.abc.Instrument):
    """Find the turn of the event loop in which a meter counts most.

    On asyncio tasks run in the order in which they become ready, so that a task which is ready in
    every turn sees the ends of turns. On trio, which shuffles the tasks, an instrument does.
    """

    def __init__(self, meter: CostMeter) -> None:
        self.longest = 0
        self._meter = meter
        self._before = 0

    def end(self) -> None:
        self.longest = max(self.longest, self._meter.count - self._before)
        self._before = self._meter.count

    def before_io_wait(self, timeout: float) -> None:
        self.end()


def assert_flat(few: dict[str, int], many: dict[str, int]) -> None:
    """Assert that no operation costs more among many than among few, but for a tenth."""
    grown = {name: (cost, many[name]) for name, cost in few.items() if many[name] > cost * 1.1 + 5}
    assert not grown, f"cost among few and among many: {grown}"


@dataclass(frozen=True)
class Figures:
    """What must not grow while a pool lives on."""

    objects: int
    blocks: int
    descriptors: int
    tasks: int

    @classmethod
    def now(cls) -> Figures:
        """Count, after a collection of garbage."""
        for _ in range(3):
            gc.collect()
        objects = gc.get_objects()
        # trio keeps ended scopes that had a deadline, each in a tuple with two numbers, and forgets
        # them a thousand at a time.
        scopes = sum(isinstance(thing, trio.CancelScope) for thing in objects)
        return cls(
            len(objects) - 2 * scopes,
            sys.getallocatedblocks() - 4 * scopes,
            len(os.listdir("/proc/self/fd")),
            _count_tasks(),
        )

    def assert_no_more_than(self, earlier: Figures, context: str) -> None:
        """Assert that nothing has grown but for what an interpreter takes now and then."""
        told = f"{context}: {earlier} became {self}"
        assert self.objects <= earlier.objects + 300, told
        assert self.blocks <= earlier.blocks + 1500, told
        assert self.descriptors <= earlier.descriptors, told
        assert self.tasks <= earlier.tasks, told


def _count_tasks() -> int:
    if trio.lowlevel.in_trio_run():
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())
