"""What was measured, what it says to machines, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: the share of the best throughput that is good enough
GOOD_ENOUGH = 0.95


@dataclass(frozen=True)
class Point:
    """One measurement; all durations are in seconds.

    :ivar max_size: size of the pool; ``None`` means without a pool
    :ivar elapsed: how long requests were begun
    :ivar answered: requests answered, also those that were answered after ``elapsed``
    :ivar throughput: requests answered within ``elapsed``, per second
    :ivar p50, p90, p99, longest: time from asking for a connection to the reply
    :ivar waiting: which share of that time was spent until there was a connection, 0 to 1
    :ivar opened: connections opened while it was measured
    :ivar reused: which share of the borrows got a connection that was open already, 0 to 1
    :ivar errors: how often what went wrong
    """

    max_size: int | None
    elapsed: float
    answered: int
    throughput: float
    p50: float
    p90: float
    p99: float
    longest: float
    waiting: float
    opened: int
    reused: float
    errors: Mapping[str, int]

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return sum(self.errors.values())

    def as_json(self) -> dict[str, object]:
        """Return it as JSON is made of it."""
        return {
            "max_size": self.max_size,
            "elapsed_seconds": self.elapsed,
            "answered": self.answered,
            "requests_per_second": self.throughput,
            "latency_seconds": {
                "p50": self.p50,
                "p90": self.p90,
                "p99": self.p99,
                "max": self.longest,
            },
            "waiting_share": self.waiting,
            "opened": self.opened,
            "reused_share": self.reused,
            "errors": dict(self.errors),
        }


@dataclass
class Report:
    """What has been measured so far.

    :ivar pooled: a point for each size, in the order of the sizes
    :ivar unpooled: the same without a pool, if that was wanted and there was time for it
    :ivar interrupted: whether there would have been more
    """

    pooled: list[Point] = field(default_factory=list["Point"])
    unpooled: Point | None = None
    interrupted: bool = False

    @property
    def points(self) -> list[Point]:
        """All points, the one without a pool last."""
        return self.pooled if self.unpooled is None else [*self.pooled, self.unpooled]


@dataclass(frozen=True)
class Advice:
    """Which size to choose.

    :ivar max_size: the smallest one that is good enough; ``None`` if nothing can be said
    :ivar text: why, and how far to trust it
    """

    max_size: int | None
    text: str


def advise(points: Sequence[Point], tasks: int) -> Advice:
    """Choose the smallest size that reaches most of the best throughput.

    :param points: those with a pool, by size
    :param tasks: how many tasks asked
    """
    sound = [point for point in points if point.answered and not point.failed]
    if not sound:
        return Advice(None, "No advice: requests failed at every size.")
    if len(sound) == 1:
        return Advice(None, "No advice from one size: compare some, as in --connections 1,2,4,8.")
    best = max(point.throughput for point in sound)
    chosen = next(point for point in sound if point.throughput >= GOOD_ENOUGH * best)
    return Advice(chosen.max_size, _explain(chosen, best, sound, tasks))


def _explain(chosen: Point, best: float, sound: Sequence[Point], tasks: int) -> str:
    if chosen is sound[-1]:
        text = (
            f"max_size={chosen.max_size}, the largest size measured, was the fastest by more than "
            f"5 %; "
        )
        if (chosen.max_size or 0) < tasks:
            return text + "try larger ones."
        return text + f"{tasks} tasks can't use more, try more of both if your program has them."
    return (
        f"max_size={chosen.max_size} is the smallest size measured that reaches 95 % of the best "
        f"throughput ({chosen.throughput:.0f} of {best:.0f} requests/s). That holds for this "
        f"server, payload and {tasks} tasks; repeat it before you rely on it."
    )
