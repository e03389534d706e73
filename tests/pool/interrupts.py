"""Interrupt a scenario where it runs a line of the package, as Ctrl-C does on trio."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
from trio.testing import MockClock

import anyconnpool
from anyconnpool import ConnectionPool

from .network import MemoryNetwork, slots_of
from .sweep import Scenario, Stage, check_closed, make_pool
from .tally import Tally

_PACKAGE = os.fspath(Path(anyconnpool.__file__).parent)


class Striker:
    """Send SIGINT when a line of the package is about to run, and take down what lines there are.

    :param step: which one, counted from 1 on in the order of running; none by default
    """

    def __init__(self, step: int | None) -> None:
        self._step = step
        self.places: list[str] = []

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        """Look at one event of the interpreter's: a trace function."""
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        if event == "line" and len(self.places) != self._step:
            self.places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            if len(self.places) == self._step:
                signal.raise_signal(signal.SIGINT)
        return self.trace


async def _perform(scenario: Scenario, network: MemoryNetwork, pool: ConnectionPool) -> None:
    async with anyio.create_task_group() as tasks:
        stage = Stage(network, pool, tasks)
        if scenario.own_block:
            await scenario.prepare(stage)
            await scenario.victim(stage)
            return
        async with pool:
            await scenario.prepare(stage)
            await scenario.victim(stage)


def interrupt(scenario: Scenario, step: int | None, *, observed: bool) -> list[str]:
    """Play a scenario once, interrupted at a step or never; check what must hold afterwards.

    :param observed: whether the pool has an observer
    :return: the places of the lines that ran, up to the interrupt
    """
    striker = Striker(step)
    network = MemoryNetwork()
    tally = Tally() if observed else None
    pool = make_pool(scenario, network, tally)
    clock = {"clock": MockClock(autojump_threshold=0)}
    outcome: BaseException | None = None
    # trio leaves Ctrl-C alone where it is ignored, as in the background of a script.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    tracer = sys.gettrace()
    # What earlier runs have left is not to be finalized among this one's lines, where an interrupt
    # would end: Python drops what is raised there.
    gc.disable()
    sys.settrace(striker.trace)
    try:
        anyio.run(_perform, scenario, network, pool, backend="trio", backend_options=clock)
    except BaseException as error:
        outcome = error
    finally:
        sys.settrace(tracer)
        gc.enable()
        signal.signal(signal.SIGINT, handler)
    check_closed(pool, network)
    assert not slots_of(pool).borrowed_tokens
    if tally is not None:
        tally.check()
    if len(striker.places) == step and scenario.ends_with is None:
        assert _is_interrupt(outcome), repr(outcome)
    return striker.places


def _is_interrupt(error: BaseException | None) -> bool:
    """Tell whether there is nothing but the interrupt, in the task group that the test has made."""
    inner = getattr(error, "exceptions", None)
    return isinstance(error, KeyboardInterrupt) if inner is None else all(map(_is_interrupt, inner))
