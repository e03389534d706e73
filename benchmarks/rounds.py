"""Measure contestants side by side: short turns, many rounds, ratios within each round."""

from __future__ import annotations

import gc
import random
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import TypeAlias

from benchmarks.goals import goal_of
from benchmarks.progress import Progress
from benchmarks.results import Figure, Spread

#: does so many operations and returns how many seconds they took
Turn: TypeAlias = Callable[[int], Awaitable[float]]

#: how long a turn should last, in seconds, where its contestant doesn't say how many operations
_TURN = 0.004
_MOST_ROUNDS = 200
_FEWEST_ROUNDS = 5
_FEWEST_ROUNDS_QUICK = 2


@dataclass(frozen=True)
class Contestant:
    """Somebody who takes turns.

    :param name: for the table
    :param turn: what it does in a turn
    :param count: how many operations a turn has, if that is not to follow from their time
    """

    name: str
    turn: Turn
    count: int | None = None


@dataclass(frozen=True)
class Timekeeper:
    """Says when, how long and in which order.

    :param backend: what is measured, for the progress shown
    :param seed: what the order of turns is drawn from
    :param quick: whether to be done soon rather than to be exact
    """

    backend: str
    seed: int
    quick: bool

    async def compare(
        self,
        case: str,
        per: str,
        contestants: Sequence[Contestant],
        *,
        seconds: float,
    ) -> list[Figure]:
        """Measure some contestants, of which the first is ours.

        :param case: name of the case
        :param per: what one operation is
        :param seconds: how long the rounds may take together
        """
        progress = Progress(self.backend, case)
        counts = {one.name: one.count or await _calibrate(one.turn) for one in contestants}
        times: dict[str, list[float]] = {one.name: [] for one in contestants}
        order = random.Random(f"{self.seed} {case}")
        for _ in self._rounds(seconds):
            gc.collect()
            for one in order.sample(contestants, len(contestants)):
                with collector_at_rest():
                    elapsed = await one.turn(counts[one.name])
                times[one.name].append(elapsed / counts[one.name])
            progress.round_done()
        progress.case_done()
        return list(self._figures(case, per, times))

    def _rounds(self, seconds: float) -> Generator[None]:
        fewest = _FEWEST_ROUNDS_QUICK if self.quick else _FEWEST_ROUNDS
        end = perf_counter() + (seconds * 0.15 if self.quick else seconds)
        for number in range(_MOST_ROUNDS):
            if number >= fewest and perf_counter() > end:
                return
            yield

    def _figures(
        self, case: str, per: str, times: Mapping[str, Sequence[float]]
    ) -> Generator[Figure]:
        (our_name, ours), *others = times.items()
        yield Figure(case, per, our_name, Spread.of(ours), rounds=len(ours))
        for name, theirs in others:
            ratio = Spread.of(mine / other for mine, other in zip(ours, theirs, strict=True))
            goal = goal_of(case, name, self.backend)
            yield Figure(
                case, per, name, Spread.of(theirs), ratio=ratio, goal=goal, rounds=len(theirs)
            )


@contextmanager
def collector_at_rest() -> Generator[None]:
    """Keep the garbage collector from running."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed(repeat: Callable[[int], Awaitable[object]]) -> Turn:
    """Make a turn of something that does so many operations, and waits for another process."""
    return _measured(repeat, perf_counter)


def worked(repeat: Callable[[int], Awaitable[object]]) -> Turn:
    """Make a turn of something that this process does, by the processor time that it takes.

    A busy machine interrupts in the middle of a turn who never waits, which real time would count.
    """
    return _measured(repeat, process_time)


def _measured(repeat: Callable[[int], Awaitable[object]], clock: Callable[[], float]) -> Turn:
    async def turn(count: int) -> float:
        begun = clock()
        await repeat(count)
        return clock() - begun

    return turn


async def _calibrate(turn: Turn) -> int:
    count = 1
    # The first operation may open a connection, or import something.
    await turn(count)
    while (elapsed := await turn(count)) < _TURN / 4:
        count *= 4
    return max(round(count * _TURN / elapsed), 1)
