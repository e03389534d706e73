"""How often to repeat what failed, and how long to wait before each repeat."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from anyconnpool._util.checks import check_count, check_duration, check_number, quoted


@dataclass(frozen=True)
class Retry:
    """Say how often to repeat what failed: with capped exponential backoff and jitter.

    The pause before the first repeat is ``interval``; each further one is ``backoff`` times as long
    as the one before, up to ``max_interval``. Each is made longer or shorter at random, so that
    many clients don't come back in step. The default of 0.1 s is gtcp's interval, and 60 s is
    goperconn's longest.

    :param count: how many repeats after the first try; ``math.inf`` to go on for ever
    :param interval: first pause, in seconds
    :param backoff: factor from one pause to the next, 1 or more
    :param max_interval: longest pause before jitter, in seconds
    :param jitter: largest random change of a pause, as a fraction of it, 0 to 1
    :raises TypeError: if an argument is not a number
    :raises ValueError: if one makes no sense
    """

    count: float
    _: KW_ONLY
    interval: float = 0.1
    backoff: float = 2.0
    max_interval: float = 60.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        check_count("count", self.count, least=0)
        if math.isinf(check_duration("interval", self.interval)):
            raise ValueError("interval must be finite, or nothing would ever be repeated")
        check_duration("max_interval", self.max_interval)
        for name, least, most in (("backoff", 1, math.inf), ("jitter", 0, 1)):
            value: object = getattr(self, name)
            number = check_number(name, value)
            if not least <= number <= most or math.isinf(number):
                raise ValueError(
                    f"{name} must be a number from {least} to {most}, not {quoted(value)}"
                )

    def pause(self, repeat: int, draw: Callable[[], float] = random.random) -> float:
        """Return how long to wait before a repeat, in seconds.

        :param repeat: which one, 1 for the first
        :param draw: returns random numbers from 0 to 1
        """
        try:
            pause = self.interval * float(self.backoff) ** (repeat - 1)
        except OverflowError:
            pause = self.max_interval if self.interval else 0.0
        return min(pause, self.max_interval) * (1 + self.jitter * (2 * draw() - 1))
