"""Statistics are a frozen value with readable names."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from anyconnpool import ConnectionPool, PoolStatistics
from anyconnpool._statistics import CloseReason, freeze_counts
from tests.cases import table

GAUGES = {
    *("size", "idle", "in_use", "connecting", "closing"),
    *("tasks_waiting", "in_hook", "in_flight"),
}
PEAKS = {"peak_in_use", "peak_waiting"}
TOTALS = {
    *("acquired", "reused", "opened", "open_failed", "timed_out", "cancelled", "replayed"),
    "refused",
}
FIELDS = sorted({"name", "max_size", "closed", "failing_for"} | GAUGES | PEAKS | TOTALS)


def test_the_fields_are_those_of_the_contract() -> None:
    """Name, limit, gauges, peaks and totals, no more and no less."""
    assert sorted(field.name for field in dataclasses.fields(PoolStatistics)) == FIELDS


def test_a_pool_that_was_never_entered_has_done_nothing() -> None:
    """Everything but its name and limit is zero."""
    facts = ConnectionPool(("localhost", 1), max_size=3).statistics()
    assert facts == PoolStatistics(name="tcp://localhost:1", max_size=3)
    assert {getattr(facts, field) for field in GAUGES | PEAKS | TOTALS} == {0}
    assert facts.closed == {}


@table("field", FIELDS)
def test_statistics_are_frozen(field: str) -> None:
    """What was true at one moment stays as it was told."""
    facts = PoolStatistics(name="pool", max_size=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(facts, field, 5)


def test_the_counts_of_closed_connections_are_read_only() -> None:
    """Neither the counts that are told nor the empty default can be changed."""
    told = PoolStatistics(name="pool", max_size=1, closed=freeze_counts({CloseReason.RETIRED: 1}))
    for facts in (told, PoolStatistics(name="pool", max_size=1)):
        closed: Any = facts.closed
        with pytest.raises(TypeError):
            closed["retired"] = 2


def test_the_counts_are_copied_and_have_plain_names() -> None:
    """Later closes don't change them; the keys are strings and no members of an enumeration."""
    counts = {CloseReason.PEER_CLOSED: 1}
    closed = freeze_counts(counts)
    counts[CloseReason.PEER_CLOSED] += 1
    assert closed == {"peer_closed": 1}
    assert [type(key) for key in closed] == [str]
