"""The noise of a throughput: what it is of known replies, and when nobody can tell."""

from __future__ import annotations

import math
import random

import pytest

from anyconnpool.command._noise import Slices


def slices_of(moments: list[float]) -> Slices:
    slices = Slices()
    for moment in moments:
        slices.add(moment)
    return slices


def test_a_steady_throughput_has_no_noise() -> None:
    """Replies at regular intervals have nearly none, however long it takes."""
    for seconds in (1, 3, 100):
        moments = [(number + 0.5) / 100 for number in range(seconds * 100)]
        assert slices_of(moments).noise(seconds) < 0.02


def test_chance_has_the_noise_of_chance(seed: int) -> None:
    """Of n replies at random moments, the noise is about 2 / sqrt(n)."""
    chance = random.Random(seed)
    moments = [chance.uniform(0, 3) for _ in range(10_000)]
    assert slices_of(moments).noise(3) == pytest.approx(2 / math.sqrt(10_000), rel=0.6)


def test_bursts_are_noise() -> None:
    """A server that stands still for half of the time makes a throughput that tells little."""
    moments = [number / 1000 for number in range(3000) if number < 1000 or number > 2500]
    assert slices_of(moments).noise(3) > 0.2


def test_too_little_to_tell() -> None:
    """Without replies, or with too short a time, the noise is unknown."""
    assert slices_of([]).noise(3) == math.inf
    assert slices_of([0.001, 0.002]).noise(0.03) == math.inf
    assert slices_of([0.001, 0.011, 0.021, 0.031]).noise(0.04) == 0


def test_the_memory_is_bounded() -> None:
    """Slices get wider, and lose no reply."""
    slices = slices_of([0.0, 0.3, 0.33, 86_400.0])
    assert slices.noise(86_400 * 2) < math.inf
