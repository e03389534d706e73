"""Ctrl-C on trio, which can strike between any two lines, leaves no socket and no slot behind."""

from __future__ import annotations

import logging

import pytest

from .interrupts import interrupt
from .scenarios import SCENARIOS
from .scenarios_exchanges import EXCHANGE_SCENARIOS

_ALL = {**SCENARIOS, **EXCHANGE_SCENARIOS}
_FEW = ("hot", "contended", "doubtful idle", "discard, detach", "leave in disorder")


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
