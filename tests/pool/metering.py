"""Count the steps that the tasks of a run take, and strike after the k-th.

On asyncio a task factory makes coroutines that count, on trio an instrument does.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any

import anyio
import trio
from trio.testing import MockClock

from anyconnpool.testing import AutojumpLoop


class Meter(trio.abc.Instrument):
    """Count steps, and strike after the k-th.

    :param strike_at: the number of the step, from 1 on
    """

    def __init__(self, strike_at: int | None, repeats: int = 1) -> None:
        self.steps = 0
        self.struck = False
        self.victim: Callable[[], object] | None = None
        self._strike_at = strike_at
        self._repeats = repeats

    def step(self) -> None:
        """Count one step, if there is a victim."""
        if self.victim is None:
            return
        self.steps += 1
        if self._strike_at is not None and 0 <= self.steps - self._strike_at < self._repeats:
            self.struck = True
            self.victim()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.step()


class MeteredCoroutine(Coroutine[Any, Any, Any]):
    """Count the steps of a coroutine.

    :param inner: the coroutine
    :param meter: counts
    """

    def __init__(self, inner: Coroutine[Any, Any, Any], meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        # AnyIO asks for the state of a task's coroutine.
        return getattr(self._inner, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def send(self, value: Any) -> Any:
        try:
            return self._inner.send(value)
        finally:
            self._meter.step()

    def throw(
        self,
        typ: Any,
        val: BaseException | object | None = None,
        tb: TracebackType | None = None,
    ) -> Any:
        try:
            return self._inner.throw(typ)
        finally:
            self._meter.step()

    def close(self) -> None:
        self._inner.close()


def metered_loop(meter: Meter) -> asyncio.AbstractEventLoop:
    """Make a loop on virtual time that counts the steps of its tasks."""

    def make_task(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        return asyncio.Task(MeteredCoroutine(coro, meter), loop=loop, **options)

    loop = AutojumpLoop()
    loop.set_task_factory(make_task)  # type: ignore[arg-type]
    return loop


def run_on_asyncio(main: Callable[[], Awaitable[None]], meter: Meter) -> None:
    """Run ``main`` in a fresh asyncio loop."""
    anyio.run(main, backend_options={"loop_factory": lambda: metered_loop(meter)})


def run_on_trio(main: Callable[[], Awaitable[None]], meter: Meter) -> None:
    """Run ``main`` in a fresh trio loop."""
    # The same order of tasks in every run: trio shuffles them on purpose.
    importlib.import_module("trio._core._run")._r.seed(0)
    clock = MockClock(autojump_threshold=0)
    anyio.run(main, backend="trio", backend_options={"clock": clock, "instruments": [meter]})
