"""The histogram: percentiles as exact as it says, in a memory that does not grow."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyconnpool.command._latency import Latencies

#: what the module promises, and a little for the rounding of logarithms
RESOLUTION = 0.0055


def latencies_of(durations: Sequence[float]) -> Latencies:
    latencies = Latencies()
    for duration in durations:
        latencies.add(duration)
    return latencies


@given(
    st.lists(st.floats(min_value=1e-6, max_value=10_000), min_size=1, max_size=50),
    st.floats(min_value=0.1, max_value=100),
)
def test_percentiles_are_right_within_the_resolution(
    durations: list[float], percent: float
) -> None:
    """A percentile is the duration that this share did not exceed, within 0.55 %."""
    rank = math.ceil(len(durations) * percent / 100)
    exact = sorted(durations)[rank - 1]
    assert latencies_of(durations).percentile(percent) == pytest.approx(exact, rel=RESOLUTION)


def test_known_percentiles(seed: int) -> None:
    """Of 1 to 1000 ms in any order, half are up to 500 ms and 1 % is longer than 990 ms."""
    durations = [number / 1000 for number in range(1, 1001)]
    random.Random(seed).shuffle(durations)
    latencies = latencies_of(durations)
    assert latencies.percentile(50) == pytest.approx(0.5, rel=RESOLUTION)
    assert latencies.percentile(90) == pytest.approx(0.9, rel=RESOLUTION)
    assert latencies.percentile(99) == pytest.approx(0.99, rel=RESOLUTION)
    assert latencies.percentile(100) <= latencies.longest == 1
    assert latencies.count == 1000
    assert latencies.total == pytest.approx(500.5)


def test_durations_beyond_the_scale() -> None:
    """Durations that are too short or too long for the scale are counted all the same."""
    latencies = latencies_of([0.0, 1e-9, 1e9])
    assert latencies.count == 3
    assert latencies.longest == 1e9
    assert latencies.percentile(50) == pytest.approx(1e-6, rel=0.02)
    assert latencies.percentile(100) > 10_000


def test_no_duration_at_all() -> None:
    """Of nothing, every percentile is 0."""
    assert Latencies().percentile(99) == 0
    assert Latencies().histogram(10) == []


@given(
    st.lists(st.floats(min_value=1e-6, max_value=10_000), min_size=1, max_size=50),
    st.integers(min_value=1, max_value=40),
)
def test_a_histogram_has_every_duration_once(durations: list[float], most: int) -> None:
    """Its bars lie side by side, hold all durations, and are no more than allowed."""
    bars = latencies_of(durations).histogram(most)
    assert 1 <= len(bars) <= most
    assert sum(bar.count for bar in bars) == len(durations)
    assert bars[0].count
    assert bars[-1].count
    assert bars[0].lower <= min(durations) * (1 + 1e-9)
    assert max(durations) <= bars[-1].upper * (1 + 1e-9)
    assert [bar.upper for bar in bars[:-1]] == [bar.lower for bar in bars[1:]]
    for bar in bars:
        inside = [one for one in durations if bar.lower * 1.000001 < one < bar.upper / 1.000001]
        near = [one for one in durations if bar.lower / 1.000001 < one < bar.upper * 1.000001]
        assert len(inside) <= bar.count <= len(near)


def test_a_histogram_is_as_fine_as_it_may() -> None:
    """With room for twice as many bars, they are half as wide."""
    latencies = latencies_of([0.001, 0.064])
    widths = [bars[0].upper / bars[0].lower for bars in map(latencies.histogram, (7, 13, 25))]
    assert widths == pytest.approx([2, 2**0.5, 2**0.25])
