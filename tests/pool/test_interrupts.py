"""Ctrl-C on trio, which can strike between any two lines, leaves no socket and no slot behind."""

from __future__ import annotations

import gc
import logging
import signal
import sys

import anyio
import pytest
from anyio.lowlevel import checkpoint
from trio.testing import MockClock

from anyconnpool._util.deadline import time_limit
from anyconnpool._util.interrupts import protect_on_trio

from .interrupts import Striker, interrupt
from .scenarios import SCENARIOS
from .scenarios_exchanges import EXCHANGE_SCENARIOS
from .scenarios_hooks import HOOK_SCENARIOS

_ALL = {**SCENARIOS, **EXCHANGE_SCENARIOS, **HOOK_SCENARIOS}
_FEW = ("leave hooks at work", "hot", "contended", "discard, detach", "leave in disorder")


@pytest.mark.newest
@pytest.mark.timeout(600)
@pytest.mark.parametrize("observed", [False, True], ids=["unobserved", "observed"])
def test_an_interrupt_at_any_line_leaves_nothing(observed: bool, long_form: bool) -> None:
    """Every socket is closed, every slot is free, and nothing but the interrupt comes out.

    The long form interrupts at all that any scenario passes, the short form once at each line.
    """
    logging.disable()
    struck: set[str] = set()
    try:
        for name in _ALL if long_form else _FEW:
            for step, place in enumerate(interrupt(_ALL[name], None, observed=observed), 1):
                if long_form or place not in struck:
                    struck.add(place)
                    try:
                        interrupt(_ALL[name], step, observed=observed)
                    except BaseException as error:
                        raise AssertionError(f"{name}, interrupted at {place}") from error
    finally:
        logging.disable(logging.NOTSET)
    assert len(struck) > 500


async def _be_limited(striker: Striker) -> bool:
    protect_on_trio()
    tracer = sys.gettrace()
    sys.settrace(striker.trace)
    try:
        with time_limit(1, str):
            await checkpoint()
        await checkpoint()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(tracer)
        # A scope that was not left would cancel this.
        await anyio.sleep(9)
    return False


def test_an_interrupt_leaves_no_time_limit_behind() -> None:
    """Wherever it strikes, whoever catches it is not cancelled when the time is over."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    # As in interrupt(): no finalizer is to run among the lines.
    gc.disable()
    struck: list[str] = []
    try:
        for step in range(1, 100):
            striker = Striker(step)
            clock = {"clock": MockClock(autojump_threshold=0)}
            caught = anyio.run(_be_limited, striker, backend="trio", backend_options=clock)
            if len(striker.places) < step:
                break
            struck.append(striker.places[-1])
            assert caught, struck
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, handler)
    assert 8 < len(struck) < 99
