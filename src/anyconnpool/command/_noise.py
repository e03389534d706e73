"""How much a throughput went up and down while it was measured, in a few numbers."""

from __future__ import annotations

import math
from statistics import fmean, stdev

# Slices of time, which get twice as wide when all are used; and fewer of them tell nothing.
_MOST_SLICES = 32
_FEWEST_SLICES = 4
_FIRST_WIDTH = 0.01


class Slices:
    """Count replies by the slice of time that they came in."""

    def __init__(self) -> None:
        self._width = _FIRST_WIDTH
        self._counts = [0] * _MOST_SLICES

    def add(self, moment: float) -> None:
        """Count a reply.

        :param moment: when it came, in seconds since the beginning
        """
        while (index := int(moment / self._width)) >= _MOST_SLICES:
            pairs = zip(self._counts[::2], self._counts[1::2], strict=True)
            self._counts = [one + other for one, other in pairs] + [0] * (_MOST_SLICES // 2)
            self._width *= 2
        self._counts[index] += 1

    def noise(self, elapsed: float) -> float:
        """Return how far off the mean may be as an estimate, as a share of it: 0.05 is ±5 %.

        That is twice the standard error of the slices, so that one in twenty is further off;
        infinite if there are too few.

        :param elapsed: for how long was counted, in seconds
        """
        counts = self._counts[: min(int(elapsed / self._width), _MOST_SLICES)]
        if len(counts) < _FEWEST_SLICES or not any(counts):
            return math.inf
        return 2 * stdev(counts) / math.sqrt(len(counts)) / fmean(counts)
