"""Remember millions of durations in a few kilobytes, and compute their percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Bucket n holds the durations from SHORTEST * 2 ** (n / PER_DOUBLING) on: each is 1.1 % wider than
# the one before, so that a percentile, given as the middle of its bucket, is right within 0.55 %.
# There is room for durations from 1 µs to 4.7 hours; others go to the first or the last bucket.
_PER_DOUBLING = 64
_SHORTEST = 1e-6
_BUCKETS = 34 * _PER_DOUBLING


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram: how many durations were between two, in seconds."""

    lower: float
    upper: float
    count: int


class Latencies:
    """A histogram of durations in seconds, with buckets of equal width on a logarithmic scale.

    Its size is fixed. The sum and the longest duration are exact.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._buckets = [0] * _BUCKETS

    def add(self, duration: float) -> None:
        """Add a duration."""
        self.count += 1
        self.total += duration
        self.longest = max(self.longest, duration)
        bucket = math.log2(max(duration, _SHORTEST) / _SHORTEST) * _PER_DOUBLING
        self._buckets[min(int(bucket), _BUCKETS - 1)] += 1

    def percentile(self, percent: float) -> float:
        """Return the duration that this share of all did not exceed, or 0 if there are none.

        :param percent: above 0, up to 100
        """
        wanted = math.ceil(self.count * percent / 100)
        seen = 0
        for number, held in enumerate(self._buckets):
            seen += held
            if held and seen >= wanted:
                middle = _SHORTEST * 2 ** ((number + 0.5) / _PER_DOUBLING)
                return min(middle, self.longest)
        return 0.0

    def histogram(self, most: int) -> Sequence[Bar]:
        """Return how many durations there are of each length, from the shortest to the longest.

        :param most: how many bars there may be; the finer ones are taken that are no more
        """
        held = [number for number, count in enumerate(self._buckets) if count]
        if not held:
            return []
        together = 1
        while held[-1] // together - held[0] // together >= most:
            together *= 2
        return [
            Bar(
                _SHORTEST * 2 ** (first * together / _PER_DOUBLING),
                _SHORTEST * 2 ** ((first + 1) * together / _PER_DOUBLING),
                sum(self._buckets[first * together : (first + 1) * together]),
            )
            for first in range(held[0] // together, held[-1] // together + 1)
        ]
