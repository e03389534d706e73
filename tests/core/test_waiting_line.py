"""How many rely on what is under way is known without a count, and right: against a count."""

from __future__ import annotations

from itertools import count
from random import Random

import pytest

from anyconnpool._core.states import PoolEntry, Totals, Waiter
from anyconnpool._core.waiting_line import WaitingLine

from .machine_fakes import make_settings

STEPS = ["join", "join", "begin", "begin", "check", "leave", "serve", "oldest ends", "ends", "wait"]


class Line:
    """A waiting line, and the same as plain lists."""

    def __init__(self) -> None:
        self.line: WaitingLine[int] = WaitingLine(make_settings(), Totals())
        self.waiters: list[Waiter[int]] = []
        self.entries: list[PoolEntry[int]] = []
        self.now = 0.0
        self._numbers = count()

    def step(self, what: str, pick: int) -> None:
        if what == "join":
            waiter: Waiter[int] = Waiter(list)
            waiter.number = next(self._numbers)
            self.waiters.append(waiter)
            # What the machine does.
            self.line.waiters[waiter] = None
            self.line.slow_suffice = False
        elif what in ("begin", "check"):
            entry: PoolEntry[int] = PoolEntry(0)
            self.line.begin(entry, self.now, next(self._numbers) if what == "begin" else None)
            self.entries.append(entry)
        elif what == "wait":
            self.now += 0.11
            self.line.pass_time(self.now)
        elif what == "serve" and self.waiters:
            assert self.line.pop() is self.waiters.pop(0)
        elif what == "leave" and self.waiters:
            self.line.leave(self.waiters.pop(pick % len(self.waiters)))
        elif what.endswith("ends") and self.entries:
            self.line.end(self.entries.pop(0 if "oldest" in what else pick % len(self.entries)))

    def count_provided(self) -> int:
        """Give each waiter, in order, an attempt that is for it or something young."""
        slow = [entry for entry in self.entries if entry.slow_at <= self.now]
        young = len(self.entries) - len(slow)
        provided = 0
        for waiter in self.waiters:
            mine = next((entry for entry in slow if entry.is_for(waiter)), None)
            if mine is not None:
                slow.remove(mine)
            elif young:
                young -= 1
            else:
                break
            provided += 1
        return provided


@pytest.mark.parametrize("seed", range(4))
def test_what_is_known_without_a_count_is_what_a_count_finds(seed: int) -> None:
    """Whoever joins, leaves or is served, and whatever begins, ends or gets old."""
    chance = Random(seed)
    for _ in range(250):
        both = Line()
        # With many of one kind after another, now and then.
        steps = STEPS if chance.random() < 0.5 else [*chance.choices(STEPS, k=4), "wait"]
        for what in chance.choices(steps, k=chance.randrange(5, 50)):
            both.step(what, chance.randrange(10))
            # What is asked in between is remembered.
            if chance.random() < 0.7:
                assert both.line.provided() == both.count_provided()
