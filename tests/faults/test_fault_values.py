"""The values that say what befalls a connection: checked when they are made."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from anyconnpool.testing import FaultProxy, Faults, Flow
from tests.cases import table


@table(
    "setting",
    [
        {"latency": -1},
        {"latency": math.nan},
        {"latency": math.inf},
        {"chunk_size": 0},
        {"cut_after": -1},
        {"reset_after": -1},
        {"half_close_after": -1},
        {"stall_after": -1},
        {"cut_after": 1, "reset_after": 2},
        {"half_close_after": 0, "stall_after": 0},
    ],
)
def test_a_flow_that_makes_no_sense_is_a_value_error(setting: dict[str, Any]) -> None:
    """Also two ends of one flow."""
    with pytest.raises(ValueError, match=next(iter(setting))):
        Flow(**setting)


@table(
    "setting",
    [{"latency": "1"}, {"chunk_size": 1.5}, {"cut_after": math.inf}, {"stall_after": True}],
)
def test_a_flow_of_something_else_is_a_type_error(setting: dict[str, Any]) -> None:
    """Bytes are counted in whole numbers."""
    with pytest.raises(TypeError, match=next(iter(setting))):
        Flow(**setting)


def test_faults_are_made_of_flows_and_the_proxy_takes_faults() -> None:
    """A flow alone doesn't say in which direction."""
    flow: Any = Flow(cut_after=3)
    proxy = FaultProxy(("127.0.0.1", 1))
    with pytest.raises(TypeError, match="replies must be a Flow"):
        Faults(replies=Faults())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be Faults"):
        FaultProxy(("127.0.0.1", 1), faults=flow)
    with pytest.raises(TypeError, match="must be Faults"):
        proxy.faults = flow
    with pytest.raises(TypeError, match="must be Faults"):
        proxy.script(Faults(), flow)
    assert proxy.faults == Faults()


def test_a_remote_that_makes_no_sense_is_refused() -> None:
    """As a pool would refuse it."""
    with pytest.raises(ValueError, match="port"):
        FaultProxy(("127.0.0.1", 0))


def test_faults_are_values() -> None:
    """They can be compared and kept, and don't change."""
    assert Faults.both_ways(Flow(latency=1)) == Faults(Flow(latency=1), Flow(latency=1))
    assert len({Faults(), Faults(Flow()), Faults(Flow(chunk_size=1))}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Flow().latency = 1  # type: ignore[misc]
